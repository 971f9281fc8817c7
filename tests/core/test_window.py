"""How many calls a server is given at once, against servers with a hidden limit, in time that is made up."""

import heapq
import math
import random
from collections.abc import Callable

import pytest

from executionkit.core.durations import Durations
from executionkit.core.seen import Seen
from executionkit.core.window import Adaptive, Window

LATENCY, REFUSAL = 0.05, 0.002
"""Seconds that an answer takes on average, and a refusal."""


def play(room: Callable[[float], int], seconds: float) -> tuple[list[float], list[float]]:
    """Return when calls were answered and when refused, by a server with room for so many at once."""
    draw, window = random.Random(1), Window(Adaptive())
    answered: list[float] = []
    refused: list[float] = []
    pending: list[tuple[float, int, bool]] = []
    now, inside = 0.0, 0
    while now < seconds:
        while window.has_room and not window.closed_for(now):
            window.enter()
            is_taken = inside < room(now)
            inside += is_taken
            delay = draw.uniform(0.5, 1.5) * LATENCY if is_taken else REFUSAL
            heapq.heappush(pending, (now + delay, window.send(), is_taken))
        now, call, is_taken = heapq.heappop(pending)
        inside -= is_taken
        if is_taken:
            window.answered(call)
            answered.append(now)
        else:
            window.refused(call, now)
            refused.append(now)
    return answered, refused


def share(times: list[float], begin: float, end: float, room: int) -> float:
    """Return the part of a server's capacity that was used in a span of time."""
    return sum(begin <= time < end for time in times) / ((end - begin) * room / LATENCY)


@pytest.mark.parametrize("room", [10, 50, 200])
def test_a_hidden_limit_is_used_and_seldom_met(room: int) -> None:
    answered, refused = play(lambda _: room, 30)
    assert share(answered, 0, 30, room) >= 0.9
    assert len(refused) <= 0.02 * (len(answered) + len(refused))


def test_a_tenfold_cut_and_a_tenfold_rise_are_found_out() -> None:
    answered, refused = play(lambda now: 100 if now < 10 or now > 20 else 10, 30)
    assert share(answered, 11, 20, 10) >= 0.9
    assert share(answered, 25, 30, 100) >= 0.9
    assert len(refused) <= 0.02 * (len(answered) + len(refused))


def test_a_window_stays_within_its_bounds() -> None:
    window = Window(Adaptive(3, 9))
    for _ in range(99):
        while window.has_room:
            window.enter()
        assert window.in_flight == window.size
        for _ in range(window.in_flight):
            window.answered(window.send())
    assert window.size == 9
    for _ in range(99):
        window.enter()
        window.refused(window.send(), 0.0)
    assert window.size == 3


def test_calls_that_were_sent_together_cut_once() -> None:
    window = Window(Adaptive(4, 100))
    for _ in range(100):
        while window.has_room:
            window.enter()
        window.answered(window.send())
    before = window.size
    calls = [window.send() for _ in range(20)]
    for call in calls:
        window.refused(call, 0.0)
    assert window.size == int(before * 0.9)


def test_the_server_says_how_long_to_wait() -> None:
    window = Window(Adaptive())
    window.enter()
    window.refused(window.send(), 5.0, retry_after=3.0)
    assert window.closed_for(6.0) == 2.0
    assert window.closed_for(9.0) == 0.0


def test_a_window_that_is_not_used_does_not_grow() -> None:
    window = Window(Adaptive(8, 99))
    for _ in range(99):
        window.enter()
        window.answered(window.send())
    assert window.size == 8


def test_quantiles_are_right_to_one_per_cent() -> None:
    durations, draw = Durations(), random.Random(1)
    seconds = sorted(draw.lognormvariate(0, 2) for _ in range(5001))
    for each in seconds:
        durations.add(each)
    for part in (0.05, 0.5, 0.95):
        assert durations.quantile(part) == pytest.approx(seconds[int(part * 5000)], rel=0.011)
    assert Durations().quantile(0.5) == 0.0


def test_durations_of_several_are_counted_together() -> None:
    one, other, both = Durations(), Durations(), Durations()
    for number in range(1, 100):
        (one if number % 3 else other).add(number / 10)
        both.add(number / 10)
    one.merge(other)
    assert one.count == both.count
    assert [one.quantile(part / 10) for part in range(11)] == [both.quantile(part / 10) for part in range(11)]


def test_keys_are_known_again() -> None:
    seen = Seen()
    keys: list[int | str] = [*range(-3000, 3000), *map(str, range(-3000, 3000))]
    assert all(map(seen.add, keys))
    assert not any(map(seen.add, keys))
    assert len(seen) == len(keys)


def test_a_wait_without_an_end_closes_nothing() -> None:
    window = Window(Adaptive())
    for asked in (math.inf, math.nan):
        window.enter()
        window.refused(window.send(), 5.0, retry_after=asked)
    assert window.closed_for(5.0) == 0.0
    assert window.has_room
