"""When a vote may end early: rules that say how many more samples are needed at the least.

A rule answers one question about a `Standing`: the fewest further samples after which it could stop, 0 for
stop now. That is both the decision and the size of the next round: so many samples can be drawn at once, and
the calls and the answer are those of drawing one at a time.

What the rules promise is agreement with the full vote of n, never that an answer is right. For each of them
the shortest way to a stop is that all further samples go to the leader, so `more` is a difference between the
leader's votes and a least number that depends on the rest of the standing alone. Those numbers are found in
whole numbers (no rounding; `forecast` with more than 64 samples to come is within 1e-9), and the last some
thousands are remembered.
"""

from collections.abc import Hashable
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Final, Protocol, TypeVar, runtime_checkable

import msgspec

from executionkit.core.checks import as_float, check_count
from executionkit.core.voting.tally import Tally
from executionkit.core.voting.urn import MOST_EXACT, Counts, win_odds, win_probability

__all__ = [
    "Beta",
    "Certain",
    "Forecast",
    "Standing",
    "StoppingRule",
    "UnanimousWindow",
    "beta",
    "certain",
    "fewest",
    "forecast",
    "standing_of",
    "unanimous_window",
    "widest",
]


K = TypeVar("K", bound=Hashable)

_REMEMBERED: Final = 32768
"""Answers kept of each function below: at most some 10 MB each, enough for votes of forty."""


class Standing(msgspec.Struct, frozen=True):
    """What a rule sees of a vote in progress.

    Args:
        n: Samples that a full vote draws.
        samples: Samples drawn so far, abstentions included.
        leader: The leader's votes; a sum of weights (each above 0 and at most 1) in a weighted vote.
        runner_up: The votes of the next one; equal to `leader` at a tie.
        rest: The votes of all others together.
        leads_ties: Whether the leader would win a tie with the runner-up, because it was seen first.
        streak: How many samples, counted back from the last one, said the same.
    """

    n: int
    samples: int
    leader: float = 0
    runner_up: float = 0
    rest: float = 0
    leads_ties: bool = True
    streak: int = 0

    @property
    def remaining(self) -> int:
        """Samples that a full vote would still draw."""
        return max(0, self.n - self.samples)


@runtime_checkable
class StoppingRule(Protocol):
    """Decides when a vote ends. Pure: the same standing, the same answer. No inheritance is needed.

    A rule that cannot tell how long it will take answers 1: the samples are then drawn one at a time.
    """

    def more(self, standing: Standing) -> int:
        """Return the fewest further samples after which the rule could stop; 0 to stop now.

        Args:
            standing: The vote so far. The vote ends by itself when all n samples are drawn.
        """
        ...

    def bound(self, standing: Standing) -> float:
        """Return the figure that the rule looks at, as a probability from 0 to 1, for the metadata."""
        ...


class Certain(msgspec.Struct, frozen=True):
    """Stop when no further samples can change the winner. See `certain`."""

    def more(self, standing: Standing) -> int:
        """Return the fewest further samples after which the leader cannot be overtaken."""
        left = standing.n - standing.samples
        return _certain_more(standing.leader, standing.runner_up, left, standing.leads_ties)

    def bound(self, standing: Standing) -> float:
        """Return 1.0 where the winner is certain, 0.0 where it is not."""
        return 0.0 if self.more(standing) else 1.0


def certain() -> Certain:
    """Stop when the leader cannot be overtaken by the samples still to come.

    It cannot if it is ahead by more votes than there are samples left, or by as many and it was seen first.
    The winner is that of the full vote, always; and no rule that promises this can stop earlier. In a
    weighted vote a sample to come is taken to weigh 1, the most a sample can.

    >>> certain().more(Standing(n=5, samples=2, leader=2))
    1
    """
    return Certain()


class Beta(msgspec.Struct, frozen=True):
    """Stop when the leader is probably the more frequent of the first two. See `beta`."""

    confidence: float = 0.95

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "confidence", as_float("beta: confidence", self.confidence))
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"beta: confidence must be between 0.5 and 1, not {self.confidence}")

    def more(self, standing: Standing) -> int:
        """Return the fewest further samples after which the leader is confident, or certain."""
        left = standing.n - standing.samples
        return _beta_more(standing.leader, standing.runner_up, left, standing.leads_ties, self.confidence)

    def bound(self, standing: Standing) -> float:
        """Return P(Beta(v1 + 1, v2 + 1) > 1/2), with v1 and v2 the two largest counts."""
        leader, runner_up = int(standing.leader), int(standing.runner_up)
        trials = leader + runner_up + 1
        return float(1 - Fraction(_binomial_tail(trials, runner_up), 2**trials))


def beta(confidence: float = 0.95) -> Beta:
    """Stop when P(Beta(v1 + 1, v2 + 1) > 1/2) is at least `confidence`, or the winner is certain.

    v1 and v2 are the two largest counts. This is Adaptive-Consistency (Aggarwal et al. 2023, "Let's Sample
    Step by Step: Adaptive-Consistency for Efficient Reasoning and Coding with LLMs"), in whole numbers: the
    probability is that of at most v1 heads in v1 + v2 + 1 throws of a fair coin. Joined with `certain`,
    which gives the same answers as the published rule and never takes more calls.

    It promises that the leader is the more probable answer of the first two, at that confidence under a flat
    prior and looked at once; it is looked at after every sample, so the share of votes that disagree with the
    full vote is not bounded by `1 - confidence`.

    Args:
        confidence: Above 0.5 and below 1.

    Raises:
        TypeError: `confidence` is not a number.
        ValueError: `confidence` is out of range.

    >>> beta().more(Standing(n=40, samples=1, leader=1)), beta().more(Standing(n=40, samples=4, leader=4))
    (3, 0)
    """
    return Beta(confidence)


class Forecast(msgspec.Struct, frozen=True):
    """Stop when the leader will probably win the full vote. See `forecast`."""

    risk: float = 0.01

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "risk", as_float("forecast: risk", self.risk))
        if not 0 < self.risk < 0.5:
            raise ValueError(f"forecast: risk must be between 0 and 0.5, not {self.risk}")

    def more(self, standing: Standing) -> int:
        """Return the fewest further samples after which the leader wins with probability `1 - risk`."""
        left = standing.n - standing.samples
        return _forecast_more(
            standing.leader, standing.runner_up, standing.rest, left, standing.leads_ties, self.risk
        )

    def bound(self, standing: Standing) -> float:
        """Return the probability that the leader wins the full vote."""
        counts = standing.leader, standing.runner_up, standing.rest
        return float(win_probability(counts, standing.remaining, standing.leads_ties))


def forecast(risk: float = 0.01) -> Forecast:
    """Stop when today's leader wins the full vote of n with a probability of at least `1 - risk`.

    The samples to come are drawn from an urn over three answers, the leader, the runner-up and all others,
    with a Dirichlet(0.3, 0.3, 0.3) prior: the next sample says the leader's answer with probability
    (v1 + 0.3) / (v + 0.9), and so on, each draw adding to its count. The leader wins if it ends ahead of the
    runner-up, or level and seen first; that one of the others overtakes both is left out of account.

    It promises that probability where the samples behave like the urn, at each look; it counts on n, so a
    larger n waits longer. Where the winner is certain the probability is 1.

    The probability is exact where at most 64 samples are still to come, else within 1e-9. A decision that is
    not remembered takes time in proportion to n log n.

    Args:
        risk: Above 0 and below 0.5.

    Raises:
        TypeError: `risk` is not a number.
        ValueError: `risk` is out of range.

    >>> [forecast().more(Standing(n, samples=3, leader=3)) for n in (10, 40)]
    [0, 1]
    """
    return Forecast(risk)


class UnanimousWindow(msgspec.Struct, frozen=True):
    """Stop after a window of samples that all say the same. See `unanimous_window`."""

    size: int = 5

    def __post_init__(self) -> None:
        check_count("unanimous_window: size", self.size, 2)

    def more(self, standing: Standing) -> int:
        """Return what is missing to a whole window that agrees, or until the winner is certain."""
        place = standing.samples % self.size, standing.streak, self.size
        left = standing.n - standing.samples
        return _window_more(place, standing.leader, standing.runner_up, left, standing.leads_ties)

    def bound(self, standing: Standing) -> float:
        """Return how much of a window the current streak fills, 1.0 at most."""
        return min(1.0, standing.streak / self.size)


def unanimous_window(size: int = 5) -> UnanimousWindow:
    """Stop when all samples of a window say the same, or the winner is certain.

    Windows follow each other without overlap; the answer is the leader of all samples drawn, and a sample
    that abstains breaks its window. This is Early-Stopping Self-Consistency (Li et al. 2024, "Escape Sky-high
    Cost: Early-stopping Self-Consistency for Multi-step Reasoning"), joined with `certain`.

    It promises nothing about the full vote: a window of an answer that is not the most frequent ends the vote
    as well, with the leader so far as the answer.

    Args:
        size: Samples a window, at least 2.

    Raises:
        TypeError: `size` is not a whole number.
        ValueError: `size` is out of range.

    >>> unanimous_window(5).more(Standing(n=40, samples=6, leader=5, runner_up=1, streak=1))
    4
    """
    return UnanimousWindow(size)


def standing_of(tally: Tally[K], n: int) -> Standing:
    """Return what a rule sees of this tally in a vote of n."""
    top, second = tally.top, tally.second
    rest = tally.samples - tally.abstentions - top - second
    return Standing(n, tally.samples, top, second, rest, tally.leads_ties, tally.streak)


def fewest(rule: StoppingRule, n: int) -> int:
    """Return the fewest samples after which a rule may end a vote of n: those of one where all say the same.

    Of a rule of somebody else's it is 1.

    >>> fewest(certain(), 9), fewest(beta(0.8), 9), fewest(unanimous_window(3), 9)
    (5, 2, 3)
    """
    if not isinstance(rule, Beta | Certain | Forecast | UnanimousWindow):
        return 1
    alike = [Standing(n, drawn, drawn, streak=drawn) for drawn in range(1, n)]
    return next((at.samples for at in alike if not rule.more(at)), n)


def widest(rule: StoppingRule, n: int) -> int:
    """Return the most samples that a rule can need at the least before it may stop, in a vote of n.

    Of `forecast` it is what `certain` needs, which is never less; of a rule of somebody else's it is n.

    >>> widest(certain(), 9), widest(beta(0.8), 9), widest(unanimous_window(3), 9)
    (5, 3, 3)
    """
    match rule:
        case Certain() | UnanimousWindow():
            return max(1, rule.more(Standing(n, 0)))  # it is never farther away than at the beginning
        case Beta():
            return _beta_widest(n, rule.confidence)
        case Forecast():
            return max(1, certain().more(Standing(n, 0)))
        case _:
            return n


@lru_cache(maxsize=256)
def _beta_widest(n: int, confidence: float) -> int:
    # It is farthest away at a tie. The more votes are tied, the more it takes to be confident, and the fewer
    # to be certain: the most is where the two meet.
    low, high = 0, n // 2
    while low < high:
        tied = (low + high) // 2
        if _beta_needs(tied, confidence) - tied < n // 2 - tied + 1:
            low = tied + 1
        else:
            high = tied
    ties = {max(0, low - 1), low}
    return max(1, *[_beta_more(tied, tied, n - 2 * tied, False, confidence) for tied in ties])


@lru_cache(maxsize=_REMEMBERED)
def _certain_more(leader: float, runner_up: float, left: int, leads_ties: bool) -> int:
    if not leader:
        return 1 + (left - 1) // 2 if left > 0 else 0
    # k more for the leader, and all others for the runner-up: 2 k > missing, or equal where a tie is won
    missing = left - leader + runner_up
    needed = -(-missing // 2) if leads_ties else missing // 2 + 1
    return max(0, min(int(needed), left))


@lru_cache(maxsize=_REMEMBERED)
def _window_more(
    place: tuple[int, int, int], leader: float, runner_up: float, left: int, leads_ties: bool
) -> int:
    inside, streak, size = place
    if leader and not inside and streak >= size:
        return 0
    window = size - inside if streak >= inside else 2 * size - inside
    return min(window, _certain_more(leader, runner_up, left, leads_ties))


@lru_cache(maxsize=_REMEMBERED)
def _beta_more(leader: float, runner_up: float, left: int, leads_ties: bool, confidence: float) -> int:
    needed = _beta_needs(int(runner_up), confidence) - int(leader)
    return max(0, min(needed, _certain_more(leader, runner_up, left, leads_ties)))


@lru_cache(maxsize=_REMEMBERED)
def _forecast_more(  # a tuple of counts would take as long as all the rest of a decision
    leader: float, runner_up: float, rest: float, left: int, leads_ties: bool, risk: float
) -> int:
    if not leader:
        return 0 if left <= 0 else 1 + _forecast_more(1, 0, 0, left - 1, True, risk)
    voting = int(leader + runner_up + rest) + left
    needed = _forecast_needs(runner_up, rest, voting, leads_ties, risk) - int(leader)
    return max(0, min(needed, left))


def _binomial_tail(trials: int, most: int) -> int:
    """Of 2**trials equally likely rows of coin throws, how many have at most `most` heads."""
    rows = tail = 1
    for heads in range(most):
        rows = rows * (trials - heads) // (heads + 1)
        tail += rows
    return tail


@lru_cache(maxsize=_REMEMBERED)
def _beta_needs(runner_up: int, confidence: float) -> int:
    """The fewest votes with which a leader is confident against so many of the runner-up."""
    doubt = 1 - _exact(confidence)
    leader, trials = runner_up, 2 * runner_up + 1
    # Of so many rows, `tail` have at most `runner_up` heads (half of them at a tie), `edge` exactly as many.
    # From one throw to the next both follow by Pascal's rule; added up anew, a near tie of 700 took seconds.
    tail, edge = 2 ** (trials - 1), comb(trials, runner_up)
    while tail * doubt.denominator > doubt.numerator << trials:
        tail = 2 * tail - edge
        trials += 1
        edge = edge * trials // (trials - runner_up)
        leader += 1
    return leader


@lru_cache(maxsize=_REMEMBERED)
def _forecast_needs(runner_up: float, rest: float, voting: int, leads_ties: bool, risk: float) -> int:
    """The fewest votes with which a leader wins probably enough, where `voting` samples vote in the end."""
    wanted = 1 - _exact(risk)
    others = int(runner_up + rest)
    low, high = int(runner_up) + (not leads_ties), voting - others
    while low < high:
        middle = (low + high) // 2
        if _is_likely((middle, runner_up, rest), voting - others - middle, leads_ties, wanted):
            high = middle
        else:
            low = middle + 1
    return low


def _is_likely(counts: Counts, left: int, leads_ties: bool, wanted: Fraction) -> bool:
    if left > MOST_EXACT:
        return win_probability(counts, left, leads_ties) >= wanted
    wins, ways = win_odds(counts, left, leads_ties)
    return wins * wanted.denominator >= ways * wanted.numerator


def _exact(figure: float) -> Fraction:
    """The decimal number that was written down: 0.95 is 19/20."""
    return Fraction(repr(figure))
