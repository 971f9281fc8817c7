"""System prompts: with every sample, draft, repair and round, and with no judge."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from executionkit import compat
from executionkit.core.usage import TokenUsage
from executionkit.errors import StageError
from executionkit.events import CallStarted, Event, with_content
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus, select
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.structured import structured
from executionkit.provider import LLMResponse, Message, ToolCall
from executionkit.stage import Stage
from executionkit.system import System
from executionkit.tools import Tool
from tests.doubles import UNTOLD_ASYNC, Asked, Model, error_of, reply, result_of

pytestmark = pytest.mark.anyio


def first_of(model: Model) -> list[Message]:
    return [asked.messages[0] for asked in model.asked]


SAYS = {"role": "system", "content": "You are brief."}


async def add(left: int) -> int:
    return left + 1


ADD = Tool("add", "Adds.", {"type": "object"}, add)


def answer(asked: Asked) -> object:
    if asked.tools and asked.number == 1:
        return LLMResponse("", (ToolCall("1", "add", {"left": 1}),), "tool_calls")
    prompt = asked.prompt
    if "response_to_rate" in prompt:
        return reply("Score: 3")
    if "Pick the one" in prompt:
        return reply("Response 1")
    return reply("no JSON" if asked.number == 1 else f'{{"answer": {asked.number}}}')


def as_told(task: str) -> str:
    return f"You are {task}."


STAGES: list[tuple[Callable[[System[str]], Stage[str, Any]], int, int]] = [
    (lambda system: complete(system=system), 1, 0),
    (lambda system: consensus(3, system=system), 3, 0),
    (lambda system: consensus(3, output_type=int, system=system), 3, 0),
    (lambda system: consensus(2, one_request=True, system=system), 2, 0),
    (lambda system: select(2, system=system), 2, 1),
    (lambda system: refine(max_iterations=1, system=system), 2, 2),
    (lambda system: refine(lambda n: 0.1, output_type=int, max_iterations=1, system=system), 3, 0),
    (lambda system: structured(int, system=system), 2, 0),
    (lambda system: react([ADD], system=system), 2, 0),
    (lambda system: react([ADD], output_type=int, system=system), 2, 0),
]


@pytest.mark.parametrize(("make", "told", "judges"), STAGES)
@pytest.mark.parametrize("system", ["You are brief.", as_told])
async def test_it_goes_with_everything_but_the_judge(
    make: Callable[[System[str]], Stage[str, Any]], told: int, judges: int, system: System[str]
) -> None:
    model = Model(answer)
    result_of(await make(system).run(model, "brief"))
    firsts = first_of(model)
    assert firsts.count(SAYS) >= told
    assert len(firsts) - firsts.count(SAYS) == judges
    assert all(messages.messages.count(SAYS) <= 1 for messages in model.asked)


async def test_a_transcript_goes_on_under_new_words() -> None:
    model = Model(lambda asked: reply("fine"))
    old = [{"role": "developer", "content": "Old."}, {"role": "system", "content": "Older."}]
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    result = result_of(await react([], transcript=[*old, *said], system="You are brief.").run(model, "go on"))
    assert model.asked[0].messages == [SAYS, *said, {"role": "user", "content": "go on"}]
    assert list(result.metadata["transcript"])[:3] == [SAYS, *said]
    again = result_of(await react([], transcript=result.metadata["transcript"]).run(model, "and on"))
    assert model.asked[1].messages[0] == SAYS
    assert again.metadata["transcript"][0] == SAYS


async def test_without_tool_calls_it_stands_behind_the_rules_of_the_game() -> None:
    model = Model(lambda asked: reply('{"answer": "fine"}'))
    model.supports_tools = False
    result_of(await react([ADD], system="You are brief.").run(model, "go on"))
    assert [message["role"] for message in model.asked[0].messages] == ["system", "system", "user"]
    assert model.asked[0].messages[1] == SAYS


async def test_it_is_traced_with_the_messages() -> None:
    events: list[Event] = []
    await complete(system="You are brief.").run(Model(), "hello", trace=with_content(events.append))
    [call] = [event for event in events if isinstance(event, CallStarted)]
    assert msgspec.json.decode(call.prompt or "")[0] == SAYS


async def test_a_function_that_says_nothing_sends_nothing() -> None:
    model = Model()
    result_of(await complete(system=lambda task: " ").run(model, "hello"))
    assert first_of(model) == [{"role": "user", "content": "hello"}]


async def test_a_function_that_fails_is_a_failure_without_a_call() -> None:
    def broken(task: str) -> str:
        raise KeyError(task)

    def number(task: str) -> Any:
        return 7

    model = Model()
    for system in (broken, number, *UNTOLD_ASYNC):
        error = error_of(await consensus(3, system=system).run(model, "hello"))
        assert isinstance(error, StageError)
        assert "system" in str(error)
    assert model.calls == 0


BAD: Sequence[tuple[Any, type[Exception]]] = [
    ("", ValueError),
    ("  \n", ValueError),
    (7, TypeError),
    (b"text", TypeError),
    (str, TypeError),
    (add, TypeError),
]


@pytest.mark.parametrize(("system", "kind"), BAD)
async def test_what_is_no_system_prompt_is_refused_when_set(system: Any, kind: type[Exception]) -> None:
    for make, _, _ in STAGES:
        with pytest.raises(kind, match="system"):
            make(system)
    with pytest.raises(kind, match="system"):
        await compat.consensus(Model(), "hello", system=system)


FACADE: list[Callable[[Model], Awaitable[object]]] = [
    lambda model: compat.consensus(model, "hello", num_samples=2, system="You are brief."),
    lambda model: compat.refine_loop(model, "hello", evaluator=lambda text: 1.0, system="You are brief."),
    lambda model: compat.react_loop(model, "hello", [], system="You are brief."),
    lambda model: compat.structured(model, "hello", int, system="You are brief."),
    lambda model: compat.pipe(model, "hello", compat.consensus, system="You are brief."),
]


@pytest.mark.parametrize("run", FACADE)
async def test_the_facade_takes_it_too(run: Callable[[Model], Awaitable[object]]) -> None:
    model = Model(lambda asked: reply("1"))
    await run(model)
    assert model.calls
    assert all(message == SAYS for message in first_of(model))


async def test_it_counts_against_the_budget() -> None:
    long = "word " * 400
    outcome = await complete(system=long).run(Model(), "hello", max_cost=TokenUsage(input_tokens=300))
    assert error_of(outcome).cost.llm_calls == 0
