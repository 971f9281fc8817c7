"""Quantiles of any number of durations, in bounded memory."""

import math
from collections import Counter
from typing import Final

__all__ = ["Durations"]

_WIDTH: Final = math.log(1.02)
_LEAST: Final = 1e-6
"""Seconds; what is shorter counts as this."""


class Durations:
    """Counts durations in classes two per cent wide, so that a quantile is right to one per cent.

    >>> durations = Durations()
    >>> for seconds in (0.1, 0.2, 0.3, 4.0):
    ...     durations.add(seconds)
    >>> round(durations.quantile(0.5), 2), round(durations.quantile(1.0), 1)
    (0.2, 4.0)
    """

    __slots__ = ("_classes", "count")

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self.count: int = 0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._classes[int(math.log(max(seconds, _LEAST) / _LEAST) / _WIDTH)] += 1
        self.count += 1

    def merge(self, others: "Durations") -> None:
        """Count those of others as well."""
        self._classes.update(others._classes)
        self.count += others.count

    def quantile(self, part: float) -> float:
        """Return the duration that this part of them does not exceed; 0 where there are none."""
        wanted, seen = part * self.count, 0
        for number, count in sorted(self._classes.items()):
            seen += count
            if seen >= wanted:
                return _LEAST * math.exp(_WIDTH * (number + 0.5))
        return 0.0
