"""Keeping below a server's rate limit instead of running into it."""

import math
import re
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from executionkit.core.checks import check_count

__all__ = ["Pace", "Places", "RateLimit", "read_duration"]

_MINUTE: Final = 60.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PARTS: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_PARTS.pattern})+\Z")


class RateLimit(msgspec.Struct, frozen=True):
    """What a provider may send in a minute; calls beyond that wait.

    Where a server tells how much is left (`x-ratelimit-remaining-*` and `x-ratelimit-reset-*`, or Anthropic's
    `anthropic-ratelimit-*-remaining` and `-reset`), that is respected as well.

    Args:
        requests_per_minute: None for as many as the server allows.
        tokens_per_minute: Input and output together; None for as many as the server allows.

    Raises:
        TypeError: A limit is not a whole number.
        ValueError: A limit is not positive.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            limit: int | None = getattr(self, name)
            if limit is not None:
                check_count(name, limit)


class Pace:
    """When the next request may go: one bucket of requests, one of tokens, full to begin with.

    Who asks is told how long to wait, and has its place from then on. Pure but for its own state: the
    caller says what time it is, and sleeps.

    >>> pace = Pace(RateLimit(requests_per_minute=2))
    >>> [pace.reserve(100, now=0.0) for _ in range(3)]
    [0.0, 0.0, 30.0]
    """

    def __init__(self, limit: RateLimit) -> None:
        self._requests = _Bucket(limit.requests_per_minute)
        self._tokens = _Bucket(limit.tokens_per_minute)
        self._lock = threading.Lock()

    def reserve(self, tokens: int, now: float) -> float:
        """Take one request and its tokens; return the seconds to wait before it may be sent."""
        with self._lock:
            return max(self._requests.take(1, now), self._tokens.take(tokens, now))

    def settle(self, reserved: int, used: int) -> None:
        """Correct the tokens of a request once they are known."""
        with self._lock:
            self._tokens.give(reserved - used)

    def give_up(self, tokens: int) -> None:
        """Return what `reserve` took, for a request that was not sent."""
        with self._lock:
            self._requests.give(1)
            self._tokens.give(tokens)

    def closed_for(self, now: float) -> float:
        """Return the seconds for which the server would refuse a request, by what it has said."""
        with self._lock:
            return max(self._requests.closed_for(now), self._tokens.closed_for(now))

    def learn(self, headers: Mapping[str, str], now: float, clock: float | None = None) -> None:
        """Take note of what an answer's headers say is left, and until when.

        Args:
            headers: Response headers by lower-case name.
            now: The time, as in the other methods.
            clock: The time since the epoch, for servers that name a moment; None leaves those unread.
        """
        with self._lock:
            self._requests.learn(headers, "requests", now, clock)
            self._tokens.learn(headers, "tokens", now, clock)


class Places:
    """The places of requests under one limit, each behind the one before it.

    For many processes, each of which waits for one place at a time. A request takes what it takes at the
    moment of its place. So no stretch of time has more than the limit and what comes back within it, whoever
    gets a place and dies; where one in a `Pace` waits for the other of its two buckets, there may be more.
    Pure, as `Pace` is.

    >>> places = Places(RateLimit(requests_per_minute=2))
    >>> [places.reserve(100, now=0.0) for _ in range(3)]
    [0.0, 0.0, 30.0]
    """

    def __init__(self, limit: RateLimit) -> None:
        limits = (limit.requests_per_minute, limit.tokens_per_minute)
        self._capacities = [float(each) for each in limits if each is not None]
        self._is_limited = [each is not None for each in limits]
        self._levels = self._capacities
        """What is left, at ..."""
        self._last = -math.inf
        """... the moment of the last place."""

    def reserve(self, tokens: int, now: float, patience: float = math.inf) -> float:
        """Take the next place; return the seconds until then.

        Args:
            tokens: What the request may take at most. What exceeds the limit alone gets a place where all of
                it is there, and is made up for afterwards.
            now: The time.
            patience: Where the wait is not below so many seconds, no place is taken.
        """
        amounts = [each for each, is_limited in zip((1, tokens), self._is_limited, strict=True) if is_limited]
        at = max(now, self._last)
        levels = self._levels_at(at)
        waits = [
            max(0.0, min(amount, capacity) - level) * _MINUTE / capacity
            for amount, capacity, level in zip(amounts, self._capacities, levels, strict=True)
        ]
        due = at + max(waits, default=0.0)
        if due - now < patience:
            levels = self._levels_at(due)
            self._levels = [level - amount for level, amount in zip(levels, amounts, strict=True)]
            self._last = due
        return due - now

    def give(self, tokens: int) -> None:
        """Return tokens that requests have not taken; below 0 where they took more."""
        if self._is_limited[1]:
            self._levels = [*self._levels[:-1], min(self._capacities[-1], self._levels[-1] + tokens)]

    def _levels_at(self, moment: float) -> list[float]:
        passed = (moment - self._last) / _MINUTE
        pairs = zip(self._levels, self._capacities, strict=True)
        return [min(capacity, level + capacity * passed) for level, capacity in pairs]


class _Bucket:
    def __init__(self, per_minute: int | None) -> None:
        self._capacity = math.inf if per_minute is None else float(per_minute)
        self._level = self._capacity
        self._updated = -math.inf
        self._closed_until = -math.inf

    def take(self, amount: int, now: float) -> float:
        if math.isfinite(self._capacity):
            passed = max(0.0, now - self._updated)
            refilled = self._capacity if math.isinf(passed) else self._capacity * passed / _MINUTE
            self._level = min(self._capacity, self._level + refilled) - amount
            self._updated = now
        # What exceeds the limit alone has no better time than when all before it is paid back.
        owed = max(0.0, -self._level - max(0.0, amount - self._capacity))
        wait = owed * _MINUTE / self._capacity
        return max(wait, self.closed_for(now))

    def closed_for(self, now: float) -> float:
        return max(self._closed_until - now, 0.0)

    def give(self, amount: int) -> None:
        self._level = min(self._capacity, self._level + amount)

    def learn(self, headers: Mapping[str, str], what: str, now: float, clock: float | None) -> None:
        remaining = headers.get(f"x-ratelimit-remaining-{what}", "")
        reset = read_duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        if not remaining:
            remaining = headers.get(f"anthropic-ratelimit-{what}-remaining", "")
            reset = _until(headers.get(f"anthropic-ratelimit-{what}-reset", ""), clock)
        if reset is not None and remaining.strip() in {"0", "0.0"}:
            self._closed_until = max(self._closed_until, now + min(reset, _MINUTE))


def _until(text: str, clock: float | None) -> float | None:
    """Return the seconds until a moment as RFC 3339 writes it; None where it is none, or has passed."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if clock is None or moment.tzinfo is None:
        return None
    seconds = moment.timestamp() - clock
    return seconds if seconds > 0 else None


def read_duration(text: str) -> float | None:
    """Read a duration as rate limit headers have it; None where it is none.

    >>> read_duration("6m0.5s"), read_duration("120ms"), read_duration("7"), read_duration("soon")
    (360.5, 0.12, 7.0, None)
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return float(text)
    if not _DURATION.match(text) or not text.isascii():
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(text))
