"""A conversation in OpenAI's format as the Messages API takes it."""

from typing import Any

import pytest

from executionkit.providers.messages.request import messages_request
from executionkit.providers.messages.schema import expressible

TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}},
}
CALL = {"id": "toolu_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}


def request(messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    tools = options.pop("tools", None)
    temperature = options.pop("temperature", None)
    cache = options.pop("cache", False)
    return messages_request("m", messages, temperature, 99, tools, options, cache=cache)


def say(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_system_messages_move_to_the_head_in_order() -> None:
    sent = request(
        [{"role": "system", "content": "A"}, say("Q"), {"role": "developer", "content": "B"}, say("R")]
    )
    assert sent["system"] == [text("A"), text("B")]
    assert sent["messages"] == [{"role": "user", "content": [text("Q"), text("R")]}]


def test_a_tool_loop() -> None:
    sent = request(
        [
            say("1 + 2?"),
            {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "toolu_2"}]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "3"},
            {"role": "tool", "tool_call_id": "toolu_2", "content": ""},
            say("Go on."),
        ],
        tools=[TOOL],
    )
    assert sent["tools"] == [{"name": "add", "description": "Add.", "input_schema": {"type": "object"}}]
    assert sent["messages"] == [
        {"role": "user", "content": [text("1 + 2?")]},
        {"role": "assistant", "content": [USE, {**USE, "id": "toolu_2"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("3")]},
                {"type": "tool_result", "tool_use_id": "toolu_2"},
                text("Go on."),
            ],
        },
    ]


def test_without_tools_a_conversation_that_called_some_names_them_and_forbids_them() -> None:
    sent = request(
        [
            say("1 + 2?"),
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "3"},
        ]
    )
    assert sent["tools"] == [{"name": "add", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize("identity", ["read_file:0", "a b", "", "\ud83d"])
def test_ids_that_are_refused_there_are_replaced_alike(identity: str) -> None:
    sent = request(
        [
            say("Q"),
            {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": identity}]},
            {"role": "tool", "tool_call_id": identity, "content": "3"},
        ],
        tools=[TOOL],
    )
    use, result = sent["messages"][1]["content"][0], sent["messages"][2]["content"][0]
    assert use["id"] == result["tool_use_id"]
    assert use["id"].replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("arguments", "given"),
    [('{"a": 1}', {"a": 1}), ("", {}), ("{", {}), ("[1]", {"value": [1]}), (None, {}), ({"a": 1}, {"a": 1})],
)
def test_arguments_go_back_as_an_object(arguments: object, given: dict[str, Any]) -> None:
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    sent = request([say("Q"), {"role": "assistant", "content": "", "tool_calls": [call]}], tools=[TOOL])
    assert sent["messages"][1]["content"][0]["input"] == given


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
REDACTED = {"type": "redacted_thinking", "data": "x"}


def test_thoughts_go_back_where_they_were() -> None:
    kept = [THOUGHT, text("I add."), REDACTED, {**USE, "id": "toolu_old"}]
    message = {"role": "assistant", "content": "I add.", "tool_calls": [CALL], "anthropic_content": kept}
    sent = request([say("Q"), message], tools=[TOOL])
    assert sent["messages"][1]["content"] == [THOUGHT, text("I add."), REDACTED, USE]
    assert kept[3]["id"] == "toolu_old"


def test_a_message_whose_calls_were_changed_is_made_anew() -> None:
    kept = [THOUGHT, USE, USE]
    message = {"role": "assistant", "content": "I add.", "tool_calls": [CALL], "anthropic_content": kept}
    assert request([say("Q"), message], tools=[TOOL])["messages"][1]["content"] == [text("I add."), USE]


def test_what_is_said_in_parts() -> None:
    parts = [
        text("See:"),
        text(" "),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "document", "source": {"type": "text"}},
    ]
    assert request([{"role": "user", "content": parts}])["messages"][0]["content"] == [
        text("See:"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": {"type": "text"}},
    ]


@pytest.mark.parametrize("content", ["", "  \n", None, []])
def test_messages_that_say_nothing_are_left_out(content: object) -> None:
    sent = request([say("Q"), {"role": "assistant", "content": content}, say("R")])
    assert sent["messages"] == [{"role": "user", "content": [text("Q"), text("R")]}]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "add"}}, {"type": "tool", "name": "add"}),
        ({"type": "tool", "name": "add"}, {"type": "tool", "name": "add"}),
    ],
)
def test_the_choice_of_tools(choice: object, said: dict[str, Any]) -> None:
    assert request([say("Q")], tools=[TOOL], tool_choice=choice)["tool_choice"] == said
    assert "tool_choice" not in request([say("Q")], tool_choice=choice)


def test_calls_one_after_the_other() -> None:
    sent = request([say("Q")], tools=[TOOL], parallel_tool_calls=False)
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_the_temperature_ends_at_one_and_thinking_does_without() -> None:
    assert request([say("Q")], temperature=1.7)["temperature"] == 1.0
    assert request([say("Q")], temperature=0.2)["temperature"] == 0.2
    assert "temperature" not in request([say("Q")], temperature=0.2, thinking={"type": "adaptive"})
    assert "temperature" in request([say("Q")], temperature=0.2, thinking={"type": "disabled"})


def test_other_options() -> None:
    sent = request(
        [say("Q")], stop="X", n=2, logprobs=True, stream_options={}, max_completion_tokens=7, top_k=3
    )
    assert sent == {
        "model": "m",
        "max_tokens": 7,
        "messages": [{"role": "user", "content": [text("Q")]}],
        "stop_sequences": ["X"],
        "top_k": 3,
    }


def test_a_form_is_a_structured_output() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    sent = request([say("Q")], response_format=form, output_config={"effort": "low"})
    assert sent["output_config"] == {
        "effort": "low",
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"n": {"type": "integer"}},
                "required": ["n"],
                "additionalProperties": False,
            },
        },
    }
    assert "output_config" not in request([say("Q")], response_format={"type": "json_object"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object"} | {"additionalProperties": True},
        {"type": "array", "items": {}},
        {"type": "array", "prefixItems": [{"type": "integer"}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}},
        {
            "$ref": "#/$defs/A",
            "$defs": {
                "A": {"type": "array", "items": {"$ref": "#/$defs/B"}},
                "B": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]},
            },
        },
    ],
)
def test_what_cannot_be_said_there_is_left_to_the_prompt(schema: dict[str, Any]) -> None:
    assert expressible(schema) is None


def test_what_can_be_said_there() -> None:
    schema = {
        "$ref": "#/$defs/A",
        "$defs": {
            "A": {
                "type": "object",
                "properties": {
                    "when": {"type": "string", "format": "date-time", "maxLength": 30},
                    "other": {"type": "string", "format": "regex"},
                    "kind": {"enum": ["x", "y"]},
                    "many": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
                    "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
                },
            }
        },
    }
    assert expressible(schema) == {
        "$ref": "#/$defs/A",
        "$defs": {
            "A": {
                "type": "object",
                "properties": {
                    "when": {"type": "string", "format": "date-time"},
                    "other": {"type": "string"},
                    "kind": {"enum": ["x", "y"]},
                    "many": {"type": "array", "items": {"type": "number"}, "minItems": 1},
                    "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "additionalProperties": False,
            }
        },
    }


def marked(request: dict[str, Any]) -> list[str]:
    turns = [block for turn in request["messages"] for block in turn["content"]]
    blocks = [*request.get("tools", ()), *request.get("system", ()), *turns]
    return [
        block.get("name") or block.get("text") or block["type"]
        for block in blocks
        if "cache_control" in block
    ]


def test_what_the_next_request_begins_with_is_marked() -> None:
    system = {"role": "system", "content": "S"}
    assert marked(request([system, say("Q")], tools=[TOOL], cache=True)) == ["add", "S", "Q"]
    loop = [
        system,
        say("Q"),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "3"},
    ]
    assert marked(request(loop, tools=[TOOL], cache=True)) == ["add", "S", "Q", "tool_result"]
    assert marked(request(loop, tools=[TOOL])) == []
