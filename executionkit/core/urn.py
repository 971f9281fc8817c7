"""A Pólya urn over three answers: how likely the leader of a vote is to stay ahead, in whole numbers.

The urn holds the votes for the leader, the runner-up and all others, and 0.3 of a vote more for each: a
Dirichlet(0.3, 0.3, 0.3) prior. Each sample to come is drawn in proportion and adds to what it was drawn from.
Weights are tenths of a vote, so that all of them are whole and the result is an exact fraction.
"""

from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import comb
from operator import mul
from typing import Final, TypeAlias

__all__ = ["Counts", "win_odds", "win_probability"]

Counts: TypeAlias = tuple[float, float, float]
"""Votes for the leader, the runner-up and all others; whole numbers."""

_VOTE: Final = 10
_PRIOR: Final = 3


def win_probability(counts: Counts, left: int, leads_ties: bool) -> Fraction:
    """Return the probability that the leader ends ahead of the runner-up.

    Args:
        counts: The votes so far.
        left: Samples that are still to be drawn.
        leads_ties: Whether the leader wins if they end level.

    >>> win_probability((2, 1, 0), 2, leads_ties=False)
    Fraction(118, 147)
    """
    return Fraction(*win_odds(counts, left, leads_ties))


def win_odds(counts: Counts, left: int, leads_ties: bool) -> tuple[int, int]:
    """Return that probability as the weight of the ways to win and of all ways, not reduced."""
    leader, runner_up, rest = map(int, counts)
    ways = _ways_of_rest(rest, left)
    wins = _winning_weights(leader, runner_up, left, leads_ties)
    return sum(map(mul, reversed(ways), wins)), _rising(
        _VOTE * (leader + runner_up + rest) + 3 * _PRIOR, left
    )[-1]


def _winning_weights(leader: int, runner_up: int, left: int, leads_ties: bool) -> list[int]:
    """The weight of all ways in which 0 to `left` draws fall to the first two and the leader wins.

    One draw more multiplies the weight of all ways so far, and takes the leader's win away only from those
    at the edge: where the runner-up has all the draws (`lost`) that it may have without winning.
    """
    most = leader - runner_up - (not leads_ties)
    both = _VOTE * (leader + runner_up) + 2 * _PRIOR
    wins = [*_rising(both, min(most, left))]
    edge, lost = _rising(_VOTE * runner_up + _PRIOR, most)[-1], most
    for pair in range(most, left):
        rival = _VOTE * (runner_up + lost) + _PRIOR
        total = wins[-1] * (both + _VOTE * pair) - edge * rival
        if (pair - most) % 2:
            lost += 1
            edge = edge * rival * (pair + 1) // lost
            total += edge
        else:
            edge = edge * (_VOTE * (leader + pair - lost) + _PRIOR) * (pair + 1) // (pair + 1 - lost)
        wins.append(total)
    return wins


@lru_cache(maxsize=4096)
def _ways_of_rest(rest: int, left: int) -> list[int]:
    weights = _rising(_VOTE * rest + _PRIOR, left)
    return [comb(left, others) * weight for others, weight in enumerate(weights)]


@lru_cache(maxsize=4096)
def _rising(start: int, factors: int) -> list[int]:
    """The products of the first 0, 1, ... of `start`, `start + 10`, `start + 20`, ..."""
    return list(accumulate(range(start, start + _VOTE * factors, _VOTE), mul, initial=1))
