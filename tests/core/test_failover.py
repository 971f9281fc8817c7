"""Whom a pool asks: the state machine alone, its time handed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.failover import Cooldown, Standings


def test_the_member_with_the_fewest_requests_under_way_is_asked() -> None:
    standings = Standings(3, Cooldown())
    for number in (0, 0, 1):
        standings.begin(number)
    assert standings.choose(0.0) == 2


def test_idle_members_take_turns() -> None:
    standings = Standings(3, Cooldown())
    assert sorted(standings.choose(0.0) for _ in range(3)) == [0, 1, 2]


def test_one_failure_makes_an_idle_member_the_second_choice() -> None:
    standings = Standings(2, Cooldown())
    standings.note_failure(0, 0.0)
    assert [standings.choose(at) for at in (1.0, 2.0, 59.0)] == [1, 1, 1]
    assert standings.is_healthy(0)
    assert {standings.choose(61.0), standings.choose(61.0)} == {0, 1}


def test_failures_in_the_window_cool_a_member_down_and_older_ones_do_not_count() -> None:
    standings = Standings(2, Cooldown(failures=3, window=60.0, seconds=30.0))
    for at in (0.0, 70.0, 80.0):
        standings.note_failure(0, at)
    assert standings.is_healthy(0)
    standings.note_failure(0, 90.0)
    assert not standings.is_healthy(0)


def test_a_wait_that_was_asked_for_cools_down_at_once_and_for_that_long() -> None:
    standings = Standings(2, Cooldown())
    standings.note_failure(0, 0.0, wait=100.0)
    assert [standings.choose(at) for at in (1.0, 31.0, 99.0)] == [1, 1, 1]
    assert standings.choose(100.0) == 0


def test_who_failed_its_probe_cools_down_again() -> None:
    standings = Standings(2, Cooldown(failures=1, seconds=30.0))
    standings.note_failure(0, 0.0)
    assert standings.choose(30.0) == 0
    standings.note_failure(0, 31.0)
    assert [standings.choose(at) for at in (32.0, 60.0, 61.0)] == [1, 1, 0]


def test_a_probe_that_hangs_is_the_only_one() -> None:
    standings = Standings(2, Cooldown(failures=1, seconds=30.0))
    standings.note_failure(0, 0.0)
    assert standings.choose(30.0) == 0
    standings.begin(0)
    assert [standings.choose(at) for at in (31.0, 61.0, 500.0)] == [1, 1, 1]


def test_a_probe_that_was_never_sent_delays_the_next_one_by_a_cooldown() -> None:
    standings = Standings(2, Cooldown(failures=1, seconds=30.0))
    standings.note_failure(0, 0.0)
    assert [standings.choose(at) for at in (30.0, 31.0, 59.0, 60.0)] == [0, 1, 1, 0]


def test_an_answer_heals() -> None:
    standings = Standings(2, Cooldown(failures=1))
    standings.note_failure(0, 0.0)
    standings.choose(30.0)
    standings.note_success(0)
    assert standings.is_healthy(0)
    assert {standings.choose(31.0), standings.choose(31.0)} == {0, 1}


def test_where_all_cool_down_the_one_that_is_due_soonest_is_asked() -> None:
    standings = Standings(2, Cooldown(failures=1))
    standings.note_failure(0, 0.0, wait=50.0)
    standings.note_failure(1, 0.0, wait=40.0)
    assert standings.choose(1.0) == 1
    assert not standings.has_other(1, 1.0)


@pytest.mark.parametrize(
    ("settings", "kind", "complaint"),
    [
        ({"failures": 0}, ValueError, "failures"),
        ({"failures": 1.5}, TypeError, "failures"),
        ({"window": 0}, ValueError, "window must be a finite number"),
        ({"window": float("inf")}, ValueError, "window"),
        ({"seconds": float("nan")}, ValueError, "seconds"),
        ({"seconds": "30"}, TypeError, "seconds must be a number of seconds, not str"),
        ({"seconds": True}, TypeError, "seconds"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, int], kind: type[Exception], complaint: str
) -> None:
    with pytest.raises(kind, match=complaint):
        Cooldown(**settings)


STEPS = st.lists(
    st.tuples(st.floats(0.0, 20.0), st.sampled_from(["answer", "fail", "wait", "hang"])), max_size=60
)


@given(st.integers(1, 4), st.integers(1, 3), STEPS)
def test_whatever_happens(count: int, failures: int, steps: list[tuple[float, str]]) -> None:
    """Nobody who cools down is asked while another is healthy, but for one probe in a cooldown's time."""
    cooldown = Cooldown(failures=failures, window=60.0, seconds=30.0)
    standings = Standings(count, cooldown)
    now, under_way = 0.0, list[int]()
    asked_in_doubt: dict[int, float] = {}
    for passed, what in steps:
        now += passed
        healthy = [number for number in range(count) if standings.is_healthy(number)]
        least = min((standings.members[number].in_flight for number in healthy), default=0)
        number = standings.choose(now)
        if number in healthy:
            asked_in_doubt.pop(number, None)
            assert standings.members[number].in_flight == least
        elif healthy:
            assert now >= asked_in_doubt.get(number, -30.0) + cooldown.seconds
            assert not standings.members[number].in_flight
            asked_in_doubt[number] = now
        else:
            asked_in_doubt[number] = now
        standings.begin(number)
        under_way.append(number)
        if what == "hang":
            continue
        standings.end(number)
        under_way.remove(number)
        if what == "answer":
            standings.note_success(number)
            assert standings.is_healthy(number)
        else:
            standings.note_failure(number, now, 45.0 if what == "wait" else None)
            assert what == "fail" or not standings.is_healthy(number)
    assert [each.in_flight for each in standings.members] == [under_way.count(n) for n in range(count)]
