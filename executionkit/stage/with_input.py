"""A stage whose value has the input beside it: `a.with_input()`."""

from typing import Generic, TypeVar

import msgspec
from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.combined_bounds import paired
from executionkit.core.drawing import Sketch
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context, aside
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_stages

__all__ = ["WithInput"]

A = TypeVar("A")
B = TypeVar("B")


class WithInput(Stage[A, tuple[A, B]], Generic[A, B], frozen=True):
    """A stage whose value has the input beside it. `a.with_input()` makes one.

    Args:
        stage: The stage.
    """

    stage: Stage[A, B]

    def __post_init__(self) -> None:
        check_stages((self.stage,))

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", then=("with the input",))

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[tuple[A, B]]:
        result = await self.stage.perform(value, aside(context))
        return result.map(lambda answer: (value, answer))

    @override
    def reach(self, given: Given) -> Reach:
        inner = self.stage.reach(given)
        before = Reach(value=given.value, is_text=given.is_text, why_value=given.why_value)
        pair = paired([inner, before])
        return msgspec.structs.replace(inner, value=pair.value, is_text=False, why_value=pair.why_value)
