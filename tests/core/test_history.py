"""Trimming drops the oldest rounds, whole, and never the last."""

from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.history import trim_rounds

ROUNDS = st.lists(st.lists(st.none(), min_size=1, max_size=5), max_size=10)


@given(ROUNDS, st.integers(-3, 40))
def test_as_few_as_possible_are_dropped(rounds: list[list[None]], most: int) -> None:
    dropped = trim_rounds(rounds, most)
    left = rounds[dropped:]
    assert 0 <= dropped <= max(0, len(rounds) - 1)
    if dropped:
        assert sum(map(len, rounds[dropped - 1 :])) > most
    if len(left) > 1:
        assert sum(map(len, left)) <= most
