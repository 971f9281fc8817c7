"""What a server says went wrong is found wherever it says it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.errors import LLMError, PermanentError, ProviderError, RateLimitError
from executionkit.providers.chat.complaints import Complaint, complaint_in_answer, read_complaint
from executionkit.providers.chat.failures import refused, unusable
from executionkit.providers.chat.redaction import NOTHING_SECRET
from executionkit.providers.chat.wire import Unusable, decode_completion
from executionkit.providers.http.exchange import Head

RAW = json.dumps({"error": {"message": "upstream is full", "code": "x"}})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no"}}, "no"),
        ({"error": "no"}, "no"),
        ({"error": ["no", "never"]}, "no; never"),
        ({"error": [{"message": "no"}, {"message": "never"}]}, "no; never"),
        ({"detail": "no"}, "no"),
        ({"detail": {"error": {"message": "no"}}}, "no"),
        ({"detail": {"message": "no"}}, "no"),
        ({"detail": [{"loc": ["body", "messages", 0], "msg": "no", "type": "x"}]}, "body.messages.0: no"),
        ({"detail": [{"loc": ["a"], "msg": "no"}, {"loc": ["b"], "msg": "never"}]}, "a: no; b: never"),
        ({"message": "no"}, "no"),
        ({"object": "error", "message": "no", "code": 400}, "no"),
        ({"msg": "no", "code": 500}, "no"),
        ({"base_resp": {"status_code": 1004, "status_msg": "no"}}, "no"),
        ({"errors": [{"code": 10000, "message": "no"}], "success": False}, "no"),
        ({"errors": {"n": "no"}}, ""),
        ({"error_code": 17, "error_msg": "no"}, "no"),
        ({"fault": {"faultstring": "no", "detail": {"errorcode": "x"}}}, "no"),
        ({"error": "invalid_grant", "error_description": "no"}, "no"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, "no"),
        ({"error": {"message": json.dumps({"error": {"message": "no"}})}}, "no"),
        ({"error": {"message": "[no]"}}, "[no]"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": RAW}}},
            "Provider returned error: upstream is full",
        ),
        ({"error": {"message": "no", "metadata": {"raw": "no"}}}, "no"),
        ({"type": "about:blank", "title": "no", "status": 404}, "no"),
        ({"error": {"code": 5}}, ""),
        ({"error": None, "x": 1}, ""),
        ([1, 2], ""),
        (5, ""),
        (None, ""),
    ],
)
def test_the_words_are_found(body: object, words: str) -> None:
    assert read_complaint(body).words == words


@pytest.mark.parametrize(
    ("body", "wait"),
    [
        (
            {
                "error": {
                    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "19s"}]
                }
            },
            19.0,
        ),
        ({"error": {"details": [{"retryDelay": "3.5s"}]}}, 3.5),
        ({"error": {"message": "Rate limit reached. Please try again in 1.2s. Visit ..."}}, 1.2),
        ({"error": {"message": "Please try again in 20ms."}}, 0.02),
        ({"error": {"message": "Please try again in 6m0s."}}, 360.0),
        ({"error": {"message": "Please try again in 1m30.5s."}}, 90.5),
        ({"message": "Please retry after 6 seconds."}, 6.0),
        ({"message": "please wait 2 minutes"}, 120.0),
        ({"error": {"message": "slow down", "retry_after": 2.5}}, 2.5),
        ({"retry_after_ms": 1500}, 1.5),
        ({"error": {"message": "try again later, after 5 tries"}}, None),
        ({"error": {"message": "retry in 5 moons"}}, None),
        ({"retry_after": -1}, None),
        ({"retry_after": float("inf")}, None),
        ({"retry_after": True}, None),
        ({"retryDelay": "soon"}, None),
    ],
)
def test_a_pause_is_found(body: object, wait: float | None) -> None:
    assert read_complaint(body).wait == pytest.approx(wait)


def test_codes_and_ids_are_found() -> None:
    body = {"detail": {"error": {"code": "429", "type": "rate_limit", "status": 503, "request_id": "r1"}}}
    complaint = read_complaint(body)
    assert (complaint.codes, complaint.status, complaint.request_id) == (
        ("429", "rate_limit", "503"),
        429,
        "r1",
    )
    assert read_complaint({"code": 4000, "status": "999", "type": ["x"]}) == Complaint(codes=("4000", "999"))


HALF = {"message": {"content": "half"}, "finish_reason": "error"}


@pytest.mark.parametrize(
    ("raw", "kind", "retryable", "words"),
    [
        ({"choices": [{**HALF, "error": {"message": "boom", "code": 502}}]}, ProviderError, True, "boom"),
        ({"choices": [HALF], "error": {"message": "boom", "code": 400}}, ProviderError, False, "boom"),
        ({"choices": [HALF], "error": {"message": "boom", "code": 429}}, RateLimitError, True, "boom"),
        ({"choices": [HALF]}, ProviderError, True, "finish reason 'error'"),
        (
            {"choices": [{**HALF, "finish_reason": None}], "error": {"message": "boom"}},
            ProviderError,
            True,
            "boom",
        ),
        (
            {"choices": None, "base_resp": {"status_code": 2049, "status_msg": "invalid api key"}},
            ProviderError,
            False,
            "invalid api key",
        ),
        (
            {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
            RateLimitError,
            True,
            "rate limit",
        ),
        ({"base_resp": {"status_code": 1000, "status_msg": "unknown"}}, ProviderError, True, "unknown"),
        ({"choices": [], "detail": "overloaded"}, ProviderError, True, "overloaded"),
        ({"message": "no", "code": 404}, ProviderError, False, "no"),
        ({"error": {"type": "rate_limit_error", "message": "slow"}}, RateLimitError, True, "slow"),
        ({"error": {"type": "overloaded_error", "message": "full"}}, ProviderError, True, "full"),
        ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "slow"}}, RateLimitError, True, "slow"),
        ({"error": {"message": "Your credit balance is too low"}}, ProviderError, False, "credit"),
    ],
)
def test_a_success_that_is_none_has_the_servers_words(
    raw: dict[str, Any], kind: type[LLMError], retryable: bool, words: str
) -> None:
    body = {**raw, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    answer = decode_completion(json.dumps(body).encode(), NOTHING_SECRET)
    assert isinstance(answer, Unusable)
    error = unusable(Head(200, {}), answer, NOTHING_SECRET)
    assert type(error) is kind
    assert error.retryable is retryable
    assert words in str(error)
    assert error.cost.total_tokens == 5


@pytest.mark.parametrize(
    "more",
    [
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"error": None},
        {"error": {}},
        {"error": {"code": 5}},
        {"error": {"code": 0, "message": "success"}},
        {"detail": "low"},
        {"message": "hi"},
        {"x_groq": {"id": "x"}},
    ],
)
def test_an_answer_with_more_in_it_is_one(more: dict[str, Any]) -> None:
    assert complaint_in_answer({"choices": [{"message": {"content": "x"}}], **more}) is None


QUOTA = [
    {"error": {"message": "x", "type": "exceeded_current_quota_error"}},
    {"error": {"message": "x", "code": "insufficient_quota"}},
    {"error": {"message": "x", "code": "billing_hard_limit_reached"}},
    {"error": {"message": "You exceeded your current quota, please check your plan and billing details."}},
    {"error": {"message": "Your credit balance is too low to access the API."}},
    {
        "error": {
            "message": "Budget has been exceeded! Current cost: 1, Max budget: 1",
            "type": "budget_exceeded",
        }
    },
    {"error": {"message": "ExceededBudget: User=default has over budget. Spend=1"}},
    {"error": {"message": "Insufficient balance or no resource package. Please recharge."}},
    {"detail": {"error": {"type": "budget_exceeded"}}},
    {"message": "Insufficient credits"},
]


@pytest.mark.parametrize("body", QUOTA)
@pytest.mark.parametrize("status", [400, 402, 422, 429, 500])
def test_what_is_used_up_is_not_asked_again(body: object, status: int) -> None:
    error = refused(Head(status, {}), json.dumps(body).encode(), NOTHING_SECRET)
    assert not error.retryable
    assert type(error) is (
        RateLimitError if status == 429 else PermanentError if status in {400, 422} else ProviderError
    )
    assert "check the account" in str(error)


def test_who_says_when_to_come_back_has_closed_no_account() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "19s"}]
    error = {
        "code": 429,
        "message": "You exceeded your current quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": details,
    }
    found = refused(Head(429, {}), json.dumps([{"error": error}]).encode(), NOTHING_SECRET)
    assert (found.retryable, found.retry_after) == (True, 19.0)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["429", "19s", RAW]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "error",
                        "errors",
                        "message",
                        "msg",
                        "detail",
                        "code",
                        "type",
                        "status",
                        "usage",
                        "loc",
                        "x",
                    ),
                    *(
                        "base_resp",
                        "status_code",
                        "status_msg",
                        "choices",
                        "metadata",
                        "raw",
                        "retryDelay",
                        "x_groq",
                    ),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=16,
)


@given(JSON)
def test_whatever_a_body_holds_it_is_read(body: Any) -> None:
    complaint = read_complaint(body)
    assert complaint.wait is None or 0 <= complaint.wait < float("inf")
    assert complaint.status is None or 100 <= complaint.status < 600
    if isinstance(body, dict):
        complaint_in_answer(body)  # pyright: ignore[reportUnknownArgumentType]  # any JSON
