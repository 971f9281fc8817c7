"""Many calls, calls that are cancelled, and ports where nobody answers."""

import random
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio

from executionkit.providers.openai import Provider
from tests.faults.playing import PROMPT

__all__ = ["ask", "ask_many", "cancelled_calls", "deaf_port", "descriptors"]


async def ask(provider: Provider) -> str:
    return (await provider.complete(PROMPT)).content


async def ask_many(provider: Provider, count: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(ask, provider)


async def cancelled_calls(provider: Provider, count: int, at_once: int = 125) -> None:
    """Make calls, whole and streamed, that are cancelled at a random moment."""
    chance = random.Random(1)

    async def one(seconds: float, is_stream: bool) -> None:
        with anyio.move_on_after(seconds):
            if not is_stream:
                await ask(provider)
                return
            async with provider.stream(PROMPT) as pieces:
                async for _ in pieces:
                    pass

    for start in range(0, count, at_once):
        async with anyio.create_task_group() as group:
            for _ in range(min(at_once, count - start)):
                group.start_soon(one, chance.uniform(0, 0.04), chance.random() < 0.3)


@contextmanager
def deaf_port() -> Generator[int, None, None]:
    """A port whose queue of connections is full: connecting neither succeeds nor fails."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def descriptors() -> int:
    return len([*Path("/dev/fd").iterdir()])
