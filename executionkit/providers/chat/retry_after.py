"""How long a server asks to wait before the next request."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from executionkit.core.rate_limit import read_duration

__all__ = ["read_reset", "read_retry_after"]


_GATEWAY: Final = "llm_provider-"
"""What LiteLLM puts before the headers of the server behind it."""

_RESET: Final = re.compile(r"(?:x-|anthropic-)?ratelimit-(?:[\w-]+-)?reset(?:-[\w-]+)?", re.ASCII)
_MILLISECONDS: Final = 1e11
_DATES: Final = 1e9


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read `retry-after-ms` (milliseconds), else `retry-after` (seconds or an HTTP date), or a copy of them.

    Args:
        headers: Response headers by lower-case name.
        now: The time, in seconds since the epoch, that a date is compared with.

    Returns:
        Seconds, never negative, infinite or NaN; None where the server did not say, or said something
        unreadable or in the past.

    >>> read_retry_after({"retry-after": "2.5"}, now=0.0)
    2.5
    >>> read_retry_after({"retry-after-ms": "250", "retry-after": "9"}, now=0.0)
    0.25
    >>> read_retry_after({"llm_provider-retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, now=4.0)
    6.0
    >>> read_retry_after({"retry-after": "soon"}, now=0.0) is None
    True
    """
    for prefix in ("", _GATEWAY):
        for name in ("retry-after-ms", "x-ms-retry-after-ms"):
            milliseconds = _seconds(headers.get(prefix + name, ""))
            if milliseconds is not None:
                return milliseconds / 1000
        value = headers.get(f"{prefix}retry-after", "")
        seconds = _seconds(value)
        seconds = seconds if seconds is not None else _until(value, now)
        if seconds is not None:
            return seconds
    return None


def read_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Read when a rate limit that has nothing left is reset, by `x-ratelimit-reset` and its relatives.

    A reset counts whose `remaining` is 0 or not told; it is a duration (`"1m30s"`), a number of seconds,
    a time since the epoch in seconds or milliseconds, or a date. Of several, the last is meant.

    >>> read_reset({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, now=0.0)
    360.0
    >>> read_reset({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}, now=0.0)
    >>> read_reset({"x-ratelimit-reset": "1741305600000"}, now=1741305590.0)
    10.0
    """
    waits = [
        wait
        for name, value in headers.items()
        if "ratelimit" in name
        and _RESET.fullmatch(plain := name.removeprefix(_GATEWAY))
        and _is_used_up(headers.get(name.replace("reset", "remaining")))
        and plain.count("reset") == 1
        and (wait := _time_left(value.strip(), now)) is not None
    ]
    return max(waits, default=None)


def _is_used_up(remaining: str | None) -> bool:
    return remaining is None or _seconds(remaining) == 0


def _time_left(text: str, now: float) -> float | None:
    number = _seconds(text)
    if number is not None and number >= _DATES:
        left = (number / 1000 if number >= _MILLISECONDS else number) - now
        return left if left > 0 else None
    duration = number if number is not None else read_duration(text)
    if duration is not None:
        return duration
    try:
        moment = datetime.fromisoformat(text)
        left = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now
    except (ValueError, OverflowError):
        return _until(text, now)
    return left if left > 0 else None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _until(text: str, now: float) -> float | None:
    # A hostile date may overflow, have no day, or not split at all: each is as good as no date.
    try:
        moment = parsedate_to_datetime(text)
        seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return seconds if seconds > 0 else None
