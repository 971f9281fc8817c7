"""Every kind of streamed answer: the whole text, or exactly one error with the text so far."""

import anyio
import pytest

from executionkit.providers.chat.streaming import Stream
from executionkit.providers.openai import Provider
from tests.faults.playing import PROMPT, collect, play_stream
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.streams import STREAMS
from tests.faults.ways import OURS, Way, on_each_loop

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", STREAMS, ids=[fault.name for fault in STREAMS])
@on_each_loop(*OURS)
async def test_a_stream_gives_its_text_or_its_error(way: Way, fault: Fault, server: FaultServer) -> None:
    async with way.settings() as settings:
        await play_stream(fault, server, **settings)


async def test_stopping_early_closes_the_connection(server: FaultServer) -> None:
    async with Provider(server.url("stream-stall"), "m", max_connections=1) as provider:
        for _ in range(3):
            stream = provider.stream(PROMPT)
            async with stream:
                async for piece in stream:
                    if piece.text == "is":
                        break
            assert stream.cost.output_tokens == 2


async def test_cancelling_closes_the_connection(server: FaultServer) -> None:
    async with Provider(server.url("stream-stall"), "m", max_connections=1) as provider:
        stream = provider.stream(PROMPT)
        for _ in range(3):
            stream = provider.stream(PROMPT)
            with anyio.move_on_after(0.05):
                async for _piece in stream:
                    pass
            assert stream.text == "Paris"
        with pytest.raises(RuntimeError, match="not ended"):
            _ = stream.response


async def test_a_finished_stream_gives_its_connection_back(server: FaultServer) -> None:
    before = server.connections
    async with Provider(server.url("stream-sound"), "m") as provider:
        for _ in range(4):
            async for _piece in provider.stream(PROMPT):
                pass
    assert server.connections == before + 1


async def test_a_consumer_that_takes_its_time_is_not_timed_out(server: FaultServer) -> None:
    async with Provider(server.url("stream-pauses"), "m", timeout=0.5) as provider:
        async for piece in provider.stream(PROMPT):
            await anyio.sleep(0.15 if piece.text else 0.2)


async def test_closing_before_the_answer_begins_gives_the_slot_back(server: FaultServer) -> None:
    async with Provider(server.url("good-later"), "m", max_connections=1, timeout=20) as provider:
        stream = provider.stream(PROMPT)
        async with anyio.create_task_group() as group:
            group.start_soon(_read_to_its_end, stream)
            await anyio.sleep(0.005)
            await stream.aclose()
        with anyio.fail_after(10):
            assert (await provider.complete(PROMPT)).content == "Paris"


async def test_closing_ends_the_iteration_of_another_task(server: FaultServer) -> None:
    async with Provider(server.url("stream-stall"), "m", max_connections=1, timeout=20) as provider:
        stream = provider.stream(PROMPT)
        texts: list[str] = []
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(collect, stream, texts)
                while "".join(texts) != "Paris":  # noqa: ASYNC110 - no event tells of it
                    await anyio.sleep(0.001)
                await stream.aclose()
            assert stream.text == "Paris"


async def test_one_task_at_a_time_may_read(server: FaultServer) -> None:
    async with Provider(server.url("stream-stall"), "m", timeout=20) as provider:
        stream = provider.stream(PROMPT)
        async with anyio.create_task_group() as group:
            group.start_soon(_read_to_its_end, stream)
            await anyio.sleep(0.05)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(stream)
            await stream.aclose()


async def _read_to_its_end(stream: Stream) -> None:
    async for _ in stream:
        pass
