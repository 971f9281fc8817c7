"""The catalogue of faults: what a server may do to us, and what must come of it."""

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Final, TypeAlias

from executionkit.core.usage import TokenUsage
from executionkit.errors import PermanentError, ProviderError, RateLimitError
from tests.faults.script import (
    CLOSE,
    ECHO_KEY,
    GOOD,
    RESET,
    STALL,
    USAGE,
    Drip,
    Fault,
    Flood,
    Pause,
    Step,
    completion,
    packed,
    reply,
)

__all__ = ["BY_NAME", "FAULTS", "HEAVY", "NOT_KEPT", "UNANNOUNCED"]

Scripts: TypeAlias = tuple[tuple[str, *tuple[Step, ...]], ...]

BILLED: Final = TokenUsage(7, 3)
PERMANENT: Final = (400, 401, 403, 404, 405, 413, 422)
RETRIED: Final = (408, 409, 425, 500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 522, 524, 529, 599)
NOT_RETRIED: Final = (
    *(300, 301, 302, 303, 304, 307, 308),
    *(402, 406, 407, 410, 411, 412, 414, 415, 416, 417, 418, 421, 423, 424, 426, 428, 431, 451, 499),
)


def _statuses() -> Iterator[Fault]:
    body = json.dumps({"error": {"message": "no", "type": "some_error", "code": None}}).encode()
    for status in PERMANENT:
        yield Fault(f"status-{status}", (reply(body, status),), PermanentError, retryable=False)
    for status in RETRIED:
        yield Fault(f"status-{status}", (reply(body, status),))
    for status in NOT_RETRIED:
        location = "Location: http://127.0.0.1:9/elsewhere"
        yield Fault(
            f"status-{status}", (reply(b"" if status == 304 else body, status, location),), retryable=False
        )
    yield Fault("status-429", (reply(body, 429),), RateLimitError, retry_after=1.0)
    yield Fault("status-204", (b"HTTP/1.1 204 No Content\r\n\r\n",))


def _waits() -> Iterator[Fault]:
    for name, header, seconds in (
        ("seconds", "Retry-After: 0.25", 0.25),
        ("zero", "Retry-After: 0", 0.0),
        ("ms", "Retry-After-Ms: 250", 0.25),
        ("date-past", "Retry-After: Thu, 01 Jan 1970 00:00:10 GMT", 1.0),
        ("garbage", "Retry-After: soon", 1.0),
        ("nan", "Retry-After: nan", 1.0),
        ("inf", "Retry-After: inf", 1.0),
        ("negative", "Retry-After: -5", 1.0),
        ("overflow", "Retry-After: 1e400", 1.0),
        ("bad-date", "Retry-After: Mon, 99 Foo 99999999 99:99:99 +9999", 1.0),
        ("day-long", "Retry-After: 86400", 86400.0),
        ("digits", f"Retry-After: {'9' * 400}", 1.0),
    ):
        yield Fault(f"429-after-{name}", (reply(b"{}", 429, header),), RateLimitError, retry_after=seconds)
    yield Fault("503-after-seconds", (reply(b"{}", 503, "Retry-After: 0.5"),), retry_after=0.5)
    quota = b'{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}'
    yield Fault("429-no-quota", (reply(quota, 429),), RateLimitError, retryable=False, retry_after=1.0)
    for name, kind in (("moonshot", b"exceeded_current_quota_error"), ("litellm", b"budget_exceeded")):
        spent = quota.replace(b"insufficient_quota", kind)
        yield Fault(f"429-{name}", (reply(spent, 429),), RateLimitError, retryable=False, retry_after=1.0)
    reset = ("X-RateLimit-Remaining-Tokens: 0", "X-RateLimit-Reset-Tokens: 1m2s")
    for name, body, *headers in (
        ("reset", b"{}", *reset),
        ("gateway", b"{}", "Llm_provider-Retry-After: 62"),
        ("body", b'{"error": {"message": "Please try again in 1m2s."}}'),
    ):
        yield Fault(f"429-in-{name}", (reply(body, 429, *headers),), RateLimitError, retry_after=62.0)
    listed = b"[" + quota.replace(b"insufficient_quota", b"Insufficient_Quota") + b"]"
    yield Fault("429-no-quota-list", (reply(listed, 429),), RateLimitError, retryable=False, retry_after=1.0)
    for status, error in ((429, RateLimitError), (500, ProviderError)):
        steps = (reply(b"{}", status, "x-should-retry: false"),)
        wait = 1.0 if status == 429 else None
        yield Fault(f"{status}-do-not-retry", steps, error, retryable=False, retry_after=wait)


def _error_bodies() -> Iterator[Fault]:
    for name, body in (
        ("html", b"<html><body>Bad gateway</body></html>"),
        ("empty", b""),
        ("not-utf8", b"\xff\xfe\x00broken"),
        ("deep", b"[" * 50_000),
        ("list", b"[1, 2]"),
        ("odd-error", b'{"error": [{"message": 5}]}'),
        ("odd-code", b'{"error": {"message": null, "code": {"a": [1]}, "type": 5}}'),
        ("echo", b'{"error": {"message": "bad key @KEY@", "code": "@KEY@"}}'),
        ("echo-html", b"<p>@KEY@</p>"),
    ):
        yield Fault(f"500-{name}", (reply(body, 500),))
    yield Fault("500-huge", (reply(b"x" * 1_000_000, 500),))
    yield Fault("500-bomb", (reply(_bomb(), 500, "Content-Encoding: gzip"),))
    yield Fault("500-cut", (b"HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\nabc", CLOSE))
    yield Fault("500-unknown-coding", (reply(b"abc", 500, "Content-Encoding: br"),))
    yield Fault(
        "401-echo", (reply(b"key @KEY@ is wrong", 401, "X-Request-Id: @KEY@"),), PermanentError, False
    )
    yield Fault("429-bills", (reply(completion(), 429),), RateLimitError, usage=BILLED, retry_after=1.0)


def _not_completions() -> Iterator[Fault]:
    for name, body in (
        ("html", b"<!doctype html><title>Sign in</title>"),
        ("empty", b""),
        ("blank", b" \r\n\t "),
        ("null", b"null"),
        ("true", b"true"),
        ("number", b"42"),
        ("string", b'"Paris"'),
        ("list", b"[]"),
        ("cut-json", GOOD[:-20]),
        ("junk-after", GOOD + b"junk"),
        ("two-objects", GOOD + GOOD),
        ("bad-utf8", GOOD.replace(b"Paris", b"\xff\xfe")),
        ("overlong-utf8", GOOD.replace(b"Paris", b"\xc0\xaf")),
        ("raw-surrogate", GOOD.replace(b"Paris", b"\xed\xa0\x80")),
        ("utf16", GOOD.decode().encode("utf-16")),
        ("utf32", GOOD.decode().encode("utf-32")),
        ("control-character", GOOD.replace(b"Paris", b"\x00")),
        ("nan", b'{"choices": NaN}'),
        ("single-quotes", b"{'choices': []}"),
        ("million-brackets", b"[" * 1_000_000),
        ("million-closed", b"[" * 100_000 + b"]" * 100_000),
        ("digits", b'{"choices": ' + b"9" * 100_000 + b"}"),
        ("exponent", b'{"choices": 1e999999}'),
        ("sse", b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
        ("nul-bytes", b"\x00" * 1000),
    ):
        yield Fault(f"200-{name}", (reply(body),))


def _billed_but_unusable() -> Iterator[Fault]:
    parts: tuple[tuple[str, dict[str, object]], ...] = (
        ("choices-null", {"choices": None}),
        ("choices-empty", {"choices": []}),
        ("choices-object", {"choices": {}}),
        ("choices-text", {"choices": "Paris"}),
        ("choice-null", {"choices": [None]}),
        ("choice-number", {"choices": [1]}),
        ("choice-empty", {"choices": [{}]}),
        ("message-null", {"choices": [{"message": None}]}),
        ("message-text", {"choices": [{"message": "Paris"}]}),
        ("error-object", {"choices": None, "error": {"message": "overloaded", "code": 503}}),
        ("error-text", {"choices": None, "error": "overloaded"}),
        ("error-list", {"choices": None, "error": [1, {"a": None}]}),
        ("error-echo", {"choices": None, "error": {"message": ECHO_KEY.decode()}}),
    )
    for name, more in parts:
        yield Fault(f"200-{name}", (reply(completion(**more)),), usage=BILLED)
    for name, message in (
        ("content-number", {"content": 5}),
        ("content-object", {"content": {"text": "Paris"}}),
        ("content-list", {"content": [5]}),
        ("calls-text", {"content": "", "tool_calls": "f"}),
        ("calls-null", {"content": "", "tool_calls": [None]}),
        ("function-text", {"content": "", "tool_calls": [{"function": "f"}]}),
        ("name-number", {"content": "", "tool_calls": [{"function": {"name": 5}}]}),
    ):
        yield Fault(f"200-{name}", (reply(completion(message)),), usage=BILLED)
    yield Fault("200-finish-number", (reply(completion(finish_reason=5)),), usage=BILLED)
    denied = {"choices": None, "error": {"message": "no", "code": 401}}
    yield Fault("200-error-401", (reply(completion(**denied)),), retryable=False, usage=BILLED)
    busy = {"choices": None, "error": {"message": "slow down", "code": 429}}
    yield Fault("200-error-429", (reply(completion(**busy)),), RateLimitError, usage=BILLED, retry_after=1.0)
    half = {"message": {"content": "half"}, "finish_reason": "error", "error": {"message": "no", "code": 502}}
    yield Fault("200-finish-error", (reply(completion(choices=[half])),), usage=BILLED)
    yield Fault("200-finish-error-bare", (reply(completion(finish_reason="error")),), usage=BILLED)
    no_key = {"choices": None, "base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}
    yield Fault("200-base-resp", (reply(completion(**no_key)),), retryable=False, usage=BILLED)
    yield Fault(
        "200-detail", (reply(completion(choices=None, detail={"error": {"message": "no"}})),), usage=BILLED
    )
    deep = b"[" * 5000 + b"]" * 5000
    yield Fault("200-deep-field", (reply(GOOD[:-1] + b', "x": ' + deep + b"}"),))


def _odd_but_right() -> Iterator[Fault]:
    for name, body, usage, reports in (
        ("plain", GOOD, BILLED, True),
        ("mark", b"\xef\xbb\xbf" + GOOD, BILLED, True),
        ("spaces", b"\n\n  " + GOOD + b"\n\n", BILLED, True),
        ("escapes", GOOD.replace(b"Paris", b"\\u0050aris"), BILLED, True),
        ("usage-null", completion(usage=None), TokenUsage(), False),
        (
            "usage-text",
            completion(usage={"prompt_tokens": "7", "completion_tokens": "3"}),
            TokenUsage(),
            False,
        ),
        (
            "usage-negative",
            completion(usage={"prompt_tokens": -7, "completion_tokens": -3}),
            TokenUsage(),
            False,
        ),
        ("usage-absurd", completion(usage={"prompt_tokens": 10**15}), TokenUsage(), False),
        ("usage-float", completion(usage={"prompt_tokens": 7.5}), TokenUsage(), False),
        ("usage-list", completion(usage=[7, 3]), TokenUsage(), False),
        ("usage-anthropic", completion(usage={"input_tokens": 7, "output_tokens": 3}), BILLED, True),
        ("finish-null", completion(finish_reason=None), BILLED, True),
        ("parts", completion({"content": [{"type": "text", "text": "Paris"}]}), BILLED, True),
        ("no-calls", completion({"content": "Paris", "tool_calls": None, "refusal": None}), BILLED, True),
        ("unknown", completion({"content": "Paris", "reasoning_content": "hm"}, system=[1]), BILLED, True),
        ("error-null", completion(error=None), BILLED, True),
    ):
        yield Fault(f"good-{name}", (reply(body),), None, text="Paris", usage=usage, reports=reports)
    lone = GOOD.replace(b"Paris", b"\\ud83d!")
    yield Fault("good-lone-surrogate", (reply(lone),), None, text="\ufffd!", usage=BILLED)
    yield Fault("good-empty-text", (reply(completion({"content": None})),), None, usage=BILLED)
    filtered = completion({"content": None, "refusal": "I will not"}, finish_reason="content_filter")
    yield Fault("good-refusal", (reply(filtered),), None, usage=BILLED)
    echo = completion({"content": f"your key is {ECHO_KEY.decode()}"})
    yield Fault("good-echo", (reply(echo),), None, text="your key is ***", usage=BILLED)


def _good(name: str, *steps: Step) -> Fault:
    return Fault(f"good-{name}", steps, None, text="Paris", usage=BILLED)


def _framing_that_is_right() -> Iterator[Fault]:
    yield _good("chunked", _chunked(GOOD))
    yield _good("chunk-extensions", _chunked(GOOD, extension=b";a=b"))
    yield _good("trailers", _chunked(GOOD)[:-2] + b"X-Trailer: 1\r\n\r\n")
    yield _good("until-close", b"HTTP/1.1 200 OK\r\n\r\n" + GOOD, CLOSE)
    yield _good("http-1.0", b"HTTP/1.0 200 OK\r\n\r\n" + GOOD, CLOSE)
    yield _good("close-header", reply(GOOD, 200, "Connection: close"), CLOSE)
    yield _good("silent-close", reply(GOOD), CLOSE)
    yield _good("continue", b"HTTP/1.1 100 Continue\r\n\r\n", reply(GOOD))
    yield _good("hints", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3, reply(GOOD))
    yield _good("no-reason", reply(GOOD).replace(b" Whatever", b" "))
    yield _good("wrong-type", reply(GOOD).replace(b"application/json", b"text/html; charset=latin-1"))
    yield _good("bytes-one-by-one", *(step for byte in reply(GOOD) for step in (bytes([byte]), Pause(0))))
    yield _good("later", Pause(0.02), reply(GOOD))
    yield _good("pauses", reply(GOOD)[:30], Pause(0.02), reply(GOOD)[30:150], Pause(0.02), reply(GOOD)[150:])
    yield _good("gzip", packed(gzip.compress(GOOD)))
    yield _good("gzip-members", packed(gzip.compress(GOOD[:50]) + gzip.compress(GOOD[50:])))
    yield _good("gzip-chunked", _chunked(gzip.compress(GOOD), "Content-Encoding: gzip"))
    yield _good("identity", reply(GOOD, 200, "Content-Encoding: identity"))
    yield _good("extra-bytes", reply(GOOD) + b"junk")
    yield _good("unasked-answer", reply(GOOD) + reply(completion({"content": "Rome"})))
    for what, until in (("requests", "7.5s"), ("tokens", "1m30s")):
        spent = (f"X-RateLimit-Remaining-{what}: 0", f"X-RateLimit-Reset-{what}: {until}")
        yield _good(f"no-{what}-left", reply(GOOD, 200, *spent))
    yield Fault("good-early", (reply(GOOD), CLOSE), None, text="Paris", usage=BILLED, early=True)


def _broken_framing() -> Iterator[Fault]:
    answer = reply(GOOD)
    broken: Scripts = (
        ("close-at-once", CLOSE),
        ("reset-at-once", RESET),
        ("close-in-status", b"HTTP/1.1 2", CLOSE),
        ("close-in-headers", answer[:60], CLOSE),
        ("close-after-headers", answer[: answer.index(b"\r\n\r\n") + 4], CLOSE),
        ("close-in-body", answer[:-10], CLOSE),
        ("reset-in-body", answer[:-10], RESET),
        ("close-in-chunk", _chunked(GOOD)[:-20], CLOSE),
        ("close-before-last-chunk", _chunked(GOOD)[:-5], CLOSE),
        ("chunk-size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", CLOSE),
        (
            "chunk-size-long",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 99 + b"\r\n",
            CLOSE,
        ),
        ("chunk-size-negative", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", CLOSE),
        ("unknown-transfer", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + GOOD, CLOSE),
        ("length-negative", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + GOOD, CLOSE),
        ("length-text", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + GOOD, CLOSE),
        ("length-two", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + GOOD, CLOSE),
        ("length-too-long", reply(GOOD).replace(b"Length: ", b"Length: 9"), CLOSE),
        ("length-digits", b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", CLOSE),
        ("header-without-colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n" + GOOD, CLOSE),
        ("header-empty-name", b"HTTP/1.1 200 OK\r\n: x\r\n\r\n" + GOOD, CLOSE),
        ("header-huge", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", CLOSE),
        ("headers-many", b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000 + b"\r\n", CLOSE),
        ("headers-endless", b"HTTP/1.1 200 OK\r\n", Flood(b"X: x\r\n" * 100)),
        ("status-text", b"HTTP/1.1 abc OK\r\n\r\n", CLOSE),
        ("status-long", b"HTTP/1.1 2000 OK\r\n\r\n", CLOSE),
        ("status-zero", b"HTTP/1.1 000 OK\r\n\r\n", CLOSE),
        ("echo-status", b"@KEY@ 200 OK\r\n\r\n", CLOSE),
        ("echo-header", b"HTTP/1.1 200 OK\r\nbad name @KEY@: 1\r\n\r\n", CLOSE),
        ("echo-reason", b"HTTP/1.1 500 @KEY@\r\nX-Request-Id: @KEY@\r\n\r\n@KEY@", CLOSE),
        ("version", b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n", CLOSE),
        ("http-0.9", GOOD, CLOSE),
        ("ssh", b"SSH-2.0-OpenSSH_9.6\r\n", CLOSE),
        ("tls-alert", b"\x15\x03\x03\x00\x02\x02\x46", CLOSE),
        ("http2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18, CLOSE),
        ("nul-bytes", b"\x00" * 100_000, CLOSE),
        ("blank-lines", b"\r\n" * 1000, CLOSE),
        ("switch", b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", CLOSE),
        ("continue-only", b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE),
        ("gzip-broken", packed(b"\x1f\x8b\x08\x00 broken")),
        ("gzip-plain", packed(GOOD)),
        ("gzip-cut", packed(gzip.compress(GOOD)[:-12])),
        ("gzip-checksum", packed(gzip.compress(GOOD)[:-8] + b"\x00" * 8)),
        ("gzip-junk-after", packed(gzip.compress(GOOD) + b"junk")),
        ("gzip-bomb", packed(_bomb())),
        ("deflate", reply(zlib.compress(GOOD), 200, "Content-Encoding: deflate")),
        ("brotli", reply(GOOD, 200, "Content-Encoding: br")),
        ("two-codings", reply(gzip.compress(GOOD), 200, "Content-Encoding: gzip, gzip")),
        ("too-large", reply(b" " * (33 * 1024 * 1024))),
        (
            "endless-chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Flood(_chunk(b" " * 65_536)),
        ),
    )
    for name, *steps in broken:
        yield Fault(name, tuple(steps))


def _slow() -> Iterator[Fault]:
    head = reply(GOOD)[: reply(GOOD).index(b"\r\n\r\n") + 4]
    slow: Scripts = (
        ("stall-at-once", STALL),
        ("stall-in-headers", head[:40], STALL),
        ("stall-after-headers", head, STALL),
        ("stall-in-body", head + GOOD[:20], STALL),
        ("drip-headers", b"HTTP/1.1 200 OK\r\nX: ", Drip(b"x")),
        ("drip-continues", Drip(b"HTTP/1.1 100 Continue\r\n\r\n")),
        ("drip-body", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", Drip(b" ")),
        ("drip-chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Drip(b"1\r\n \r\n")),
    )
    for name, *steps in slow:
        yield Fault(name, tuple(steps), slow=True)
    yield Fault("500-stall", (b"HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\nabc", STALL), slow=True)
    dripping = (b"HTTP/1.1 401 No\r\nContent-Length: 99999\r\n\r\n", Drip(b"x"))
    yield Fault("401-drip", dripping, PermanentError, retryable=False, slow=True)


def _chunk(body: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(body), extension, body)


def _chunked(body: bytes, *headers: str, extension: bytes = b"") -> bytes:
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", ""]
    pieces = [_chunk(body[start : start + 25], extension) for start in range(0, len(body), 25)]
    return "\r\n".join(lines).encode() + b"".join(pieces) + b"0\r\n\r\n"


def _bomb() -> bytes:
    """40 MiB of spaces in 40 KiB."""
    return gzip.compress(b" " * (40 * 1024 * 1024), compresslevel=9)


FAULTS: Final = tuple(
    chain(
        _statuses(),
        _waits(),
        _error_bodies(),
        _not_completions(),
        _billed_but_unusable(),
        _odd_but_right(),
        _framing_that_is_right(),
        _broken_framing(),
        _slow(),
    )
)
HEAVY: Final = frozenset({"too-large", "500-bomb", "gzip-bomb", "headers-endless", "endless-chunks"})
"""Faults that move many megabytes: played once for one attempt, not again and again."""

UNANNOUNCED: Final = frozenset({"good-early", "good-silent-close", "version"})
"""Faults after which the server hangs up without a word, maybe while the next request is on its way.

Such a request is an attempt, and costs a call, although the server never answers it.
"""

_STRICT: Final = "bytes behind an answer are taken for a broken answer, and the call is retried"
_SURPLUS: Final = "what a server sends unasked is taken for the beginning of the next answer"
_ONES_OWN_POOL: Final = {"good-extra-bytes": _SURPLUS, "good-unasked-answer": _SURPLUS}
NOT_KEPT: Final[dict[str, dict[str, str]]] = {
    "aiohttp": {"good-extra-bytes": _STRICT},
    "httpx-transport": _ONES_OWN_POOL,
    "httpx-client": _ONES_OWN_POOL,
    "httpx2-transport": _ONES_OWN_POOL,
    "httpx2-client": _ONES_OWN_POOL,
    "aiohttp-transport": {
        "good-extra-bytes": _STRICT,
        "unknown-transfer": "an answer framed in an unknown way is read as if it were framed in none",
    },
}
"""What a way to the server (`tests/faults/ways.py`) does not keep of the table, and why."""

BY_NAME: Final = {fault.name: fault for fault in FAULTS}
assert len(BY_NAME) == len(FAULTS)
assert USAGE["prompt_tokens"] == BILLED.input_tokens
