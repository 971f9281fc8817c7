"""One odd tool, or part of a result, is no reason to refuse the others."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.mcp import text_of_result, usable_result, usable_tools

OBJECT = {"type": "object"}

ODD_SCHEMAS: list[object] = [
    None,
    True,
    7,
    "object",
    [OBJECT],
    {"type": "string"},
    {"type": None},
    {"type": ["string", "null"]},
    {"type": 7},
    {"type": "object", "properties": {"a": 7}},
    {"type": "object", "properties": None},
    {"type": "object", "properties": []},
    {"type": "object", "required": "a"},
    {"type": "object", "required": [1]},
    {"type": "object", "$schema": 7},
    {"type": "object", "properties": {"a": {"type": "strange"}}},
]

ODD_TOOLS: list[object] = [
    None,
    7,
    [],
    {},
    {"inputSchema": OBJECT},
    {"name": None, "inputSchema": OBJECT},
    {"name": 7, "inputSchema": OBJECT},
    {"name": "odd"},
    *[{"name": "odd", "inputSchema": schema} for schema in ODD_SCHEMAS],
]


@pytest.mark.parametrize("odd", ODD_TOOLS)
def test_one_odd_tool_is_left_out_with_its_reason(odd: object) -> None:
    fine = {"name": "fine", "inputSchema": OBJECT}
    usable, left_out = usable_tools([odd, fine, odd])
    assert usable == [fine]
    assert len(left_out) == 1
    assert all(left_out.values())


WELCOME = [
    {},
    {"type": ["object", "null"]},
    {"properties": {"a": {"type": "string"}}, "required": ["a"]},
]


@pytest.mark.parametrize("schema", WELCOME)
def test_a_schema_that_lets_objects_pass_is_one_of_objects(schema: dict[str, Any]) -> None:
    before = json.dumps(schema)
    usable, left_out = usable_tools([{"name": "a", "inputSchema": schema}])
    assert not left_out
    assert usable[0]["inputSchema"] == {**schema, "type": "object"}
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    "unread",
    [
        {"outputSchema": {"type": "array"}},
        {"outputSchema": 7},
        {"icons": "none"},
        {"title": 7},
        {"execution": []},
        {"_meta": 7},
        {"description": 7},
        {"description": None},
        {"annotations": 7},
        {"annotations": {"readOnlyHint": "yes", "title": 7}},
    ],
)
def test_what_is_not_read_refuses_nothing(unread: dict[str, Any]) -> None:
    usable, left_out = usable_tools([{"name": "a", "inputSchema": OBJECT, **unread}])
    assert not left_out
    assert [tool["name"] for tool in usable] == ["a"]
    assert not usable[0].get("annotations")


def test_hints_and_description_are_read() -> None:
    tool = {
        "name": "a",
        "inputSchema": OBJECT,
        "description": "A.",
        "annotations": {"readOnlyHint": True, "idempotentHint": False},
    }
    assert usable_tools([tool]) == ([tool], {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["object", "string", "a", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "properties", "required", "a", "$ref"]), inner, max_size=3)
    ),
    max_leaves=8,
)
TOOL_KEYS = ["name", "inputSchema", "description", "annotations", "outputSchema", "icons", "title", "_meta"]


@given(st.lists(json_values | st.dictionaries(st.sampled_from(TOOL_KEYS), json_values), max_size=4))
def test_what_is_left_is_what_the_sdk_takes(tools: list[object]) -> None:
    methods = pytest.importorskip("mcp_types.methods")
    usable, left_out = usable_tools(tools)
    assert len(usable) + len(left_out) <= len(tools)
    methods.validate_server_result("tools/list", "2025-11-25", {"tools": usable})
    methods.validate_server_result("tools/list", "2024-11-05", {"tools": usable})
    current = {"tools": usable, "resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    methods.validate_server_result("tools/list", "2026-07-28", current)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"content": []}, ""),
        ({"content": [], "structuredContent": None}, ""),
        ({"content": [], "structuredContent": {"a": 1}}, '{"a":1}'),
        ({"structuredContent": {"a": 1}}, '{"a":1}'),
        ({"content": None, "structuredContent": [1]}, "[1]"),
        ({"content": [{"type": "text", "text": "b"}], "structuredContent": [1]}, "b"),
        ({"content": [{"type": "text", "text": "b", "annotations": {"priority": 9}}], "_meta": 7}, "b"),
        ({"content": [{"type": "text"}, {"type": "text", "text": 7}]}, "[text]\n[text]"),
        (
            {"content": [{"type": "hologram", "text": "x"}, {"type": 7}, 7, None]},
            "[hologram]" + 3 * "\n[unknown]",
        ),
        ({"content": [{"type": "h" * 999}]}, "[" + "h" * 64 + "]"),
        (
            {"content": [{"type": "resource", "resource": {"blob": "aGk="}}, {"type": "resource"}]},
            "[resource]\n[resource]",
        ),
        ({"content": [{"type": "resource_link"}]}, "[resource_link]"),
    ],
)
def test_a_result_is_read_as_far_as_it_can_be(result: dict[str, Any], text: str) -> None:
    methods = pytest.importorskip("mcp_types.methods")
    usable = usable_result({**result, "isError": None})
    assert text_of_result(usable) == text
    methods.validate_server_result("tools/call", "2025-11-25", usable)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"content": None},
        {"content": 7},
        {"content": "said"},
        {"resultType": "input_required"},
        {"contents": []},
    ],
)
def test_what_is_no_result_of_a_tool_is_left_as_it_is(other: dict[str, Any]) -> None:
    assert usable_result(other) == other
