"""Which failures are not one input's or one option's own: the run is over, or all others would fail alike."""

from typing import Final, cast

from executionkit.errors import (
    BudgetExhaustedError,
    DeadlineExceededError,
    ExecutionKitError,
    JournalError,
    LLMError,
    ProviderClosedError,
    RateLimitError,
)
from executionkit.events import Path
from executionkit.runtime.calls.endpoints import endpoint_of
from executionkit.runtime.context import Context
from executionkit.runtime.frame import Frame

__all__ = ["is_shared", "run_is_over"]

_SHARED: Final = frozenset({401, 402, 403, 404})
"""A wrong key, no money, no permission, an unknown model or address."""


def run_is_over(error: ExecutionKitError, context: Context) -> bool:
    """Tell whether a failure means that the budget or the deadline of the run itself is spent.

    A budget of `within`, or of a run that somebody else began below this one, does not count. What a journal
    cannot note, or a tool that may have had its effect, ends the run as well: nothing is to go around that.
    """
    if isinstance(error, JournalError):
        return True
    if isinstance(error, BudgetExhaustedError) and error.metadata.get("budget") != "run":
        return False
    return _is_spent(error, context)


def is_shared(error: ExecutionKitError, context: Context) -> bool:
    """Tell whether a failure below a stage would meet whatever else is run there as well."""
    if isinstance(error, JournalError):
        return True
    if isinstance(error, BudgetExhaustedError) and error.metadata.get("is_unpriced"):
        return True
    if isinstance(error, LLMError):
        is_quota = isinstance(error, RateLimitError) and not error.retryable
        is_known = error.metadata.get("status") in _SHARED
        is_closed = isinstance(error, ProviderClosedError)
        return is_quota or is_known or is_closed or _asks_too_long(error, context.frame)
    return _is_spent(error, context)


def _asks_too_long(error: LLMError, frame: Frame) -> bool:
    """Tell whether the server wants no calls for longer than the retries would wait."""
    retry = frame.settings.retry or endpoint_of(frame.provider, frame.account).retry
    return error.requested_delay is not None and error.requested_delay > retry.max_delay


def _is_spent(error: ExecutionKitError, context: Context) -> bool:
    if isinstance(error, DeadlineExceededError):
        return context.time_left <= 0
    if not isinstance(error, BudgetExhaustedError):
        return False
    given: object = error.metadata.get("budget_path")
    if not isinstance(given, tuple):
        return False
    path, own = cast("Path", given), context.path
    return own[: len(path)] == path
