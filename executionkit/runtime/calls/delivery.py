"""The text of an answer on its way to those who read it as it comes in."""

from collections.abc import Callable, Iterable
from typing import TypeAlias
from zlib import crc32

from executionkit.events import DeltaKind, Element, PartialValue, TextDelta
from executionkit.runtime.tracing import Span

__all__ = ["Delivery", "OnText", "TextReader"]

TextReader: TypeAlias = Callable[[str], Iterable[tuple[type[PartialValue | Element], dict[str, object]]]]
"""Reads an answer as it comes in: takes a piece, `""` at its end, and returns what records to send."""

OnText: TypeAlias = Callable[[], TextReader]
"""Begins to read an answer, each time that one begins to come in."""


class Delivery:
    """What a call hands out of its answer as it comes in.

    Args:
        span: The call in the trace; None where nobody is told, though the answer is streamed.
        is_answer: Whether its text is the run's answer.
        on_text: Reads the text as it comes in, where somebody is told of it.
    """

    __slots__ = ("_checksum", "_has_said", "_is_answer", "_length", "_on_text", "_read", "_span")

    def __init__(self, span: Span | None, *, is_answer: bool, on_text: OnText | None) -> None:
        self._span = span if span is not None and span.content else None
        self._is_answer = is_answer
        self._on_text = on_text
        self._read: TextReader | None = None
        self._has_said = False
        # Of the text that was handed out: the text itself is kept once, by whoever puts it together.
        self._length = self._checksum = 0

    def __call__(
        self,
        text: str,
        kind: DeltaKind = "text",
        *,
        whole: bool = False,
        tool: str | None = None,
        index: int = 0,
    ) -> None:
        """Hand out a piece; `whole` says that it is all, from a provider that cannot stream."""
        span = self._span
        if span is None:
            return
        self._has_said = True
        if kind == "arguments":
            span.send(TextDelta, text=text, kind=kind, tool=tool, index=index)
            return
        if kind == "reasoning":
            span.send(TextDelta, text=text, kind=kind)
            return
        if not self._length:
            if self._is_answer:
                span.tracer.note_said(span)
            self._read = None if self._on_text is None else self._on_text()
        self._length += len(text)
        self._checksum = crc32(text.encode("utf-8", "surrogatepass"), self._checksum)
        span.send(TextDelta, text=text, whole=whole, is_answer=self._is_answer)
        self._send_read(span, text)

    def end(self, text: str) -> None:
        """Note the end of the answer, whose whole text is this."""
        if self._span is None or not self._length:
            return
        checksum = crc32(text.encode("utf-8", "surrogatepass"))
        if (len(text), checksum) != (self._length, self._checksum):
            self.void()  # reasoning was found in it that nobody could know for such before its end
            self(text, whole=True)
        if self._length:
            self._send_read(self._span, "")

    def void(self) -> None:
        """Take back what was handed out, where anything was."""
        if self._span is not None and self._has_said:
            self._span.tracer.void("failed", self._span)
            self._has_said = False
            self._length = self._checksum = 0

    def _send_read(self, span: Span, text: str) -> None:
        """Tell what can be read of the text so far; at its end that is called with no text."""
        if self._read is not None:
            for record, fields in self._read(text):
                span.send(record, is_answer=self._is_answer, **fields)
