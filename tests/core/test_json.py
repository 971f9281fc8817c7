"""Decoding JSON from strangers: a value or a reason, bounded in depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.json import (
    MAX_DEPTH,
    Unreadable,
    decode_json,
    decode_piece,
    is_deeper_than,
    whole_text,
)

TOO_DEEP = Unreadable("it is nested more than 100 levels deep")


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return f"{opening * levels}1{closing * levels}"


@pytest.mark.parametrize(
    ("body", "decoded"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ('\ufeff{"a": 1}', {"a": 1}),
        (" 1 ", 1),
        ("", Unreadable("it is empty")),
        (" \n", Unreadable("it is empty")),
        ("{", Unreadable("Input data was truncated")),
        (nested(MAX_DEPTH), None),
        (nested(MAX_DEPTH + 1), TOO_DEEP),
        (nested(MAX_DEPTH, '{"a":', "}"), None),
        (nested(MAX_DEPTH + 1, '{"a":', "}"), TOO_DEEP),
        (nested(100_000), TOO_DEEP),
        ("[" * 100_000, TOO_DEEP),
        (f"[{','.join(['[[]]'] * 60)}]", None),
    ],
)
def test_bytes_and_text_are_decoded_alike(body: str, decoded: object) -> None:
    as_text, as_bytes = decode_json(body), decode_json(body.encode())
    assert as_text == as_bytes
    assert decoded is None or as_text == decoded
    assert decoded is not None or not isinstance(as_text, Unreadable)


def test_what_is_not_utf_8_is_refused() -> None:
    assert isinstance(decode_json(b'"\xff"'), Unreadable)
    assert isinstance(decode_json(b"\xff"), Unreadable)
    assert decode_json("\ud800") == Unreadable("it is not UTF-8")


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["list", "dict", "both"]))
def test_depth_counts_lists_and_dicts_alike(levels: int, allowed: int, kind: str) -> None:
    value: object = 1
    for level in range(levels):
        value = [value] if kind == "list" or (kind == "both" and level % 2) else {"a": value, "b": 2}
    assert is_deeper_than(value, allowed) is (levels > allowed)


@pytest.mark.parametrize(
    ("body", "decoded"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"\ud83d\ude00\uDE00"', "\U0001f600\ufffd"),
        (r'"\\ud83d"', r"\ud83d"),
        (r'{"\ud83d": "\n\ud83dx"}', {"\ufffd": "\n\ufffdx"}),
        (r'"\ud83d', Unreadable("Input data was truncated")),
        (r'"\ud8"', None),
    ],
)
def test_an_escaped_half_of_a_pair_becomes_a_replacement(body: str, decoded: object) -> None:
    assert decoded is None or decode_json(body) == decoded
    assert decode_json(body) == decode_json(body.encode())


def test_a_half_does_not_hide_broken_utf8() -> None:
    assert isinstance(decode_json(b'["\\ud83d", "\xff"]'), Unreadable)


@pytest.mark.parametrize(
    ("data", "decoded"),
    [
        (r'"a\ud83d"', "a\ud83d"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        ('"a"', "a"),
        (r'["\ud83d", NaN]', None),
        (r'["\ud83d"', None),
        (r'["\ud83d", ' + "[" * 200 + "]" * 200 + "]", TOO_DEEP),
    ],
)
def test_a_piece_keeps_half_a_pair(data: str, decoded: object) -> None:
    found = decode_piece(data)
    assert isinstance(found, Unreadable) if decoded is None else found == decoded


@given(st.text(st.sampled_from("a\ud83d\ude00\U0001f600é"), max_size=8))
def test_a_whole_text_has_no_halves(text: str) -> None:
    whole = whole_text(text)
    whole.encode()
    assert whole_text(whole) == whole
