"""A bound on retries: an outage must not be answered with three times the load."""

import threading
from typing import Final

__all__ = ["RetryQuota"]

RETRY_COST: Final = 14
THROTTLE_COST: Final = 5
CAPACITY: Final = 500


class RetryQuota:
    """A token bucket that every retry draws on and every success refills, as in AWS's SDKs.

    A retry costs 14 tokens, one after being throttled (429) 5; a success gives 1 back; 500 to begin with
    and at most. So a server that is down gets 35 retries, and after that one for every 14 successes.
    Source: AWS SDKs and Tools Reference Guide, "Retry behavior", standard mode.

    Args:
        capacity: Tokens to begin with, and at most.

    >>> quota = RetryQuota(capacity=20)
    >>> quota.try_spend(), quota.try_spend(), quota.try_spend(throttled=True)
    (True, False, True)
    """

    __slots__ = ("_capacity", "_lock", "_tokens")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._tokens = capacity
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """What is left."""
        return self._tokens

    def try_spend(self, *, throttled: bool = False) -> bool:
        """Pay for a retry; False where that is no longer possible and nothing was paid.

        Args:
            throttled: Whether the failure says that the server is well, only busy (429).
        """
        cost = THROTTLE_COST if throttled else RETRY_COST
        with self._lock:
            if self._tokens < cost:
                return False
            self._tokens -= cost
            return True

    def refund(self) -> None:
        """Note a success."""
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + 1)
