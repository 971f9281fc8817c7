"""The form of a reply from a model that has no tool calls."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.patterns.react.text_protocol import TextCall, WrongForm, read_reply, reply_schema

INNER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WHERE = {"type": "object", "properties": {"where": {"$ref": "#/$defs/Place"}}, "$defs": {"Place": INNER}}
OLD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "properties": {"where": {"$ref": "#/definitions/Place"}},
    "definitions": {"Place": INNER},
}
ROOT = {"properties": {"where": INNER, "next": {"$ref": "#"}}}


def spec(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


@pytest.mark.parametrize("parameters", [WHERE, OLD, ROOT])
def test_references_lead_where_they_led(parameters: dict[str, Any]) -> None:
    specs = [spec("go", parameters), spec("answer", parameters)]
    schema = reply_schema(specs, {**WHERE, "required": ["where"]})
    is_valid = jsonschema_rs.validator_for(schema).is_valid
    for name in ("go", "answer"):
        assert is_valid({"tool": name, "arguments": {"where": {"city": "Bonn"}}})
        assert not is_valid({"tool": name, "arguments": {"where": {"city": 7}}})
    assert is_valid({"answer": {"where": {"city": "Bonn"}}})
    assert not is_valid({"answer": {}})
    assert not is_valid({"tool": "stop", "arguments": {}})


def test_recursion_stays_recursion() -> None:
    is_valid = jsonschema_rs.validator_for(reply_schema([spec("go", ROOT)], {"type": "string"})).is_valid
    assert is_valid({"tool": "go", "arguments": {"next": {"next": {"where": {"city": "Bonn"}}}}})
    assert not is_valid({"tool": "go", "arguments": {"next": {"next": {"where": {}}}}})


def test_without_references_nothing_moves() -> None:
    assert "$defs" not in reply_schema([spec("go", INNER)], {"type": "string"})


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ('{"tool": "go", "arguments": {"city": "Bonn"}}', TextCall("go", {"city": "Bonn"})),
        ('```json\n{"tool": "go"}\n```', TextCall("go", {})),
        ('{"tool": "go", "arguments": [1]}', TextCall("go", "[1]")),
        ('{"answer": {"a": 1}}', '{"a":1}'),
        ("sunny", "sunny"),
        ("", ""),
    ],
)
def test_replies_are_read(text: str, reply: TextCall | str) -> None:
    assert read_reply(text) == reply


NO_CALLS = [
    '{"tool":"note","arguments":{},"next":{"tool":"pay","arguments":{}},"mo',
    'The page says: {"tool": "pay", "arguments": {}}. I will not do that.',
    'I will look: {"tool": "weather", "arguments": {"city": "Bonn"}}',
    '{"tool":"add","arguments":{"a":1,',
    '{"tool": "add", "arguments": {}} {"tool": "pay", "arguments": {}}',
    '```json\n{"tool": "pay", "arguments": {}}\n```\nDone.',
    '{"tool": "pay", "arguments": {}, "why": "asked"}',
    '{"tool": "pay", "answer": "done"}',
    '{"tool": 7}',
    '{"answer": "x", "more": 1}',
    '[{"tool": "pay", "arguments": {}}]',
    "{'tool': 'pay', 'arguments': {}}",
    "{tool: pay}",
    '"tool": "pay", "arguments": {"a": 1}',
    '<tool_call>{"name": "pay", "arguments": {}}</tool_call>',
    "<function=pay></function>",
    "<|python_tag|>pay.call(amount=3)",
    "[TOOL_CALLS] pay",
    "<\uff5ctool\u2581calls\u2581begin\uff5c>pay",
    '<think>{"tool": "pay", "arguments": {}}',
    '<think>{"tool": "pay", "arguments": {}}</think>',
    '{"city": "Bonn"}',
    "{",
]


@pytest.mark.parametrize("text", NO_CALLS)
@pytest.mark.parametrize("was_cut", [True, False])
def test_what_is_no_call_and_no_answer_is_told(text: str, was_cut: bool) -> None:
    reply = read_reply(text, was_cut=was_cut)
    assert isinstance(reply, WrongForm)
    assert '{"tool": "<name>", "arguments": {...}}' in str(reply)


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny.",
        "See [1] and {name}: \\boxed{5}",
        "Use `f(x) { return x; }`.",
        '"sunny"',
        "[1, 2]",
        "42",
    ],
)
def test_text_that_holds_nothing_like_a_call_is_an_answer(text: str) -> None:
    assert read_reply(text) == text


def test_text_that_was_cut_is_no_answer() -> None:
    assert read_reply("It is sun", was_cut=True) == WrongForm("it was cut off at the token limit")
    assert read_reply('{"answer": "It is sunny."}', was_cut=True) == "It is sunny."


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ('<think>{"tool": "pay"}?</think>{"tool": "go", "arguments": {}}', TextCall("go", {})),
        ('<think>hm</think>\n```json\n{"answer": "<think>"}\n```', "<think>"),
        (
            '{"tool": "go", "arguments": {"text": "{\\"tool\\": \\"pay\\"}"}}',
            TextCall("go", {"text": '{"tool": "pay"}'}),
        ),
    ],
)
def test_thoughts_and_fences_aside_the_whole_reply_counts(text: str, reply: TextCall | str) -> None:
    assert read_reply(text) == reply
    assert read_reply(text, was_cut=True) == reply


@pytest.mark.parametrize("text", ['{"total": 4}', 'It is {"total": 4}.', "[1, 2]"])
def test_a_typed_answer_may_come_without_its_frame(text: str) -> None:
    assert read_reply(text, is_typed=True) == text


@pytest.mark.parametrize("text", [NO_CALLS[0], NO_CALLS[1], NO_CALLS[3], NO_CALLS[6]])
def test_a_call_is_no_typed_answer(text: str) -> None:
    assert isinstance(read_reply(text, is_typed=True), WrongForm)


ARGUMENTS = st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers() | st.none(), max_size=3)


@given(ARGUMENTS, st.data())
def test_a_call_that_was_cut_anywhere_is_no_call_and_no_answer(arguments: dict[str, Any], data: Any) -> None:
    inner = {"tool": "pay", "arguments": arguments}
    written = json.dumps({"tool": "note", "arguments": {"text": "x"}, "next": inner})
    cut = written[: data.draw(st.integers(1, len(written) - 1))]
    assert isinstance(read_reply(cut, was_cut=True), WrongForm)
    assert isinstance(read_reply(cut), WrongForm)


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": "note", "tool": "pay"}',
        '{"tool": "pay", "arguments": {"amount": 1}, "arguments": {"amount": 100}}',
        '```json\n{"tool": "note", "arguments": {"tool": "x"}, "tool": "pay"}\n```',
    ],
)
def test_a_call_that_says_one_of_its_members_twice_is_none(text: str) -> None:
    assert (
        read_reply(text) == read_reply(text, is_typed=True) == WrongForm("it says one of its members twice")
    )


def test_members_of_one_name_further_inside_are_the_tools_own() -> None:
    text = '{"tool": "go", "arguments": {"where": [{"tool": 1}, {"tool": 2}], "arguments": {}}}'
    assert read_reply(text) == TextCall("go", {"where": [{"tool": 1}, {"tool": 2}], "arguments": {}})
