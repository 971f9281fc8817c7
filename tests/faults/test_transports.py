"""An event loop that watches no sockets (Windows, uvloop) has transports instead; they keep the same promises."""

import pytest

from executionkit.provider import user
from executionkit.providers.http import asyncio_sockets
from executionkit.providers.openai import Provider
from tests.faults import test_attempts, test_pool, test_streams
from tests.faults.kinds import FAULTS
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.streams import STREAMS

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


def never(_: object) -> bool:
    return False


@pytest.fixture(autouse=True)
def _without_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio_sockets, "_watches_sockets", never)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_a_fault_gives_an_answer_or_its_error(fault: Fault, server: FaultServer) -> None:
    await test_attempts.play(fault, server)


@pytest.mark.parametrize("fault", STREAMS, ids=[fault.name for fault in STREAMS])
async def test_a_stream_gives_its_text_or_its_error(fault: Fault, server: FaultServer) -> None:
    await test_streams.play(fault, server)


async def test_the_next_call_on_the_same_provider_is_sound(server: FaultServer) -> None:
    server.calls.clear()  # each fault is played to the first call of its name
    await test_attempts.play_twice(server)


async def test_a_storm_of_cancelled_calls_leaves_the_provider_usable(server: FaultServer) -> None:
    await test_pool.weather_a_storm(Provider(server.url("good-later"), "m", max_connections=100))


async def test_a_connection_is_used_again(server: FaultServer) -> None:
    before = server.connections
    async with Provider(server.url("good-plain"), "m") as provider:
        for _ in range(3):
            await provider.complete([user("Where?")])
    assert server.connections == before + 1
