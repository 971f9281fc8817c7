"""Who won: votes counted one at a time, in constant time, into a `Tally`; its standing read as a `Verdict`.

A vote is any hashable key. The first key seen wins a tie, so the order in which votes are added matters
there and only there.
"""

from collections.abc import Hashable, Iterable
from enum import StrEnum
from typing import Generic, NoReturn, TypeVar

import msgspec
from typing_extensions import override

__all__ = ["Tally", "Verdict", "VotingStrategy", "fold", "tally_of"]

K = TypeVar("K", bound=Hashable)


class VotingStrategy(StrEnum):
    """What it takes to win; the plain strings do as well.

    >>> VotingStrategy("majority") == "majority"
    True
    """

    MAJORITY = "majority"
    """The most votes; the first seen wins a tie."""

    UNANIMOUS = "unanimous"
    """Every vote; any difference means that nobody wins."""

    @classmethod
    @override
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"strategy must be 'majority' or 'unanimous', not {value!r:.80}")


def fold(text: str) -> str:
    r"""Return the text stripped, with each run of white space folded into one space: the plain vote's key.

    >>> fold("  New \n York ")
    'New York'
    """
    return " ".join(text.split())


class Verdict(msgspec.Struct, Generic[K], frozen=True):
    """How a vote ended.

    Args:
        key: What won.
        index: Which sample said so first, from 0; its original text is the answer.
        votes: How many samples said so.
        agreement: `votes` / samples drawn, abstentions included.
    """

    key: K
    index: int
    votes: int
    agreement: float


class Tally(Generic[K]):
    """Votes counted so far. Adding one is O(1); every attribute is to be read, not set.

    >>> tally = tally_of(["a", "b", None, "b", "a"])
    >>> tally.leader, tally.top, tally.second, tally.ties
    ('a', 2, 2, 2)
    >>> tally.verdict()
    Verdict(key='a', index=0, votes=2, agreement=0.4)
    """

    __slots__ = (
        "_last",
        "abstentions",
        "first",
        "leader",
        "samples",
        "second",
        "second_index",
        "streak",
        "ties",
        "top",
        "votes",
        "weights",
    )

    def __init__(self) -> None:
        self.samples: int = 0
        """Samples drawn, abstentions included."""
        self.abstentions: int = 0
        """Samples that did not vote."""
        self.votes: dict[K, int] = {}
        """Votes by key, in the order in which the keys were first seen."""
        self.weights: dict[K, float] = {}
        """The sum of the weights by key: equal to `votes` where every weight is 1."""
        self.first: dict[K, int] = {}
        """The first sample of each key, from 0."""
        self.leader: K | None = None
        """The key that is ahead, or the first seen of those tied; None before any vote."""
        self.top: float = 0
        """The leader's weight."""
        self.second: float = 0
        """The largest weight of any other key; equal to `top` at a tie."""
        self.second_index: int = 0
        """The first sample of the other key with that weight, the first seen if several have it."""
        self.ties: int = 0
        """How many keys share the top: 1 is a clean lead, 0 no vote yet."""
        self.streak: int = 0
        """How many samples, counted back from the last one, said the same; an abstention ends a streak."""
        self._last: K | None = None

    @property
    def unique(self) -> int:
        """How many different keys were seen."""
        return len(self.votes)

    @property
    def leads_ties(self) -> bool:
        """Whether the leader would win a tie with every key that is second now."""
        return not self.second or self.first_of_leader < self.second_index

    @property
    def first_of_leader(self) -> int:
        """The leader's first sample; -1 before any vote."""
        return -1 if self.leader is None else self.first[self.leader]

    def add(self, key: K | None, weight: float = 1) -> None:
        """Count one sample.

        Args:
            key: What it says; None abstains: it counts as drawn and votes for nothing.
            weight: How much it counts, above 0.
        """
        index = self.samples
        self.samples = index + 1
        if key is None:
            self.abstentions += 1
            self.streak = 0
            self._last = None
            return
        self.streak = self.streak + 1 if key == self._last else 1
        self._last = key
        if key in self.votes:
            self.votes[key] += 1
            self.weights[key] += weight
        else:
            self.votes[key] = 1
            self.weights[key] = weight
            self.first[key] = index
        self._rank(key, self.weights[key])

    def _rank(self, key: K, weight: float) -> None:
        first = self.first[key]
        if key == self.leader:
            self.top = weight
            self.ties = 1 if weight > self.second else self.ties
        elif weight > self.top or (weight == self.top and first < self.first_of_leader):
            self.second, self.second_index = self.top, self.first_of_leader
            self.ties = 1 if weight > self.top else self.ties + 1
            self.leader, self.top = key, weight
        elif weight > self.second:
            self.second, self.second_index = weight, first
            self.ties += weight == self.top
        elif weight == self.second:
            self.second_index = min(self.second_index, first)
            self.ties += weight == self.top

    def verdict(self, strategy: VotingStrategy = VotingStrategy.MAJORITY) -> Verdict[K] | None:
        """Tell who won; None where nobody did: no votes at all, or a difference in a unanimous vote.

        Args:
            strategy: What it takes to win.
        """
        if self.leader is None or (strategy == VotingStrategy.UNANIMOUS and self.unique > 1):
            return None
        votes = self.votes[self.leader]
        return Verdict(self.leader, self.first[self.leader], votes, votes / self.samples)


def tally_of(keys: Iterable[K | None]) -> Tally[K]:
    """Count these votes, in order; None abstains.

    >>> tally_of(fold(text) for text in ["Rome", " Rome", "Paris"]).votes
    {'Rome': 2, 'Paris': 1}
    """
    tally: Tally[K] = Tally()
    for key in keys:
        tally.add(key)
    return tally
