"""Delays are bounded, grow, never overflow; who asks for too long is not waited for."""

import math
import pickle
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.errors import (
    BudgetExhaustedError,
    ExecutionKitError,
    PermanentError,
    ProviderError,
    RateLimitError,
)
from executionkit.retry import DEFAULT_RETRY, RetryConfig, checked_retry, retry_delay

SECONDS = st.floats(0, 1e6)
CONFIGS = st.builds(
    RetryConfig,
    max_retries=st.integers(0, 10**6),
    base_delay=SECONDS,
    max_delay=SECONDS,
    exponential_base=st.floats(1, 1e300) | st.just(2),
)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(CONFIGS, st.integers(1, 10**6), DRAWS)
def test_delays_are_bounded_and_never_overflow(config: RetryConfig, attempt: int, draw: float) -> None:
    delay = retry_delay(config, attempt, ProviderError("down"), lambda: draw)
    if attempt > config.max_retries:
        assert delay is None
    else:
        assert delay is not None
        assert 0 <= delay <= config.max_delay
        assert delay <= draw * config.max_delay
        assert config.base_delay or delay == 0


@given(CONFIGS, st.floats() | st.none(), DRAWS)
def test_what_the_server_asks_for_is_kept_or_the_error_comes_back(
    config: RetryConfig, asked: float | None, draw: float
) -> None:
    delay = retry_delay(config, 1, RateLimitError("busy", retry_after=asked), lambda: draw)
    if config.max_retries == 0 or (asked is not None and not asked <= config.max_delay):
        assert delay is None
    else:
        assert delay is not None
        assert max(0, asked or 0) <= delay <= config.max_delay


@given(st.integers(1, 20), DRAWS)
def test_the_bound_grows_from_one_wait_to_the_next(attempt: int, draw: float) -> None:
    config = RetryConfig(max_retries=100)
    first, second = (
        retry_delay(config, number, ProviderError("down"), lambda: draw) for number in (attempt, attempt + 1)
    )
    assert first is not None
    assert second is not None
    assert first <= second


def test_full_jitter_by_hand() -> None:
    delays = [
        retry_delay(DEFAULT_RETRY, attempt, ProviderError("x"), lambda: 0.5) for attempt in (1, 2, 3, 4)
    ]
    assert delays == [0.5, 1.0, 2.0, None]


def caused(error: ExecutionKitError, cause: Exception) -> ExecutionKitError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "retryable", "again"),
    [
        (ProviderError("x"), (ProviderError,), True),
        (ProviderError("x", retryable=False), (ProviderError,), False),
        (PermanentError("x"), (ProviderError, RateLimitError), False),
        (PermanentError("x", retryable=True), (ProviderError, RateLimitError), False),
        (PermanentError("x"), (PermanentError,), True),
        (BudgetExhaustedError("x"), (ProviderError,), False),
        (BudgetExhaustedError("x"), (BudgetExhaustedError,), True),
        (caused(ProviderError("x"), KeyError("y")), (KeyError,), True),
        (caused(ProviderError("x"), KeyError("y")), (ValueError,), False),
        (caused(ProviderError("x", retryable=True), KeyError("y")), (KeyError,), True),
        (caused(ProviderError("x", retryable=False), KeyError("y")), (KeyError,), False),
        (caused(ProviderError("x", retryable=False), KeyError("y")), (Exception,), False),
        (caused(ProviderError("x", retryable=False), ssl.SSLError("y")), (OSError,), False),
        (PermanentError("x", retryable=False), (Exception,), False),
        (caused(PermanentError("x"), ProviderError("y")), (ProviderError,), False),
        (caused(BudgetExhaustedError("x"), RateLimitError("y")), (RateLimitError,), False),
        (caused(PermanentError("x"), OSError("y")), (OSError,), False),
    ],
)
def test_what_is_worth_another_attempt(
    error: ExecutionKitError, retryable: tuple[type[Exception], ...], again: bool
) -> None:
    assert (retry_delay(RetryConfig(retryable=retryable), 1, error) is not None) == again


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_retries": -1}, "^max_retries must be a whole number from 0 up, not -1$"),
        ({"max_retries": 1.5}, "^max_retries must be a whole number from 0 up, not 1.5$"),
        ({"max_retries": True}, "^max_retries must be a whole number from 0 up, not True$"),
        ({"base_delay": -0.1}, "^base_delay must be finite and at least 0.0, not -0.1$"),
        ({"base_delay": math.nan}, "^base_delay must be finite and at least 0.0, not nan$"),
        ({"max_delay": math.inf}, "^max_delay must be finite and at least 0.0, not inf$"),
        ({"exponential_base": 0.5}, "^exponential_base must be finite and at least 1.0, not 0.5$"),
        ({"base_delay": "1"}, "not supported between"),
        ({"retryable": [ProviderError]}, "^retryable must be a tuple of exception classes$"),
        ({"retryable": ("ProviderError",)}, "^retryable must be a tuple of exception classes$"),
        ({"retryable": (int,)}, "^retryable must be a tuple of exception classes$"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        RetryConfig(**settings)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_huge_whole_number_is_a_long_delay() -> None:
    config = RetryConfig(base_delay=10**400)
    assert retry_delay(config, 1, ProviderError("x"), lambda: 0.5) == 30.0


def test_the_least_settings_are_settings() -> None:
    config = RetryConfig(max_retries=0, base_delay=0, max_delay=0, exponential_base=1, retryable=())
    assert retry_delay(config, 1, ProviderError("x")) is None


def test_only_a_policy_is_a_policy() -> None:
    assert checked_retry(None) is None
    assert checked_retry(DEFAULT_RETRY) is DEFAULT_RETRY
    with pytest.raises(TypeError, match="^retry must be a RetryConfig, not int$"):
        checked_retry(3)


def test_a_policy_is_a_value() -> None:
    assert pickle.loads(pickle.dumps(DEFAULT_RETRY)) == RetryConfig() == DEFAULT_RETRY
    assert hash(RetryConfig()) == hash(DEFAULT_RETRY)
    assert RetryConfig(3, 1.0, 60.0, 2.0, (RateLimitError, ProviderError)) == DEFAULT_RETRY
