"""The words in which a fault is written: what a server sends instead of an answer, piece by piece."""

import gzip
import json
from typing import Final, TypeAlias

import msgspec

from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError, ProviderError

__all__ = [
    "CLOSE",
    "ECHO_KEY",
    "GOOD",
    "RESET",
    "STALL",
    "USAGE",
    "Drip",
    "Fault",
    "Flood",
    "Pause",
    "Step",
    "completion",
    "packed",
    "reply",
]


class Pause(msgspec.Struct, frozen=True):
    """Send nothing for so many seconds."""

    seconds: float


class Drip(msgspec.Struct, frozen=True):
    """Send the same piece again and again, slowly, until the client hangs up."""

    piece: bytes


class Flood(msgspec.Struct, frozen=True):
    """Send the same piece again and again, as fast as the client reads."""

    piece: bytes
    times: int = 1_000_000


class Signal(msgspec.Struct, frozen=True):
    """Something that is done to the connection."""

    name: str


CLOSE: Final = Signal("close")
RESET: Final = Signal("reset")
STALL: Final = Signal("stall")

ECHO_KEY: Final = b"@KEY@"
"""Replaced, wherever it stands in a piece, by the key that the request came with."""

Step: TypeAlias = bytes | Pause | Drip | Flood | Signal


class Fault(msgspec.Struct, frozen=True):
    """One kind of misbehaviour, or of odd behaviour that is still right.

    Args:
        name: What it is called in a URL and in a table.
        steps: What the server does once it has read a request.
        error: What the caller gets; None for an answer.
        retryable: Whether the error says that another attempt is worth it.
        text: The answer's text, where there is one.
        usage: The tokens that the server reports in a readable way.
        retry_after: What the error knows of the server's wish.
        slow: Whether only the time-out ends it.
        early: Whether the server answers before it has read the body.
        reports: Whether the usage is complete, so that the ledger need not estimate.
    """

    name: str
    steps: tuple[Step, ...]
    error: type[LLMError] | None = ProviderError
    retryable: bool = True
    text: str = ""
    usage: TokenUsage = TokenUsage()
    retry_after: float | None = None
    slow: bool = False
    early: bool = False
    reports: bool = True


USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
_DEFAULT: Final[dict[str, object]] = {"role": "assistant", "content": "Paris"}


def completion(
    message: object = None, *, usage: object = USAGE, finish_reason: object = "stop", **more: object
) -> bytes:
    """Return the body of a completion whose parts may be anything."""
    choice = {"index": 0, "message": _DEFAULT if message is None else message, "finish_reason": finish_reason}
    return json.dumps({"id": "c1", "choices": [choice], "usage": usage, **more}).encode()


def reply(body: bytes = b"", status: int = 200, *headers: str) -> bytes:
    """Return a well-framed response."""
    lines = [
        f"HTTP/1.1 {status} Whatever",
        "Content-Type: application/json",
        "X-Request-Id: req-1",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def packed(body: bytes) -> bytes:
    """Return a response whose body is said to be gzip."""
    return reply(body, 200, "Content-Encoding: gzip")


GOOD: Final = completion()
assert gzip.decompress(gzip.compress(GOOD)) == GOOD
