"""What may become of a streamed answer."""

import json
from typing import Final

from executionkit.core.usage import TokenUsage
from executionkit.errors import PermanentError, RateLimitError
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
    reply,
)

__all__ = ["STREAMS"]

BILLED: Final = TokenUsage(7, 3)
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END: Final = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


PARIS: Final = (delta(role="assistant", content=""), delta(content="Par"), delta(content="is"))
THINKING: Final = [delta(content=text) for text in ("<th", "ink>hm", "</think", ">\n\nPar", "is")]
WHOLE: Final = {"index": 0, "message": {"content": "Paris"}, "finish_reason": "stop"}
ERRED: Final = {"index": 0, "delta": {"content": ""}, "error": {"message": "full", "code": 502}}
UNKNOWN: Final = {"status_code": 1000, "status_msg": "full"}
SECOND: Final = event(choices=[{"index": 1, "delta": {"content": "Rome"}, "finish_reason": None}])
STOP: Final = delta("stop")
OPEN: Final = (HEAD.replace(b"Transfer-Encoding: chunked\r\n", b""),)
KEYS_BEGIN: Final = delta(content="it is sk-")
BILL: Final = event(choices=[], usage=USAGE)
DONE: Final = b"data: [DONE]\n\n"
SOUND: Final = b"".join((*PARIS, STOP, BILL, DONE))


def stream(*pieces: bytes | Step) -> tuple[Step, ...]:
    return (HEAD, *(chunk(piece) if isinstance(piece, bytes) else piece for piece in pieces), END)


def cut(*pieces: bytes | Step) -> tuple[Step, ...]:
    return stream(*pieces)[:-1]


def _good(
    name: str, *steps: Step, usage: TokenUsage = BILLED, text: str = "Paris", slow: bool = False
) -> Fault:
    return Fault(f"stream-{name}", steps, None, text=text, usage=usage, slow=slow)


def _bad(
    name: str, *steps: Step, usage: TokenUsage = BILLED, text: str = "Paris", slow: bool = False
) -> Fault:
    return Fault(f"stream-{name}", steps, retryable=not text, text=text, usage=usage, slow=slow)


STREAMS: Final = (
    _good("sound", *stream(*PARIS, STOP, BILL, DONE)),
    _good("one-chunk", *stream(SOUND)),
    _good("byte-by-byte", *stream(*(bytes([byte]) for byte in SOUND))),
    _good("crlf", *stream(SOUND.replace(b"\n", b"\r\n"))),
    _good("cr", *stream(SOUND.replace(b"\n", b"\r"))),
    _good("mark", *stream(b"\xef\xbb\xbf" + SOUND)),
    _good("mark-alone", *stream(b"\xef\xbb\xbf", Pause(0.01), SOUND)),
    _good("blank-lines-first", *stream(b"\n", Pause(0.01), b"\n" * 5_000, Pause(0.01), *PARIS, STOP, BILL)),
    _good("blanks-before-json", *stream(b" ", Pause(0.01), b"\xef", Pause(0.01), b"\xbb\xbf\n", GOOD)),
    _good("comments", *stream(b": ping\n\n", SOUND.replace(b"data:", b":x\ndata:"))),
    _good("no-space", *stream(SOUND.replace(b"data: ", b"data:"))),
    _good("fields", *stream(SOUND.replace(b"data: ", b"event: x\nid: 1\nretry: 5\nfoo\ndata: "))),
    _good("many-data-lines", *stream(SOUND.replace(b'"choices": ', b'"choices":\ndata: '))),
    _good("no-done", *stream(*PARIS, STOP, BILL)),
    _good(
        "usage-with-finish",
        *stream(*PARIS, delta("stop")[:-3] + b', "usage": ' + json.dumps(USAGE).encode() + b"}\n\n"),
    ),
    _good("until-close", HEAD.replace(b"Transfer-Encoding: chunked\r\n", b""), SOUND, CLOSE),
    _good("cut-after-done", *cut(SOUND), CLOSE),
    _good("stall-after-done", *cut(SOUND), STALL),
    _good("cut-after-finish", *cut(*PARIS, STOP), CLOSE, usage=TokenUsage()),
    _good("reset-after-usage", *cut(*PARIS, STOP, BILL, Pause(0.05)), RESET),
    _good("stall-after-finish", *cut(*PARIS, STOP), STALL, usage=TokenUsage(), slow=True),
    _good("several-choices", *stream(PARIS[0], SECOND, *PARIS[1:], SECOND, STOP, SECOND, BILL, DONE)),
    _good("parts", *stream(delta(content=[{"type": "text", "text": "Paris"}]), STOP, BILL, DONE)),
    _good("pauses", *stream(*(step for piece in (*PARIS, STOP, BILL) for step in (piece, Pause(0.01))))),
    _good("not-a-stream", reply(GOOD)),
    _good("labelled-json", HEAD.replace(b"text/event-stream", b"application/json"), chunk(SOUND), END),
    _good("whole-labelled-stream", reply(GOOD).replace(b"application/json", b"text/event-stream")),
    _good("whole-in-one-piece", *stream(event(choices=[WHOLE]), BILL, DONE)),
    _good("usage-in-x-groq", *stream(*PARIS, STOP, event(choices=[], x_groq={"usage": USAGE}), DONE)),
    _good(
        "usage-in-a-choice", *stream(*PARIS, event(choices=[{"finish_reason": "stop", "usage": USAGE}]), DONE)
    ),
    _good("first-chunk-without-choices", *stream(event(choices=[], prompt_filter_results=[]), SOUND)),
    _good("choices-null", *stream(event(choices=None, id="c1"), SOUND)),
    _good("ping", *stream(b'event: ping\ndata: {"type": "ping"}\n\n', SOUND)),
    _good("thoughts", *stream(*THINKING, STOP, BILL, DONE)),
    _good(
        "reasoning", *stream(delta(reasoning_content="hm"), delta(reasoning="hm"), *PARIS, STOP, BILL, DONE)
    ),
    _good(
        "half-pairs",
        *stream(delta(content="\ud83d"), delta(content="\ude00 \ud83d"), STOP, BILL, DONE),
        text="\U0001f600 \ufffd",
    ),
    _good("no-usage", *stream(*PARIS, STOP, DONE), usage=TokenUsage()),
    _good("null-fields", *stream(delta(content="Paris", tool_calls=None, refusal=None), STOP, BILL, DONE)),
    _good("done-with-a-space", *stream(*PARIS, STOP, BILL, b"data: [DONE] \n\n")),
    _good("empty-data", *stream(PARIS[0], b"data:\n\n", *PARIS[1:], STOP, b"data: \n\n", BILL, DONE)),
    _good("text-behind-finish", *stream(*PARIS[:2], STOP, PARIS[2], BILL, DONE)),
    _good("key-shared-at-the-end", *OPEN, KEYS_BEGIN, STOP, BILL, CLOSE, text="it is sk-"),
    _good(
        "echo-in-pieces",
        *OPEN,
        delta(content=f"it is {ECHO_KEY.decode()}"),
        STOP,
        BILL,
        CLOSE,
        text="it is ***",
    ),
    _good("not-a-stream-in-capitals", reply(GOOD).replace(b"application/json", b"Application/JSON")),
    _bad(
        "error-echo", *OPEN, event(error={"message": ECHO_KEY.decode()}), CLOSE, text="", usage=TokenUsage()
    ),
    _bad("not-json-echo", *OPEN, b"data: {" + ECHO_KEY + b"\n\n", CLOSE, text="", usage=TokenUsage()),
    _bad("not-a-piece-echo", *OPEN, event(choices=ECHO_KEY.decode()), CLOSE, text="", usage=TokenUsage()),
    _bad("bill-first-cut", *cut(BILL), CLOSE, text=""),
    _bad("bill-first-error", *stream(BILL, event(error="overloaded")), text=""),
    _bad(
        "bill-grows",
        *cut(event(usage={"prompt_tokens": 9, "completion_tokens": 0}), *PARIS),
        CLOSE,
        usage=TokenUsage(9, 2),
    ),
    _bad(
        "bill-is-absurd",
        *cut(*PARIS, event(usage={"prompt_tokens": -9, "completion_tokens": "x"})),
        CLOSE,
        usage=TokenUsage(9, 2),
    ),
    _bad("early-done", *stream(*PARIS, DONE), usage=TokenUsage(9, 2)),
    _bad("no-finish", *stream(*PARIS), usage=TokenUsage(9, 2)),
    _bad("no-finish-billed", *stream(*PARIS, BILL)),
    _bad("empty", *stream(), text="", usage=TokenUsage()),
    _bad("done-only", *stream(DONE), text="", usage=TokenUsage()),
    _bad("comments-only", *stream(b": ping\n\n" * 10), text="", usage=TokenUsage()),
    _bad("error-first", *stream(event(error={"message": "overloaded"})), text="", usage=TokenUsage()),
    _bad("error-later", *stream(*PARIS, event(error={"message": "overloaded"})), usage=TokenUsage(9, 2)),
    _bad(
        "plain-text",
        reply(b"upstream connect error").replace(b"application/json", b"text/plain"),
        text="",
        usage=TokenUsage(),
    ),
    _bad(
        "error-event", *stream(*PARIS, b'event: error\ndata: {"message": "full"}\n\n'), usage=TokenUsage(9, 2)
    ),
    _bad("error-event-text", *stream(*PARIS, b"event: error\ndata: full\n\n"), usage=TokenUsage(9, 2)),
    _bad("error-detail", *stream(*PARIS, event(detail="full")), usage=TokenUsage(9, 2)),
    _bad("error-in-a-choice", *stream(*PARIS, event(choices=[ERRED])), usage=TokenUsage(9, 2)),
    _bad("error-in-x-groq", *stream(*PARIS, event(x_groq={"error": "full"})), usage=TokenUsage(9, 2)),
    _bad("error-as-finish", *stream(*PARIS, delta("error")), usage=TokenUsage(9, 2)),
    _bad("base-resp", *stream(event(base_resp=UNKNOWN)), text="", usage=TokenUsage()),
    _bad(
        "whole-error", reply(json.dumps({"error": {"message": "full"}}).encode()), text="", usage=TokenUsage()
    ),
    _bad("error-text", *stream(*PARIS, event(error="overloaded")), usage=TokenUsage(9, 2)),
    _bad("error-billed", *stream(*PARIS, event(error="overloaded", usage=USAGE))),
    _bad("not-json", *stream(*PARIS, b"data: {oops\n\n"), usage=TokenUsage(9, 2)),
    _bad("not-an-object", *stream(*PARIS, b"data: 5\n\n"), usage=TokenUsage(9, 2)),
    _bad("deep", *stream(*PARIS, b"data: " + b"[" * 5000 + b"\n\n"), usage=TokenUsage(9, 2)),
    _bad("choices-text", *stream(*PARIS, event(choices="x")), usage=TokenUsage(9, 2)),
    _bad("delta-text", *stream(*PARIS, event(choices=[{"delta": "x"}])), usage=TokenUsage(9, 2)),
    _bad("content-number", *stream(*PARIS, delta(content=5)), usage=TokenUsage(9, 2)),
    _bad("cut", *cut(*PARIS), CLOSE, usage=TokenUsage(9, 2)),
    _bad("reset", *cut(*PARIS, Pause(0.05)), RESET, usage=TokenUsage(9, 2)),
    _bad("stall", *cut(*PARIS), STALL, usage=TokenUsage(9, 2), slow=True),
    _bad("drip", *cut(*PARIS), Drip(chunk(b": ping\n\n")), usage=TokenUsage(9, 2), slow=True),
    _bad("flood", *cut(*PARIS), Flood(chunk(b": ping\n\n" * 8000)), usage=TokenUsage(9, 2)),
    _bad(
        "flood-of-events",
        *cut(),
        Flood(chunk(b"data: {}\n\n" * 500), 10**6),
        text="",
        usage=TokenUsage(),
        slow=True,
    ),
    _bad(
        "flood-of-text",
        *cut(),
        Flood(chunk(delta(content="") * 100), 10**6),
        text="",
        usage=TokenUsage(),
        slow=True,
    ),
    _bad("html", reply(b"<html>").replace(b"application/json", b"text/html"), text="", usage=TokenUsage()),
    _bad("whole-without-choices", reply(b"{}"), text="", usage=TokenUsage()),
    Fault("stream-401", (reply(b"no", 401),), PermanentError, retryable=False),
    Fault("stream-429", (reply(b"no", 429),), RateLimitError, retry_after=1.0),
)
