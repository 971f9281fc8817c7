"""Paths and logical calls: the same in every run, whatever the timing and the concurrency."""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executionkit import (
    LLMResponse,
    ProviderError,
    RetryConfig,
    Stage,
    TokenUsage,
    complete,
    consensus,
    identity,
    react,
    refine,
    select,
    structured,
)
from executionkit.core.voting.stopping import certain
from executionkit.events import AttemptStarted, CallStarted, Event, Path
from executionkit.provider import LLMProvider, Message, ToolCall
from executionkit.runtime.calls.open_call import call_under_way
from executionkit.tools import tool
from tests.doubles import result_of

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(max_retries=3, base_delay=0.0)


@tool
async def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


async def ask_again(text: str, provider: LLMProvider) -> float:
    """Score a draft with a vote of its own."""
    outcome = await consensus(3, temperature=0.1).run(provider, f"Rate: {text}")
    return len(str(result_of(outcome).value)) % 10 / 10


LEAVES: list[Stage[Any, Any]] = [
    complete(),
    consensus(4, max_concurrency=3),
    consensus(5, stop=certain(), max_concurrency=2),
    consensus(3, output_type=dict[str, int]),
    select(3),
    refine(ask_again, max_iterations=2),
    refine(max_iterations=1),
    react([add], max_rounds=3, on_limit="answer"),
    structured(dict[str, int], output_retries=1),
]
PIPELINES = st.recursive(
    st.sampled_from(LEAVES).map(lambda stage: stage.map(str)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] >> pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        st.tuples(inner, inner).map(lambda pair: (pair[0] & pair[1]).map(str)),
        inner.map(lambda stage: stage.within(TokenUsage(llm_calls=10_000))),
    ),
    max_leaves=4,
)


class ByPlace:
    """Answers and faults depend on what was asked where; how long an answer takes, on a seed.

    Args:
        seed: Of the answers and faults.
        timing: Of the time that they take.
    """

    supports_tools = True

    def __init__(self, seed: int, timing: int) -> None:
        self._seed = seed
        self._timing = Random(timing)
        self._asked: Counter[tuple[object, ...]] = Counter()

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        call = call_under_way.get()
        assert call is not None
        place = call.place
        self._asked[place] += 1
        for _ in range(self._timing.randrange(4)):
            await anyio.lowlevel.checkpoint()
        fate = Random(f"{self._seed} {place} {self._asked[place]}")
        if self._asked[place] < 3 and fate.random() < 0.3:
            raise ProviderError("busy")
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        if "tools" in options and fate.random() < 0.5:
            call_id = ToolCall("1", "add", {"left": 1, "right": fate.randrange(9)})
            return LLMResponse("", (call_id,), "tool_calls", usage)
        if "form" in options or "response_format" in options:
            return LLMResponse(f'{{"n": {fate.randrange(3)}}}', usage=usage)
        return LLMResponse(f"Response 1 Score: {fate.randrange(10)}", usage=usage)


async def calls_of(stage: Stage[Any, Any], seed: int, timing: int) -> tuple[object, Counter[Any]]:
    events: list[Event] = []
    outcome = await stage.run(ByPlace(seed, timing), "question", trace=events.append, retry=AT_ONCE)
    calls: dict[int, tuple[Path, int]] = {}
    for event in events:
        if isinstance(event, CallStarted):
            calls[event.id] = (event.path, event.ordinal)
    assert len(set(calls.values())) == len(calls), "two calls of a run share a path and an ordinal"
    attempts = Counter(calls[event.parent or 0] for event in events if isinstance(event, AttemptStarted))
    return outcome, attempts


@settings(max_examples=40, deadline=None)
@given(
    stage=PIPELINES,
    seed=st.integers(0, 2**20),
    timings=st.tuples(st.integers(0, 2**20), st.integers(0, 2**20)),
)
async def test_calls_and_attempts_are_the_same_whatever_the_timing(
    stage: Stage[Any, Any], seed: int, timings: tuple[int, int]
) -> None:
    one, first = await calls_of(stage, seed, timings[0])
    other, second = await calls_of(stage, seed, timings[1])
    assert type(one) is type(other)
    if all(type(outcome).__name__ == "Success" for outcome in (one, other)):
        assert first == second


BUILT: list[Callable[[Stage[Any, Any]], Stage[Any, Any]]] = [
    lambda stage: stage,
    lambda stage: stage >> complete(),
    lambda stage: stage | complete(max_tokens=7),
    lambda stage: stage & stage,
    lambda stage: stage.map(str),
    lambda stage: stage.within(TokenUsage(llm_calls=2)),
    lambda stage: identity(str) >> stage,
]


def rebuilt(stage: Stage[Any, Any]) -> Stage[Any, Any]:
    parts = {name: rebuilt(part) for name, part in stage.parts().items()}
    return type(stage).rebuilt(stage.settings(), parts)


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_parts_and_settings_rebuild_an_equal_stage(
    build: Callable[[Stage[Any, Any]], Stage[Any, Any]], leaf: Stage[Any, Any]
) -> None:
    stage = build(leaf)
    assert rebuilt(stage) == stage
    assert not any(isinstance(held, Stage) for held in stage.settings().values())


def test_a_stage_names_its_parts() -> None:
    stage = complete() >> (consensus(3) | complete())
    assert list(stage.parts()) == ["stages.0", "stages.1"]
    assert list(stage.parts()["stages.1"].parts()) == ["options.0", "options.1"]
    assert identity(str).parts() == {}
    assert react([], summarise=complete()).parts() == {"summarise": complete()}
