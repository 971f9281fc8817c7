"""Every kind of fault against one attempt: an answer, or exactly the error that the table names."""

import traceback
from contextlib import suppress
from typing import Any

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.faults.kinds import FAULTS, HEAVY, UNANNOUNCED
from tests.faults.script import Fault
from tests.faults.server import FaultServer

KEY = "sk-Secret/1+2=3"
PROMPT = [user("What is the capital of France?")]

pytestmark = pytest.mark.anyio


def test_there_are_at_least_a_hundred_kinds() -> None:
    assert len(FAULTS) >= 100


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_a_fault_gives_an_answer_or_its_error(fault: Fault, server: FaultServer) -> None:
    await play(fault, server)


async def play(fault: Fault, server: FaultServer, **settings: Any) -> None:
    provider = Provider(server.url(fault.name), "m", KEY, timeout=0.3 if fault.slow else 20.0, **settings)
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
    shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert KEY not in "".join(shown)
    assert KEY not in repr(error.metadata)


@pytest.mark.parametrize(
    "name",
    [
        "close-in-body",
        "reset-in-body",
        "gzip-cut",
        "gzip-broken",
        "stall-in-body",
        "brotli",
        "stall-after-headers",
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_breaks_behind_its_head_keeps_its_name(
    name: str, streamed: bool, server: FaultServer
) -> None:
    async with Provider(server.url(name), "m", KEY, timeout=0.3) as provider:
        with pytest.raises(LLMError) as caught:
            if streamed:
                [piece async for piece in provider.stream(PROMPT)]
            else:
                await provider.complete(PROMPT)
    assert (caught.value.metadata["status"], caught.value.metadata["request_id"]) == (200, "req-1")


async def test_the_next_call_on_the_same_provider_is_sound(server: FaultServer) -> None:
    """A broken exchange leaves nothing behind that a later one could read."""
    await play_twice(server)


async def play_twice(server: FaultServer, **settings: Any) -> None:
    for fault in FAULTS:
        if fault.slow or fault.name in HEAVY:
            continue
        async with Provider(server.url(f"then-{fault.name}"), "m", KEY, **settings) as provider:
            with suppress(LLMError):
                await provider.complete(PROMPT)
            assert await next_answer(provider, fault) == "Paris", fault.name


async def next_answer(provider: Provider, fault: Fault) -> str:
    """Ask again; only a hang-up without a word may still meet that call, which is then worth a retry."""
    try:
        return (await provider.complete(PROMPT)).content
    except LLMError as error:
        if fault.name not in UNANNOUNCED or not error.retryable:
            raise
    return (await provider.complete(PROMPT)).content
