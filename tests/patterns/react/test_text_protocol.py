"""The form of a reply from a model that has no tool calls."""

from typing import Any

import jsonschema_rs
import pytest

from executionkit.patterns.react.text_protocol import TextCall, read_reply, reply_schema

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
        ('{"tool": 7, "answer": "x"}', "x"),
        ('{"answer": {"a": 1}}', '{"a":1}'),
        ('{"city": "Bonn"}', '{"city": "Bonn"}'),
        ("sunny", "sunny"),
        ("", ""),
    ],
)
def test_replies_are_read(text: str, reply: TextCall | str) -> None:
    assert read_reply(text) == reply
