"""Calls that are cancelled at a random moment, on one provider: no slot is lost, no socket is left."""

import ssl
from typing import Any

import anyio
import pytest

from executionkit.providers.openai import Provider
from tests.faults.certificates import trusting
from tests.faults.playing import LONG
from tests.faults.pressure import ask, cancelled_calls
from tests.faults.server import FaultServer
from tests.faults.ways import HANDED_IN, HTTPX, OURS, Way, on_each_loop

CALLS = 1_500 if LONG else 200
SLOTS = 20

pytestmark = [
    pytest.mark.anyio,
    # httpcore does not close its inner generators where a body is not read to its end; trio says so.
    pytest.mark.filterwarnings("ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"),
]


async def weather(provider: Provider) -> None:
    """Cancel many calls; the conftest counts the sockets that are left behind."""
    async with provider:
        await cancelled_calls(provider, CALLS)
        with anyio.fail_after(10):
            for _ in range(3):
                assert await ask(provider) == "Paris"
            async with anyio.create_task_group() as group:
                for _ in range(SLOTS):
                    group.start_soon(ask, provider)


@on_each_loop(*OURS)
async def test_no_slot_is_lost(way: Way, server: FaultServer) -> None:
    async with way.settings() as settings:
        await weather(Provider(server.url("good-later"), "m", max_connections=SLOTS, **settings))


@on_each_loop(*OURS)
async def test_none_is_lost_on_a_host_that_is_named(way: Way, named: FaultServer) -> None:
    async with way.settings() as settings:
        await weather(Provider(named.url("good-later"), "m", max_connections=SLOTS, **settings))


@on_each_loop(*OURS)
async def test_none_is_lost_under_tls(way: Way, tls_server: FaultServer) -> None:
    url = tls_server.url("good-later").replace("http:", "https:")
    async with way.settings() as settings:
        await weather(Provider(url, "m", max_connections=SLOTS, tls=trusting(), **settings))


@on_each_loop(*HANDED_IN)
async def test_what_is_handed_in_stays_sound(way: Way, server: FaultServer) -> None:
    async with way.settings() as settings:
        try:
            await weather(Provider(server.url("good-later"), "m", **settings))
        except TimeoutError:
            if way.module != "httpx" or not has_lost_connections(settings):
                raise
            pytest.xfail("the pool of httpx keeps connections that nobody connects: docs/providers.md")


def has_lost_connections(settings: dict[str, Any]) -> bool:
    """Tell whether a pool of httpx's has no request under way, and all its connections are being connected."""
    pool = (settings["transport"] if "transport" in settings else settings["client"]._transport)._pool
    return "0 active, 0 queued" in repr(pool) and all("CONNECTING" in repr(each) for each in pool.connections)


@on_each_loop(HTTPX)
async def test_a_handshake_that_is_cancelled_leaves_no_socket(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx loses a connection whose TLS handshake is cancelled."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
        port = silent.extra(anyio.abc.SocketAttribute.local_port)
        context = ssl.create_default_context()
        async with Provider(f"https://127.0.0.1:{port}/v1", "m", tls=context, transport="httpx") as provider:
            for _ in range(3):
                with anyio.move_on_after(0.05) as scope:
                    await ask(provider)
                assert scope.cancelled_caught
