"""Every kind of streamed answer: the whole text, or exactly one error with the text so far."""

import traceback
from typing import Any

import anyio
import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError
from executionkit.provider import user
from executionkit.providers.chat.streaming import Stream
from executionkit.providers.openai import Provider
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.streams import STREAMS

KEY = "sk-Secret/1+2=3"
PROMPT = [user("Where?")]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", STREAMS, ids=[fault.name for fault in STREAMS])
async def test_a_stream_gives_its_text_or_its_error(fault: Fault, server: FaultServer) -> None:
    await play(fault, server)


async def play(fault: Fault, server: FaultServer, **settings: Any) -> None:
    texts: list[str] = []
    timeout = 0.3 if fault.slow else 20.0
    async with Provider(server.url(fault.name), "m", KEY, timeout=timeout, **settings) as provider:
        stream = provider.stream(PROMPT)
        if fault.error is None:
            await _collect(stream, texts)
            response = stream.response
            assert response.content == fault.text
            assert response.finish_reason == "stop"
            assert stream.text == fault.text
            assert TokenUsage(response.input_tokens, response.output_tokens) == fault.usage
        else:
            with pytest.raises(LLMError) as caught:
                await _collect(stream, texts)
            error = caught.value
            shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
            assert KEY not in "".join(shown)
            assert type(error) is fault.error
            assert error.retryable is fault.retryable
            assert error.retry_after == fault.retry_after
            assert error.cost.llm_calls == 1
            assert error.metadata.get("text", "") == fault.text
            if "usage_estimated" in error.metadata:
                assert error.cost.output_tokens == fault.usage.output_tokens
            else:
                assert error.cost == fault.usage + TokenUsage(llm_calls=1)
        assert "".join(texts) == fault.text


async def _collect(stream: Stream, texts: list[str]) -> None:
    async for piece in stream:
        texts.append(piece.text)  # noqa: PERF401 - what came before an error counts


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
                group.start_soon(_collect, stream, texts)
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
