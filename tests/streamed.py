"""A model that is watched from its own side, in this process and over HTTP: what it said, and to whom."""

import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint

from executionkit import LLMResponse, Message, ProviderError, TokenUsage, Tool, ToolCall, ToolSpec
from executionkit.providers.scripted import ScriptedPiece

INPUT = 7
"""Tokens that each prompt counts."""


class Said(msgspec.Struct):
    """One request, as its server sees it."""

    words: list[str]
    calls: bool = False
    breaks_after: float = math.inf
    sent: int = 0
    input_tokens: int = 0
    is_done: bool = False


class Speaker:
    """Decides what is answered; counts.

    Args:
        words: Words of an answer that is no JSON.
        breaks: For the n-th request, after how many words it breaks off.
    """

    def __init__(self, words: int = 6, breaks: dict[int, int] | None = None) -> None:
        self.words = words
        self.breaks = breaks or {}
        self.said: list[Said] = []

    def begin(self, messages: list[Message], tools: object, is_typed: bool) -> Said:
        breaks_after = self.breaks.get(len(self.said), math.inf)
        prompt = str(messages[-1].get("content"))
        if tools and messages[-1].get("role") != "tool":
            said = Said(["Let ", "me ", "see."], calls=True, breaks_after=breaks_after)
        elif "Rate how" in prompt:
            said = Said(["Score: ", "5"], breaks_after=breaks_after)
        elif is_typed:
            said = Said(['{"answer": ', '["a"', ', "b', '", "c', '"]}'], breaks_after=breaks_after)
        else:
            said = Said([f"w{n} " for n in range(self.words)], breaks_after=breaks_after)
        self.said.append(said)
        return said

    @property
    def truth(self) -> TokenUsage:
        """What all requests took: a token for each word that was sent."""
        inputs = sum(each.input_tokens for each in self.said)
        return TokenUsage(inputs, sum(each.sent for each in self.said), len(self.said))


async def look_up(city: str = "") -> str:
    await checkpoint()
    return "Paris"


LOOK_UP = Tool("look_up", "Look a city up.", {"type": "object"}, look_up)


class Watched:
    """The speaker as a provider: each word that is pulled counts; of an answer in one piece none before its end."""

    supports_tools = True

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.open = 0

    async def complete(
        self, messages: list[Message], *, tools: list[ToolSpec] | None = None, **options: Any
    ) -> LLMResponse:
        said = self.speaker.begin(messages, tools, "response_format" in options)
        for place, _ in enumerate(said.words):
            await checkpoint()
            if place >= said.breaks_after:
                said.input_tokens = INPUT
                raise ProviderError("broke off", cost=TokenUsage(INPUT, 0, 1))
        said.input_tokens, said.sent, said.is_done = INPUT, len(said.words), True
        return _response(said)

    def stream(
        self, messages: list[Message], *, tools: list[ToolSpec] | None = None, **options: Any
    ) -> "Pieces":
        return Pieces(self, lambda: self.speaker.begin(messages, tools, "response_format" in options))


class Pieces:
    def __init__(self, owner: Watched, begin: Any) -> None:
        self._owner = owner
        self._begin = begin
        self._said: Said | None = None

    async def __aenter__(self) -> Self:
        self._owner.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._owner.open -= 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ScriptedPiece:
        said = self._said
        if said is None:
            said = self._said = self._begin()
            said.input_tokens = INPUT
        await checkpoint()
        if said.sent >= said.breaks_after:
            raise ProviderError("broke off", cost=self.cost)
        if said.sent == len(said.words):
            said.is_done = True
            raise StopAsyncIteration
        said.sent += 1
        return ScriptedPiece(said.words[said.sent - 1])

    @property
    def cost(self) -> TokenUsage:
        return TokenUsage() if self._said is None else TokenUsage(INPUT, self._said.sent, 1)

    @property
    def response(self) -> LLMResponse:
        assert self._said is not None
        return _response(self._said)


def _response(said: Said) -> LLMResponse:
    calls = (ToolCall("c1", "look_up", {}),) if said.calls else ()
    usage = {"prompt_tokens": INPUT, "completion_tokens": said.sent}
    return LLMResponse("".join(said.words), calls, "tool_calls" if calls else "stop", usage)


class Server:
    """The speaker behind HTTP: a piece a word, each sent by itself."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.port = 0
        self.connections = 0
        self._idle = anyio.Event()

    async def wait_until_idle(self) -> None:
        """Return once no connection is open."""
        while self.connections:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        try:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                async with stream:
                    while True:
                        if not await self._answer(stream, await _request(stream)):
                            break
        finally:
            self.connections -= 1
            self._idle.set()

    async def _answer(self, stream: SocketStream, request: dict[str, Any]) -> bool:
        said = self.speaker.begin(request["messages"], request.get("tools"), "response_format" in request)
        if not request.get("stream"):
            return await self._whole(stream, said)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await stream.send(head)
        for word in said.words:
            if said.sent >= said.breaks_after:
                return False
            said.sent += 1
            await stream.send(_chunk({"choices": [{"delta": {"content": word}}]}))
            await checkpoint()
        last: dict[str, Any] = {"delta": {}, "finish_reason": "stop"}
        if said.calls:
            function = {"name": "look_up", "arguments": "{}"}
            call = {"index": 0, "id": "c1", "type": "function", "function": function}
            last = {"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
        await stream.send(_chunk({"choices": [last], "usage": _usage(said)}))
        await stream.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        said.is_done = True
        return True

    async def _whole(self, stream: SocketStream, said: Said) -> bool:
        if said.breaks_after < math.inf:
            return False
        message: dict[str, Any] = {"content": "".join(said.words)}
        if said.calls:
            function = {"name": "look_up", "arguments": "{}"}
            message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
        said.sent = len(said.words)
        answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": _usage(said)}
        body = json.dumps(answer).encode()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        said.is_done = True
        return True


def _usage(said: Said) -> dict[str, int]:
    return {"prompt_tokens": INPUT, "completion_tokens": len(said.words)}


def _chunk(event: dict[str, Any]) -> bytes:
    data = f"data: {json.dumps(event)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _request(stream: SocketStream) -> dict[str, Any]:
    read = await stream.receive()
    while True:
        head, blank, body = read.partition(b"\r\n\r\n")
        if blank:
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            if len(body) >= length:
                request: dict[str, Any] = json.loads(body)
                return request
        read += await stream.receive()


@asynccontextmanager
async def serving(speaker: Speaker) -> AsyncGenerator[Server]:
    """Serve on loopback, in this event loop."""
    server = Server(speaker)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        yield server
        group.cancel_scope.cancel()
