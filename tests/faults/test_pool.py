"""The connections of a provider: limits, cancellation while connecting, hang-ups between calls."""

import asyncio
import gc
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from executionkit.errors import ProviderClosedError, ProviderError
from executionkit.providers.http import httpx_transport
from executionkit.providers.openai import Provider
from tests.conftest import needs
from tests.faults.pressure import ask, ask_many, deaf_port, descriptors
from tests.faults.server import FaultServer
from tests.faults.ways import HTTPX, OURS, Way, on_each_loop

Make = Callable[..., Provider]

pytestmark = [pytest.mark.anyio]


@pytest.fixture
def make(way: Way) -> Make:
    settings: dict[str, Any] = {way.setting: way.name}
    return partial(Provider, **settings)


@on_each_loop(*OURS)
async def test_cancelling_while_connecting_gives_the_slot_back(make: Make) -> None:
    with deaf_port() as port:
        provider = make(f"http://127.0.0.1:{port}/v1", "m", max_connections=1)
        async with provider:
            for _ in range(3):
                with anyio.move_on_after(0.02) as scope:
                    await ask(provider)
                assert scope.cancelled_caught


@on_each_loop(*OURS)
async def test_no_more_connections_than_calls_in_flight(make: Make, server: FaultServer) -> None:
    server.most_connections = server.open_connections
    before, at_most = server.connections, server.open_connections
    async with make(server.url("good-later"), "m") as provider:
        for _ in range(4):
            await ask_many(provider, 10)
    assert server.connections - before <= 10
    assert server.most_connections - at_most <= 10


@on_each_loop(*OURS)
async def test_calls_beyond_the_limit_wait(make: Make, server: FaultServer) -> None:
    before = server.connections
    async with make(server.url("good-later"), "m", max_connections=3) as provider:
        await ask_many(provider, 12)
    assert server.connections - before <= 3


@on_each_loop(*OURS)
async def test_a_connection_that_the_server_closed_is_replaced(make: Make, server: FaultServer) -> None:
    before = server.connections
    async with make(server.url("good-silent-close"), "m") as provider:
        for _ in range(5):
            assert await ask(provider) == "Paris"
            await anyio.sleep(0.02)
    assert server.connections - before == 5


@on_each_loop(*OURS)
async def test_a_connection_is_used_again(make: Make, server: FaultServer) -> None:
    before = server.connections
    async with make(server.url("good-plain"), "m") as provider:
        for _ in range(5):
            await ask(provider)
    assert server.connections - before == 1


@on_each_loop(*OURS)
async def test_bytes_that_nobody_asked_for_are_never_an_answer(make: Make, server: FaultServer) -> None:
    async with make(server.url("good-unasked-answer"), "m") as provider:
        for _ in range(5):
            assert await ask(provider) == "Paris"


@on_each_loop(*OURS)
async def test_a_closed_provider_says_so_until_it_is_opened_again(make: Make, server: FaultServer) -> None:
    provider = make(server.url("good-plain"), "m")
    assert await ask(provider) == "Paris"
    await provider.aclose()
    with pytest.raises(ProviderClosedError, match="async with"):
        await ask(provider)
    async with provider:
        assert await ask(provider) == "Paris"


@on_each_loop(*OURS)
async def test_a_connection_to_a_named_host_is_used_again(make: Make, named: FaultServer) -> None:
    before = named.connections
    async with make(named.url("good-plain"), "m") as provider:
        for _ in range(3):
            await ask(provider)
    assert named.connections - before == 1


@on_each_loop(*OURS)
async def test_the_last_one_out_closes(make: Make, server: FaultServer) -> None:
    provider = make(server.url("good-plain"), "m")
    async with provider:
        async with provider:
            await ask(provider)
        assert await ask(provider) == "Paris"
    with pytest.raises(ProviderClosedError):
        await ask(provider)


@on_each_loop(*OURS)
async def test_closing_one_leaves_an_equal_one_open(make: Make, server: FaultServer) -> None:
    one, other = (make(server.url("good-plain"), "m") for _ in range(2))
    assert one == other
    async with other:
        async with one:
            await ask(one)
        assert await ask(other) == "Paris"


@on_each_loop(*OURS)
async def test_closing_under_a_call_in_flight_lets_it_end(make: Make, server: FaultServer) -> None:
    provider = make(server.url("good-later"), "m")
    async with anyio.create_task_group() as group:
        group.start_soon(ask, provider)
        await anyio.sleep(0.01)
        await provider.aclose()


@on_each_loop(*OURS)
async def test_nobody_listens(make: Make) -> None:
    with anyio.fail_after(5):
        async with make("http://127.0.0.1:9/v1", "m") as provider:
            with pytest.raises(ProviderError, match="failed") as caught:
                await ask(provider)
    assert caught.value.retryable
    assert caught.value.__cause__ is not None


@on_each_loop(*OURS)
async def test_an_unknown_host(make: Make) -> None:
    async with make("http://no-such-host.invalid/v1", "m") as provider:
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
    assert caught.value.retryable


@on_each_loop(*OURS)
async def test_a_connection_that_was_closed_while_the_loop_was_busy_is_replaced(
    make: Make, server: FaultServer
) -> None:
    async with make(server.url("good-silent-close"), "m") as provider:
        for _ in range(5):
            assert await ask(provider) == "Paris"
            time.sleep(0.05)  # noqa: ASYNC251 - so that the loop has not seen it yet


@on_each_loop(HTTPX)
async def test_idle_connections_are_closed_by_the_next_call_after_their_time(
    make: Make, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx_transport, "KEEPALIVE", 0.05)
    async with make(server.url("good-later"), "m") as provider:
        await ask_many(provider, 10)
        before = server.connections
        await anyio.sleep(0.1)
        assert await ask(provider) == "Paris"
        assert server.connections == before + 1
        with anyio.fail_after(10):
            while server.open_connections > 1:  # noqa: ASYNC110 - it lives in another thread
                await anyio.sleep(0.001)


@pytest.mark.parametrize("transport", [pytest.param(way.name, marks=needs(way.module)) for way in OURS])
def test_a_loop_that_ends_unclosed_takes_its_sockets_along(transport: Any, server: FaultServer) -> None:
    provider = Provider(server.url("good-plain"), "m", transport=transport)

    async def once() -> None:
        await ask(provider)

    before = descriptors()
    with warnings.catch_warnings(record=True):  # asyncio and aiohttp complain, as they should
        warnings.simplefilter("always")
        for _ in range(5):
            asyncio.run(once())
            gc.collect()
    patience = 2_000
    while descriptors() > before and patience:  # the server has to hear of it
        patience -= 1
        time.sleep(0.001)
    assert descriptors() <= before
