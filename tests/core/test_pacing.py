"""The retry quota and the rate limit: arithmetic over time that is handed in."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.rate_limit import Pace, Places, RateLimit, read_duration
from executionkit.core.retry_quota import RetryQuota


def test_an_outage_gets_35_retries() -> None:
    quota = RetryQuota()
    assert [quota.try_spend() for _ in range(40)].count(True) == 35
    for _ in range(4):
        quota.refund()
    assert quota.try_spend()
    assert not quota.try_spend()


@given(st.lists(st.sampled_from(["retry", "throttle", "success"])))
def test_the_quota_stays_within_its_bounds(moves: list[str]) -> None:
    quota = RetryQuota()
    for move in moves:
        before = quota.tokens
        if move == "success":
            quota.refund()
        elif not quota.try_spend(throttled=move == "throttle"):
            assert quota.tokens == before
        assert 0 <= quota.tokens <= 500


@given(st.integers(1, 100), st.lists(st.floats(0, 5), max_size=80))
def test_no_window_of_a_minute_has_more_than_twice_the_limit(limit: int, gaps: list[float]) -> None:
    pace, now, sent = Pace(RateLimit(requests_per_minute=limit)), 0.0, list[float]()
    for gap in gaps:
        now += gap
        sent.append(now + pace.reserve(1, now))
    for start in sent:
        assert sum(start <= moment < start + 60 for moment in sent) <= 2 * limit


def test_a_retry_costs_14_and_one_after_a_throttle_5() -> None:
    quota = RetryQuota(capacity=33)
    assert quota.try_spend()
    assert quota.tokens == 33 - 14
    assert quota.try_spend(throttled=True)
    assert quota.tokens == 33 - 14 - 5
    assert quota.try_spend()
    assert quota.tokens == 0
    quota.refund()
    assert quota.tokens == 1


def test_tokens_count_and_come_back() -> None:
    pace = Pace(RateLimit(tokens_per_minute=600))
    assert pace.reserve(600, now=0.0) == 0
    assert pace.reserve(60, now=0.0) == pytest.approx(6.0)
    pace.settle(60, 10)
    assert pace.reserve(0, now=0.0) == pytest.approx(1.0)


def test_a_server_that_has_nothing_left_is_not_asked() -> None:
    pace = Pace(RateLimit())
    pace.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.5s"}, now=10.0)
    assert pace.closed_for(now=10.5) == pytest.approx(1.0)
    assert pace.reserve(1, now=10.5) == pytest.approx(1.0)
    assert pace.reserve(1, now=12.0) == 0
    pace.learn({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "never"}, now=12.0)
    assert pace.reserve(1, now=12.0) == 0


def test_who_would_wait_too_long_takes_no_place() -> None:
    places = Places(RateLimit(requests_per_minute=1, tokens_per_minute=600))
    assert places.reserve(100, now=0.0, patience=0.0) == 0.0
    assert places.reserve(100, now=0.0) == 0.0
    for _ in range(3):
        assert places.reserve(500, now=0.0, patience=60.0) == 60.0
    assert places.reserve(500, now=0.0, patience=60.1) == 60.0
    assert places.reserve(0, now=0.0) == 120.0


def test_a_place_above_the_limit_is_where_all_is_there_and_is_made_up_for() -> None:
    places = Places(RateLimit(tokens_per_minute=600))
    assert places.reserve(1_000, now=0.0) == 0.0
    assert places.reserve(100, now=0.0) == 50.0  # 1,000 - 600 + 100
    assert places.reserve(1_000, now=60.0) == 50.0  # 100 is there, and a full bucket is waited for
    places.give(900)
    assert places.reserve(600, now=110.0) == pytest.approx(10.0)
    places.give(10_000)
    assert places.reserve(600, now=120.0) == 0.0  # never more than the limit
    places = Places(RateLimit())
    places.give(10)
    assert [places.reserve(10**9, now=0.0) for _ in range(3)] == [0.0, 0.0, 0.0]


@given(st.text())
def test_durations_are_total(text: str) -> None:
    seconds = read_duration(text)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_are_positive(limit: int) -> None:
    with pytest.raises(ValueError, match="requests_per_minute must be at least 1"):
        RateLimit(requests_per_minute=limit)


@pytest.mark.parametrize("limit", [2.5, float("nan"), True, "many"])
def test_limits_are_whole_numbers(limit: Any) -> None:
    with pytest.raises(TypeError, match="tokens_per_minute must be a whole number"):
        RateLimit(tokens_per_minute=limit)


def test_a_request_above_the_limit_goes_when_nothing_is_owed_and_is_paid_back() -> None:
    pace = Pace(RateLimit(tokens_per_minute=600))
    assert pace.reserve(1_000, now=0.0) == 0.0
    assert pace.reserve(100, now=0.0) == 50.0  # 1,000 - 600 + 100
    assert pace.reserve(1_000, now=60.0) == 50.0  # 100 is there, and a full bucket is waited for
