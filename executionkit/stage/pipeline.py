"""Stages one after the other: `a >> b`; and `identity`, which is none."""

from functools import reduce
from typing import Any, TypeVar, overload

import msgspec
from typing_extensions import TypeForm, override

from executionkit.core.bounds import Given, Reach
from executionkit.core.combined_bounds import chained
from executionkit.core.drawing import Sketch
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context, first_position, run_group
from executionkit.stage.base import Stage
from executionkit.stage.named import Named, breadth, group_of, nameless
from executionkit.stage.nesting import check_nesting, check_stages, extended

__all__ = ["Pipeline", "chain", "identity"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Pipeline(Stage[A, B], frozen=True):
    """Stages one after the other, each fed the value of the one before. `a >> b` makes one.

    The score is the last stage's. Metadata: the last stage's keys, and `step_count` (int), `step_metadata`
    and `step_costs` (a tuple entry a stage). An error carries these for the stages that were done, and
    `failed_step` (str), the name of the one that failed.

    Args:
        stages: The stages in order. With none, the value comes out as it went in, at no cost.
    """

    stages: "tuple[Stage[Any, Any], ...]"

    def __post_init__(self) -> None:
        check_stages(self.stages)

    @override
    def sketch(self) -> Sketch:
        return Sketch("chain")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        done: list[PatternResult[Any]] = []
        context.report(lambda: {**_steps(done), **self._failed_step(len(done))})
        last: PatternResult[Any] = PatternResult(value)
        position = first_position(context)
        for stage in self.stages:
            is_answer = len(done) == len(self.stages) - 1
            if _is_pipeline(stage):
                last = await run_group(context, stage, last.value, position, is_answer=is_answer)
                position += breadth(stage, _is_pipeline)
            else:
                last = await context.run(stage, last.value, at=position, is_answer=is_answer)
                position += 1
            done.append(last)
        return PatternResult(last.value, last.score, metadata={**last.metadata, **_steps(done)})

    @property
    @override
    def streams_text(self) -> bool:
        return bool(self.stages) and self.stages[-1].streams_text

    @property
    @override
    def text_is_final(self) -> bool:
        return bool(self.stages) and self.stages[-1].text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        reaches: list[Reach] = []
        for stage in self.stages:
            reaches.append(stage.reach(given))
            why = reaches[-1].why_value or given.why_value
            given = msgspec.structs.replace(
                given, value=reaches[-1].value, is_text=reaches[-1].is_text, items=None, why_value=why
            )
        if reaches:
            return chained(reaches)
        return Reach(value=given.value, is_text=given.is_text, why_value=given.why_value)

    @override
    def unnamed(self) -> Stage[Any, Any]:
        return reduce(chain, [nameless(stage) for stage in self.stages], Pipeline[Any, Any](()))

    def _failed_step(self, done: int) -> dict[str, str]:
        """Name the stage that failed; none did where a `map` after the last one raised."""
        return {"failed_step": self.stages[done].name} if done < len(self.stages) else {}


@overload
def identity(_of: type[T], /) -> Stage[T, T]: ...
@overload
def identity(_of: TypeForm[T], /) -> Stage[T, T]: ...
def identity(_of: TypeForm[Any], /) -> Stage[Any, Any]:
    """Return the stage that hands its input on: the neutral element of `>>`.

    >>> identity(str) >> identity(str) == identity(str)
    True
    """
    return Pipeline(())


def chain(first: Stage[Any, Any], second: Stage[Any, Any]) -> Stage[Any, Any]:
    """Return the pipeline of both; stages of one that is a pipeline are stages of it."""
    stages = _parts(first) + _parts(second)
    if len(stages) == 1:
        return stages[0]
    check_nesting(*[stage for stage in (first, second) if not isinstance(stage, Pipeline)])
    return extended(Pipeline[Any, Any](()), "stages", stages)


def _parts(stage: Stage[Any, Any]) -> tuple[Stage[Any, Any], ...]:
    return stage.stages if isinstance(stage, Pipeline) else (stage,)


def _is_pipeline(stage: Stage[Any, Any]) -> bool:
    """Tell whether a stage is a named pipeline, which would be part of the one around it without its name."""
    # Not `isinstance` for the first: it asks each class of stage anew, since they are abstract.
    kind: object = type(stage)
    return kind is Named and isinstance(group_of(stage), Pipeline)


def _steps(done: list[PatternResult[Any]]) -> dict[str, object]:
    return {
        "step_count": len(done),
        "step_metadata": tuple([result.metadata for result in done]),
        "step_costs": tuple([result.cost for result in done]),
    }
