"""The pool under pressure: cancellation at any moment, limits, hang-ups between calls."""

import asyncio
import gc
import random
import socket
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
import sniffio

from executionkit.errors import PermanentError, ProviderClosedError, ProviderError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.faults.script import GOOD, reply
from tests.faults.server import FaultServer

PROMPT = [user("What is the capital of France?")]

pytestmark = pytest.mark.anyio


async def ask(provider: Provider) -> str:
    return (await provider.complete(PROMPT)).content


async def ask_many(provider: Provider, count: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(ask, provider)


async def test_a_storm_of_cancelled_calls_leaves_the_provider_usable(server: FaultServer) -> None:
    await weather_a_storm(Provider(server.url("good-later"), "m", max_connections=100))


async def test_a_storm_on_a_host_that_is_named(named: FaultServer) -> None:
    await weather_a_storm(Provider(named.url("good-later"), "m", max_connections=100))


async def weather_a_storm(stormy: Provider) -> None:
    chance = random.Random(1)
    async with stormy as provider:
        for _ in range(12):
            async with anyio.create_task_group() as group:
                for _ in range(125):
                    group.start_soon(_cancelled_call, provider, chance.uniform(0, 0.03))
        with anyio.fail_after(1.5):
            for _ in range(3):
                assert await ask(provider) == "Paris"


async def _cancelled_call(provider: Provider, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await ask(provider)


async def test_cancelling_while_connecting_gives_the_slot_back() -> None:
    with deaf_port() as port:
        provider = Provider(f"http://127.0.0.1:{port}/v1", "m", max_connections=1)
        async with provider:
            for _ in range(3):
                with anyio.move_on_after(0.02) as scope:
                    await ask(provider)
                assert scope.cancelled_caught


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


async def test_no_more_connections_than_calls_in_flight(server: FaultServer) -> None:
    server.most_connections = server.open_connections
    before, at_most = server.connections, server.open_connections
    async with Provider(server.url("good-later"), "m") as provider:
        for _ in range(4):
            await ask_many(provider, 10)
    assert server.connections - before <= 10
    assert server.most_connections - at_most <= 10


async def test_calls_beyond_the_limit_wait(server: FaultServer) -> None:
    before = server.connections
    async with Provider(server.url("good-later"), "m", max_connections=3) as provider:
        await ask_many(provider, 12)
    assert server.connections - before <= 3


async def test_a_connection_that_the_server_closed_is_replaced(server: FaultServer) -> None:
    before = server.connections
    async with Provider(server.url("good-silent-close"), "m") as provider:
        for _ in range(5):
            assert await ask(provider) == "Paris"
            await anyio.sleep(0.02)
    assert server.connections - before == 5


async def test_a_connection_is_used_again(server: FaultServer) -> None:
    before = server.connections
    async with Provider(server.url("good-plain"), "m") as provider:
        for _ in range(5):
            await ask(provider)
    assert server.connections - before == 1


async def test_bytes_that_nobody_asked_for_are_never_an_answer(server: FaultServer) -> None:
    async with Provider(server.url("good-unasked-answer"), "m") as provider:
        for _ in range(5):
            assert await ask(provider) == "Paris"


async def test_a_closed_provider_says_so_until_it_is_opened_again(server: FaultServer) -> None:
    provider = Provider(server.url("good-plain"), "m")
    assert await ask(provider) == "Paris"
    await provider.aclose()
    with pytest.raises(ProviderClosedError, match="async with"):
        await ask(provider)
    async with provider:
        assert await ask(provider) == "Paris"


async def test_a_connection_to_a_named_host_is_used_again(named: FaultServer) -> None:
    before = named.connections
    async with Provider(named.url("good-plain"), "m") as provider:
        for _ in range(3):
            await ask(provider)
    assert named.connections - before == 1


async def test_the_last_one_out_closes(server: FaultServer) -> None:
    provider = Provider(server.url("good-plain"), "m")
    async with provider:
        async with provider:
            await ask(provider)
        assert await ask(provider) == "Paris"
    with pytest.raises(ProviderClosedError):
        await ask(provider)


async def test_closing_one_leaves_an_equal_one_open(server: FaultServer) -> None:
    one, other = (Provider(server.url("good-plain"), "m") for _ in range(2))
    assert one == other
    async with other:
        async with one:
            await ask(one)
        assert await ask(other) == "Paris"


async def test_closing_under_a_call_in_flight_lets_it_end(server: FaultServer) -> None:
    provider = Provider(server.url("good-later"), "m")
    async with anyio.create_task_group() as group:
        group.start_soon(ask, provider)
        await anyio.sleep(0.01)
        await provider.aclose()


async def test_nobody_listens() -> None:
    with anyio.fail_after(5):
        async with Provider("http://127.0.0.1:9/v1", "m") as provider:
            with pytest.raises(ProviderError, match="failed") as caught:
                await ask(provider)
    assert caught.value.retryable
    assert caught.value.__cause__ is not None


async def test_an_unknown_host() -> None:
    async with Provider("http://no-such-host.invalid/v1", "m") as provider:
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
    assert caught.value.retryable


@contextmanager
def _hasty_server() -> Generator[int, None, None]:
    """A server that refuses a large request before it has read it, and keeps the connection open."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as kept:

        def serve() -> None:
            for body in (b"{}", GOOD):
                connection = kept.enter_context(listening.accept()[0])
                while b"\r\n\r\n" not in connection.recv(65_536):
                    pass
                connection.sendall(reply(body, 413 if body == b"{}" else 200))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


async def test_an_early_refusal_is_read_and_its_connection_not_used_again() -> None:
    with _hasty_server() as port:
        async with Provider(f"http://127.0.0.1:{port}/v1", "m", timeout=5) as provider:
            with pytest.raises(PermanentError, match="413"):
                await provider.complete([user("x" * 20_000_000)])
            assert await ask(provider) == "Paris"


async def test_idle_connections_that_the_server_closed_take_no_descriptor(server: FaultServer) -> None:
    if sniffio.current_async_library() == "trio":
        pytest.skip("trio tells of it only where somebody reads")
    before = descriptors()
    async with Provider(server.url("good-silent-close"), "m") as provider:
        await ask_many(provider, 10)
        with anyio.fail_after(20):
            while descriptors() > before:  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(0.001)


def test_a_loop_that_ends_unclosed_takes_its_sockets_along(server: FaultServer) -> None:
    provider = Provider(server.url("good-plain"), "m")

    async def once() -> None:
        await ask(provider)

    before = descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):
            asyncio.run(once())
            gc.collect()
    patience = 2_000
    while descriptors() > before and patience:  # the server has to hear of it
        patience -= 1
        time.sleep(0.001)
    assert descriptors() <= before


def descriptors() -> int:
    return len([*Path("/dev/fd").iterdir()])
