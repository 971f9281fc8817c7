"""Two stages on the same input at once: `a & b`."""

from typing import Generic, TypeVar, cast

from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.combined_bounds import at_once
from executionkit.core.drawing import Sketch
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_stages

__all__ = ["Both"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Both(Stage[A, tuple[T, B]], Generic[A, T, B], frozen=True):
    """Two stages on the same input at once; the value is the pair of theirs. `a & b` makes one.

    Metadata: `branch_scores`, `branch_metadata` and `branch_costs`, each a tuple of two.

    Args:
        left: The stage whose value comes first.
        right: The stage whose value comes second.
    """

    left: Stage[A, T]
    right: Stage[A, B]

    def __post_init__(self) -> None:
        check_stages((self.left, self.right))

    @override
    def sketch(self) -> Sketch:
        return Sketch("beside")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[tuple[T, B]]:
        branches: tuple[Stage[A, T | B], ...] = (self.left, self.right)
        left, right = await context.gather(lambda index: context.run(branches[index], value, at=index), 2, 2)
        metadata = {
            "branch_scores": (left.score, right.score),
            "branch_metadata": (left.metadata, right.metadata),
            "branch_costs": (left.cost, right.cost),
        }
        return PatternResult((cast("T", left.value), cast("B", right.value)), metadata=metadata)

    @override
    def reach(self, given: Given) -> Reach:
        return at_once([self.left.reach(given), self.right.reach(given)], given)
