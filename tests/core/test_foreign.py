"""Objects that raise where they are looked at: whatever they are handed in as, they do what they are for."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import pytest

from executionkit import (
    LLMProvider,
    LLMResponse,
    Message,
    PatternResult,
    ScriptedProvider,
    Tool,
    complete,
    consensus,
    plan,
    react,
    refine,
    step,
    tool,
)
from executionkit.approval import Approve
from executionkit.core.foreign import attribute, fits, function_name, is_kind, method, signature_of
from executionkit.core.voting.keys import Grouping
from executionkit.datasets import map_dataset
from executionkit.provider import ToolCall
from executionkit.providers.pool import Pool
from executionkit.stage import Stage
from tests.conftest import needs
from tests.doubles import reply, result_of


class Shut:
    """Has what it has, and raises `KeyError` where a proxy of a mapping forgets to raise `AttributeError`."""

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)


class Plain(Shut):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, value: Any) -> Any:
        return self.function(value)


class Awaited(Shut):
    async def __call__(self, prompt: Any) -> Any:
        return Approve()


class Judging(Shut):
    async def __call__(self, text: str, provider: LLMProvider) -> float:
        return 0.9


class Stepping(Shut):
    async def __call__(self, provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return PatternResult("a")


class Adding(Shut):
    def __call__(self, left: int) -> Any:
        return str(left + 1)


class Answering(Shut):
    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        return reply("a")


def same(value: Any) -> Any:
    return value


def test_they_are_told_by_their_class() -> None:
    assert is_kind(Awaited(), inspect.iscoroutinefunction)
    assert is_kind(functools.partial(Awaited(), "x"), inspect.iscoroutinefunction)
    assert not is_kind(Plain(same), inspect.iscoroutinefunction)
    assert (function_name(Plain(same)), function_name(functools.partial(Plain(same)))) == ("Plain", "Plain")
    assert list(signature_of(Judging()).parameters) == ["text", "provider"]
    assert attribute(Shut(), "model") is None
    assert method(Shut(), "stream") is None
    assert not fits(Shut(), Grouping)
    with pytest.raises(ValueError, match="signature"):
        signature_of(type)


STAGES: dict[str, Callable[[], Stage[str, Any]]] = {
    "map": lambda: complete().map(Plain(same)),
    "partial": lambda: complete().map(functools.partial(Plain(same))),
    "evaluator": lambda: refine(Judging()),
    "plain evaluator": lambda: refine(Plain(lambda _: 0.9)),
    "step": lambda: step(Stepping()),
    "key": lambda: consensus(n=2, key=Plain(same)),
    "weigh": lambda: consensus(n=2, weigh=Plain(lambda _: 1.0)),
    "rule": lambda: consensus(n=2, check=Plain(lambda _: None)),
    "system": lambda: complete(system=Plain(lambda _: "Be brief.")),
}


@pytest.mark.anyio
@pytest.mark.parametrize("stage", STAGES)
async def test_as_a_part_of_a_stage(stage: str) -> None:
    assert result_of(await STAGES[stage]().run(Answering(), "q")).value == "a"
    assert STAGES[stage]().bounds("q", provider=Answering()).most.llm_calls >= 1


@pytest.mark.parametrize("stage", STAGES)
def test_in_a_drawing_and_a_document(stage: str) -> None:
    made = STAGES[stage]()
    assert plan.mermaid(made)
    with pytest.raises(TypeError, match="cannot be written"):
        plan.dumps(made)


@needs("rich")
@pytest.mark.parametrize("stage", STAGES)
def test_in_a_tree(stage: str) -> None:
    assert plan.tree(STAGES[stage]())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda: complete().run_sync(cast("Any", Shut()), "q"), "Shut has no such method"),
        (lambda: complete().run_sync(Answering(), "q", journal=cast("Any", Shut())), "not Shut"),
        (lambda: consensus(stop=cast("Any", Shut())), "not <.*Shut"),
        (
            lambda: map_dataset([], "rows.jsonl", complete(), Answering, key=str, engine=cast("Any", Shut())),
            "not Shut",
        ),
    ],
    ids=["provider", "journal", "stopping rule", "engine"],
)
def test_as_what_it_is_not(given: Callable[[], object], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        given()


def by_hand() -> Tool:
    return Tool("add", "", {"properties": {"left": {"type": "integer"}}}, Adding())


@pytest.mark.anyio
@pytest.mark.parametrize("made", [lambda: tool(Adding(), name="add"), by_hand])
async def test_as_a_tool_and_its_approval(made: Callable[[], Tool]) -> None:
    model = ScriptedProvider([ToolCall("1", "add", {"left": 1}), "a"])
    assert result_of(await react([made()], approve=Awaited()).run(model, "q")).value == "a"
    assert model.requests[1].prompt == "2"


@pytest.mark.anyio
async def test_as_a_trace_a_provider_of_a_pool_and_the_names_and_keys_of_rows() -> None:
    events: list[object] = []
    pool = Pool([Answering(), Answering()])
    await complete().run(pool, "q", trace=Plain(events.append))
    assert events
    assert result_of(await complete().each(name=Plain(same)).run(pool, ["q"], trace=Plain(events.append)))
    async with complete().over(["r"], Answering(), key=Plain(same)) as rows:
        assert [row.key async for row in rows] == ["r"]
