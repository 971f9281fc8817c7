"""When to try again, and after how long. Decisions only: nothing here sleeps."""

import math
from collections.abc import Callable
from typing import Final, cast

import msgspec

from executionkit.core.groups import is_a
from executionkit.errors import ExecutionKitError, LLMError, ProviderError, RateLimitError

__all__ = ["DEFAULT_RETRY", "RetryConfig", "checked_retry", "retry_delay"]


class RetryConfig(msgspec.Struct, frozen=True):
    """How transient failures are retried: exponential back-off with full jitter.

    The n-th wait is drawn uniformly from 0 to `min(max_delay, base_delay * exponential_base ** (n - 1))`
    (Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog), and is never shorter than the
    server asked for. Where the server asks for more than `max_delay`, the error comes back at once.

    Args:
        max_retries: Attempts after the first.
        base_delay: Upper bound of the first wait, in seconds.
        max_delay: Upper bound of every wait, in seconds.
        exponential_base: Growth of the bound from one wait to the next.
        retryable: Classes worth another attempt, those of a foreign provider's exceptions included. An error
            that was made with `retryable=False` is never retried, whatever is named here: a TLS failure, a
            used up quota, a stream whose text was handed out.

    Raises:
        ValueError: A number is out of range.
        TypeError: `retryable` is not a tuple of exception classes.
    """

    max_retries: int = 3
    base_delay: float = 1.0
    max_delay: float = 60.0
    exponential_base: float = 2.0
    retryable: tuple[type[Exception], ...] = (RateLimitError, ProviderError)

    def __post_init__(self) -> None:
        retries: object = self.max_retries
        if type(retries) is not int or retries < 0:
            raise ValueError(f"max_retries must be a whole number from 0 up, not {retries!r}")
        for name, least in (("base_delay", 0.0), ("max_delay", 0.0), ("exponential_base", 1.0)):
            number: float = getattr(self, name)
            if not least <= number < math.inf:
                raise ValueError(f"{name} must be finite and at least {least}, not {number!r}")
        if not _are_exception_classes(self.retryable):
            raise TypeError("retryable must be a tuple of exception classes")


def checked_retry(retry: object) -> RetryConfig | None:
    """Return what it was given, if that is a policy or None.

    Raises:
        TypeError: It is neither.
    """
    if retry is None or isinstance(retry, RetryConfig):
        return retry
    raise TypeError(f"retry must be a RetryConfig, not {type(retry).__name__}")


def retry_delay(
    config: RetryConfig,
    attempt: int,
    error: ExecutionKitError,
    draw: Callable[[], float] | None = None,
) -> float | None:
    """Return the seconds to wait before the next attempt; None where there should be none.

    Args:
        config: The policy.
        attempt: The attempt that failed, counted from 1.
        error: Why it failed.
        draw: A source of uniform numbers from 0 to 1; `random.random` if None.

    >>> retry_delay(RetryConfig(), 2, ProviderError("down"), draw=lambda: 0.5)
    1.0
    >>> retry_delay(RetryConfig(max_delay=10), 1, RateLimitError("busy", retry_after=3600.0))
    """
    if attempt > config.max_retries or not _is_worth_it(config, error):
        return None
    requested = error.requested_delay if isinstance(error, LLMError) else None
    if requested is not None and not requested <= config.max_delay:  # not a number counts as too long
        return None
    return max(requested or 0.0, (draw or _random())() * _bound(config, attempt))


def _random() -> Callable[[], float]:
    from random import random  # brings hashlib along; a run without a failure does without

    return random


def _bound(config: RetryConfig, attempt: int) -> float:
    try:
        return min(config.max_delay, config.base_delay * config.exponential_base ** (attempt - 1))
    except OverflowError:
        return config.max_delay if config.base_delay else 0.0


def _is_worth_it(config: RetryConfig, error: ExecutionKitError) -> bool:
    if isinstance(error, LLMError) and error.retry_hint is False:
        return False
    if isinstance(error, config.retryable):
        return True
    cause = error.__cause__
    is_foreign = isinstance(error, ProviderError) and not isinstance(cause, ExecutionKitError)
    return is_foreign and is_a(cause, config.retryable)


def _are_exception_classes(given: object) -> bool:
    return isinstance(given, tuple) and all(
        isinstance(item, type) and issubclass(item, Exception) for item in cast("tuple[object, ...]", given)
    )


DEFAULT_RETRY: Final = RetryConfig()
"""What a run uses where it is told nothing else."""
