"""The tally against a count made by hand, for every short vote and many long ones."""

from collections import Counter
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.voting.tally import Tally, Verdict, VotingStrategy, fold, tally_of

KEYS = st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=30)


def standing_by_hand(votes: list[str | None]) -> dict[str, object]:
    """What a tally must say, counted the slow way."""
    counts = Counter(vote for vote in votes if vote is not None)
    ranked = counts.most_common()
    top = ranked[0][1] if ranked else 0
    second = ranked[1][1] if len(ranked) > 1 else 0
    rivals = [key for key, count in ranked[1:] if count == second]
    return {
        "samples": len(votes),
        "abstentions": votes.count(None),
        "votes": dict(counts),
        "leader": ranked[0][0] if ranked else None,
        "top": top,
        "second": second,
        "ties": sum(count == top for count in counts.values()),
        "leads_ties": not rivals or votes.index(ranked[0][0]) < min(votes.index(key) for key in rivals),
        "streak": streak_by_hand(votes),
    }


def streak_by_hand(votes: list[str | None]) -> int:
    streak = 0
    for vote in reversed(votes):
        if vote is None or vote != votes[-1]:
            break
        streak += 1
    return streak


def check(votes: list[str | None]) -> None:
    tally = tally_of(votes)
    expected = standing_by_hand(votes)
    assert {name: getattr(tally, name) for name in expected} == expected
    assert list(tally.votes) == list(dict.fromkeys(vote for vote in votes if vote is not None))
    assert tally.first == {key: votes.index(key) for key in tally.votes}


def test_every_vote_of_up_to_six_samples() -> None:
    for length in range(7):
        for votes in product(["a", "b", "c", None], repeat=length):
            check(list(votes))


@given(KEYS)
def test_long_votes(votes: list[str | None]) -> None:
    check(votes)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.25, 0.5, 1.0])), max_size=20))
def test_weights(votes: list[tuple[str, float]]) -> None:
    tally: Tally[str] = Tally()
    sums: dict[str, float] = {}
    for key, weight in votes:
        tally.add(key, weight)
        sums[key] = sums.get(key, 0) + weight
    ranked = sorted(sums, key=lambda key: -sums[key])
    assert tally.weights == sums
    assert tally.leader == (ranked[0] if ranked else None)
    assert tally.top == (sums[ranked[0]] if ranked else 0)
    assert tally.second == (sums[ranked[1]] if len(ranked) > 1 else 0)
    assert tally.votes == dict(Counter(key for key, _ in votes))


@given(KEYS, st.randoms(use_true_random=False))
def test_only_ties_look_at_the_order(votes: list[str | None], random: Random) -> None:
    before = tally_of(votes)
    random.shuffle(votes)
    after = tally_of(votes)
    assert (before.top, before.second, before.ties) == (after.top, after.second, after.ties)
    if before.ties == 1:
        assert before.leader == after.leader


def test_the_verdict_names_the_first_sample_of_the_winner() -> None:
    assert tally_of(["b", "a", None, "a"]).verdict() == Verdict("a", 1, 2, 0.5)


def test_nobody_wins_without_a_vote() -> None:
    assert tally_of([None, None]).verdict() is None
    assert Tally[str]().verdict() is None


@pytest.mark.parametrize(("votes", "winner"), [(["a", "a"], "a"), (["a", "b"], None), (["a", None], "a")])
def test_unanimous(votes: list[str | None], winner: str | None) -> None:
    verdict = tally_of(votes).verdict(VotingStrategy.UNANIMOUS)
    assert (verdict.key if verdict else None) == winner


@pytest.mark.parametrize(("text", "folded"), [(" a\n b ", "a b"), ("", ""), ("\u2003x\u00a0y", "x y")])
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded


def test_the_strategies_are_plain_strings() -> None:
    assert [str(strategy) for strategy in VotingStrategy] == ["majority", "unanimous"]
    with pytest.raises(ValueError, match="plurality"):
        VotingStrategy("plurality")
