"""The stopping rules against brute force over every short vote, and against their definitions."""

import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import comb
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executionkit.core.voting.stopping import (
    Beta,
    Certain,
    Forecast,
    Standing,
    StoppingRule,
    UnanimousWindow,
    beta,
    certain,
    fewest,
    forecast,
    standing_of,
    unanimous_window,
    widest,
)
from executionkit.core.voting.tally import tally_of
from executionkit.core.voting.urn import win_odds, win_probability

Votes = tuple[str | None, ...]

RULES: list[StoppingRule] = [
    certain(),
    beta(),
    beta(0.8),
    forecast(),
    forecast(0.2),
    unanimous_window(2),
    unanimous_window(3),
]
COUNTING_RULES = RULES[:5]

KEYS = "abcdefg"


def continuations(votes: Votes) -> Iterator[str | None]:
    """What the next sample can say: nothing, an answer seen before, or a new one (all new ones are alike)."""
    seen = len({vote for vote in votes if vote is not None})
    yield None
    yield from KEYS[: seen + 1]


def more(rule: StoppingRule, votes: Votes, n: int) -> int:
    return rule.more(standing_of(tally_of(votes), n))


def every_vote(n: int) -> Iterator[Votes]:
    """Each vote in progress of up to n samples, up to the names of the answers."""
    pending: list[Votes] = [()]
    while pending:
        votes = pending.pop()
        yield votes
        if len(votes) < n:
            pending.extend((*votes, vote) for vote in continuations(votes))


@pytest.mark.parametrize("n", range(1, 8))
def test_certain_stops_where_every_continuation_has_one_winner_and_only_there(n: int) -> None:
    table: dict[Votes, set[str | None]] = {}
    for votes in sorted(every_vote(n), key=len, reverse=True):
        if len(votes) == n:
            leader = tally_of(votes).leader
            table[votes] = {leader}
        else:
            table[votes] = set().union(*(table[(*votes, vote)] for vote in continuations(votes)))
        assert (more(certain(), votes, n) == 0) == (len(table[votes]) == 1), votes


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_more_is_the_length_of_the_shortest_way_to_a_stop(rule: StoppingRule, n: int) -> None:
    shortest: dict[Votes, int] = {}
    for votes in sorted(every_vote(n), key=len, reverse=True):
        if len(votes) == n or more(rule, votes, n) == 0:
            shortest[votes] = 0
        else:
            shortest[votes] = 1 + min(shortest[(*votes, vote)] for vote in continuations(votes))
        assert more(rule, votes, n) == shortest[votes], votes


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_no_vote_ends_sooner_than_with_the_fewest_samples(rule: StoppingRule, n: int) -> None:
    ends = [len(votes) for votes in every_vote(n) if len(votes) == n or not more(rule, votes, n)]
    assert fewest(rule, n) == min(ends)


def rounds_of(rule: StoppingRule, n: int, most: int) -> Iterator[int]:
    """How many samples are drawn at once, in each round of each vote of n."""
    pending: list[Votes] = [()]
    while pending:
        votes = pending.pop()
        wanted = min(max(more(rule, votes, n), not any(votes)), n - len(votes), most)
        yield wanted
        drawn = [votes]
        for _ in range(wanted):
            drawn = [(*each, vote) for each in drawn for vote in continuations(each)]
        pending += drawn if wanted else []


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("n", range(1, 8))
def test_no_round_is_wider_than_the_widest(rule: StoppingRule, n: int) -> None:
    for most in {2, 3, n}:
        seen, bound = max(rounds_of(rule, n, most)), min(n, most, widest(rule, n))
        assert seen <= bound
        if isinstance(rule, Certain | UnanimousWindow) or rule == beta():
            assert seen == bound


@pytest.mark.parametrize("confidence", [0.55, 0.7, 0.95, 0.99])
def test_the_widest_round_of_beta_is_at_a_tie(confidence: float) -> None:
    for n in range(1, 60):
        ties = [Standing(n, 2 * tied, tied, tied, leads_ties=False) for tied in range(1, n // 2 + 1)]
        assert widest(beta(confidence), n) == max(
            beta(confidence).more(each) for each in [Standing(n, 0), *ties]
        )
    assert widest(beta(confidence), 100_000) < 10_000


def test_of_a_rule_of_somebody_else_s_nothing_is_known() -> None:
    class Never:
        def more(self, standing: Standing) -> int:
            return 1

        def bound(self, standing: Standing) -> float:
            return 0.0

    assert widest(Never(), 9) == 9
    assert fewest(Never(), 9) == 1


def counted(counts: tuple[int, int, int], left: int, leads_ties: bool = True, streak: int = 0) -> Standing:
    leader, runner_up, rest = counts
    samples = leader + runner_up + rest
    return Standing(samples + left, samples, leader, runner_up, rest, leads_ties, streak)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    leader = draw(st.integers(1, 30))
    runner_up = draw(st.integers(0, leader))
    rest = draw(st.integers(0, 15)) if runner_up else 0
    leads_ties = leader == runner_up or not runner_up or draw(st.booleans())
    return counted((leader, runner_up, rest), draw(st.integers(0, 40)), leads_ties)


@given(standings(), st.sampled_from(COUNTING_RULES))
def test_a_vote_for_the_leader_never_takes_a_stop_away(standing: Standing, rule: StoppingRule) -> None:
    if standing.remaining:
        counts = int(standing.leader) + 1, int(standing.runner_up), int(standing.rest)
        after = counted(counts, standing.remaining - 1, standing.leads_ties)
        assert rule.more(after) == max(0, rule.more(standing) - 1)


@given(standings(), st.sampled_from(COUNTING_RULES))
def test_a_vote_for_the_runner_up_never_brings_a_stop_closer(standing: Standing, rule: StoppingRule) -> None:
    if standing.remaining and standing.runner_up and standing.runner_up < standing.leader:
        counts = int(standing.leader), int(standing.runner_up) + 1, int(standing.rest)
        after = counted(counts, standing.remaining - 1, standing.leads_ties)
        assert rule.more(after) >= min(rule.more(standing), after.remaining)


@given(standings(), st.sampled_from(RULES))
def test_rules_are_total(standing: Standing, rule: StoppingRule) -> None:
    assert 0 <= rule.more(standing) <= standing.remaining
    assert 0 <= rule.bound(standing) <= 1
    assert rule.more(standing) == rule.more(standing)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_counting_rules_look_at_the_order_only_for_ties(votes: list[str], random: Random) -> None:
    before = tally_of(votes)
    shuffled = sorted(votes, key=lambda _: random.random())
    after = tally_of(shuffled)
    if before.leads_ties == after.leads_ties:
        for rule in COUNTING_RULES:
            assert rule.more(standing_of(before, 40)) == rule.more(standing_of(after, 40))


@given(standings())
def test_every_counting_rule_stops_where_the_winner_is_certain(standing: Standing) -> None:
    for rule in COUNTING_RULES:
        assert rule.more(standing) <= certain().more(standing)


def beta_by_integral(leader: int, runner_up: int) -> float:
    """P(Beta(leader + 1, runner_up + 1) > 1/2), by the midpoint rule on the published integral."""
    steps = 4000
    points = [(step + 0.5) / steps for step in range(steps)]
    masses = [x**leader * (1 - x) ** runner_up for x in points]
    return sum(masses[steps // 2 :]) / sum(masses)


@pytest.mark.parametrize("leader", [1, 3, 7, 20])
@pytest.mark.parametrize("runner_up", [0, 1, 2, 7])
def test_the_bound_of_beta_is_the_published_integral(leader: int, runner_up: int) -> None:
    if runner_up <= leader:
        bound = beta().bound(counted((leader, runner_up, 0), 9))
        assert bound == pytest.approx(beta_by_integral(leader, runner_up), abs=1e-6)


def test_beta_stops_at_the_published_standings() -> None:
    least = [
        next(
            leader
            for leader in range(runner_up, 60)
            if beta().more(counted((leader, runner_up, 0), 1000)) == 0
        )
        for runner_up in range(6)
    ]
    assert least == [4, 6, 8, 9, 11, 12]


@lru_cache
def urn(leader: int, runner_up: int, rest: int, left: int, leads_ties: bool) -> Fraction:
    """The probability that the leader ends ahead, one draw from the urn at a time."""
    if not left:
        return Fraction(leader > runner_up or (leader == runner_up and leads_ties))
    weights = 10 * leader + 3, 10 * runner_up + 3, 10 * rest + 3
    following = (leader + 1, runner_up, rest), (leader, runner_up + 1, rest), (leader, runner_up, rest + 1)
    return sum(
        (
            Fraction(weight, sum(weights)) * urn(*counts, left - 1, leads_ties)
            for weight, counts in zip(weights, following, strict=True)
        ),
        Fraction(0),
    )


@settings(deadline=None)  # the slow way is slow
@given(standings().filter(lambda standing: standing.remaining <= 12))
def test_the_bound_of_forecast_is_the_urn_s_probability(standing: Standing) -> None:
    counts = int(standing.leader), int(standing.runner_up), int(standing.rest)
    probability = urn(*counts, standing.remaining, standing.leads_ties)
    assert forecast().bound(standing) == float(probability)
    assert (forecast().more(standing) == 0) == (probability >= 1 - Fraction("0.01"))


@settings(deadline=None)
@given(standings().filter(lambda standing: standing.remaining <= 12))
def test_the_urn_is_total_where_the_runner_up_wins_ties(standing: Standing) -> None:
    runner_up, leader, rest = int(standing.leader), int(standing.runner_up), int(standing.rest)
    probability = win_probability((leader, runner_up, rest), standing.remaining, not standing.leads_ties)
    assert probability == urn(leader, runner_up, rest, standing.remaining, not standing.leads_ties)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 40), st.integers(65, 200), st.booleans())
def test_the_urn_in_floating_point_is_near_the_exact_one(
    leader: int, runner_up: int, rest: int, left: int, leads_ties: bool
) -> None:
    counts = leader, runner_up, rest
    exact = Fraction(*win_odds(counts, left, leads_ties))
    assert abs(win_probability(counts, left, leads_ties) - float(exact)) < 1e-9


def test_a_long_vote_keeps_little_in_memory() -> None:
    forecast().more(counted((210, 200, 30), 560))
    tracemalloc.start()
    for runner_up in range(100, 106):
        forecast().more(counted((150, runner_up, 30), 720 - runner_up))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000


def test_forecast_takes_a_long_vote() -> None:
    assert 0 < forecast().more(counted((110, 100, 30), 760)) < 760


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("", 5),
        ("aaa", 2),
        ("aaaa", 1),
        ("aaaaa", 0),
        ("baaaaa", 4),
        ("baaaaaaaa", 1),
        ("baaaaaaaaa", 0),
        ("aab", 7),
        ("aa-", 7),
    ],
)
def test_windows_follow_each_other(votes: str, expected: int) -> None:
    given_votes = tuple(None if vote == "-" else vote for vote in votes)
    assert more(unanimous_window(5), given_votes, 100) == expected


@pytest.mark.parametrize(
    "build",
    [
        lambda: beta(0.5),
        lambda: beta(1.0),
        lambda: beta(float("nan")),
        lambda: forecast(0),
        lambda: forecast(0.5),
        lambda: forecast(float("nan")),
        lambda: unanimous_window(1),
    ],
)
def test_settings_out_of_range_are_refused(build: Callable[[], StoppingRule]) -> None:
    with pytest.raises(ValueError, match="must be"):
        build()


untyped_beta: Any = beta
untyped_forecast: Any = forecast
untyped_window: Any = unanimous_window


class OwnFloat(float):
    """A float that writes itself in its own way, as those of NumPy do."""

    def __repr__(self) -> str:
        return f"OwnFloat({float(self)})"


@pytest.mark.parametrize("kind", [Decimal, Fraction, OwnFloat])
def test_settings_may_be_numbers_of_any_kind(kind: Callable[[str], object]) -> None:
    standing = counted((5, 1, 0), 34)
    assert untyped_beta(kind("0.9")) == beta(0.9)
    assert untyped_beta(kind("0.9")).more(standing) == beta(0.9).more(standing)
    assert untyped_forecast(kind("0.01")).more(standing) == forecast().more(standing)


@pytest.mark.parametrize(
    "build",
    [
        lambda: untyped_beta("0.9"),
        lambda: untyped_beta(None),
        lambda: untyped_forecast("0.1"),
        lambda: untyped_forecast(True),
        lambda: untyped_window(2.5),
        lambda: untyped_window(True),
    ],
)
def test_settings_of_another_type_are_refused(build: Callable[[], StoppingRule]) -> None:
    with pytest.raises(TypeError, match="must be a"):
        build()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("samples", [0, 5, 7])
@pytest.mark.parametrize("leader", [0, 2])
@pytest.mark.parametrize("leads_ties", [True, False])
def test_rules_are_total_also_on_standings_that_no_vote_has(
    rule: StoppingRule, samples: int, leader: int, leads_ties: bool
) -> None:
    standing = Standing(5, samples, leader, leader, 0, leads_ties)
    assert rule.more(standing) >= 0
    assert 0 <= rule.bound(standing) <= 1


def test_rules_are_values() -> None:
    rules = [certain(), beta(0.9), forecast(0.05), unanimous_window(4)]
    assert rules == [Certain(), Beta(0.9), Forecast(0.05), UnanimousWindow(4)]
    assert len({*rules, *rules}) == 4
    assert all(isinstance(rule, StoppingRule) for rule in rules)


def test_weights_below_one_count_for_certain() -> None:
    ahead = Standing(10, 8, leader=5.5, runner_up=3.25)
    assert certain().more(ahead) == 0
    assert certain().more(Standing(10, 8, leader=5.5, runner_up=3.75)) == 1


def test_the_binomial_identity_of_the_docs() -> None:
    v1, v2 = 6, 2
    trials = v1 + v2 + 1
    heads = sum(comb(trials, k) for k in range(v1 + 1)) / 2**trials
    assert beta().bound(counted((v1, v2, 0), 5)) == heads


def needed_by_definition(runner_up: int, confidence: str) -> int:
    """The fewest votes of a leader for which so many of the runner-up are unlikely enough, added up anew."""
    leader = runner_up
    while True:
        trials = leader + runner_up + 1
        tail = sum(comb(trials, heads) for heads in range(runner_up + 1))
        if 1 - Fraction(tail, 2**trials) >= Fraction(confidence):
            return leader
        leader += 1


@pytest.mark.parametrize("confidence", ["0.51", "0.75", "0.9", "0.95", "0.999", "0.999999999"])
def test_beta_counts_on_from_the_tie_to_what_the_definition_says(confidence: str) -> None:
    for runner_up in (*range(40), 150):
        needed = needed_by_definition(runner_up, confidence)
        rule = beta(float(confidence))
        leader = max(1, runner_up)
        standing = Standing(n=10**6, samples=leader + runner_up, leader=leader, runner_up=runner_up)
        assert rule.more(standing) == max(0, needed - leader)


def test_a_near_tie_of_thousands_is_decided_at_once() -> None:
    standing = Standing(n=40_000, samples=20_000, leader=10_000, runner_up=10_000)
    assert 0 < beta().more(standing) < 1000  # adding it all up anew would take hours
    assert beta().bound(standing) == 0.5
