"""One attempt at a completion: in one piece, or streamed where that was asked for and the provider can."""

from typing import Any, Final, Protocol

from executionkit.core.dialect import Spelled
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.provider import LLMProvider, LLMResponse, Pieces, checked_response
from executionkit.runtime.frame import method

__all__ = ["Attempt"]


class Deliver(Protocol):
    """Receives the text of an answer as it comes in."""

    def __call__(self, text: str, *, whole: bool = False) -> None:
        """Take a piece; `whole` says that it is all, from a provider that cannot stream."""
        ...


class Attempt:
    """One attempt at a completion.

    Args:
        provider: Whom to ask.
        deliver: Receives the pieces of the text as they come in; None asks for the answer in one piece.

    Attributes:
        has_delivered: Whether it has received any.
    """

    __slots__ = ("_deliver", "_pieces", "_provider", "has_delivered")

    def __init__(self, provider: LLMProvider, deliver: Deliver | None = None) -> None:
        self._provider = provider
        self._deliver = deliver
        self._pieces: Pieces | None = None
        self.has_delivered: bool = False

    @property
    def billed(self) -> TokenUsage:
        """What an attempt that was broken off is known to have cost, in tokens."""
        return NO_USAGE if self._pieces is None else self._pieces.cost

    async def answer(self, asked: Spelled) -> LLMResponse:
        """Send the request and return the whole answer."""
        provider, deliver = self._provider, self._deliver
        # Copies for each attempt: a provider may well edit what it is handed.
        messages, tools = [*map(_copied, asked.messages)], asked.tools
        options: dict[str, Any] = _copied(asked.options) if asked.options else {}
        if tools is not None:
            options["tools"] = [*map(_copied, tools)]
        stream = method(provider, "stream") if deliver is not None else None
        if deliver is None or stream is None:
            response = checked_response(
                await provider.complete(
                    messages, temperature=asked.temperature, max_tokens=asked.max_tokens, **options
                )
            )
            if deliver is not None and response.content:
                deliver(response.content, whole=True)
            return response
        started: Pieces = stream(
            messages, temperature=asked.temperature, max_tokens=asked.max_tokens, **options
        )
        self._pieces = started
        async with started as pieces:
            async for piece in pieces:
                if piece.text:
                    self.has_delivered = True
                    deliver(piece.text)
        return checked_response(pieces.response)


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
