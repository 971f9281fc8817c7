"""Decoding JSON from strangers: a value or a reason, bounded in depth; and finding it in what a model wrote."""

from itertools import islice

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
from executionkit.core.json_text import find_json

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
    ("text", "found"),
    [
        ("", []),
        (" 7 ", ["7"]),
        ("no JSON", ["no JSON"]),
        ("<think>{1}</think>\n[1]", ["[1]"]),
        ("</think></think>x", ["x"]),
        ("a [1] b {2} c [3]", ["a [1] b {2} c [3]", "[1]", "[3]"]),
        ("[1] [1]", ["[1] [1]", "[1]"]),
        ('{{"a": [1]}', ['{{"a": [1]}', '{"a": [1]}']),
        ("```json\n [1] \n```", ["```json\n [1] \n```", "[1]"]),
        ("```\n1\n```\n```c++ \n2\n```", ["```\n1\n```\n```c++ \n2\n```", "1", "2"]),
    ],
)
def test_json_is_found_best_guess_first(text: str, found: list[str]) -> None:
    assert list(find_json(text)) == found


def test_no_text_takes_long() -> None:
    fences = "".join(f"```\nf{index}\n```\n" for index in range(20))
    assert list(find_json(fences))[1:] == [f"f{index}" for index in range(16)]
    values = " ".join(f"[{index}]" for index in range(70))
    assert list(find_json(values))[1:] == [f"[{index}]" for index in range(64)]
    assert list(find_json("{" * 64 + "[1]"))[1:] == []
    assert list(find_json("{" * 63 + "[1]"))[1:] == ["[1]"]
    assert list(find_json("x" * 999_999 + "[1]")) == ["x" * 999_999 + "["]
    assert len(next(find_json("x" * 2_000_000))) == 1_000_000


@given(st.text('[]{}",:1a `\n</think>', max_size=60))
def test_whatever_is_found_stands_in_the_text(text: str) -> None:
    found = list(islice(find_json(text), 100))
    assert all(piece in text for piece in found)
    assert len(set(found)) == len(found)
    assert all(found)


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
