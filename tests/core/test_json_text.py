"""Where the JSON in a text is, that no fragment is ever taken for it, and what of a text is a thought."""

import json
import re
import time
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from executionkit.core.json_text import find_json, whole_json, without_thoughts

FOUND: list[tuple[str, tuple[str, ...]]] = [
    (" 7 ", ("7",)),
    ('"text with {braces}"', ('"text with {braces}"',)),
    ('{"x": 3}', ('{"x": 3}',)),
    ("a [1] b {2} c [3]", ("[3]", "[1]")),
    ("[1] [1]", ("[1]",)),
    ('Not {"y": 1} but {"x": 3}.', ('{"x": 3}', '{"y": 1}')),
    ("```json\n [1] \n```", ("[1]",)),
    ("```\n1\n```\n```c++ \n2\n```", ("2", "1")),
    ('```json {"x": 3}```', ('{"x": 3}',)),
    ('I was given {"a": 1}.\n```json\n{"x": 3}\n```\nSee {"b": 2}.', ('{"x": 3}',)),
    ('```json\n{"md": "```py\\n1\\n```"}\n```', ('{"md": "```py\\n1\\n```"}',)),
    ('```json\n{"x": 3}', ('{"x": 3}',)),
    ('```\nResult: {"x": 3}\n```', ('{"x": 3}',)),
    ('```python\nprint({"x": 3})\n```', ()),
    ('braces { and [ brackets, then {"x": 3}', ('{"x": 3}',)),
    ('As [1, p. 3] says of [0, 1) and {a, b}, {{name}} and \\boxed{5}: {"x": 3}', ('{"x": 3}',)),
    ("no JSON", ()),
    ("", ()),
]

FRAGMENTS = [
    '{"user":{"id":1},"ok":true,}',
    '{"name":"root","children":[{"name":"kid"},{"na',
    '{"tool":"note","arguments":{},"next":{"tool":"pay","arguments":{}},"mo',
    "{'user': {\"id\": 1}}",
    '{user: {"id": 1}}',
    '{user, data: {"id": 1}}',
    '{{"id": 1}',
    '{"x": NaN, "y": {"id": 1}}',
    '{"x": 1 /* one */, "y": {"id": 1}}',
    '[1, x, {"id": 1}]',
    '[NaN, {"id": 1}',
    '[+1, {"id": 1}',
    '[.5, {"id": 1}]',
    '[undefined, {"id": 1}',
    '[user, {"id": 1}]',
    '[{"id": 1}, {"id": 2},]',
    '[{"id": 1}, {"id": 2}',
    '1}, "user": {"id": 1}}',
    '"user": {"id": 1}, "ok": true',
    '\u201cuser\u201d: {"id": 1}',
    '{"id": 1}, \u201cok\u201d: true',
    '{"id": 1}, {"id": 2}]',
    '{"id": 1}, {"id": 2}',
    'Here: {"user": {"id": 1}, "ok": tr',
    '```json\n{"user": {"id": 1}, "ok"',
    '```json\n{"user": {"id": 1},}\n```',
    '```json\n{"id": 1}\n```\nor rather\n```json\n{"id": 2',
    '{"answer": "Use:\n```json\n{"id": 1}\n```\n"}',
    '{"text": "he said "}" and then", "x": {"id": 1}}',
    'def f() { return {"id": 1}; }',
    '<think>The answer is {"id": 1}',
    '<think>{"id": 1}',
    '{"a": "</think>", "b": {"id": 1}, "c',
    '{"a": "<think>", "b": {"id": 1}, "c": "</think>',
    "[" * 100_000,
    '{"a":' * 100_000,
]


@pytest.mark.parametrize(("text", "values"), FOUND)
def test_whole_values_are_found_best_guess_first(text: str, values: tuple[str, ...]) -> None:
    assert find_json(text).values == values


@pytest.mark.parametrize("text", FRAGMENTS)
@pytest.mark.parametrize("was_cut", [True, False])
def test_no_fragment_is_found(text: str, was_cut: bool) -> None:
    found = find_json(text, was_cut=was_cut)
    assert (found.values, whole_json(text, was_cut=was_cut)) == ((), None)
    assert found.problem


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"x": 3}', ('{"x": 3}',)),
        ('```json\n{"x": 3}\n``', ('{"x": 3}',)),
        ('So {"x": 3}.', ('{"x": 3}',)),
        ('"abc"', ('"abc"',)),
        ("42", ()),
        ("tru", ()),
        ("true", ()),
        ('{"x": 3} But the', ()),
        ('{"x": 3}\n```json\n', ()),
        ('{<b>: {"x": 3}', ()),
        ('[see {"x": 3}', ()),
        ('[see] {"x": 3}', ('{"x": 3}',)),
        ("```json\n4", ()),
    ],
)
def test_a_cut_text_holds_only_what_ends_by_itself_and_last(text: str, values: tuple[str, ...]) -> None:
    assert find_json(text, was_cut=True).values == values


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab{}[]",:`<>/\n\\', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
CONTAINERS = st.dictionaries(st.sampled_from("abc"), JSON, min_size=1, max_size=3) | st.lists(
    st.dictionaries(st.sampled_from("abc"), JSON, max_size=2), min_size=1, max_size=3
)
PROSE = st.sampled_from(["", "Sure: ", "It is (see [1]) so.\n", "<think>no {</think>", "As {name} said\n"])
FRAMES = st.sampled_from(["{}", "```json\n{}\n```", "```\n{}\n```", "{}\nDone."])


@given(CONTAINERS, PROSE, FRAMES, st.booleans())
def test_what_is_whole_is_found(value: Any, prose: str, frame: str, is_indented: bool) -> None:
    written = json.dumps(value, indent=1 if is_indented else None)
    found = find_json(prose + frame.replace("{}", written)).values
    assert written in found[:1]


@given(CONTAINERS, PROSE, FRAMES, st.data())
def test_a_cut_at_any_place_leaves_the_whole_or_nothing(
    value: Any, prose: str, frame: str, data: Any
) -> None:
    written = json.dumps(value)
    text = prose + frame.replace("{}", written)
    cut = text[: data.draw(st.integers(0, len(text)))]
    for was_cut in (True, False):
        assert set(find_json(cut, was_cut=was_cut).values) <= {written, "[1]"}
    begins = text.index(written)
    if begins < len(cut) < begins + len(written):
        assert not find_json(cut).values


TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\w.+-]+|\S')


@given(CONTAINERS, st.data())
@example([{}, {}], (1, 42))
@example([{}], (8, 14))
@example([{}], (25, 32))
@example([{"b": {}}, {"a": []}], (12, 31))
def test_a_cut_at_both_ends_leaves_no_fragment(value: Any, data: Any) -> None:
    written = json.dumps({"first": value, "then": [1, value]})
    if isinstance(data, tuple):
        start, end = cast("tuple[int, int]", data)
    else:
        # Not within a word or a number: "ull, {}" could as well be prose.
        start = data.draw(st.sampled_from([token.start() for token in TOKEN.finditer(written, 1)]))
        end = data.draw(st.integers(start, len(written)))
    for found in find_json(written[start:end]).values:
        # A cut that happens to leave one value and nothing more is whole; no sign is left of the rest. Nor is
        # it where a word or a number follows: "see [1], for example".
        left = written[start:end].strip()
        assert found == re.sub(r"[,:]\s*[\w.-]*\Z", "", left).strip() or json.loads(found) in ([], {})


@given(st.text('[]{}",:1a `\n</think>', max_size=60), st.booleans())
def test_whatever_is_found_stands_in_the_text_and_parses(text: str, was_cut: bool) -> None:
    found = find_json(text, was_cut=was_cut)
    assert all(piece in text for piece in found.values)
    assert len(set(found.values)) == len(found.values)
    assert all(json.loads(piece) is not Ellipsis for piece in found.values)
    assert bool(found.problem) is not bool(found.values)
    assert whole_json(text, was_cut=was_cut) in {None, *found.values}


HOSTILE = [
    "[",
    '{"a":',
    '["',
    "```\n",
    "<think>",
    "</think>",
    "x<think>",
    "{} <think></think>",
    "{ a ",
    "[a] ",
    '{"a":1} ',
    "```a ",
    '"',
    "``` 1",
    "{}" + " " * 1000,
    "1",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece: str) -> None:
    # Quadratic time would be hours for this, and the time-out of the suite ends it; linear time is seconds.
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    find_json(text)
    find_json(text, was_cut=True)
    assert time.process_time() - began < 60


def test_what_is_too_long_is_not_read() -> None:
    assert "1000000" in find_json("x" * 1_000_001 + "[1]").problem


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>3? No.</think>4", "4"),
        ("<THINKING>a</THINKING>\n\n4", "4"),
        ("[THINK]a[/THINK]4", "4"),
        ("<think>a<think>b</think>c</think>4", "4"),
        ("I would say 3. No.\n</think>\n4", "4"),
        ("</think></think>x", "x"),
        ("<think>cut off", ""),
        ("4 <think>or 5?</think>", "4 "),
        ("4\n<think>or", "4\n"),
        ("The <think> tag opens a thought.", "The <think> tag opens a thought."),
        ('{"html": "<think>a</think>"}', '{"html": "<think>a</think>"}'),
        ('So: {"html": "<think>a</think>"} <think>b</think>', 'So: {"html": "<think>a</think>"} '),
        ('{"html": "<think>a</think>", "cut', '{"html": "<think>a</think>", "cut'),
        ("nothing of the sort", "nothing of the sort"),
    ],
)
def test_thoughts_are_left_out(text: str, rest: str) -> None:
    assert without_thoughts(text) == rest


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('<think>hm</think>\n```json\n{"a": 1}\n```', '{"a": 1}'),
        ('Here: {"a": 1}', None),
        ('{"a": 1} {"a": 2}', None),
        ('```json\n{"a": 1}\n```\nDone.', None),
    ],
)
def test_a_text_may_be_one_value_as_a_whole(text: str, whole: str | None) -> None:
    assert whole_json(text) == whole
