"""How many calls one server may have under way, found out by its answers. Pure: time is handed in."""

import math
from typing import Final

import msgspec

from executionkit.core.checks import check_count, is_finite

__all__ = ["Adaptive", "Window"]

_CUT: Final = 0.9
"""What is left of the window after a refusal, and ..."""
_HALF: Final = 0.5
"""... after a further one, where nothing was answered in between."""
_STEEPNESS: Final = 0.1 / 20**3
"""Of the cubic curve: a window that was cut to nine tenths is back after 20 rounds."""


class Adaptive(msgspec.Struct, frozen=True):
    """How many calls at once, as the servers allow: fewer after a 429 or 503, more while all is well.

    Each server has a window of its own, of `least` calls at first. It doubles from round to round until the
    server refuses a call for want of room. Then it is cut to nine tenths, and grows back along the curve of
    TCP CUBIC (Ha, Rhee and Xu 2008): fast at first, slowly near the size that was too large, faster again
    beyond it. A `Retry-After` keeps all calls to that server waiting, up to the `max_delay` of the retries.

    Args:
        least: Calls that are always allowed, and the window to begin with.
        most: Calls at once at most.

    Raises:
        TypeError: One is not a whole number.
        ValueError: `least` is below 1, or `most` below `least`.
    """

    least: int = 4
    most: int = 256

    def __post_init__(self) -> None:
        check_count("least", self.least)
        check_count("most", self.most, self.least)


class Window:
    """The calls that one server has under way, and how many there may be.

    Args:
        bounds: The least and the most.

    >>> window = Window(Adaptive(least=2))
    >>> for _ in range(2):
    ...     window.enter()
    >>> window.has_room
    False
    >>> for call in [window.send(), window.send()]:
    ...     window.answered(call)
    >>> window.size  # it grows while at least half of it is used
    3
    """

    __slots__ = (
        "_back",
        "_bounds",
        "_ceiling",
        "_closed_until",
        "_cut_at",
        "_has_answered",
        "_rounds",
        "_sent",
        "_size",
        "in_flight",
    )

    def __init__(self, bounds: Adaptive) -> None:
        self._bounds = bounds
        self._size = float(bounds.least)
        self._ceiling = math.inf
        self._rounds = self._back = 0.0
        self._closed_until = -math.inf
        self._sent = self._cut_at = 0
        self._has_answered = True
        self.in_flight: int = 0

    @property
    def size(self) -> int:
        """How many calls there may be at once."""
        return int(self._size)

    @property
    def has_room(self) -> bool:
        """Whether another call may go now, the server's own wish apart."""
        return self.in_flight < self.size

    def closed_for(self, now: float) -> float:
        """Return the seconds for which the server wants no calls."""
        return max(0.0, self._closed_until - now)

    def enter(self) -> None:
        """Count a call that has a place."""
        self.in_flight += 1

    def send(self) -> int:
        """Number a call that has a place and is sent now."""
        self._sent += 1
        return self._sent

    def left(self) -> None:
        """Count a call that is over without a word on how busy the server is."""
        self.in_flight -= 1

    def answered(self, call: int) -> None:
        """Count an answer: the window grows where it was used."""
        is_used = 2 * self.in_flight >= self.size
        self.in_flight -= 1
        if call <= self._cut_at:
            return
        self._has_answered = True
        if is_used:
            self._grow()

    def refused(self, call: int, now: float, retry_after: float | None = None) -> None:
        """Count a refusal for want of room; of those that were sent together, one cuts the window.

        Args:
            call: Its number, from `send`.
            now: When.
            retry_after: Seconds the server asked to wait; None where it did not say.
        """
        self.in_flight -= 1
        if retry_after is not None and is_finite(retry_after):  # else no call would ever go again
            self._closed_until = max(self._closed_until, now + retry_after)
        if call <= self._cut_at:
            return
        self._ceiling = self._size
        self._size = max(float(self._bounds.least), self._size * (_CUT if self._has_answered else _HALF))
        self._rounds = 0.0
        self._back = ((1 - self._size / self._ceiling) / _STEEPNESS) ** (1 / 3)
        self._cut_at = self._sent
        self._has_answered = False

    def _grow(self) -> None:
        if math.isinf(self._ceiling):
            size = self._size + 1
        else:
            self._rounds += 1 / self._size
            size = self._ceiling * (1 + _STEEPNESS * (self._rounds - self._back) ** 3)
        self._size = min(float(self._bounds.most), max(self._size, size))
