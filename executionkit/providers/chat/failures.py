"""What went wrong with a call, as the one error that stands for it."""

import time
from collections.abc import Mapping
from typing import Final, cast

from executionkit.core.json import decode_json
from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError, PermanentError, ProviderError, RateLimitError
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.retry_after import read_retry_after
from executionkit.providers.chat.status import FailureKind, judge_status
from executionkit.providers.chat.wire import ONE_CALL, Unusable, reported_usage
from executionkit.providers.http.http1 import ExchangeError, Head
from executionkit.providers.http.transport import is_tls_failure

__all__ = ["broken_exchange", "refused", "timed_out", "unusable"]

_SHOWN: Final = 500
_REQUEST_IDS: Final = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "cf-ray")
_CLASSES: Final[Mapping[FailureKind, type[LLMError]]] = {
    "permanent": PermanentError,
    "rate_limit": RateLimitError,
    "provider": ProviderError,
}


def refused(head: Head, body: bytes, redactor: Redactor, who: str = "the server") -> LLMError:
    """Return the error for a status that is not a success."""
    text, codes, usage = _explanation(body, redactor)
    verdict = judge_status(head.status, codes=codes, should_retry=head.headers.get("x-should-retry", ""))
    hint = f"; {_ADVICE[head.status]}" if head.status in _ADVICE else ""
    return _CLASSES[verdict.kind](
        f"{who} answered {head.status}{hint}{': ' if text else ''}{text}",
        cost=usage,
        metadata=describe(head, redactor),
        retry_after=read_retry_after(head.headers, time.time()),
        retryable=verdict.retryable,
    )


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


def unusable(head: Head, answer: Unusable, redactor: Redactor) -> LLMError:
    """Return the error for a success that holds no completion; what it charged is in its cost.

    A rate limit that comes in a success is a `RateLimitError`, all else a `ProviderError`.
    """
    status, codes, text = _inner_error(answer.error, redactor)
    verdict = judge_status(status, codes=codes, should_retry=head.headers.get("x-should-retry", ""))
    return (RateLimitError if verdict.kind == "rate_limit" else ProviderError)(
        redactor.text(f"{answer.reason}{': ' if text else ''}{text}"),
        cost=answer.usage,
        metadata=describe(head, redactor),
        retry_after=read_retry_after(head.headers, time.time()),
        retryable=verdict.retryable,
    )


def broken_exchange(error: Exception, redactor: Redactor) -> ProviderError:
    """Return the error for a connection that failed, or did not speak HTTP; TLS failures are not retried."""
    is_tls = is_tls_failure(error) or (isinstance(error, ExchangeError) and error.is_tls)
    what = "TLS failed" if is_tls else "the exchange with the server failed"
    failure = ProviderError(
        f"{what}: {_shown(str(error) or type(error).__name__, redactor)}",
        cost=ONE_CALL,
        retryable=not is_tls,
    )
    failure.__cause__ = _presentable(error, redactor)
    return failure


def _presentable(error: Exception, redactor: Redactor) -> Exception:
    """Return a cause that shows nothing secret: frames hold what was sent, texts what the server said."""
    text = str(error)
    if redactor.text(text) == text and error.__cause__ is None and error.__context__ is None:
        return error.with_traceback(None)
    return ExchangeError(f"{type(error).__name__}: {_shown(text, redactor)}")


def timed_out(seconds: float, head: Head | None, redactor: Redactor) -> LLMError:
    """Return the error for an attempt that took too long; a refusing status says more than that."""
    if head is not None and not head.is_success:
        return refused(head, b"", redactor)
    metadata = {} if head is None else describe(head, redactor)
    return ProviderError(f"no complete answer within {seconds:g} s", cost=ONE_CALL, metadata=metadata)


def describe(head: Head, redactor: Redactor) -> dict[str, object]:
    """Return `status` (int) and, where the server sent one, `request_id` (str)."""
    known = [head.headers[name] for name in _REQUEST_IDS if head.headers.get(name)]
    return {"status": head.status, **({"request_id": redactor.text(known[0])[:_SHOWN]} if known else {})}


def _explanation(body: bytes, redactor: Redactor) -> tuple[str, frozenset[str], TokenUsage]:
    decoded = _unlisted(decode_json(body))
    given = cast("dict[str, object]", decoded) if isinstance(decoded, dict) else {}
    error = _unlisted(given.get("error", given))
    _, codes, text = _inner_error(error, redactor)
    shown = text or _shown(body.decode("utf-8", "replace"), redactor)
    return shown, codes, reported_usage(given.get("usage"))


def _unlisted(value: object) -> object:
    """Return the object in a list, as some gateways send it; anything else as it is."""
    if not isinstance(value, list):
        return value
    items = cast("list[object]", value)
    holds_objects = any(isinstance(item, dict) for item in items[:1])
    return items[0] if holds_objects else items


def _inner_error(error: object, redactor: Redactor) -> tuple[int, frozenset[str], str]:
    """Read the status (500 where it has none), the codes and the message of an error object."""
    if not isinstance(error, dict):
        return 500, frozenset(), "" if error is None else _shown(str(error), redactor)
    given = cast("dict[str, object]", error)
    codes = [given.get("code"), given.get("type"), given.get("status")]
    statuses = [int(str(code)) for code in codes if str(code).isdecimal() and len(str(code)) == 3]
    text = given.get("message", given.get("detail", ""))
    shown = _shown(text if isinstance(text, str) else str(text), redactor)
    return (statuses or [500])[0], frozenset(code for code in codes if isinstance(code, str)), shown


def _shown(text: str, redactor: Redactor) -> str:
    """Return the beginning of what a server wrote, on one line, without the key."""
    cleaned = " ".join(redactor.text(text, was_cut=True).split())
    printable = "".join(character if character.isprintable() else "?" for character in cleaned[: _SHOWN + 1])
    return printable if len(printable) <= _SHOWN else f"{printable[:_SHOWN]}..."
