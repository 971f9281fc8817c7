"""What differs between the APIs that are spoken over HTTP: how an answer is written, whole and in pieces."""

from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from executionkit.provider import CallPiece, LLMResponse
from executionkit.providers.chat.deltas import Assembly, StreamChunk
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.wire import Unusable, decode_completion

__all__ = ["CHAT", "Assembling", "Format"]


class Assembling(Protocol):
    """What has arrived of a streamed answer."""

    usage: dict[str, Any]
    """The counts as reported so far."""
    pieces: int
    """How many events have brought something of the answer."""

    @property
    def text(self) -> str:
        """The text so far."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped; None while it has not."""
        ...

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        ...

    def take(self, data: str, kind: str = "message") -> StreamChunk | Unusable:
        """Take the data of one event of a type; total: whatever it is, the answer says what became of it."""
        ...

    def flush(self, *, is_sound: bool) -> str:
        """Return what is held back, once nothing more comes."""
        ...

    def flush_calls(self, *, is_sound: bool) -> tuple[CallPiece, ...]:
        """Return what is held back of tool calls, once nothing more comes."""
        ...

    def finished(self) -> LLMResponse:
        """Return the whole answer."""
        ...


class Format(msgspec.Struct, frozen=True):
    """How an API writes its answers.

    Args:
        path: What follows the base URL.
        decode: Reads a whole answer; total.
        assembly: Makes what puts a streamed one together.
    """

    path: str
    decode: Callable[[bytes, Redactor], LLMResponse | Unusable]
    assembly: Callable[[Redactor], Assembling]


CHAT: Final = Format("/chat/completions", decode_completion, Assembly)
"""OpenAI's chat completions."""
