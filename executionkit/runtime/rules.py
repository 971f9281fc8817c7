"""Rules of the caller's: what a value must be like beyond its type."""

from collections.abc import Awaitable, Callable
from inspect import CORO_CREATED, getcoroutinestate, isawaitable, iscoroutine
from typing import TypeAlias, TypeVar

from executionkit.errors import EvaluationError
from executionkit.errors.handling import wrapping
from executionkit.runtime.tasks.timeouts import finish_within

__all__ = ["Rule", "broken", "check_rule"]

T = TypeVar("T")

Rule: TypeAlias = Callable[[T], str | Awaitable[str | None] | None]
"""Looks at a value, plain or async, and returns None, or the reason why it will not do."""


def check_rule(rule: object) -> None:
    """Check a rule as it is set.

    Raises:
        TypeError: It is not a function.
    """
    if rule is not None and (isinstance(rule, type) or not callable(rule)):
        raise TypeError(f"a rule must be a function of the value, not {type(rule).__name__}")


async def broken(rule: Rule[T] | None, value: T) -> str | None:
    """Return the reason why a value will not do; None where it will. No deadline waits for a stubborn rule.

    Raises:
        EvaluationError: The rule raised, or returned something else.
    """
    if rule is None:
        return None
    with wrapping(EvaluationError, "the rule"):
        found: object = rule(value)
        if isawaitable(found):
            found = await _ended(found)
    if found is None:
        return None
    if not isinstance(found, str):
        raise EvaluationError(
            f"the rule returned {type(found).__name__}; a rule returns None, or the reason as text"
        )
    return found.strip() or "it breaks a rule"


async def _ended(found: Awaitable[object]) -> object:
    async def work() -> object:
        return await found

    try:
        return await finish_within(work, name="a rule")
    finally:
        if iscoroutine(found) and getcoroutinestate(found) == CORO_CREATED:
            found.close()  # cancelled before it began
