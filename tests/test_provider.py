"""Answers are values: read-only, equal, hashable; and say why they are empty."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from executionkit.core.encoding import json_text
from executionkit.core.usage import Shown
from executionkit.errors import ProviderError
from executionkit.provider import LLMResponse, ToolCall, checked_response, shown_in

ARGUMENTS = {"city": "Bonn", "days": [1, {"x": [2]}], "deep": {"a": {"b": None}}}


def test_the_arguments_of_a_call_are_read_only() -> None:
    given = copy.deepcopy(ARGUMENTS)
    call: Any = ToolCall("a", "f", given, {"signature": {"x": [1]}})
    given["city"] = "Rome"
    assert call.arguments == ARGUMENTS
    changes: list[Callable[[], object]] = [
        lambda: call.arguments.update(city="Rome"),
        lambda: call.arguments.pop("city"),
        lambda: call.arguments.setdefault("z", 1),
        lambda: call.arguments.clear(),
        lambda: call.arguments["days"].append(1),
        lambda: call.arguments["days"][1]["x"].extend([1]),
        lambda: call.arguments["deep"]["a"].popitem(),
        lambda: call.extra["signature"].clear(),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="read-only"):
            change()
    with pytest.raises(TypeError):
        call.arguments["city"] = "Rome"
    with pytest.raises(TypeError):
        del call.arguments["days"][0]
    assert call == ToolCall("a", "f", ARGUMENTS, {"signature": {"x": [1]}})


def test_an_answer_keeps_its_own_usage() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    response: Any = LLMResponse("x", usage=usage)
    usage["prompt_tokens"] = 9
    assert (response.input_tokens, response.cache_read_tokens) == (3, 1)
    with pytest.raises(TypeError):
        response.usage["prompt_tokens"] = 9
    with pytest.raises(TypeError):
        response.usage["prompt_tokens_details"]["cached_tokens"] = 9
    for empty in (LLMResponse("x"), LLMResponse("x", usage={})):
        with pytest.raises(TypeError):
            empty.usage["prompt_tokens"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def test_answers_and_calls_are_values() -> None:
    response = LLMResponse(
        "x", (ToolCall("a", "f", ARGUMENTS),), "stop", {"prompt_tokens": 3}, {"raw": [1]}, {"e": [1]}
    )
    twins: list[Any] = [copy.copy(response), copy.deepcopy(response), pickle.loads(pickle.dumps(response))]
    for twin in twins:
        assert twin == response
        assert hash(twin) == hash(response)
        with pytest.raises(TypeError):
            twin.usage["prompt_tokens"] = 1
        with pytest.raises(TypeError):
            twin.tool_calls[0].arguments["days"].append(1)
    replaced = msgspec.structs.replace(response, content="y")
    assert (replaced.usage, replaced.tool_calls) == (response.usage, response.tool_calls)
    assert len({ToolCall("a", "f", {"x": [1]}), ToolCall("a", "f", {"x": [1]}), ToolCall("a", "f", "{")}) == 2
    assert json.loads(json_text(response))["tool_calls"][0]["arguments"] == ARGUMENTS
    assert msgspec.json.decode(msgspec.json.encode(response), type=LLMResponse) == response
    assert json.loads(json.dumps(response.tool_calls[0].arguments)) == ARGUMENTS
    assert repr(ToolCall("a", "f", {"x": [1]})) == "ToolCall(id='a', name='f', arguments={'x': [1]})"


def test_what_lies_inside_itself_is_left_as_it_is() -> None:
    inside: dict[str, Any] = {}
    inside["x"] = inside["y"] = inside
    assert ToolCall("a", "f", inside).name == "f"


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (LLMResponse("x"), None),
        (LLMResponse("", (ToolCall("a", "f", {}),)), None),
        (LLMResponse(" \n"), "it is empty"),
        (
            LLMResponse("", finish_reason="length"),
            "it was cut at the limit of its length before it said anything",
        ),
        (LLMResponse("", finish_reason="SAFETY"), "a content filter cut it off"),
        (LLMResponse("", extra={"refusal": "No."}), "it is a refusal ('No.')"),
        (LLMResponse("", finish_reason="error"), "the server broke it off (error)"),
        (LLMResponse("", reasoning="hm"), "it holds reasoning only"),
    ],
)
def test_an_empty_answer_says_why(response: LLMResponse, why: str | None) -> None:
    assert (response.is_empty, response.why_empty) == (why is not None, why)


def test_thoughts_of_any_provider_are_moved_out_of_its_text() -> None:
    response = checked_response(LLMResponse("<think>3 of 10?</think>\n\nScore: 9"))
    assert (response.content, response.reasoning) == ("Score: 9", "3 of 10?")
    known = checked_response(LLMResponse("<think>a</think>b", reasoning="c"))
    assert (known.content, known.reasoning) == ("b", "c")
    cut = checked_response(LLMResponse("<think>3 of", finish_reason="length"))
    assert (cut.content, cut.reasoning) == ("", "3 of")
    none: Any = None
    assert checked_response(LLMResponse(none, finish_reason=none)).content == ""


def test_an_answer_that_ends_in_an_error_is_none() -> None:
    with pytest.raises(ProviderError, match="broke off its answer") as caught:
        checked_response(LLMResponse("half", finish_reason="error", usage={"prompt_tokens": 3}))
    assert (caught.value.cost.input_tokens, caught.value.retryable) == (3, True)


def test_what_the_answers_of_a_completion_show() -> None:
    choices: list[Any] = [
        {"message": {"content": "a"}, "finish_reason": "length"},
        {"message": {"content": "b"}, "finish_reason": "MAX_TOKENS"},
        {"message": {"content": None, "tool_calls": [{}]}, "finish_reason": "stop"},
        {"message": None},
        "junk",
    ]
    shown = shown_in(LLMResponse("a", finish_reason="length", raw={"choices": choices}))
    assert shown == (Shown(True, True), Shown(True, True), Shown(True, False), Shown(False, False))
    assert shown_in(LLMResponse("", raw="junk")) == (Shown(False, False),)
    assert shown_in(LLMResponse("", reasoning="hm", raw={"choices": None})) == (Shown(True, False),)
