"""Stages are values, and what combines them keeps scores, metadata and names."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from operator import add
from typing import Any

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, ProviderError, StageError
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import LLMResponse
from executionkit.providers.scripted import ScriptedProvider
from executionkit.stage import Both, Fallback, Mapped, Pipeline, Stage, Using, Within, identity
from tests.doubles import Buy, Model, error_of, joined, reply, result_of, shown


def even(text: str) -> float:
    return 0.5


VALUES: list[Stage[str, Any]] = [
    complete(temperature=0.5),
    consensus(n=3),
    refine(even),
    complete() >> consensus() >> refine(even),
    complete() | consensus(),
    complete() & consensus(),
    complete().map(len),
    complete().within(TokenUsage(llm_calls=3)),
    identity(str),
    Buy("a", 2),
]


@pytest.mark.parametrize("stage", VALUES, ids=shown)
def test_a_stage_is_a_value(stage: Stage[str, Any]) -> None:
    for twin in (copy.copy(stage), copy.deepcopy(stage), pickle.loads(pickle.dumps(stage))):
        assert twin == stage
        assert hash(twin) == hash(stage)
    name = type(stage).__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(stage, name, None)


def test_stages_differ_by_their_settings() -> None:
    assert len(set(VALUES)) == len(VALUES)
    assert consensus(n=3) != consensus(n=4)
    assert repr(complete(temperature=0.5)) == "Complete(temperature=0.5)"
    assert repr(complete() >> identity(str) >> Buy("a")) == "Pipeline(stages=(Complete(), Buy(mark='a')))"


COMBINATORS = ["__rshift__", "__or__", "__and__"]


@pytest.mark.parametrize("other", [5, None, "stage", complete])
@pytest.mark.parametrize("combine", COMBINATORS)
def test_what_is_no_stage_does_not_compose(combine: str, other: object) -> None:
    if other is complete:
        with pytest.raises(TypeError, match="complete is a function: call it if it makes a stage"):
            getattr(complete(), combine)(other)
    else:
        assert getattr(complete(), combine)(other) is NotImplemented


@pytest.mark.anyio
class TestRuns:
    async def test_a_pipeline_says_what_its_steps_cost_and_said(self) -> None:
        result = result_of(await (complete() >> consensus(n=2)).run(Model(), "x"))
        assert result.score == 1.0
        assert result.metadata["agreement_ratio"] == 1.0
        assert result.metadata["step_count"] == 2
        assert result.metadata["step_costs"] == (TokenUsage(3, 2, 1), TokenUsage(6, 4, 2))
        assert result.metadata["step_metadata"][0]["finish_reason"] == "stop"

    async def test_a_failed_pipeline_says_how_far_it_came(self) -> None:
        error = error_of(await (complete() >> Buy("b", 1, "no") >> complete()).run(Model(), "x"))
        assert (error.metadata["step_count"], error.metadata["failed_step"]) == (1, "Buy")
        assert error.metadata["step_costs"] == (TokenUsage(3, 2, 1),)
        assert error.metadata["mark"] == "b"
        assert error.cost == TokenUsage(6, 4, 2)

    async def test_a_map_after_a_pipeline_fails_with_its_cost(self) -> None:
        def broken(text: str) -> str:
            raise LookupError(text)

        for stage in ((complete() >> complete()).map(broken), identity(str).map(broken)):
            error = error_of(await stage.run(Model(), "x"))
            assert isinstance(error, StageError)
            assert "failed_step" not in error.metadata

    async def test_a_fallback_notes_what_failed_before(self) -> None:
        stage = Buy("a", 1, "first") | Buy("b", 2, "second") | Buy("c", 1)
        result = result_of(await stage.run(Model(), "x"))
        assert result.value == "xc"
        assert result.metadata["option_failures"] == ("ExecutionKitError: first", "ExecutionKitError: second")
        assert result.cost.llm_calls == 4
        error = error_of(await (Buy("a", 1, "first") | Buy("b", 2, "second")).run(Model(), "x"))
        assert (str(error), error.metadata["option_failures"]) == ("second", ("ExecutionKitError: first",))
        assert error.cost.llm_calls == 3

    async def test_both_say_what_each_did(self) -> None:
        result = result_of(await (consensus(n=2) & complete()).run(Model(), "x"))
        assert result.value == ("ok", "ok")
        assert result.metadata["branch_scores"] == (1.0, None)
        assert result.metadata["branch_costs"] == (TokenUsage(6, 4, 2), TokenUsage(3, 2, 1))

    async def test_within_bounds_its_stage_only(self) -> None:
        stage = joined(consensus(n=2).within(TokenUsage(llm_calls=2)), complete())
        assert result_of(await stage.run(Model(), "x")).cost.llm_calls == 3
        error = error_of(
            await joined(consensus(n=3).within(TokenUsage(llm_calls=2)), complete()).run(Model(), "x")
        )
        assert error.cost.llm_calls == 2
        twice = consensus(n=3).within(TokenUsage(llm_calls=5)).within(TokenUsage(llm_calls=2))
        assert error_of(await twice.run(Model(), "x")).cost.llm_calls == 2
        assert error_of(await twice.run(Model(), "x", max_cost=TokenUsage(llm_calls=1))).cost.llm_calls == 1

    async def test_using_binds_its_stage_only(self) -> None:
        ours, theirs = Model(lambda asked: reply("ours")), Model(lambda asked: reply("theirs"))
        stage = (complete() >> complete()).using(theirs) >> complete()
        assert result_of(await stage.run(ours, "x")).value == "ours"
        assert (ours.calls, theirs.calls) == (1, 2)

    async def test_one_stage_runs_twice_at_once_and_again(self) -> None:
        stage = refine(even, max_iterations=1)
        result = result_of(await (stage & stage).run(Model(), "x"))
        assert result.metadata["branch_costs"][0] == result.metadata["branch_costs"][1]
        assert await stage.run(Model(), "x") == await stage.run(Model(), "x")

    async def test_the_same_failure_twice_is_equal_and_grows_no_traceback(self) -> None:
        first, second = [error_of(await Buy("a", 1, "no").run(Model(), "x")) for _ in range(2)]
        assert first == second
        assert first.__traceback__ is None
        for _ in range(2):
            with pytest.raises(ExecutionKitError):
                raise first.stamped(first.cost)
        assert first.__traceback__ is None


def test_a_step_is_named_after_its_function() -> None:
    async def summarise(provider: object, prompt: str) -> Any: ...

    assert step(summarise).name == "summarise"
    assert complete().map(len).within(TokenUsage(llm_calls=1)).name == "Complete"


def test_a_thousand_maps_are_one_stage() -> None:
    stage: Any = complete().map(len)
    for _ in range(1000):
        stage = stage.map(partial(add, 1))
    assert stage.run_sync(ScriptedProvider(["four"]), "q").unwrap().value == 1004
    assert (len(stage.functions), hash(stage)) == (1001, hash(copy.copy(stage)))


def test_what_is_flat_is_kept_flat() -> None:
    stage, model = complete(), ScriptedProvider(["a"])
    assert stage.map(len).map(str) == Mapped(stage, (len, str))
    tighter = TokenUsage(output_tokens=50, llm_calls=2)
    assert stage.within(TokenUsage(llm_calls=2)).within(TokenUsage(output_tokens=50, llm_calls=9)) == Within(
        stage, tighter
    )
    assert stage.using(model).using(ScriptedProvider(["b"])) == Using(stage, model)


ANSWERS = ScriptedProvider(lambda _: "a")
DEEPER: dict[str, Callable[[Stage[str, Any]], Stage[str, Any]]] = {
    "map and fallback": lambda stage: stage.map(str) | complete(),
    "map and pipeline": lambda stage: stage.map(str) >> complete(),
    "fallback and pipeline": lambda stage: (stage | complete()) >> complete(),
    "both": lambda stage: (stage & complete()).map(lambda _: "x"),
    "within and using": lambda stage: stage.within(TokenUsage(llm_calls=10**6)).using(ANSWERS),
    "within and map": lambda stage: stage.within(TokenUsage(llm_calls=10**6)).map(str),
}


class Down:
    async def complete(self, *messages: Any, **options: Any) -> LLMResponse:
        raise KeyError("down")


@pytest.mark.parametrize("name", DEEPER)
def test_what_is_nested_too_deeply_is_refused_and_the_deepest_runs(name: str) -> None:
    deepest: Stage[str, Any] = complete()
    with pytest.raises(ValueError, match="nested more than 210 levels"):
        for _ in range(1000):
            deepest = DEEPER[name](deepest)
    assert hash(deepest) == hash(copy.copy(deepest))
    assert deepest == copy.copy(deepest)
    assert repr(deepest)
    assert deepest.run_sync(ANSWERS, "q").unwrap().value
    if "using" not in name:
        assert isinstance(deepest.run_sync(Down(), "q").failure(), ProviderError)


def test_stages_used_often_are_looked_at_once() -> None:
    stage: Stage[str, Any] = complete()
    for _ in range(90):  # looked at as a tree, that would be 2**90 of them
        stage = stage & stage
    assert isinstance(stage, Both)


def test_thousands_of_stages_are_joined_in_a_moment() -> None:
    stage: Stage[str, str] = complete()
    fallback = stage
    for _ in range(4000):
        stage, fallback = stage >> complete(), complete() | fallback
    assert stage == Pipeline((complete(),) * 4001)
    assert fallback == Fallback((complete(),) * 4001)
