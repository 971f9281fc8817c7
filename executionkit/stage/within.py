"""A stage with a budget of its own: `a.within(max_cost)`."""

from typing import TypeVar

import msgspec
from typing_extensions import override

from executionkit.core.bounds import Given, Reach, budget_text
from executionkit.core.budget import tighter
from executionkit.core.drawing import Sketch
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context, tighten
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_nesting

__all__ = ["Within", "within"]

A = TypeVar("A")
B = TypeVar("B")


class Within(Stage[A, B], frozen=True):
    """A stage with a budget of its own. `a.within(max_cost)` makes one.

    Args:
        stage: The stage.
        max_cost: Its budget; 0 in a field means no limit there.
    """

    stage: Stage[A, B]
    max_cost: TokenUsage

    def __post_init__(self) -> None:
        check_nesting(self.stage)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", f"within {budget_text(self.max_cost)}")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        tighten(context, self.max_cost, self.name)
        return await self.stage.perform(value, context)

    @property
    @override
    def streams_text(self) -> bool:
        return self.stage.streams_text

    @property
    @override
    def text_is_final(self) -> bool:
        return self.stage.text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        if self.max_cost == NO_USAGE:
            return self.stage.reach(given)
        return self.stage.reach(msgspec.structs.replace(given, is_limited=True)).within(self.max_cost, given)


def within(stage: Stage[A, B], max_cost: TokenUsage) -> Within[A, B]:
    """Give a stage a budget; of two the tighter one holds, field by field."""
    if max_cost is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise TypeError("within takes a TokenUsage; leave it out where there is no budget")
    limit = checked_budget(max_cost) or NO_USAGE
    if isinstance(stage, Within):
        return Within(stage.stage, tighter(stage.max_cost, limit))
    return Within(stage, limit)
