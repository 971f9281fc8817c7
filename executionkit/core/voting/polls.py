"""A poll: the samples of a vote as they are counted, on one question or on several at once."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Final, Generic, TypeVar

from executionkit.core.voting.ballots import Ballot, Cast
from executionkit.core.voting.keys import Grouping
from executionkit.core.voting.stopping import Standing, standing_of
from executionkit.core.voting.tally import Tally, Verdict, VotingStrategy

__all__ = ["Poll"]

T = TypeVar("T")

_TEXTS: Final = frozenset({str, type(None)})
"""Types of most votes."""

_PLAIN: Final = frozenset({str, int, float, bool, bytes, Decimal, Fraction, type(None)})
"""Types of votes that compare, hash and have a text, whatever they are compared with."""


class Poll(Generic[T]):
    """Samples counted by a ballot: a tally for each of its questions.

    >>> from executionkit.core.voting.ballots import TextBallot
    >>> poll = Poll(TextBallot())
    >>> for text in ("Rome", "Paris", " Rome"):
    ...     poll.add(poll.ballot.cast(text))
    >>> poll.answer(poll.verdicts()), poll.counts()
    ('Rome', {'Rome': 2, 'Paris': 1})
    """

    __slots__ = ("_grouping", "answers", "ballot", "casts", "tallies", "weightless")

    def __init__(self, ballot: Ballot[T]) -> None:
        self.ballot: Ballot[T] = ballot
        self.tallies: tuple[Tally[Hashable], ...] = tuple([Tally() for _ in ballot.questions])
        """The votes on each question."""
        self.casts: list[Cast[T] | None] = []
        """Every sample, in order; None for those that abstained."""
        self.answers: set[tuple[Hashable | None, ...]] = set()
        """The different answers as wholes."""
        self.weightless: int = 0
        """Samples that abstained because they weigh nothing."""
        self._grouping = ballot.grouping

    @property
    def abstentions(self) -> int:
        """Samples that voted for nothing."""
        return self.casts.count(None)

    def add(self, cast: Cast[T] | None, weight: float = 1) -> None:
        """Count one sample; a weight of 0 abstains."""
        cast = cast if self._grouping is None else self._grouped(self._grouping, cast)
        if cast is not None:
            cast = self._sound(cast)
        if cast is None or not weight:
            self.weightless += cast is not None
            self.casts.append(None)
            for tally in self.tallies:
                tally.add(None)
            return
        self.casts.append(cast)
        self.answers.add(cast.keys)
        for tally, key in zip(self.tallies, cast.keys, strict=True):
            tally.add(key, weight)

    def _sound(self, cast: Cast[T]) -> Cast[T] | None:
        """Return a sample whose votes can be counted: foreign ones may raise where they are used.

        They are tried against all that they will be compared with, each way round; what holds once holds for
        good from then on.
        """
        if _TEXTS.issuperset(map(type, cast.keys)):
            return cast
        if _PLAIN.issuperset(map(type, cast.keys)):
            with suppress(ValueError):  # there are integers that Python does not write
                _ = [str(key) for key in cast.keys]
                return cast
            return None
        with suppress(Exception):
            keys: list[Hashable | None] = []
            for tally, key in zip(self.tallies, cast.keys, strict=True):
                if type(key) not in _PLAIN:
                    key = _Foreign(key)  # noqa: PLW2901
                    if not all(key.agrees_with(other) for other in (None, key.vote, *tally.votes)):
                        return None
                keys.append(key)
            return Cast(cast.value, tuple(keys))
        return None

    def _grouped(self, grouping: Grouping, cast: Cast[T] | None) -> Cast[T] | None:
        """Return the sample with the vote that it counts for; it abstains where its key fails at that."""
        if cast is None:
            return None
        with suppress(Exception):
            seen = [_own(vote) for vote in self.tallies[0].votes]
            keys = tuple([grouping.group(key, seen) for key in cast.keys])
            hash(keys)
            return None if all(key is None for key in keys) else Cast(cast.value, keys)
        return None

    def standings(self, n: int) -> Sequence[Standing]:
        """Return what a stopping rule sees of each question, in a vote of n."""
        return [standing_of(tally, n) for tally in self.tallies]

    def verdicts(self, strategy: VotingStrategy = VotingStrategy.MAJORITY) -> list[Verdict[Hashable]]:
        """Return who won each question; empty where there is one that nobody won."""
        verdicts = [tally.verdict(strategy) for tally in self.tallies]
        found = [verdict for verdict in verdicts if verdict is not None]
        return found if len(found) == len(verdicts) else []

    def verdict_for(self, position: int) -> Verdict[Hashable] | None:
        """Return the verdict that the sample at this position has won; None where it abstained."""
        cast, tally = self.casts[position], self.tallies[0]
        if cast is None or cast.keys[0] is None:
            return None
        votes = tally.votes[cast.keys[0]]
        return Verdict(cast.keys[0], position, votes, votes / tally.samples)

    def voting(self) -> list[int]:
        """Return the positions of the samples that did not abstain."""
        return [position for position, cast in enumerate(self.casts) if cast is not None]

    def answer(self, verdicts: Sequence[Verdict[Hashable]]) -> T:
        """Return the value that won, assembled where there are several questions.

        Raises:
            ValueError: What won field by field is no valid value as a whole.
        """
        winners = [self.casts[verdict.index] for verdict in verdicts]
        return self.ballot.assemble([winner.value for winner in winners if winner is not None])

    def account(self) -> dict[str, object]:
        """Return what a vote tells of its count."""
        return {
            "unique_responses": len(self.answers),
            "tie_count": max([tally.ties for tally in self.tallies]),
            "vote_counts": self.counts(),
            "abstentions": self.abstentions,
        }

    def by_question(self, figures: Sequence[object]) -> object:
        """Return a figure for each question under its name; the figure alone where there is one question."""
        names = self.ballot.questions
        return figures[0] if names == ("",) else dict(zip(names, figures, strict=True))

    def counts(self) -> object:
        """Return the votes by answer, under the name of each question where there are several."""
        return self.by_question([self._named(tally.votes) for tally in self.tallies])

    def weights(self) -> object:
        """Return the sums of weights by answer, like `counts`."""
        return self.by_question([self._named(tally.weights) for tally in self.tallies])

    def _named(self, figures: Mapping[Hashable, float]) -> dict[str, float]:
        """Name each answer by its text; where two have the same, by its representation as well."""
        named = {key: self.ballot.named(key) for key in figures}
        texts = Counter(named.values())
        return {
            text if texts[text] == 1 else f"{type(_own(key)).__name__} {key!r}": figures[key]
            for key, text in named.items()
        }


class _Foreign:
    """A vote of a class of the caller's: its hash and its texts are asked for once, and stay.

    Raises:
        Exception: Whatever the vote raises when it is asked.
    """

    __slots__ = ("_hash", "_repr", "_text", "vote")

    def __init__(self, vote: Hashable) -> None:
        self.vote: Hashable = vote
        self._hash = hash(vote)
        self._text, self._repr = str(vote), repr(vote)

    def agrees_with(self, other: object) -> bool:
        """Tell whether comparing the two says the same each way, and equal votes have one hash."""
        own = _own(other)
        is_equal = bool(self.vote == own)
        return is_equal == bool(own == self.vote) and (not is_equal or hash(other) == self._hash)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        with suppress(Exception):
            return bool(self.vote == _own(other))
        return self is other

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._repr


def _own(vote: object) -> Hashable:
    """Return a vote as the caller's key gave it."""
    return vote.vote if isinstance(vote, _Foreign) else vote
