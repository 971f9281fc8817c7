"""What an HTTP status says about a failed call: which kind of error it is, and whether to try again."""

from typing import Final, Literal, TypeAlias

import msgspec

__all__ = ["FailureKind", "Verdict", "judge_status"]

FailureKind: TypeAlias = Literal["permanent", "rate_limit", "provider"]

_PERMANENT: Final = frozenset({400, 401, 403, 404, 405, 413, 422})
_RETRYABLE_4XX: Final = frozenset({408, 409, 425, 429})
_QUOTA_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class Verdict(msgspec.Struct, frozen=True):
    """How to treat a failed call.

    Args:
        kind: Which error stands for it.
        retryable: Whether the same request may succeed if sent again.
    """

    kind: FailureKind
    retryable: bool


def judge_status(status: int, *, codes: frozenset[str] = frozenset(), should_retry: str = "") -> Verdict:
    """Judge a status that is not a success. Total: every integer has a verdict.

    Args:
        status: The HTTP status.
        codes: What the body calls the error (its `code` and `type`), in letters of any case; an exhausted
            quota is never retried.
        should_retry: The header `x-should-retry`; `"false"` forbids another attempt.

    >>> judge_status(503)
    Verdict(kind='provider', retryable=True)
    >>> judge_status(401)
    Verdict(kind='permanent', retryable=False)
    >>> judge_status(429, codes=frozenset({"insufficient_quota"}))
    Verdict(kind='rate_limit', retryable=False)
    """
    if status in _PERMANENT:
        return Verdict("permanent", False)
    kind: FailureKind = "rate_limit" if status == 429 else "provider"
    is_spent = any(code.strip().lower() in _QUOTA_CODES for code in codes)
    forbidden = is_spent or should_retry.strip().lower() == "false"
    return Verdict(kind, not forbidden and (status in _RETRYABLE_4XX or status >= 500))
