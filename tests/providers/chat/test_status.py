"""What a status and its headers mean: total, whatever is in them."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.providers.chat.retry_after import read_reset, read_retry_after
from executionkit.providers.chat.status import FailureKind, Verdict, judge_status, status_of

PERMANENT = {400, 401, 403, 404, 405, 413, 422}


@given(st.integers(), st.frozensets(st.text()), st.text())
def test_every_status_has_a_verdict(status: int, codes: frozenset[str], should_retry: str) -> None:
    verdict = judge_status(status, codes=codes, should_retry=should_retry)
    assert (verdict.kind == "permanent") is (status in PERMANENT)
    assert (verdict.kind == "rate_limit") is (status == 429)
    assert not (verdict.retryable and verdict.kind == "permanent")


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529, 599])
def test_what_is_worth_another_attempt(status: int) -> None:
    assert judge_status(status).retryable
    assert not judge_status(status, should_retry=" False ").retryable
    for code in ("insufficient_quota", "Insufficient_Quota", " BILLING_HARD_LIMIT_REACHED "):
        assert not judge_status(status, codes=frozenset({code})).retryable


@pytest.mark.parametrize("status", [*PERMANENT, 301, 402, 410, 418, 451])
def test_what_is_not(status: int) -> None:
    assert not judge_status(status).retryable
    assert not judge_status(status, should_retry="true").retryable


@given(st.text(), st.text(), st.floats())
def test_a_wait_is_finite_and_not_negative(milliseconds: str, seconds: str, now: float) -> None:
    wait = read_retry_after({"retry-after-ms": milliseconds, "retry-after": seconds}, now)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@given(st.floats(min_value=0, max_value=1e9))
def test_seconds_are_read(seconds: float) -> None:
    assert read_retry_after({"retry-after": repr(seconds)}, 0.0) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "-inf", "1_0", "٣", "soon", "Mon, 99 Foo 2026 00:00:00 GMT"]
)
def test_garbage_is_no_wait(text: str) -> None:
    assert read_retry_after({"retry-after": text}, 0.0) is None


@given(st.sampled_from([*PERMANENT, 301, 402, 408, 409, 425, 429, 451, 499, 500, 503, 599]))
def test_a_verdict_in_full(status: int) -> None:
    kind: FailureKind = "permanent" if status in PERMANENT else "rate_limit" if status == 429 else "provider"
    retryable = status in {408, 409, 425, 429} or status >= 500
    assert judge_status(status) == Verdict(kind, retryable)
    assert judge_status(status, should_retry="true") == Verdict(kind, retryable)
    assert judge_status(status, codes=frozenset({"billing_hard_limit_reached"})) == Verdict(kind, False)


TEN_PAST = "Thu, 01 Jan 1970 00:00:10 GMT"


@pytest.mark.parametrize(
    ("headers", "now", "wait"),
    [
        ({}, 0.0, None),
        ({"retry-after-ms": "250"}, 0.0, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.0, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 0.0, 9.0),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 0.0, 9.0),
        ({"retry-after": "0"}, 0.0, 0.0),
        ({"retry-after": " 7 "}, 0.0, 7.0),
        ({"retry-after": TEN_PAST}, 4.0, 6.0),
        ({"retry-after": TEN_PAST}, 9.5, 0.5),
        ({"retry-after": TEN_PAST}, 10.0, None),
        ({"retry-after": TEN_PAST}, 11.0, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 -0000"}, 4.0, 6.0),
        ({"retry-after": "Thu, 01 Jan 1970 01:00:10 +0100"}, 4.0, 6.0),
        ({"retry-after": "Thu, 01 Jan 1970 25:00:10 GMT"}, 4.0, None),
        ({"retry-after-ms": TEN_PAST}, 4.0, None),
    ],
)
def test_a_wait_by_hand(headers: dict[str, str], now: float, wait: float | None) -> None:
    assert read_retry_after(headers, now) == wait


def test_a_date_that_names_no_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert read_retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:10 -0000"}, 4.0) == 6.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("headers", "now", "wait"),
    [
        ({}, 0.0, None),
        ({"x-ratelimit-reset": "7"}, 0.0, 7.0),
        ({"x-ratelimit-reset": "1741305600000"}, 1741305590.0, 10.0),
        ({"x-ratelimit-reset": "1741305600"}, 1741305590.0, 10.0),
        ({"x-ratelimit-reset": "1741305600"}, 1741305700.0, None),
        ({"x-ratelimit-reset-requests": "2m59.56s"}, 0.0, 179.56),
        ({"x-ratelimit-reset-requests": "9s", "x-ratelimit-remaining-requests": "3"}, 0.0, None),
        ({"x-ratelimit-reset-requests": "9s", "x-ratelimit-remaining-requests": "0"}, 0.0, 9.0),
        (
            {
                "x-ratelimit-reset-requests": "9s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "20s",
                "x-ratelimit-remaining-tokens": "0",
            },
            0.0,
            20.0,
        ),
        ({"anthropic-ratelimit-requests-reset": "1970-01-01T00:00:10Z"}, 4.0, 6.0),
        (
            {
                "anthropic-ratelimit-requests-reset": "1970-01-01T00:00:10Z",
                "anthropic-ratelimit-requests-remaining": "5",
            },
            4.0,
            None,
        ),
        ({"ratelimit-reset": "5"}, 0.0, 5.0),
        ({"llm_provider-x-ratelimit-reset-tokens": "5s"}, 0.0, 5.0),
        ({"x-ratelimit-reset": TEN_PAST}, 4.0, 6.0),
        ({"x-ratelimit-reset": "soon"}, 0.0, None),
        ({"x-ratelimit-reset": "-5"}, 0.0, None),
        ({"x-ratelimit-reset": "inf"}, 0.0, None),
        ({"x-ratelimit-limit": "5"}, 0.0, None),
    ],
)
def test_a_reset_by_hand(headers: dict[str, str], now: float, wait: float | None) -> None:
    assert read_reset(headers, now) == pytest.approx(wait)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"llm_provider-retry-after": "7"}, 7.0),
        ({"llm_provider-retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "250"}, 0.25),
        ({"retry-after": "3", "llm_provider-retry-after": "7"}, 3.0),
        ({"retry-after": "soon", "llm_provider-retry-after": "7"}, 7.0),
    ],
)
def test_a_wait_that_a_gateway_passes_on(headers: dict[str, str], wait: float) -> None:
    assert read_retry_after(headers, 0.0) == wait


@given(
    st.dictionaries(
        st.sampled_from(["x-ratelimit-reset", "x-ratelimit-remaining", "ratelimit-reset"]), st.text()
    )
)
def test_a_reset_is_finite_and_not_negative(headers: dict[str, str]) -> None:
    wait = read_reset(headers, 0.0)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ([], 500),
        (["odd"], 500),
        (["rate_limit_error"], 429),
        (["odd", " Invalid_API_Key "], 401),
        (["2049"], 401),
        (["1002"], 429),
        (["overloaded_error"], 503),
    ],
)
def test_a_name_stands_for_a_status(codes: list[str], status: int) -> None:
    assert status_of(codes) == status
