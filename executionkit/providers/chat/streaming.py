"""A completion that arrives in pieces."""

import asyncio
import re
import warnings
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self

import anyio
import sniffio
from anyio.lowlevel import checkpoint_if_cancelled
from msgspec.structs import replace

from executionkit.core.usage import TokenUsage, plausible, read_usage
from executionkit.errors import LLMError, ProviderError
from executionkit.provider import LLMResponse
from executionkit.providers.chat.deltas import StreamChunk
from executionkit.providers.chat.failures import (
    broken_exchange,
    describe,
    headed,
    refused,
    timed_out,
    unusable,
)
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.sse import EventParser
from executionkit.providers.chat.wire import ONE_CALL, Unusable, reported_usage
from executionkit.providers.format import CHAT, Assembling, Format
from executionkit.providers.http.body import BODY_LIMIT, BodyReader, read_error_body
from executionkit.providers.http.exchange import Exchange, ExchangeError, Head, Request, Transport
from executionkit.providers.pacing import Turn
from executionkit.runtime.tasks.event_loops import closer

__all__ = ["Stream", "read_events"]

_DONE: Final = "[DONE]"
_NO_STREAM: Final = (b"{", b"[", b"<", b'"')
"""How JSON and pages begin, and no event does."""

_EVENT_LINE: Final = re.compile(rb"(?:data|event|id|retry)?[ \t]*:")

_BEGINNING: Final = 4_096

_DRAIN_TIMEOUT: Final = 0.05
"""Seconds that the end of a finished stream may take, so that its connection can be used again."""


_READS_UNCHECKED: Final = 16
"""Reads between two looks whether the stream is cancelled; a look takes as long as a read."""


def read_events(body: bytes, redactor: Redactor, written: Format) -> LLMResponse | Unusable | None:
    """Read an answer that came as a stream though nobody had asked for one; None where it is no stream."""
    begins = body[:_BEGINNING].removeprefix(BOM_UTF8).lstrip()
    if begins[:1] in _NO_STREAM or not _EVENT_LINE.match(begins):
        return None
    assembly, broken = written.assembly(redactor), None
    for event in EventParser().feed(body + b"\n\n"):
        text = event.data.strip()
        if text == _DONE or broken is not None:
            break
        piece = assembly.take(text, event.event) if text else None
        broken = piece if isinstance(piece, Unusable) else None
    if broken is None and assembly.finish_reason is None:
        broken = Unusable("the stream ended without a finish reason")
    if broken is not None:  # what was reported before it broke off was charged
        return replace(broken, usage=reported_usage(assembly.usage)) if assembly.usage else broken
    assembly.flush(is_sound=True)
    return assembly.finished()


class Stream:
    """A streamed completion: an async iterator of `StreamChunk`, made by `Provider.stream`.

    Nothing is sent before the first piece is asked for. Use it with `async with` where the iteration may stop
    early, so that its connection is closed at once; one that is dropped loses it when it is collected, with a
    `ResourceWarning`. Only the waits for the server count towards the time-out, not those for a rate limit.

    ::

        async with provider.stream(messages) as pieces:
            async for piece in pieces:
                print(piece.text, end="")
        print(pieces.response.usage)

    Raises, while it is iterated:
        PermanentError, RateLimitError, ProviderError: As `Provider.complete`, and where the stream breaks
            off, holds an error, or ends without a finish reason. Once text was handed out such an error is
            not retryable; `metadata["text"]` (str) holds the text so far, `cost` what arrived, and
            `metadata["usage_estimated"]` (int, 1) says that some of it is an estimate.
    """

    def __init__(
        self,
        transport: Callable[[], Transport],
        request: Request,
        timeout: float,
        redactor: Redactor,
        input_estimate: int,
        turn: Turn | None = None,
        written: Format = CHAT,
    ) -> None:
        self._decode = written.decode
        self._transport = transport
        self._turn = turn
        self._request = request
        self._timeout = timeout
        self._seconds_left = timeout
        self._clock: Callable[[], float] | None = None
        self._reads = 0
        self._redactor = redactor
        self._input_estimate = input_estimate
        self._exchange: Exchange | None = None
        self._closer: Callable[[Callable[[], Awaitable[None]]], None] | None = None
        self._reader: BodyReader | None = None
        self._parser = EventParser()
        self._assembly: Assembling = written.assembly(redactor)
        self._ready: deque[StreamChunk] = deque()
        self._form: Literal["events", "whole"] | None = None
        self._body = bytearray()
        self._begins = ""
        self._whole: LLMResponse | None = None
        self._failure: LLMError | None = None
        self._ended = False
        self._is_advancing = False

    @property
    def text(self) -> str:
        """The text so far."""
        return self._assembly.text if self._whole is None else self._whole.content

    @property
    def cost(self) -> TokenUsage:
        """What the stream has cost so far: as reported, else one output token for each piece that arrived.

        Before the finish reason a report counts as that of the beginning: what came beside it counts too.
        """
        return self._bill[0]

    @property
    def _bill(self) -> tuple[TokenUsage, bool]:
        """The cost, and whether some of it is an estimate."""
        if self._whole is not None and self._form == "whole":  # the server did not stream
            return reported_usage(self._whole.usage), False
        pieces, is_final = self._assembly.pieces, self._assembly.finish_reason is not None
        if not (pieces or self._assembly.usage):
            return ONE_CALL, False
        reading = read_usage(self._assembly.usage)
        at_least = 1 if is_final and reading.output_tokens is not None else pieces
        reading = plausible(reading, at_least if pieces else 0)
        return reading.or_else(self._input_estimate, pieces), not reading.is_complete

    @property
    def is_cost_final(self) -> bool:
        """Whether `cost` is what the server reported of the whole, and not an estimate of what arrived."""
        cost, is_estimate = self._bill
        if is_estimate or cost == ONE_CALL:
            return not is_estimate
        return self._whole is not None or self._assembly.finish_reason is not None

    @property
    def response(self) -> LLMResponse:
        """The whole completion, once the stream has ended.

        Raises:
            RuntimeError: It has not.
        """
        if self._whole is None:
            raise RuntimeError("the stream has not ended; iterate it to its end first")
        return self._whole

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamChunk:
        if self._is_advancing:
            raise RuntimeError("another task is reading this stream; only one may do so")
        self._is_advancing = True
        try:
            while not self._ready and not self._ended:
                await self._advance()
        except LLMError as error:
            if not self._ended:  # else another task has closed it
                await self._fail(error)
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._is_advancing = False
        if self._ready:  # also what arrived together with the failure
            return self._ready.popleft()
        raise self._failure or StopAsyncIteration

    async def _fail(self, error: LLMError) -> None:
        self._flush(is_sound=False)
        # Its frames hold what the server sent.
        self._failure = self._broken_off(error).with_traceback(None)
        await self.aclose()

    def _flush(self, *, is_sound: bool) -> None:
        """Hand out what was held back."""
        known = len(self._assembly.reasoning)
        held = self._assembly.flush(is_sound=is_sound)
        thoughts = self._assembly.reasoning[known:]
        calls = self._assembly.flush_calls(is_sound=is_sound)
        if held or thoughts or calls:
            self._ready.append(StreamChunk(held, reasoning=thoughts, calls=calls))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream; its connection is closed unless it was read to its end."""
        self._ended = True
        if self._turn is not None:
            self._turn.settle((self.cost if self._failure is None else self._failure.cost).total_tokens)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.finish()

    def __del__(self) -> None:
        exchange, close = getattr(self, "_exchange", None), getattr(self, "_closer", None)
        if exchange is not None and close is not None:
            close(exchange.finish)
            warnings.warn(
                "a stream was dropped before its end; use `async with` where the iteration may stop early",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    async def _advance(self) -> None:
        if self._turn is not None and self._exchange is None:
            await self._turn.wait()
        failure: LLMError | None = None
        if self._clock is None:
            on_asyncio = sniffio.current_async_library() == "asyncio"
            self._clock = asyncio.get_running_loop().time if on_asyncio else anyio.current_time
        began = self._clock()
        deadline = began + self._seconds_left
        try:
            if self._seconds_left > 0:
                self._reads += 1
                if self._reads % _READS_UNCHECKED == 0:
                    await checkpoint_if_cancelled()  # reading what is there already is never cancelled
                exchange, reader = self._exchange, self._reader
                if reader is not None and exchange is not None and exchange.end_reads_at(deadline):
                    await self._read_piece(exchange, reader)
                else:
                    with anyio.CancelScope(deadline=deadline):
                        await self._read_on()
        except ExchangeError as error:
            failure = broken_exchange(error, self._redactor, self._head)
        now = self._clock()
        self._seconds_left -= now - began
        if now < deadline and failure is None:
            return
        if self._assembly.finish_reason is None:
            in_time = failure if now < deadline else None
            raise in_time or timed_out(self._timeout, self._head, self._redactor)
        await self._end()  # all of the text is there

    @property
    def _head(self) -> Head | None:
        return None if self._exchange is None else self._exchange.head

    async def _read_on(self) -> None:
        if self._exchange is None:
            exchange = await self._transport().send(self._request)
            if self._turn is not None:
                self._turn.learn(exchange.head)
            if self._ended:  # closed by another task
                await exchange.finish()
                return
            self._exchange, self._closer = exchange, closer()
        if self._reader is None:
            await self._begin(self._exchange)
        else:
            await self._read_piece(self._exchange, self._reader)

    async def _begin(self, exchange: Exchange) -> None:
        if not exchange.head.is_success:
            raise refused(exchange.head, await read_error_body(exchange), self._redactor)
        self._reader = BodyReader(exchange, BODY_LIMIT)

    async def _read_piece(self, exchange: Exchange, reader: BodyReader) -> None:
        data = await reader.read()
        is_over = not data
        if self._form is None:
            data = self._begun(data)
        if self._form == "whole":
            self._body += data
            if is_over:
                await self._end_whole(exchange.head)
            return None
        for event in self._parser.feed(data):
            text = event.data.strip()
            if text == _DONE:
                await self._drain(reader)
                return await self._end()
            if text:
                self._begins = ""
                self._take(text, event.event, exchange.head)
        if is_over:
            await self._end()
        return None

    def _begun(self, data: bytes) -> bytes:
        """Find out by its first bytes, not by its label, whether an answer comes in pieces; return them."""
        self._body += data
        begins = bytes(self._body[:_BEGINNING]).removeprefix(BOM_UTF8).lstrip()
        if data and BOM_UTF8.startswith(begins):
            self._body = bytearray(begins)  # blank lines that keep the connection open, a byte order mark
            return b""
        self._form = "whole" if begins[:1] in _NO_STREAM else "events"
        data, self._body = bytes(self._body), bytearray()
        if not _EVENT_LINE.match(begins):
            self._begins = begins.decode("utf-8", "replace")
        return data

    async def _end_whole(self, head: Head) -> None:
        """Take an answer in one piece from a server that does not stream."""
        answer = self._decode(bytes(self._body), self._redactor)
        if isinstance(answer, Unusable):
            raise unusable(head, answer, self._redactor)
        usage, thoughts = answer.usage, answer.reasoning
        self._ready.append(StreamChunk(answer.content, answer.finish_reason, usage, thoughts))
        self._whole = headed(answer, head, self._redactor)
        await self.aclose()

    def _take(self, data: str, kind: str, head: Head) -> None:
        piece = self._assembly.take(data, kind)
        if isinstance(piece, Unusable):
            raise unusable(head, piece, self._redactor)
        if piece.text or piece.finish_reason or piece.usage or piece.reasoning or piece.calls:
            self._ready.append(piece)

    async def _drain(self, reader: BodyReader) -> None:
        with anyio.move_on_after(_DRAIN_TIMEOUT), suppress(ExchangeError):
            while await reader.read():
                pass

    async def _end(self) -> None:
        if self._begins and self._head is not None:
            answer = Unusable("the answer is neither a stream nor JSON", begins=self._begins)
            raise unusable(self._head, answer, self._redactor)
        if self._assembly.finish_reason is None:
            raise ProviderError(
                "the stream ended without a finish reason",
                cost=ONE_CALL,
                metadata={} if self._head is None else describe(self._head, self._redactor),
            )
        self._flush(is_sound=True)
        whole, head = self._assembly.finished(), self._head
        self._whole = whole if head is None else headed(whole, head, self._redactor)
        await self.aclose()

    def _broken_off(self, error: LLMError) -> LLMError:
        """Return the error with what had arrived; a retry cannot take back text that was handed out."""
        if not (self._assembly.pieces or self._assembly.usage):
            return error
        cost, is_estimated = self._bill
        estimated: dict[str, object] = {"usage_estimated": 1} if is_estimated else {}
        copy = error.stamped(cost, {"text": self.text, **estimated})
        if self.text:
            copy.retry_hint = False
        return copy
