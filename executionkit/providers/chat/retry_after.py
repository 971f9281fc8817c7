"""How long a server asks to wait before the next request."""

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["read_retry_after"]


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read `retry-after-ms` (milliseconds), else `retry-after` (seconds or an HTTP date).

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
    >>> read_retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, now=4.0)
    6.0
    >>> read_retry_after({"retry-after": "soon"}, now=0.0) is None
    True
    """
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _seconds(value)
    return seconds if seconds is not None else _until(value, now)


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
