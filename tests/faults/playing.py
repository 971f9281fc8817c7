"""What it is to play a fault: to one attempt, to a stream, to two attempts in a row."""

import os
import traceback
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import Any, Final

import anyio
import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError
from executionkit.provider import user
from executionkit.providers.chat.streaming import Stream
from executionkit.providers.openai import Provider
from tests.faults.kinds import FAULTS, HEAVY, UNANNOUNCED
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.ways import Way

__all__ = ["KEY", "LONG", "PROMPT", "collect", "deviations", "is_shown", "play", "play_stream", "play_twice"]

KEY: Final = "sk-Secret/1+2=3"
PROMPT: Final = [user("What is the capital of France?")]
LONG: Final = os.environ.get("EXECUTIONKIT_LONG") == "1"
"""Set by `just long NAME`: everything is played, where the suite plays a part."""


def is_shown(secret: str, error: BaseException) -> bool:
    """Whether a traceback with the values of all local names, as some loggers print it, shows it."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return secret in "".join(shown)


async def play(fault: Fault, server: FaultServer, patience: float = 0.3, **settings: Any) -> None:
    provider = Provider(
        server.url(fault.name), "m", KEY, timeout=patience if fault.slow else 20.0, **settings
    )
    before = server.calls.get(fault.name, 0)
    async with provider:
        if fault.error is None:
            response = await provider.complete(PROMPT)
            assert response.content == fault.text
            assert TokenUsage(response.input_tokens, response.output_tokens) == fault.usage
            assert KEY not in repr(response)
        else:
            with pytest.raises(LLMError) as caught:
                await provider.complete(PROMPT)
            check_error(caught.value, fault)
        assert server.calls[fault.name] == before + 1


def check_error(error: LLMError, fault: Fault) -> None:
    assert type(error) is fault.error, error
    assert error.retryable is fault.retryable, error
    assert error.retry_after == fault.retry_after
    assert error.cost == fault.usage + TokenUsage(llm_calls=1)
    assert len(error.message) < 1000
    assert not is_shown(KEY, error)
    assert KEY not in repr(error.metadata)


async def play_twice(server: FaultServer, leave_out: Container[str] = (), **settings: Any) -> None:
    """Play each fault to the first of two calls: it leaves nothing behind that the second could read."""
    server.calls.clear()  # each fault is played to the first call of its name
    for fault in FAULTS:
        if fault.slow or fault.name in HEAVY or fault.name in leave_out:
            continue
        async with Provider(server.url(f"then-{fault.name}"), "m", KEY, **settings) as provider:
            with suppress(LLMError):
                await provider.complete(PROMPT)
            assert await _next_answer(provider, fault) == "Paris", fault.name


async def _next_answer(provider: Provider, fault: Fault) -> str:
    """Ask again; only a hang-up without a word may still meet that call, which is then worth a retry."""
    try:
        return (await provider.complete(PROMPT)).content
    except LLMError as error:
        if fault.name not in UNANNOUNCED or not error.retryable:
            raise
    return (await provider.complete(PROMPT)).content


async def play_stream(fault: Fault, server: FaultServer, patience: float = 0.3, **settings: Any) -> None:
    texts: list[str] = []
    timeout = patience if fault.slow else 20.0
    async with Provider(server.url(fault.name), "m", KEY, timeout=timeout, **settings) as provider:
        stream = provider.stream(PROMPT)
        if fault.error is None:
            await collect(stream, texts)
            response = stream.response
            assert response.content == fault.text
            assert response.finish_reason == "stop"
            assert stream.text == fault.text
            assert TokenUsage(response.input_tokens, response.output_tokens) == fault.usage
        else:
            with pytest.raises(LLMError) as caught:
                await collect(stream, texts)
            error = caught.value
            assert not is_shown(KEY, error)
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


async def collect(stream: Stream, texts: list[str]) -> None:
    async for piece in stream:
        texts.append(piece.text)  # noqa: PERF401 - what came before an error counts


async def deviations(faults: Iterable[Fault], server: FaultServer, way: Way) -> list[str]:
    """Play faults, eight at once, and say which did not end as the table says.

    For each the way is made anew: pools of others carry on after bytes that nobody asked for, and after a hang-up.
    """
    turns, found = anyio.Semaphore(8), list[str]()

    async def one(fault: Fault) -> None:
        async with turns:
            try:
                played = play_stream if fault.name.startswith("stream-") else play
                async with way.settings() as settings:
                    await played(fault, server, patience=1.0, **settings)  # eight at once take their time
            except (AssertionError, LLMError, pytest.fail.Exception) as error:
                found.append(f"{fault.name}: {error!r}")

    async with anyio.create_task_group() as group:
        for fault in faults:
            group.start_soon(one, fault)
    return found
