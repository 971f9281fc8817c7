"""One attempt at a completion: in one piece, or streamed where that was asked for and the provider can."""

from collections.abc import Callable
from typing import Any

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.provider import LLMProvider, LLMResponse, Pieces, StreamingProvider, checked_response
from executionkit.runtime.ledger import Request

__all__ = ["Attempt"]


class Attempt:
    """One attempt at a completion.

    Args:
        provider: Whom to ask.
        deliver: Receives the pieces of the text as they come in; None asks for the answer in one piece.

    Attributes:
        has_delivered: Whether it has received any.
    """

    __slots__ = ("_deliver", "_pieces", "_provider", "has_delivered")

    def __init__(self, provider: LLMProvider, deliver: Callable[[str], None] | None = None) -> None:
        self._provider = provider
        self._deliver = deliver
        self._pieces: Pieces | None = None
        self.has_delivered: bool = False

    @property
    def billed(self) -> TokenUsage:
        """What an attempt that was broken off is known to have cost, in tokens."""
        return NO_USAGE if self._pieces is None else self._pieces.cost

    async def answer(
        self, request: Request, temperature: float | None, max_tokens: int | None, options: dict[str, Any]
    ) -> LLMResponse:
        """Send the request and return the whole answer."""
        provider, deliver = self._provider, self._deliver
        # A copy for each attempt: a provider may well add its own system prompt to the list it is handed.
        messages = [*map(dict, request.messages)]
        if deliver is None or not isinstance(provider, StreamingProvider) or not callable(provider.stream):
            return checked_response(
                await provider.complete(messages, temperature=temperature, max_tokens=max_tokens, **options)
            )
        self._pieces = provider.stream(messages, temperature=temperature, max_tokens=max_tokens, **options)
        async with self._pieces as pieces:
            async for piece in pieces:
                if piece.text:
                    self.has_delivered = True
                    deliver(piece.text)
        return checked_response(pieces.response)
