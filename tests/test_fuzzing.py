"""A short form of `just fuzz`: whatever the bytes, each reader returns a value of ours and nothing raises."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzing import READERS, one_input, read_error, read_stream, seeds


def test_every_reader_has_seeds() -> None:
    assert {seed[0] for seed in seeds()} == set(range(len(READERS)))
    for seed in seeds():
        one_input(seed)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_nothing_raises(data: bytes) -> None:
    for number in range(len(READERS)):
        one_input(bytes([number]) + data)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(seeds()), st.integers(0, 400), st.binary(max_size=20), st.integers(0, 400))
def test_nor_where_a_sound_answer_is_cut_and_changed(seed: bytes, end: int, new: bytes, start: int) -> None:
    one_input(seed[:end] + new + seed[start:])


def test_a_reader_that_breaks_its_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzzing.KEY", "")  # an empty key is in every text
    with pytest.raises(AssertionError):
        read_error(b"123456789no")
    with pytest.raises(AssertionError):
        read_stream(b"")
