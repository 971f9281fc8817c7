"""What went wrong, as an error: its class, its words, its cost, and what it says about another attempt."""

import json
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError, PermanentError, ProviderError, RateLimitError
from executionkit.providers.chat.failures import broken_exchange, refused, timed_out, unusable
from executionkit.providers.chat.redaction import NOTHING_SECRET, Redactor
from executionkit.providers.chat.wire import ONE_CALL, Unusable
from executionkit.providers.http.exchange import ExchangeError, Head

KEY = "sk-12345678"
ADVICE = {
    301: "redirects are not followed, check base_url",
    302: "redirects are not followed, check base_url",
    303: "redirects are not followed, check base_url",
    307: "redirects are not followed, check base_url",
    308: "redirects are not followed, check base_url",
    401: "check the key",
    402: "check the account's balance",
    403: "the key may not do this",
    404: "check base_url and model",
    405: "check base_url",
    413: "the prompt is too long",
}


def refusal(status: int, body: object = b"", **headers: str) -> LLMError:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refused(Head(status, named), sent, Redactor(KEY))


@pytest.mark.parametrize("status", [*ADVICE, 400, 409, 418, 422, 429, 500, 503])
def test_a_status_has_its_class_and_advice(status: int) -> None:
    error = refusal(status)
    hint = f"; {ADVICE[status]}" if status in ADVICE else ""
    assert str(error) == f"the server answered {status}{hint}"
    assert str(refusal(status, b"why")) == f"the server answered {status}{hint}: why"
    permanent = status in {400, 401, 403, 404, 405, 413, 422}
    assert type(error) is (
        PermanentError if permanent else RateLimitError if status == 429 else ProviderError
    )
    assert error.retryable is (status in {409, 429} or status >= 500)
    assert error.cost == TokenUsage(llm_calls=1)
    assert error.metadata == {"status": status}
    assert error.requested_delay is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "too busy"}}, "too busy"),
        ({"error": {"detail": "too busy"}}, "too busy"),
        ({"error": {"message": "a", "detail": "b"}}, "a"),
        ({"error": {"message": ["a", 1]}}, "a; 1"),
        ({"error": "too busy"}, "too busy"),
        ({"error": None, "x": 1}, '{"error": null, "x": 1}'),
        ({"message": "too busy"}, "too busy"),
        ({"detail": "too busy"}, "too busy"),
        ({"x": 1}, '{"x": 1}'),
        ([{"error": {"message": "too busy"}}, {"error": "more"}], "too busy"),
        ({"error": [{"message": "too busy"}, 1]}, "too busy"),
        ([], "[]"),
        ({"error": []}, '{"error": []}'),
        ({"error": [1]}, '{"error": [1]}'),
        ({"error": {"code": 5}}, '{"error": {"code": 5}}'),
        (b"<html>\r\n  <b>Busy</b>\x00\xff", "Busy ?\ufffd"),
        ([1], "[1]"),
        (b"x" * 500, "x" * 500),
        (b"x" * 501, "x" * 500 + "..."),
        (b"%b sk-12345678 b sk-123" % b"a", "%b *** b ***".replace("%b", "a")),
        ({"error": f"no {KEY}"}, "no ***"),
    ],
)
def test_the_server_is_quoted(body: object, text: str) -> None:
    assert str(refusal(500, body)) == f"the server answered 500: {text}"


def test_what_the_server_charged_and_asks_is_kept() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    error = refusal(503, {"error": {"message": "x"}, "usage": usage}, retry_after="2.5")
    assert error.cost == TokenUsage(3, 2, 1)
    assert error.retry_after == 2.5
    assert not refusal(503, x_should_retry="false").retryable
    assert refusal(503, x_should_retry="true").retryable
    assert refusal(503, retry_after="Thu, 01 Jan 1970 00:00:10 GMT").retry_after is None
    assert refusal(503, retry_after="Thu, 01 Jan 2170 00:00:10 GMT").retry_after is not None


@pytest.mark.parametrize("field", ["code", "type", "status"])
def test_an_exhausted_quota_is_not_asked_again(field: str) -> None:
    assert not refusal(429, {"error": {field: "insufficient_quota"}}).retryable
    assert not refusal(429, {field: "insufficient_quota"}).retryable
    assert not refusal(429, {"error": {field: "Insufficient_Quota"}}).retryable
    assert not refusal(429, [{"error": {field: "insufficient_quota"}}]).retryable
    assert not refusal(429, {"error": [{field: "insufficient_quota"}]}).retryable
    assert refusal(429, {"error": {field: "busy"}}).retryable
    assert refusal(429, [[{"error": {field: "insufficient_quota"}}]]).retryable
    assert refusal(429, {"error": {"message": "insufficient_quota", field: 7}}).retryable


@pytest.mark.parametrize(
    "name",
    [
        *("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "cf-ray", "x-goog-request-id"),
        *("x-litellm-call-id", "x-ms-request-id", "llm_provider-x-request-id"),
    ],
)
def test_the_request_has_a_name(name: str) -> None:
    assert refused(Head(500, {name: "r1"}), b"", NOTHING_SECRET).metadata == {
        "status": 500,
        "request_id": "r1",
    }
    shown = refused(Head(500, {name: f"{KEY} " + "r" * 600}), b"", Redactor(KEY)).metadata
    assert shown["request_id"] == ("*** " + "r" * 600)[:500]
    assert refused(Head(500, {name: ""}), b"", NOTHING_SECRET).metadata == {"status": 500}


def test_the_first_name_of_a_request_counts() -> None:
    head = Head(500, {"cf-ray": "ray", "request-id": "r2", "x-request-id": "r1"})
    assert refused(head, b"", NOTHING_SECRET).metadata["request_id"] == "r1"


def bad_answer(answer: Unusable, **headers: str) -> LLMError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return unusable(Head(200, {"x-request-id": "r1", **named}), answer, Redactor(KEY))


@pytest.mark.parametrize(
    ("answer", "text", "retryable"),
    [
        (Unusable("it is empty"), "it is empty", True),
        (Unusable(f"it has {KEY}"), "it has ***", True),
        (Unusable("failed", error={"message": "why"}), "failed: why", True),
        (Unusable("failed", error={"message": "why", "code": 400}), "failed: why", False),
        (Unusable("failed", error={"message": "why", "code": "400"}), "failed: why", False),
        (Unusable("failed", error={"message": "why", "code": 400, "status": 500}), "failed: why", False),
        (Unusable("failed", error={"message": "why", "code": 4000}), "failed: why", True),
        (Unusable("failed", error={"message": "why", "code": 40}), "failed: why", True),
        (Unusable("failed", error={"message": "why", "type": "insufficient_quota"}), "failed: why", False),
        (Unusable("failed", error={}), "failed", True),
    ],
)
def test_an_answer_that_is_none(answer: Unusable, text: str, retryable: bool) -> None:
    error = bad_answer(answer)
    assert type(error) is ProviderError
    assert (str(error), error.retryable) == (text, retryable)
    assert error.cost == ONE_CALL
    assert {**error.metadata, "code": None} == {"status": 200, "request_id": "r1", "code": None}


@pytest.mark.parametrize("code", [429, "429"])
@pytest.mark.parametrize("field", ["code", "status"])
def test_a_rate_limit_in_an_answer_is_one(code: object, field: str) -> None:
    error = bad_answer(Unusable("failed", TokenUsage(5, 6, 1), {"message": "slow down", field: code}))
    assert type(error) is RateLimitError
    assert (str(error), error.retryable, error.cost) == ("failed: slow down", True, TokenUsage(5, 6, 1))
    spent = bad_answer(Unusable("failed", error={"code": code, "type": "insufficient_quota"}))
    assert (type(spent), spent.retryable) == (RateLimitError, False)


def test_an_answer_that_is_none_is_paid_for_and_may_ask_for_a_pause() -> None:
    error = bad_answer(Unusable("no", TokenUsage(5, 6, 1)), retry_after_ms="1500", x_should_retry="false")
    assert error.cost == TokenUsage(5, 6, 1)
    assert (error.retry_after, error.retryable) == (1.5, False)
    dated = bad_answer(Unusable("no"), retry_after="Thu, 01 Jan 2170 00:00:10 GMT")
    assert dated.retry_after is not None
    assert dated.retry_after > 3600


@pytest.mark.parametrize(
    ("error", "text", "retryable"),
    [
        (OSError("reset"), "the exchange with the server failed: reset", True),
        (OSError(), "the exchange with the server failed: OSError", True),
        (ssl.SSLError("bad cert"), "TLS failed: ('bad cert',)", False),
        (ssl.SSLEOFError("eof"), "the exchange with the server failed: ('eof',)", True),
        (ExchangeError("handshake", is_tls=True), "TLS failed: handshake", False),
        (ExchangeError("broke"), "the exchange with the server failed: broke", True),
    ],
)
def test_a_broken_exchange(error: Exception, text: str, retryable: bool) -> None:
    failure = broken_exchange(error, NOTHING_SECRET)
    assert type(failure) is ProviderError
    assert str(failure) == text
    assert (failure.retryable, failure.cost) == (retryable, ONE_CALL)
    assert failure.__cause__ is error


def test_a_cause_shows_nothing_secret() -> None:
    failure = broken_exchange(OSError(f"sent {KEY}"), Redactor(KEY))
    assert str(failure) == "the exchange with the server failed: sent ***"
    assert type(failure.__cause__) is ExchangeError
    assert str(failure.__cause__) == "OSError: sent ***"


def test_a_cause_shows_no_credential_of_others() -> None:
    failure = broken_exchange(OSError("no route by http://bob:pa55word@proxy.local"), NOTHING_SECRET)
    assert "pa55word" not in f"{failure} {failure.__cause__}"


def test_a_break_behind_the_head_keeps_its_name() -> None:
    failure = broken_exchange(OSError("reset"), NOTHING_SECRET, Head(200, {"x-litellm-call-id": "r1"}))
    assert failure.metadata == {"status": 200, "request_id": "r1"}
    named = refused(Head(500, {}), b'{"error": {"message": "x"}, "request_id": "r2"}', NOTHING_SECRET)
    assert named.metadata == {"status": 500, "request_id": "r2"}


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_a_cause_of_the_cause_is_left_behind(link: str) -> None:
    error = OSError("reset")
    setattr(error, link, ValueError(KEY))
    failure = broken_exchange(error, Redactor(KEY))
    assert str(failure.__cause__) == "OSError: reset"
    assert failure.__cause__ is not None
    assert failure.__cause__.__cause__ is failure.__cause__.__context__ is None


def test_the_frames_of_a_cause_are_left_behind() -> None:
    try:
        raise OSError("reset")
    except OSError as error:
        failure = broken_exchange(error, NOTHING_SECRET)
    assert failure.__cause__ is not None
    assert failure.__cause__.__traceback__ is None


def test_a_time_out_says_how_long_it_took() -> None:
    error = timed_out(2.5, None, NOTHING_SECRET)
    assert type(error) is ProviderError
    assert str(error) == "no complete answer within 2.5 s"
    assert (error.cost, dict(error.metadata), error.retryable) == (ONE_CALL, {}, True)
    known = timed_out(120.0, Head(200, {"x-request-id": f"r {KEY}"}), Redactor(KEY))
    assert str(known) == "no complete answer within 120 s"
    assert known.metadata == {"status": 200, "request_id": "r ***"}


def test_a_refusal_whose_body_took_too_long_is_a_refusal() -> None:
    error = timed_out(2.5, Head(401, {"x-request-id": f"r {KEY}"}), Redactor(KEY))
    assert type(error) is PermanentError
    assert str(error) == "the server answered 401; check the key"
    assert error.metadata["request_id"] == "r ***"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "type", "status", "usage", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.integers(300, 599), JSON.map(json.dumps).map(str.encode) | st.binary())
def test_whatever_a_refusal_holds_it_is_an_error_of_ours(status: int, body: bytes) -> None:
    error = refused(Head(status, {}), body, Redactor(KEY))
    assert isinstance(error, LLMError)
    assert str(error).startswith(f"the server answered {status}")
    assert str(error).isprintable()
    assert len(str(error)) < 600
    assert error.cost.llm_calls == 1
    assert error.cost.total_tokens >= 0


@given(st.dictionaries(st.sampled_from(["message", "detail", "code", "type", "status"]), JSON))
def test_whatever_an_error_object_holds_it_is_an_error_of_ours(error: dict[str, Any]) -> None:
    found = bad_answer(Unusable("failed", error=error))
    assert str(found).startswith("failed")
    assert len(str(found)) < 600
