"""Polls: samples counted on one question or several."""

from collections.abc import Hashable, Iterable
from decimal import Decimal

import msgspec
import pytest

from executionkit.core.voting.ballots import TextBallot
from executionkit.core.voting.polls import Poll


class Failing(msgspec.Struct, frozen=True):
    """A key that reads every text, and fails at grouping it."""

    unhashable: bool

    def __call__(self, text: str) -> Hashable:
        return text

    def group(self, vote: Hashable, seen: Iterable[Hashable]) -> Hashable:
        if self.unhashable:
            return [vote]  # type: ignore[return-value]  # what is tested  # pyright: ignore[reportReturnType]
        raise KeyError(vote)


@pytest.mark.parametrize("unhashable", [True, False])
def test_a_key_that_fails_at_grouping_abstains(unhashable: bool) -> None:
    poll = Poll(TextBallot(Failing(unhashable)))
    poll.add(poll.ballot.cast("a"))
    assert (poll.abstentions, poll.counts()) == (1, {})


def test_a_key_that_python_does_not_write_abstains() -> None:
    poll = Poll(TextBallot(lambda text: 10**5_000 if text == "a" else 1))
    for text in "ab":
        poll.add(poll.ballot.cast(text))
    assert (poll.abstentions, poll.counts()) == (1, {"1": 1})


def test_answers_that_read_alike_are_counted_apart() -> None:
    answers: list[Hashable] = [Decimal(1), "1", 2, "1"]
    poll = Poll(TextBallot(lambda text: answers[int(text)]))
    for text in "0123":
        poll.add(poll.ballot.cast(text))
    assert poll.counts() == {"Decimal Decimal('1')": 1, "str '1'": 2, "2": 1}


def test_weightless_samples_are_told_from_unread_ones() -> None:
    poll = Poll(TextBallot(lambda text: text or None))
    for text in ("a", ""):
        poll.add(poll.ballot.cast(text), 0)
    assert (poll.abstentions, poll.weightless) == (2, 1)
