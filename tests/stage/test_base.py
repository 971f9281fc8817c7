"""Stages are values, and each run of one is a run of its own."""

import copy
import pickle
from typing import Any

import pytest

import executionkit.stage
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.stage import (
    Both,
    Checked,
    Each,
    Fallback,
    Mapped,
    Named,
    Pipeline,
    Stage,
    Using,
    Within,
    WithInput,
    identity,
)
from tests.doubles import Buy, Model, error_of, result_of, shown


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


@pytest.mark.parametrize(
    "kind", [Both, Checked, Each, Fallback, Mapped, Named, Pipeline, Using, WithInput, Within]
)
def test_a_pickle_that_names_them_by_the_package_is_read(kind: type[Stage[Any, Any]]) -> None:
    # In 0.1.0 all classes were in `executionkit.stage` itself.
    assert pickle.loads(f"cexecutionkit.stage\n{kind.__name__}\n.".encode()) is kind


def test_what_there_is_no_name_of_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="executionkit.stage"):
        executionkit.stage.Pipelines  # type: ignore[attr-defined]  # pyright: ignore  # noqa: B018
    assert {"Pipeline", "Stage", "identity"} <= set(dir(executionkit.stage))


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
async def test_one_stage_runs_twice_at_once_and_again() -> None:
    stage = refine(even, max_iterations=1)
    result = result_of(await (stage & stage).run(Model(), "x"))
    assert result.metadata["branch_costs"][0] == result.metadata["branch_costs"][1]
    assert await stage.run(Model(), "x") == await stage.run(Model(), "x")


@pytest.mark.anyio
async def test_the_same_failure_twice_is_equal_and_grows_no_traceback() -> None:
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
