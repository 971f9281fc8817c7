"""One attempt at a completion: the answer in one piece, or handed out as it comes in."""

import time
from collections.abc import Callable
from typing import Any, Final

from executionkit.core.content import ThoughtFilter
from executionkit.core.dialect import Spelled
from executionkit.core.foreign import attribute, method
from executionkit.core.frozen import json_copy
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.provider import LLMProvider, LLMResponse, Message, Piece, Pieces, checked_response
from executionkit.runtime.backlog import Backlog
from executionkit.runtime.calls.delivery import Delivery
from executionkit.runtime.tasks.ending import interruptible, is_interrupt_coming, let_end

__all__ = ["StreamedAttempt", "ask"]


async def ask(provider: LLMProvider, asked: Spelled) -> LLMResponse:
    """Send a request and return the whole answer, in one piece."""
    messages, options = _handed(asked)
    if is_interrupt_coming():  # it struck since the call was admitted
        await let_end()
    return checked_response(
        await interruptible(
            provider.complete(messages, temperature=asked.temperature, max_tokens=asked.max_tokens, **options)
        )
    )


def _handed(asked: Spelled) -> tuple[list[Message], dict[str, Any]]:
    """Return what a provider is handed: copies for each attempt, for it may well edit them."""
    options: dict[str, Any] = _copied(asked.options) if asked.options else {}
    if asked.tools is not None:
        options["tools"] = json_copy(asked.tools)
    return json_copy(asked.messages), options


class StreamedAttempt:
    """One attempt at a completion whose answer is handed out as it comes in, where the provider can stream.

    Args:
        provider: Whom to ask.
        deliver: Receives the pieces.
        backlog: Where pieces wait while the reader of a stream is behind; None where there is no reader.
        waited: Told how long each piece after the first was waited for; None where nobody wants to know.

    Attributes:
        has_delivered: Whether any text was handed out.
        first_at: When the first piece came in, as `time.perf_counter` counts; None where none has.
    """

    __slots__ = ("_backlog", "_deliver", "_pieces", "_provider", "_waited", "first_at", "has_delivered")

    def __init__(
        self,
        provider: LLMProvider,
        deliver: Delivery,
        backlog: Backlog | None,
        waited: Callable[[float], None] | None,
    ) -> None:
        self._provider = provider
        self._deliver = deliver
        self._backlog = backlog
        self._waited = waited
        self._pieces: Pieces | None = None
        self.has_delivered: bool = False
        self.first_at: float | None = None

    @property
    def billed(self) -> TokenUsage:
        """What an attempt that was broken off is known to have cost, in tokens."""
        return NO_USAGE if self._pieces is None else self._pieces.cost

    @property
    def is_broken_off(self) -> bool:
        """Whether `billed` is an estimate: pieces arrived, but not the server's own figure at their end."""
        pieces = self._pieces
        return pieces is not None and attribute(pieces, "is_cost_final") is not True

    async def answer(self, asked: Spelled) -> LLMResponse:
        """Send the request and return the whole answer."""
        provider, deliver = self._provider, self._deliver
        stream = method(provider, "stream")
        if stream is None:
            response = await ask(provider, asked)
            if response.content:
                deliver(response.content, whole=True)
            return response
        messages, options = _handed(asked)
        if is_interrupt_coming():
            await let_end()
        started: Pieces = stream(
            messages, temperature=asked.temperature, max_tokens=asked.max_tokens, **options
        )
        return await interruptible(self._in_pieces(started, deliver))

    async def _in_pieces(self, started: Pieces, deliver: Delivery) -> LLMResponse:
        """Hand an answer out as it comes in, and return the whole."""
        self._pieces = started
        thoughts, backlog, waited = ThoughtFilter(), self._backlog, self._waited
        asked_at = 0.0
        async with started as pieces:
            async for piece in pieces:
                if self.first_at is None:
                    self.first_at = time.perf_counter()
                elif waited is not None:
                    waited(time.perf_counter() - asked_at)
                if backlog is not None and backlog.is_full:
                    await backlog.room()
                self._hand_out(piece, deliver, thoughts)
                if waited is not None:
                    asked_at = time.perf_counter()
        reasoning, text = thoughts.flush()
        if reasoning:
            deliver(reasoning, "reasoning")
        if text:
            self.has_delivered = True
            deliver(text)
        return checked_response(pieces.response)

    def _hand_out(self, piece: Piece, deliver: Delivery, thoughts: ThoughtFilter) -> None:
        reasoning, text = thoughts.feed(piece.text) if piece.text else ("", "")
        reasoning = attribute(piece, "reasoning") or reasoning
        if reasoning:
            deliver(reasoning, "reasoning")
        if text:
            self.has_delivered = True
            deliver(text)
        for part in attribute(piece, "calls") or ():
            deliver(part.arguments, "arguments", tool=part.name, index=part.index)


_ATOMS: Final = frozenset({str, int, float, bool, type(None)})


def _copied(value: Any) -> Any:
    """Return a copy of JSON's shapes all the way down; of anything else the thing itself."""
    if isinstance(value, dict):
        items: Any = value.items()  # pyright: ignore[reportUnknownVariableType]
        return {key: part if type(part) in _ATOMS else _copied(part) for key, part in items}
    if isinstance(value, list):
        parts: Any = value  # pyright: ignore[reportUnknownVariableType]
        return [part if type(part) in _ATOMS else _copied(part) for part in parts]
    return value
