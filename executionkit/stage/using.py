"""A stage bound to a provider of its own: `a.using(provider)`."""

from typing import TypeVar

from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.drawing import Sketch
from executionkit.core.foreign import attribute
from executionkit.outcome import PatternResult
from executionkit.provider import LLMProvider, checked_provider
from executionkit.runtime.context import Context, using
from executionkit.runtime.given import asking
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_nesting

__all__ = ["Using", "bound"]

A = TypeVar("A")
B = TypeVar("B")


class Using(Stage[A, B], frozen=True):
    """A stage bound to a provider of its own. `a.using(provider)` makes one.

    Args:
        stage: The stage.
        provider: What it asks, and all stages below it.
    """

    stage: Stage[A, B]
    provider: LLMProvider

    def __post_init__(self) -> None:
        check_nesting(self.stage)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", f"using {_model_of(self.provider)}")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        return await self.stage.perform(value, using(context, self.provider))

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
        return self.stage.reach(asking(given, self.provider))


def bound(stage: Stage[A, B], provider: LLMProvider) -> Stage[A, B]:
    """Bind a stage to a provider; where it has one, that stays."""
    checked = checked_provider(provider)
    return stage if isinstance(stage, Using) else Using(stage, checked)


def _model_of(provider: LLMProvider) -> str:
    model: object = attribute(provider, "model")
    return model if isinstance(model, str) and model else type(provider).__name__
