"""An async function with a pattern's signature, as a stage."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from typing_extensions import override

from executionkit.context import Context
from executionkit.core.budget import tighter
from executionkit.core.keywords import bound_keywords, function_name, names
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.errors import BudgetExhaustedError, StageError
from executionkit.outcome import PatternResult
from executionkit.stage import Stage

__all__ = ["Step", "StepFunction", "step"]

T = TypeVar("T")

StepFunction: TypeAlias = Callable[..., Awaitable[PatternResult[T]]]
"""`async (provider, prompt, **keywords) -> PatternResult[T]`."""


class Step(Stage[object, T], frozen=True):
    """A function as a stage; see `step`."""

    function: StepFunction[T]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"a step must be an async function, not {type(self.function).__name__}")

    @property
    @override
    def name(self) -> str:
        return function_name(self.function)

    @override
    async def perform(self, value: object, context: Context) -> PatternResult[T]:
        keywords = {**dict(self.keywords), **self._budget(context)}

        async def call() -> PatternResult[T]:
            return _checked(await self.function(context.provider, str(value), **keywords), self.name)

        return await context.charged(call)

    def _budget(self, context: Context) -> dict[str, TokenUsage]:
        """Tell a function that names `max_cost` what is left; the ledger holds the others to it unasked."""
        if not names(self.function, "max_cost"):
            return {}
        left = context.left
        if left is None:
            raise BudgetExhaustedError(f"nothing is left of the budget for step {self.name}; raise it")
        tightest = left
        for keywords in (dict(self.keywords), bound_keywords(self.function)):
            tightest = tighter(tightest, checked_budget(keywords.get("max_cost")) or NO_USAGE)
        return {} if tightest == NO_USAGE else {"max_cost": tightest}


def step(function: StepFunction[T], /, **keywords: Any) -> Step[T]:
    """Make a stage of an async function that takes `(provider, prompt, **keywords)` and returns a result.

    The function is handed a provider on the run's ledger, and `str` of the value before it as the prompt.
    Cost that it reports beyond what went through that provider is charged as well. Where it names a
    `max_cost`, it is told what is left.

    Args:
        function: The function; `functools.partial` binds keywords as well.
        **keywords: Passed on with each call.

    Metadata:
        Whatever the function's result holds.

    Returns (on `run`):
        StageError: The function raised, or returned something that is not a `PatternResult`.

    Raises:
        TypeError: It is not callable.
    """
    return Step(function, tuple(keywords.items()))


def _checked(result: PatternResult[T], name: str) -> PatternResult[T]:
    if _is_result(result):
        return result
    raise StageError(f"step {name} returned {type(result).__name__} instead of a PatternResult")


def _is_result(result: object) -> bool:
    return isinstance(result, PatternResult)
