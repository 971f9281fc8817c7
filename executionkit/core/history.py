"""Keeping a conversation short without breaking it."""

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["trim_rounds"]

T = TypeVar("T")


def trim_rounds(rounds: Sequence[Sequence[T]], most: int, keep: int = 1) -> int:
    """Return how many of the oldest rounds to drop so that the rest has at most `most` messages.

    A round is a request with its results and is dropped whole; the last `keep` rounds stay in any case.

    >>> trim_rounds([["ask", "result"], ["ask", "result", "result"]], 3)
    1
    """
    total = sum(map(len, rounds))
    dropped = 0
    while total > most and dropped < len(rounds) - keep:
        total -= len(rounds[dropped])
        dropped += 1
    return dropped
