"""The algebra of stages, over random ones: what composition does to equality, to values and to cost."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from returns.result import Success

from executionkit import compat
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.events import (
    CallFinished,
    CallStarted,
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
)
from executionkit.outcome import Outcome, PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse, ToolCall
from executionkit.stage import Pipeline, Stage, identity
from executionkit.tools import Tool
from tests.doubles import (
    AT_ONCE,
    Asked,
    Buy,
    Model,
    Text,
    either,
    error_of,
    joined,
    paired,
    reply,
    result_of,
    shouted,
    total,
)


def echo(asked: Asked) -> LLMResponse:
    """Answer by the prompt alone, so that two runs of equal stages are equal."""
    size = len(asked.prompt)
    return reply(f"{asked.prompt[-20:]}{size % 7}", size, size % 5 + 1)


def model() -> Model:
    return Model(echo, ticks=lambda asked: len(asked.prompt) % 3)


def even(text: str) -> float:
    return (len(text) % 5) / 5


def shout(text: str) -> str:
    return text.upper()


def broken(text: str) -> str:
    raise KeyError(text)


LEAVES: list[Text] = [
    identity(str),
    complete(),
    complete(temperature=0.5, max_tokens=20),
    consensus(n=3, max_concurrency=2),
    refine(even, max_iterations=1),
    Buy("a"),
    Buy("b", 2),
    Buy("c", 0),
    complete().using(Model(echo)),
]
ROOM = TokenUsage(10**8, 10**8, 10**4)


def roomy(stage: Text) -> Text:
    return stage.within(ROOM)


SOUND: st.SearchStrategy[Text] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: (
        st.builds(joined, inner, inner)
        | st.builds(either, inner, inner)
        | st.builds(paired, inner, inner)
        | st.builds(shouted, inner)
        | st.builds(roomy, inner)
    ),
    max_leaves=6,
)
FAILING: list[Text] = [
    Buy("x", 0, "no"),
    Buy("y", 2, "no"),
    complete().map(broken),
    Buy("z", 3).within(TokenUsage(llm_calls=2)),
    (complete() >> complete()).map(broken),
]
STAGES: st.SearchStrategy[Text] = st.recursive(
    SOUND | st.sampled_from(FAILING),
    lambda inner: st.builds(joined, inner, inner) | st.builds(either, inner, inner) | st.builds(roomy, inner),
    max_leaves=4,
)

few = settings(max_examples=40, deadline=None)
pytestmark = pytest.mark.anyio


async def ran(stage: Stage[str, Any], value: str = "question") -> Outcome[Any]:
    return await stage.run(model(), value, retry=AT_ONCE)


def cost_of(outcome: Outcome[Any]) -> TokenUsage:
    return outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost


@given(STAGES, STAGES, STAGES)
def test_composition_is_associative_by_equality(a: Text, b: Text, c: Text) -> None:
    assert (a >> b) >> c == a >> (b >> c)
    assert (a | b) | c == a | (b | c)
    assert hash((a >> b) >> c) == hash(a >> (b >> c))
    assert repr((a >> b) >> c) == repr(a >> (b >> c))


@given(STAGES)
def test_identity_is_neutral_by_equality(a: Text) -> None:
    assert identity(str) >> a == a
    assert a >> identity(str) == a


@few
@given(a=STAGES, b=STAGES, c=STAGES)
async def test_composition_is_associative_by_run(a: Text, b: Text, c: Text) -> None:
    assert await ran((a >> b) >> c) == await ran(a >> (b >> c))


@few
@given(a=STAGES)
async def test_equal_runs_are_equal(a: Text) -> None:
    assert await ran(a) == await ran(a)
    assert await ran(identity(str) >> a) == await ran(a)


@few
@given(a=STAGES, b=STAGES)
async def test_cost_is_a_homomorphism(a: Text, b: Text) -> None:
    first, both = await ran(a), await ran(a >> b)
    if not isinstance(first, Success):
        assert cost_of(both) == cost_of(first)
        assert str(error_of(both)) == str(error_of(first))
        return
    second = await ran(b, result_of(first).value)
    assert cost_of(both) == cost_of(first) + cost_of(second)
    if isinstance(second, Success):
        assert result_of(both).value == result_of(second).value
        assert result_of(both).score == result_of(second).score or b == identity(str)
    else:
        assert str(error_of(both)) == str(error_of(second))


@few
@given(a=STAGES, b=STAGES)
async def test_a_fallback_pays_for_both(a: Text, b: Text) -> None:
    first, fallback = await ran(a), await ran(a | b)
    if isinstance(first, Success):
        assert (result_of(fallback).value, cost_of(fallback)) == (result_of(first).value, cost_of(first))
        return
    second = await ran(b)
    assert cost_of(fallback) == cost_of(first) + cost_of(second)
    assert type(fallback) is type(second)


@few
@given(a=SOUND, b=SOUND)
async def test_both_pay_for_both(a: Text, b: Text) -> None:
    left, right, both = await ran(a), await ran(b), await ran(a & b)
    assert result_of(both).value == (result_of(left).value, result_of(right).value)
    assert cost_of(both) == cost_of(left) + cost_of(right)
    assert result_of(both).metadata["branch_costs"] == (cost_of(left), cost_of(right))


@few
@given(a=STAGES)
async def test_map_laws(a: Text) -> None:
    plain = await ran(a)
    assert await ran(a.map(lambda text: text)) == plain
    twice, composed = await ran(a.map(shout).map(len)), await ran(a.map(lambda text: len(shout(text))))
    assert twice == composed
    assert cost_of(twice) == cost_of(plain)


@few
@given(a=STAGES)
async def test_room_enough_changes_nothing(a: Text) -> None:
    assert await ran(a.within(ROOM)) == await ran(a)
    assert await a.run(model(), "question", max_cost=ROOM, retry=AT_ONCE) == await ran(a)


@few
@given(stages=st.lists(STAGES, min_size=2, max_size=5))
@example(stages=[identity(str), Buy("y", 2, "no") | identity(str)])
async def test_the_steps_of_a_pipeline_add_up(stages: list[Text]) -> None:
    chain = stages[0]
    for stage in stages[1:]:
        chain = chain >> stage
    outcome = await ran(chain)
    # Behind `identity` alone a stage is that stage: `step_costs` may be those of a pipeline within it.
    if isinstance(outcome, Success) and isinstance(chain, Pipeline):
        costs = result_of(outcome).metadata.get("step_costs")
        assert costs is None or total(costs) == cost_of(outcome)


class Node:
    def __init__(self) -> None:
        self.own = NO_USAGE
        self.said: TokenUsage | None = None
        self.children: list[Node] = []


def audited(events: list[Event]) -> Node:
    """Check that every record adds up, and return the root."""
    nodes: dict[int, Node] = {}
    (run,) = (event for event in events if isinstance(event, RunStarted))
    for event in events:
        if isinstance(event, (RunStarted, StageStarted, CallStarted)):
            assert event.id not in nodes, "two things share an id"
            nodes[event.id] = Node()
            if event.parent is not None:
                nodes[event.parent].children.append(nodes[event.id])
        elif isinstance(event, (CallFinished, StageFinished, RunFinished)):
            nodes[event.id].said = event.cost
    for node in nodes.values():
        assert node.said is not None, "something began and did not end"
        if node.children:
            assert node.said == total([child.said or NO_USAGE for child in node.children])
    return nodes[run.id]


@few
@given(a=STAGES, b=STAGES)
async def test_the_records_of_a_run_add_up_always(a: Text, b: Text) -> None:
    for stage in (a >> b, a | b, a & b):
        events: list[Event] = []
        asked = model()
        outcome = await stage.run(asked, "question", retry=AT_ONCE, trace=events.append)
        assert audited(events).said == cost_of(outcome)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 1.5]),
        "max_tokens": st.integers(1, 100),
        "max_cost": st.sampled_from([TokenUsage(llm_calls=2), TokenUsage(output_tokens=60), None]),
        "retry": st.just(AT_ONCE),
    },
)


async def settled(call: Callable[[], Any]) -> object:
    try:
        return await call()
    except ExecutionKitError as error:
        return error


def native(stage: Stage[str, Any], provider: LLMProvider, **run: Any) -> Callable[[], Any]:
    async def call() -> object:
        outcome = await stage.run(provider, "question", **run)
        return outcome.unwrap() if isinstance(outcome, Success) else outcome.failure()

    return call


def split(given_settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    names: list[str] = ["max_cost", "retry"]
    run = {key: given_settings[key] for key in names if key in given_settings}
    return {key: item for key, item in given_settings.items() if key not in run}, run


@few
@given(shared=SETTINGS, n=st.integers(1, 4), strategy=st.sampled_from(["majority", "unanimous"]))
async def test_a_consensus_equals_its_native_twin(shared: dict[str, Any], n: int, strategy: Any) -> None:
    own, run = split(shared)
    facade = await settled(
        partial(compat.consensus, model(), "question", num_samples=n, strategy=strategy, **shared)
    )
    stage = consensus(n, strategy=strategy, **own)
    assert facade == await settled(native(stage, model(), **run))


def judged(asked: Asked) -> LLMResponse:
    return reply(f"Score: {asked.number % 10}" if "Rate how" in asked.prompt else echo(asked).content)


@few
@given(shared=SETTINGS, rounds=st.integers(0, 3), evaluator=st.sampled_from([None, even]))
async def test_a_refinement_equals_its_native_twin(
    shared: dict[str, Any], rounds: int, evaluator: Any
) -> None:
    own, run = split(shared)
    facade = await settled(
        partial(
            compat.refine_loop,
            Model(judged),
            "question",
            evaluator=evaluator,
            max_iterations=rounds,
            **shared,
        )
    )
    stage = refine(evaluator, max_iterations=rounds, **own)
    assert facade == await settled(native(stage, Model(judged), **run))


async def add(a: int, b: int) -> str:
    return str(a + b)


NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}


def looking(asked: Asked) -> LLMResponse:
    if asked.number > 2:
        return reply("done")
    call = ToolCall(f"id{asked.number}", "add", {"a": asked.number, "b": 1})
    return LLMResponse("", (call,), "tool_calls", {"prompt_tokens": 5, "completion_tokens": 3})


@few
@given(shared=SETTINGS, rounds=st.integers(1, 4))
async def test_a_tool_loop_equals_its_native_twin(shared: dict[str, Any], rounds: int) -> None:
    own, run = split(shared)
    tools = [Tool("add", "Adds.", NUMBERS, add)]
    facade = await settled(
        partial(compat.react_loop, Model(looking), "question", tools, max_rounds=rounds, **shared)
    )
    stage = react(tools, max_rounds=rounds, **own)
    assert facade == await settled(native(stage, Model(looking), **run))


async def twice(provider: LLMProvider, prompt: str, **keywords: Any) -> PatternResult[str]:
    return await compat.consensus(provider, prompt, num_samples=2, **keywords)


async def once(provider: LLMProvider, prompt: str, *, max_tokens: int = 9) -> PatternResult[str]:
    response = await provider.complete([{"role": "user", "content": prompt}], max_tokens=max_tokens)
    return PatternResult(response.content)


@few
@given(
    steps=st.lists(st.sampled_from([twice, once]), min_size=1, max_size=4),
    budget=st.sampled_from([None, TokenUsage(llm_calls=3), TokenUsage(output_tokens=40)]),
)
async def test_a_pipe_equals_its_native_twin(steps: list[Any], budget: TokenUsage | None) -> None:
    facade = await settled(partial(compat.pipe, model(), "question", *steps, max_budget=budget))
    chain: Stage[Any, Any] = step(steps[0])
    for function in steps[1:]:
        chain = chain >> step(function)
    outcome = await settled(native(chain, model(), max_cost=budget))
    if len(steps) > 1:
        assert facade == outcome
    else:  # a pipe of one step is a pipeline still, and says so in its metadata
        assert str(facade) == str(outcome)
        assert getattr(facade, "cost", None) == getattr(outcome, "cost", 0)
