"""`compat.react_loop`, row by row of the contract."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from anyio import lowlevel

from executionkit import ScriptedProvider
from executionkit.compat import (
    BudgetExhaustedError,
    LLMResponse,
    MaxIterationsError,
    PermanentError,
    TokenUsage,
    Tool,
    ToolCall,
    react_loop,
)
from executionkit.providers.scripted import Answer, ScriptedRequest
from tests.doubles import shown
from tests.talking import refuses

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}


async def sunny(city: str, days: int = 1) -> str:
    return f"{city}: {days} days of sun"


async def broken(**_: object) -> str:
    raise KeyError("the secret 4711")


async def slow(**_: object) -> str:
    await anyio.sleep(600)
    return "too late"


WEATHER = Tool("weather", "Tells the weather.", SCHEMA, sunny)
BROKEN = Tool("broken", "Fails.", {}, broken)
SLOW = Tool("slow", "Takes its time.", {}, slow, timeout=0.01)


def call(name: str = "weather", arguments: Mapping[str, Any] | str | None = None, id: str = "c1") -> ToolCall:  # noqa: A002
    return ToolCall(id, name, {"city": "Bern"} if arguments is None else arguments)


def observations(provider: ScriptedProvider) -> list[str]:
    """What the model got to see in its last request."""
    return [each["content"] for each in provider.requests[-1].messages if each["role"] == "tool"]


async def test_it_calls_tools_until_there_is_an_answer() -> None:
    provider = ScriptedProvider([call(), call(arguments={"city": "Rome", "days": 2}), "Go to Rome."])
    result = await react_loop(provider, "Where is the sun?", [WEATHER])
    assert (result.value, result.score) == ("Go to Rome.", None)
    assert (result.metadata["rounds"], result.metadata["tool_calls_made"]) == (3, 2)
    assert result.metadata["truncated_responses"] == result.metadata["truncated_observations"] == 0
    assert result.metadata["messages_trimmed"] == 0
    assert result.cost.llm_calls == 3
    assert observations(provider) == ["Bern: 1 days of sun", "Rome: 2 days of sun"]


async def test_no_call_is_an_answer_at_once() -> None:
    result = await react_loop(ScriptedProvider(["42"]), "?", tools=[WEATHER])
    assert (result.value, result.metadata["rounds"], result.metadata["tool_calls_made"]) == ("42", 1, 0)


async def test_what_is_sent_is_plain_openai() -> None:
    provider = ScriptedProvider([call(), "done"])
    await react_loop(provider, "?", [WEATHER])
    first, second = provider.requests
    assert first.messages == ({"role": "user", "content": "?"},)
    assert (first.temperature, first.max_tokens) == (0.3, 4096)
    function = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
    assert first.tools == ({"type": "function", "function": function},)
    prompt, request, observation = second.messages
    assert prompt == first.messages[0]
    assert request["role"] == "assistant"
    assert request["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
    ]
    assert observation == {"role": "tool", "tool_call_id": "c1", "content": "Bern: 1 days of sun"}


@pytest.mark.parametrize(
    ("asked", "starts"),
    [
        (call("nonsense"), "Error: UnknownTool"),
        (call(arguments={"city": 7}), "Error: InvalidArguments"),
        (call(arguments={}), "Error: InvalidArguments"),
        (call(arguments={"city": "B"}), "Error: InvalidArguments"),
        (call(arguments={"city": "Bern", "days": 0}), "Error: InvalidArguments"),
        (call(arguments={"city": "Bern", "country": "CH"}), "Error: InvalidArguments"),
        (call(arguments='{"city": "Be'), "Error: InvalidArguments"),
        (call(arguments='["Bern"]'), "Error: InvalidArguments"),
        (call(arguments="not JSON"), "Error: InvalidArguments"),
        (call("broken", {}), "Error: KeyError"),
        (call("slow", {}), "Error: TimeoutError"),
    ],
    ids=str,
)
async def test_what_goes_wrong_is_told_and_the_loop_goes_on(asked: ToolCall, starts: str) -> None:
    provider = ScriptedProvider([asked, "sorry"])
    result = await react_loop(provider, "?", [WEATHER, BROKEN, SLOW])
    (observation,) = observations(provider)
    assert observation.startswith(starts)
    assert "4711" not in observation
    assert (result.value, result.metadata["tool_calls_made"]) == ("sorry", 1)


async def test_a_tool_is_not_executed_with_arguments_that_do_not_fit() -> None:
    executed: list[str] = []

    async def note(city: str) -> str:
        executed.append(city)
        return "noted"

    tool = Tool("note", "Notes.", SCHEMA, note)
    provider = ScriptedProvider([call("note", {"city": 7}), call("note", '{"city": "Bern"}'), "done"])
    await react_loop(provider, "?", [tool])
    assert executed == ["Bern"]


async def test_an_exception_shows_its_class_only() -> None:
    provider = ScriptedProvider([call("broken", {}), "sorry"])
    await react_loop(provider, "?", [BROKEN])
    assert observations(provider) == ["Error: KeyError"]


async def test_tool_timeout_stands_in_for_each_tools_own() -> None:
    patient = Tool("slow", "Takes its time.", {}, slow, timeout=600)
    provider = ScriptedProvider([call("slow", {}), "sorry"])
    with anyio.fail_after(30):
        await react_loop(provider, "?", [patient], tool_timeout=0.01)
    assert observations(provider) == ["Error: TimeoutError"]


async def test_results_stand_in_the_order_of_the_requests() -> None:
    async def after(turns: int) -> str:
        for _ in range(turns):
            await lowlevel.checkpoint()
        return f"after {turns}"

    tool = Tool("after", "Waits.", {}, after)
    calls = tuple([call("after", {"turns": turns}, f"id-{turns}") for turns in (9, 0, 5)])
    provider = ScriptedProvider([LLMResponse("", calls), "done"])
    result = await react_loop(provider, "?", [tool])
    assert observations(provider) == ["after 9", "after 0", "after 5"]
    ids = [each.get("tool_call_id") for each in provider.requests[-1].messages if each["role"] == "tool"]
    assert ids == ["id-9", "id-0", "id-5"]
    assert result.metadata["tool_calls_made"] == 3


async def test_what_is_no_text_is_shown_as_json() -> None:
    async def facts() -> dict[str, object]:
        return {"city": "Bern", "sun": True}

    provider = ScriptedProvider([call("facts", {}), "done"])
    await react_loop(provider, "?", [Tool("facts", "Knows.", {}, facts)])
    assert observations(provider) == ['{"city":"Bern","sun":true}']


async def test_observations_are_cut_and_counted() -> None:
    async def talk() -> str:
        return "x" * 100 + "END"

    provider = ScriptedProvider([call("talk", {}), call("talk", {}), "done"])
    result = await react_loop(provider, "?", [Tool("talk", "Talks.", {}, talk)], max_observation_chars=100)
    assert result.metadata["truncated_observations"] == 2
    assert all(text.startswith("xxx") and "END" not in text for text in observations(provider))
    assert all(len(text) == 100 and "more characters cut" in text for text in observations(provider))


async def test_responses_that_were_cut_are_counted() -> None:
    cut = LLMResponse("half an ans", finish_reason="length")
    result = await react_loop(ScriptedProvider([call(), cut, "whole"]), "?", [WEATHER])
    assert (result.value, result.metadata["truncated_responses"]) == ("whole", 1)


async def test_after_max_rounds_it_fails_with_its_cost() -> None:
    provider = ScriptedProvider(lambda _: call())
    with pytest.raises(MaxIterationsError) as caught:
        await react_loop(provider, "?", [WEATHER], max_rounds=3)
    assert caught.value.cost.llm_calls == len(provider.requests) == 3
    assert (caught.value.metadata["rounds"], caught.value.metadata["tool_calls_made"]) == (3, 3)


async def test_trimming_keeps_the_prompt_and_whole_rounds() -> None:
    def answer(request: ScriptedRequest) -> Answer:
        two = (call(id=f"a{request.index}"), call(id=f"b{request.index}"))
        return LLMResponse("", two) if request.index < 5 else "done"

    provider = ScriptedProvider(answer)
    result = await react_loop(provider, "the prompt", [WEATHER], max_history_messages=8)
    for request in provider.requests:
        assert request.messages[0] == {"role": "user", "content": "the prompt"}
        asked = [one["id"] for each in request.messages for one in each.get("tool_calls", ())]
        answered = [each["tool_call_id"] for each in request.messages if each["role"] == "tool"]
        assert asked == answered
        assert len(request.messages) <= 8
    assert len(provider.requests[-1].messages) == 7  # the prompt and the last two of five rounds
    assert result.metadata["messages_trimmed"] == 9


async def test_a_round_too_long_to_keep_is_kept_whole() -> None:
    provider = ScriptedProvider([call(), call(id="c2"), "done"])
    await react_loop(provider, "?", [WEATHER], max_history_messages=1)
    assert [each["role"] for each in provider.requests[-1].messages] == ["user", "assistant", "tool"]


async def test_duplicate_names_are_refused_before_any_call() -> None:
    provider = ScriptedProvider("done")
    with pytest.raises(ValueError, match="two tools are named 'weather'"):
        await react_loop(provider, "?", [WEATHER, WEATHER])
    assert provider.requests == []


@pytest.mark.parametrize("says", [False, None, "yes", 1])
async def test_a_provider_without_tools_is_a_type_error(says: object) -> None:
    class Limited(ScriptedProvider):
        supports_tools = says  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    provider = Limited("done")
    with pytest.raises(TypeError, match="supports_tools = True"):
        await react_loop(provider, "?", [WEATHER])
    assert provider.requests == []


async def test_a_budget_ends_it_with_its_cost() -> None:
    provider = ScriptedProvider(lambda _: call())
    with pytest.raises(BudgetExhaustedError) as caught:
        await react_loop(provider, "?", [WEATHER], max_cost=TokenUsage(llm_calls=2))
    assert caught.value.cost.llm_calls == len(provider.requests) == 2
    assert caught.value.metadata["tool_calls_made"] == 2


async def test_a_failing_call_keeps_what_was_achieved() -> None:
    provider = ScriptedProvider([call(), PermanentError("no more")])
    with pytest.raises(PermanentError) as caught:
        await react_loop(provider, "?", [WEATHER])
    assert (caught.value.cost.llm_calls, caught.value.metadata["rounds"]) == (2, 1)


@pytest.mark.parametrize(
    "setting",
    [
        *({"max_rounds": 0}, {"max_observation_chars": 0}, {"tool_timeout": -1}, {"tool_timeout": 0}),
        *({"tool_timeout": float("nan")}, {"max_history_messages": 0}, {"max_rounds": 2.5}),
        *({"tools": ["weather"]}, {"tools": [sunny]}, {"tool_timeout": "5 s"}),
    ],
    ids=shown,
)
async def test_settings_out_of_range_are_refused_before_any_call(setting: dict[str, Any]) -> None:
    provider = ScriptedProvider("done")
    settings: dict[str, Any] = {"tools": [WEATHER], **setting}
    with pytest.raises((ValueError, TypeError)):
        await react_loop(provider, "?", **settings)
    assert provider.requests == []


async def test_a_refused_answer_is_told() -> None:
    result = await react_loop(ScriptedProvider([refuses("No.")]), "go", [])
    assert (result.value, result.metadata["refusal"]) == ("", "No.")
