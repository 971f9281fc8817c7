"""A stage with a name of its own: `a.named(name)`.

The functions below the class have the stages of a group count the same with a name around them as without.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.drawing import Sketch
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_stages

__all__ = ["Named", "breadth", "group_of", "named", "nameless"]

A = TypeVar("A")
B = TypeVar("B")


class Named(Stage[A, B], frozen=True):
    """A stage with a name of its own. `a.named(name)` makes one.

    Args:
        stage: The stage.
        label: What traces, progress, errors and drawings call it.
    """

    stage: Stage[A, B]
    label: str

    def __post_init__(self) -> None:
        check_stages((self.stage,))
        if not isinstance(cast("object", self.label), str):
            raise TypeError(f"a name must be text, not {type(self.label).__name__}")
        if not self.label.strip():
            raise ValueError("a name must not be empty")

    @property
    @override
    def name(self) -> str:
        return self.label

    @property
    @override
    def kind(self) -> str:
        return self.stage.kind

    @property
    @override
    def figures(self) -> tuple[str, ...]:
        return self.stage.figures

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", self.label)

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
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
        return self.stage.reach(given)

    @override
    def unnamed(self) -> Stage[Any, Any]:
        return self.stage.unnamed()


def named(stage: Stage[A, B], name: str) -> Named[A, B]:
    """Give a stage a name; of several the last one holds."""
    return Named(stage.stage if isinstance(stage, Named) else stage, name)


def nameless(stage: Stage[Any, Any]) -> Stage[Any, Any]:
    """Return a part without the name that would keep it apart from the others."""
    return stage.unnamed() if isinstance(stage, Named) else stage


def group_of(stage: Stage[Any, Any]) -> Stage[Any, Any] | None:
    """Return the stage that a name was given to; None where none was."""
    return stage.stage if isinstance(stage, Named) else None


def breadth(stage: Stage[Any, Any], is_group: Callable[[Stage[Any, Any]], bool]) -> int:
    """Return how many positions a stage takes beside others: a named group one for each of its parts."""
    if not is_group(stage):
        return 1
    (group,) = stage.parts().values()
    return sum([breadth(part, is_group) for part in group.parts().values()])
