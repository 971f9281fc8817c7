"""What an HTTP status says about a failed call: which kind of error it is, and whether to try again."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

__all__ = ["FailureKind", "Verdict", "is_spent", "judge_status", "status_of"]

FailureKind: TypeAlias = Literal["permanent", "rate_limit", "provider"]

_PERMANENT: Final = frozenset({400, 401, 403, 404, 405, 413, 422})
_RETRYABLE_4XX: Final = frozenset({408, 409, 425, 429})
_SPENT_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "insufficient_user_quota",
        "exceeded_current_quota_error",
        "exceeded_current_quota",
    }
    | {"quota_exhausted", "billing_hard_limit_reached", "billing_not_active", "billing_error", "arrearage"}
    | {"insufficient_balance", "insufficient_balance_error", "insufficient_credits", "insufficient_funds"}
    | {
        "credit_balance_too_low",
        "payment_required",
        "budget_exceeded",
        "exceededbudget",
        "account_deactivated",
    }
)
_SPENT_WORDS: Final = re.compile(
    r"exceeded your current quota|credit balance is too low|out of credits?\b|billing hard limit"
    r"|(?:insufficient|not enough|requires? more) (?:account )?(?:balance|credits?|funds)\b"
    r"|insufficient quota"
    r"|(?:budget|quota) (?:has been |was |is )?(?:exceeded|exhausted|used up)|exceeded ?budget|over budget"
    r"|exceed(?:ed|s) (?:[\w']+ ){0,4}(?:budget|spend(?:ing)? limit|monthly limit)"
    r"|account is (?:not active|deactivated|in arrears)",
    re.IGNORECASE,
)
_STATUSES: Final[Mapping[str, int]] = {
    name: status
    for status, names in {
        400: "invalid_request_error invalid_argument invalid_request badrequesterror context_length_exceeded"
        " content_filter content_policy_violation 2013 1026 1042",
        401: "authentication_error invalid_api_key unauthenticated unauthorized invalidapikey 1004 2049",
        402: "insufficient_balance 1008",
        403: "permission_error permission_denied forbidden accessdenied",
        404: "not_found_error model_not_found not_found",
        408: "timeout_error 1001",
        413: "request_too_large",
        429: "rate_limit_error rate_limit_exceeded rate_limit resource_exhausted throttling"
        " throttlingexception too_many_requests toomanyrequests ratelimiterror 1002 1039 1041",
        503: "overloaded_error overloaded unavailable service_unavailable engine_overloaded_error",
    }.items()
    for name in names.split()
}
"""What servers call an error in a success, where no status says what it is; numbers are MiniMax's."""


class Verdict(msgspec.Struct, frozen=True):
    """How to treat a failed call.

    Args:
        kind: Which error stands for it.
        retryable: Whether the same request may succeed if sent again.
    """

    kind: FailureKind
    retryable: bool


def status_of(codes: Iterable[str]) -> int:
    """Return the status that stands for what a server calls an error; 500 for names that say nothing.

    >>> status_of(["rate_limit_error"]), status_of(["RESOURCE_EXHAUSTED"]), status_of(["odd"])
    (429, 429, 500)
    """
    known = [_STATUSES[name] for code in codes if (name := code.strip().lower()) in _STATUSES]
    return (known or [500])[0]


def is_spent(codes: Iterable[str], words: str = "") -> bool:
    """Whether a quota, a budget or a balance is used up, by a code in letters of any case or by the words.

    >>> is_spent(["Insufficient_Quota"]), is_spent([], "Your credit balance is too low"), is_spent([], "busy")
    (True, True, False)
    """
    return any(code.strip().lower() in _SPENT_CODES for code in codes) or bool(_SPENT_WORDS.search(words))


def judge_status(
    status: int, *, codes: Collection[str] = (), words: str = "", should_retry: str = ""
) -> Verdict:
    """Judge a status that is not a success. Total: every integer has a verdict.

    Args:
        status: The HTTP status.
        codes: What the body calls the error (its `code` and `type`).
        words: What the body says of it; a quota or balance that is used up is never asked again.
        should_retry: The header `x-should-retry`; `"false"` forbids another attempt.

    >>> judge_status(503)
    Verdict(kind='provider', retryable=True)
    >>> judge_status(401)
    Verdict(kind='permanent', retryable=False)
    >>> judge_status(429, codes=["insufficient_quota"])
    Verdict(kind='rate_limit', retryable=False)
    """
    if status in _PERMANENT:
        return Verdict("permanent", False)
    kind: FailureKind = "rate_limit" if status == 429 else "provider"
    forbidden = is_spent(codes, words) or should_retry.strip().lower() == "false"
    return Verdict(kind, not forbidden and (status in _RETRYABLE_4XX or status >= 500))
