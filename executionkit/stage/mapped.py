"""A stage with functions applied to its value: `a.map(f)`."""

import math
from collections.abc import Callable
from copy import copy
from typing import Any, Generic, TypeVar, cast

import msgspec
from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.checks import check_function
from executionkit.core.drawing import Sketch
from executionkit.core.foreign import function_name, returned_at_once
from executionkit.errors import StageError
from executionkit.errors.handling import wrapping
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context, aside
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_nesting, extended

__all__ = ["Mapped", "mapped"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Mapped(Stage[A, B], Generic[A, T, B], frozen=True):
    """A stage with pure functions applied to its value, one after the other. `a.map(f)` makes one.

    Args:
        stage: The stage.
        functions: What is applied. If one raises, the stage fails with a `StageError`.
    """

    stage: Stage[A, T]
    functions: tuple[Callable[[Any], Any], ...]

    def __post_init__(self) -> None:
        check_nesting(self.stage)
        for function in self.functions:
            check_function("map", function)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", then=tuple(map(function_name, self.functions)))

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        result: PatternResult[Any] = await self.stage.perform(value, aside(context))
        for function in self.functions:
            with wrapping(StageError, f"{function_name(function)}, a function of map,"):
                result = result.map(function)
                returned_at_once(result.value)
        return result

    @override
    def reach(self, given: Given) -> Reach:
        why = f"what a function makes of the value of {self.name}"
        inner = self.stage.reach(given)
        return msgspec.structs.replace(inner, value=math.inf, why_value=why, least_said=inner.least_output)


def mapped(stage: Stage[A, T], function: Callable[[T], B]) -> Stage[A, B]:
    """Apply a function to the value of a stage, after those that it has."""
    check_function("map", function)
    known: object = stage
    if isinstance(known, Mapped):
        before = cast("Mapped[A, Any, B]", known)
        return extended(copy(before), "functions", (*before.functions, function))
    return Mapped(stage, (function,))
