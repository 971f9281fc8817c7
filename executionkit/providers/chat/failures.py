"""What went wrong with a call, as the one error that stands for it."""

import time
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from executionkit.core.json import Unreadable, decode_json
from executionkit.errors import LLMError, PermanentError, ProviderError, RateLimitError
from executionkit.provider import LLMResponse
from executionkit.providers.chat.complaints import LONGEST_CODE, Complaint, read_complaint
from executionkit.providers.chat.credentials import hide_credentials
from executionkit.providers.chat.pages import is_page, page_words
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.retry_after import read_reset, read_retry_after
from executionkit.providers.chat.status import FailureKind, is_spent, judge_status, status_of
from executionkit.providers.chat.wire import ONE_CALL, Unusable, mapping, reported_usage
from executionkit.providers.http.exchange import ExchangeError, Head, is_tls_failure

__all__ = ["broken_exchange", "describe", "headed", "refused", "timed_out", "unusable"]

_SHOWN: Final = 500
_QUOTED: Final = 200
_READ: Final = 8_192
_REQUEST_IDS: Final = (
    *("x-request-id", "request-id", "x-litellm-call-id", "apim-request-id", "x-ms-request-id"),
    *("x-amzn-requestid", "x-amzn-request-id", "x-goog-request-id", "x-correlation-id", "cf-ray"),
    *("x-trace-id", "x-generation-id", "x-vercel-id"),
    *("llm_provider-x-request-id", "llm_provider-request-id"),
)
_CLASSES: Final[Mapping[FailureKind, type[LLMError]]] = {
    "permanent": PermanentError,
    "rate_limit": RateLimitError,
    "provider": ProviderError,
}
_PROXY: Final = "the proxy"
"""Who answers in place of a server: its statuses say nothing of the key or the model."""


def refused(head: Head, body: bytes, redactor: Redactor) -> LLMError:
    """Return the error for a status that is not a success.

    Args:
        head: The answer's status and headers.
        body: As much of its body as was read.
        redactor: Keeps the key out of the error.
    """
    decoded = _unlisted(decode_json(body))
    complaint = Complaint() if isinstance(decoded, Unreadable) else read_complaint(decoded)
    codes = (*complaint.codes, head.headers.get("x-amzn-errortype", "").partition(":")[0])
    said = complaint.words or body.decode("utf-8", "replace")
    # A server that says when to come back has closed no account.
    words = said[:_READ] if complaint.wait is None else ""
    should_retry = head.headers.get("x-should-retry", "")
    verdict = judge_status(head.status, codes=codes, words=words, should_retry=should_retry)
    advice = _advice(head.status, head.sender, spent=is_spent(codes, words))
    text = _shown(said, redactor)
    return _CLASSES[verdict.kind](
        f"{head.sender} answered {head.status}{'; ' if advice else ''}{advice}{': ' if text else ''}{text}",
        cost=reported_usage(mapping(decoded).get("usage")),
        metadata={**describe(head, redactor, complaint.request_id), **_named(complaint, redactor)},
        retry_after=_pause(head, complaint, verdict.kind),
        retryable=verdict.retryable,
    )


def _advice(status: int, who: str, *, spent: bool) -> str:
    if who == _PROXY:
        return _PROXY_ADVICE.get(status, "check the proxy, or go around it with NO_PROXY")
    return _SPENT_ADVICE if spent and status != 402 else _ADVICE.get(status, "")


_ADVICE: Final = {
    **dict.fromkeys((301, 302, 303, 307, 308), "redirects are not followed, check base_url"),
    401: "check the key",
    402: "check the account's balance",
    403: "the key may not do this",
    404: "check base_url and model",
    405: "check base_url",
    407: "check the user name and password of the proxy",
    413: "the prompt is too long",
}
_PROXY_ADVICE: Final = {
    **dict.fromkeys((401, 407), "check the user name and password of the proxy"),
    403: "the proxy may not connect to this server, check its rules or go around it with NO_PROXY",
}
_SPENT_ADVICE: Final = "the quota or the balance is used up, check the account"


def unusable(head: Head, answer: Unusable, redactor: Redactor) -> LLMError:
    """Return the error for a success that holds no completion; what it charged is in its cost.

    A rate limit that comes in a success is a `RateLimitError`, all else a `ProviderError`.
    """
    complaint = Complaint() if answer.error is None else read_complaint(answer.error)
    status = status_of(complaint.codes) if complaint.status is None else complaint.status
    words = complaint.words[:_READ] if complaint.wait is None else ""
    should_retry = head.headers.get("x-should-retry", "")
    verdict = judge_status(status, codes=complaint.codes, words=words, should_retry=should_retry)
    text = _shown(complaint.words, redactor)
    about = _about_page(head, answer, redactor) if answer.begins else _shown(answer.reason, redactor)
    return (RateLimitError if verdict.kind == "rate_limit" else ProviderError)(
        f"{about}{': ' if text else ''}{text}",
        cost=answer.usage,
        metadata={**describe(head, redactor, complaint.request_id), **_named(complaint, redactor)},
        retry_after=_pause(head, complaint, verdict.kind),
        retryable=verdict.retryable,
    )


def _about_page(head: Head, answer: Unusable, redactor: Redactor) -> str:
    """Say what a body is that is not JSON: what its label says, how it begins, and what that suggests."""
    begins = _shown(answer.begins, redactor, _QUOTED)
    label = _shown(head.headers.get("content-type", ""), redactor, _QUOTED) or "without a content type"
    if is_page(answer.begins):
        return f"the answer is a page ({label}) that begins {begins!r}, and not JSON; check base_url"
    return f"{_shown(answer.reason, redactor)} ({label}); it begins {begins!r}"


def _pause(head: Head, complaint: Complaint, kind: FailureKind) -> float | None:
    """Return the seconds that the server asks to wait: its headers say it, else its words, else a reset."""
    asked = read_retry_after(head.headers, time.time())
    if asked is None:
        asked = complaint.wait
    if asked is None and (kind == "rate_limit" or head.status in {503, 529}):
        asked = read_reset(head.headers, time.time())
    return asked


def broken_exchange(error: Exception, redactor: Redactor, head: Head | None = None) -> ProviderError:
    """Return the error for a connection that failed, or did not speak HTTP; TLS failures are not retried.

    Args:
        error: What went wrong.
        redactor: Keeps the key out of the error.
        head: The head of the answer, where the exchange broke after that.
    """
    is_tls = is_tls_failure(error) or (isinstance(error, ExchangeError) and error.is_tls)
    what = "TLS failed" if is_tls else "the exchange with the server failed"
    failure = ProviderError(
        f"{what}: {_shown(str(error) or type(error).__name__, redactor)}",
        cost=ONE_CALL,
        metadata={} if head is None else describe(head, redactor),
        retryable=not is_tls,
    )
    failure.__cause__ = _presentable(error, redactor)
    return failure


def _presentable(error: Exception, redactor: Redactor) -> Exception:
    """Return a cause that shows nothing secret: frames hold what was sent, texts what the server said."""
    text = str(error)
    if (
        hide_credentials(redactor.text(text)) == text
        and error.__cause__ is None
        and error.__context__ is None
    ):
        return error.with_traceback(None)
    return ExchangeError(f"{type(error).__name__}: {_shown(text, redactor)}")


def timed_out(seconds: float, head: Head | None, redactor: Redactor) -> LLMError:
    """Return the error for an attempt that took too long; a refusing status says more than that."""
    if head is not None and not head.is_success:
        return refused(head, b"", redactor)
    metadata = {} if head is None else describe(head, redactor)
    return ProviderError(f"no complete answer within {seconds:g} s", cost=ONE_CALL, metadata=metadata)


def describe(head: Head, redactor: Redactor, stated_id: str = "") -> dict[str, object]:
    """Return `status` (int) and, where the server sent one, `request_id` (str).

    Args:
        head: The answer's status and headers.
        redactor: Keeps the key out.
        stated_id: What the body calls the request; the headers go first.
    """
    known = [head.headers[name] for name in _REQUEST_IDS if head.headers.get(name)]
    identity = (known or [stated_id])[0]
    shown = hide_credentials(redactor.text(identity))[:_SHOWN]
    return {"status": head.status, **({"request_id": shown} if shown else {})}


def _named(complaint: Complaint, redactor: Redactor) -> dict[str, object]:
    """Return `code` (str), what the server calls the error in words, where it does."""
    named = next((code for code in complaint.codes if not code.isdigit()), "")
    was_cut = len(named) == LONGEST_CODE
    shown = hide_credentials(redactor.text(named, was_cut=was_cut))[:_QUOTED]
    return {"code": shown} if shown else {}


def headed(answer: LLMResponse, head: Head, redactor: Redactor) -> LLMResponse:
    """Return an answer with what its head says: the status, and what the server calls the request."""
    told: dict[str, Any] = describe(head, redactor)
    return msgspec.structs.replace(answer, **told)


def _unlisted(value: object) -> object:
    """Return the object in a list, as some gateways send it; anything else as it is."""
    if not isinstance(value, list):
        return value
    items = cast("list[object]", value)
    holds_objects = any(isinstance(item, dict) for item in items[:1])
    return items[0] if holds_objects else items


def _shown(text: str, redactor: Redactor, most: int = _SHOWN) -> str:
    """Return the beginning of what a server wrote, on one line: the words of a page, without credentials."""
    cleaned = redactor.text(text, was_cut=True)
    if is_page(cleaned):
        cleaned = redactor.text(page_words(cleaned), was_cut=True)
    line = hide_credentials(" ".join(cleaned[:_READ].split()))
    printable = "".join(character if character.isprintable() else "?" for character in line[: most + 1])
    return printable if len(printable) <= most else f"{printable[:most]}..."
