"""A Pólya urn over three answers: how likely the leader of a vote is to stay ahead, in whole numbers.

The urn holds the votes for the leader, the runner-up and all others, and 0.3 of a vote more for each: a
Dirichlet(0.3, 0.3, 0.3) prior. Each sample to come is drawn in proportion and adds to what it was drawn from.
Weights are tenths of a vote, so that all of them are whole and the result is an exact fraction. Where more
than `MOST_EXACT` samples are to come the whole numbers would grow to thousands of digits: there the same sums
are taken in floating point, with an error below 1e-9, and nothing is remembered.
"""

from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import comb, fsum
from operator import mul, sub
from typing import Final, TypeAlias

__all__ = ["MOST_EXACT", "Counts", "win_odds", "win_probability"]

Counts: TypeAlias = tuple[float, float, float]
"""Votes for the leader, the runner-up and all others; whole numbers."""

MOST_EXACT: Final = 64
"""Samples to come at most for an exact result."""

_VOTE: Final = 10
_PRIOR: Final = 3
_REMEMBERED: Final = 2048
"""Lists kept, of at most 64 numbers of some 60 bytes: 10 MB for each of the two functions."""


def win_probability(counts: Counts, left: int, leads_ties: bool) -> Fraction | float:
    """Return the probability that the leader ends ahead of the runner-up: a fraction where it is exact.

    Args:
        counts: The votes so far.
        left: Samples that are still to be drawn.
        leads_ties: Whether the leader wins if they end level.

    >>> win_probability((2, 1, 0), 2, leads_ties=False)
    Fraction(118, 147)
    """
    if left <= MOST_EXACT:
        return Fraction(*win_odds(counts, left, leads_ties))
    leader, runner_up, rest = map(int, counts)
    shares = _shares_of_pairs(leader + runner_up, rest, left)
    wins = _winning_shares(leader, runner_up, left, leads_ties)
    return min(1.0, max(0.0, fsum(map(mul, shares, wins)) / fsum(shares)))


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
    if most < 0:  # the runner-up is ahead: the leader wins where that one does not
        losses = _winning_weights(runner_up, leader, left, not leads_ties)
        return list(map(sub, _rising(both, left), losses))
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


@lru_cache(maxsize=_REMEMBERED)
def _ways_of_rest(rest: int, left: int) -> list[int]:
    weights = _rising(_VOTE * rest + _PRIOR, left)
    return [comb(left, others) * weight for others, weight in enumerate(weights)]


@lru_cache(maxsize=_REMEMBERED)
def _rising(start: int, factors: int) -> list[int]:
    """The products of the first 0, 1, ... of `start`, `start + 10`, `start + 20`, ..."""
    return list(accumulate(range(start, start + _VOTE * factors, _VOTE), mul, initial=1))


def _winning_shares(leader: int, runner_up: int, left: int, leads_ties: bool) -> list[float]:
    """`_winning_weights` as shares of all ways: every step adds to the last, or takes from it, at most 1."""
    most = leader - runner_up - (not leads_ties)
    if most < 0:
        return [1.0 - share for share in _winning_shares(runner_up, leader, left, not leads_ties)]
    both = float(_VOTE * (leader + runner_up) + 2 * _PRIOR)
    wins, edge, lost = [1.0] * (min(most, left) + 1), 1.0, most
    for pair in range(min(most, left)):
        edge *= (_VOTE * (runner_up + pair) + _PRIOR) / (both + _VOTE * pair)
    for pair in range(most, left):
        drawn = both + _VOTE * pair
        to_rival = edge * (_VOTE * (runner_up + lost) + _PRIOR) / drawn
        if (pair - most) % 2:
            lost += 1
            edge = to_rival * (pair + 1) / lost
            wins.append(wins[-1] - to_rival + edge)
        else:
            own = _VOTE * (leader + pair - lost) + _PRIOR
            edge *= own / drawn * (pair + 1) / (pair + 1 - lost)
            wins.append(wins[-1] - to_rival)
    return wins


def _shares_of_pairs(both: int, rest: int, left: int) -> list[float]:
    """How likely 0 to `left` of the draws fall to the first two, up to a factor: the likeliest has 1."""
    others, pairs = _VOTE * rest + _PRIOR, _VOTE * both + 2 * _PRIOR
    ratios = [  # of each share to the one before it
        (left - pair) / (pair + 1) * (pairs + _VOTE * pair) / (others + _VOTE * (left - pair - 1))
        for pair in range(left)
    ]
    middle = left * pairs // (pairs + others)
    above = accumulate(ratios[middle:], mul, initial=1.0)
    below = accumulate((1 / ratio for ratio in reversed(ratios[:middle])), mul, initial=1.0)
    return [*reversed(list(below)), *list(above)[1:]]
