"""Cancellation at every step of every pattern, over HTTP: the provider works on, and no connection is lost."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from returns.result import Success

from executionkit import RetryConfig, Stage, Tool, complete, consensus, react, refine, structured
from executionkit.events import AttemptFinished, AttemptStarted, Event
from executionkit.providers.openai import Provider
from tests.conftest import BARE
from tests.stepping import cancelled_at, steps_of, task_cancelled_at

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LIMIT = 2
"""Connections: as many as a clean call then needs at once, so that none may be lost."""
IN_TIME = 5.0
RETRY = RetryConfig(base_delay=0.0)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
CALLS = [
    {"id": f"c{n}", "type": "function", "function": {"name": "look_up", "arguments": "{}"}} for n in (1, 2)
]


Transport: TypeAlias = Literal["httpx", "aiohttp"]


class Server:
    """Answers as each pattern needs it, with a refusal now and then; "together" only to two at once."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self.connections = 0
        self.refuses = True
        self._together = 0
        self._both = anyio.Event()
        self._idle = anyio.Event()

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        try:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                async with stream:
                    while True:
                        await self._answer(stream, await _read_request(stream))
        finally:
            self.connections -= 1
            if not self.connections:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return once no connection is open."""
        self._idle = anyio.Event()
        if self.connections:
            await self._idle.wait()

    async def _answer(self, stream: SocketStream, request: dict[str, Any]) -> None:
        self.requests += 1
        prompt = str(request["messages"][-1].get("content"))
        if prompt == "together":
            await self._wait_for_the_other()
        elif self.refuses and self.requests % 4 == 3:
            await stream.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            return
        message, reason = _message(request, prompt)
        await anyio.lowlevel.checkpoint()
        if request.get("stream"):
            for piece in _streamed(message):
                await stream.send(piece)
            return
        choice = {"message": message, "finish_reason": reason}
        body = json.dumps({"choices": [choice], "usage": USAGE}).encode()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def _wait_for_the_other(self) -> None:
        self._together += 1
        both = self._both
        if self._together % 2 == 0:
            both.set()
            self._both = anyio.Event()
        await both.wait()


def _message(request: dict[str, Any], prompt: str) -> tuple[dict[str, Any], str]:
    if request.get("tools") and request["messages"][-1]["role"] != "tool":
        return {"content": None, "tool_calls": CALLS}, "tool_calls"
    return {"content": "Score: 5" if "Rate how" in prompt else '{"city": "Paris"}'}, "stop"


def _streamed(message: dict[str, Any]) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events: list[dict[str, object]] = [
        {"choices": [{"delta": message}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE},
    ]
    pieces = [*(f"data: {json.dumps(event)}\n\n".encode() for event in events), b"data: [DONE]\n\n"]
    return [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


async def _read_request(stream: SocketStream) -> dict[str, Any]:
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
async def serving() -> AsyncGenerator[Server]:
    server = Server()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        yield server
        group.cancel_scope.cancel()


async def look_up() -> str:
    await anyio.lowlevel.checkpoint()
    return "Paris"


LOOK_UP = Tool("look_up", "Look a city up.", {"type": "object"}, look_up)
STAGES: dict[str, Stage[str, Any]] = {
    "complete": complete(),
    "complete in pieces": complete(stream=True),
    "consensus": consensus(n=4, max_concurrency=3),
    "refine": refine(max_iterations=1),
    "react": react([LOOK_UP]),
    "structured": structured(dict[str, str]),
    "pipe": complete() >> consensus(n=2),
    "fallback": complete().map(lambda text: 1 / 0) | complete(stream=True),
    "both": complete() & complete(stream=True),
}


class Scene:
    """One provider, one run on it, watched from both ends."""

    def __init__(self, server: Server, stage: Stage[str, Any], transport: Transport) -> None:
        url = f"http://127.0.0.1:{server.port}/v1"
        self.provider = Provider(url, "m", "sk-12345678", max_connections=LIMIT, transport=transport)
        self._server = server
        self._stage = stage
        self.events: list[Event] = []
        self.outcome: object = None

    async def run(self) -> None:
        self._server.requests = 0
        self.outcome = await self._stage.run(self.provider, "Where?", retry=RETRY, trace=self.events.append)

    def is_in_balance(self) -> bool:
        started = [event for event in self.events if isinstance(event, AttemptStarted)]
        finished = [event for event in self.events if isinstance(event, AttemptFinished)]
        paid = sum(event.cost.llm_calls for event in finished)
        return len(started) == len(finished) == paid and self._server.requests <= paid


Cancel: TypeAlias = Callable[[int, Callable[[], Coroutine[Any, Any, object]]], Awaitable[bool]]


async def check_every_step(
    stage: Stage[str, Any], transport: Transport = "httpx", cancel: Cancel = cancelled_at
) -> None:
    async with serving() as server:
        sound = Scene(server, stage, transport)
        async with sound.provider:
            steps = await steps_of(sound.run)
        assert isinstance(sound.outcome, Success), sound.outcome
        assert sound.is_in_balance()
        cut_short = 0
        for step in range(1, steps + 3):
            with anyio.fail_after(IN_TIME):
                cut_short += await check_step(partial(cancel, step), Scene(server, stage, transport), server)
        assert cut_short > steps // 2, (cut_short, steps)


async def check_step(
    cancelled: Callable[[Callable[[], Coroutine[Any, Any, object]]], Awaitable[bool]],
    scene: Scene,
    server: Server,
) -> bool:
    async with scene.provider as provider:
        was_cut = await cancelled(scene.run)
        assert was_cut or isinstance(scene.outcome, Success)
        assert scene.is_in_balance(), scene.events
        again = await consensus(n=LIMIT, max_concurrency=LIMIT).run(provider, "together")
        assert isinstance(again, Success), again
        assert server.connections <= LIMIT + 1  # one that was cut, maybe, that the server has not yet noticed
    await server.wait_until_idle()
    return was_cut


@pytest.mark.parametrize("name", STAGES)
async def test_cancelled_at_every_step(name: str) -> None:
    await check_every_step(STAGES[name])


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_its_task_is_cancelled_at_every_step(name: str) -> None:
    await check_every_step(STAGES[name], cancel=task_cancelled_at)


@pytest.mark.parametrize("is_handed_in", [False, True])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_interrupt_while_it_begins_to_connect_is_not_lost(is_handed_in: bool) -> None:
    """`asyncio.run` cancels its task in a signal's handler: while the task runs, not while it waits."""
    async with serving() as server:
        for step in range(1, 6):
            async with httpx.AsyncClient() as client:
                scene = Scene(server, complete(), "httpx")
                if is_handed_in:
                    url = f"http://127.0.0.1:{server.port}/v1"
                    scene.provider = Provider(url, "m", "sk-12345678", client=client)
                async with scene.provider:
                    assert await task_cancelled_at(step, scene.run), step


@pytest.mark.parametrize("name", ["complete in pieces", "consensus"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_at_every_step_through_aiohttp(name: str) -> None:
    if BARE:
        pytest.importorskip("aiohttp")
    await check_every_step(STAGES[name], "aiohttp")
