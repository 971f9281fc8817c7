"""Every kind of fault against one attempt: an answer, or exactly the error that the table names."""

from contextlib import suppress

import pytest

from executionkit.errors import LLMError, ProviderError
from executionkit.providers.openai import Provider
from tests.faults.kinds import BY_NAME, FAULTS, NOT_KEPT
from tests.faults.playing import KEY, PROMPT, is_shown, play, play_twice
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.ways import HTTPX, OURS, WAYS, Way, on_each_loop

IN_QUERY = f"hidden{1:04}"  # made, for a traceback shows the lines of this file, too

pytestmark = pytest.mark.anyio


def test_there_are_at_least_a_hundred_kinds() -> None:
    assert len(FAULTS) >= 100


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
@on_each_loop(*OURS)
async def test_a_fault_gives_an_answer_or_its_error(way: Way, fault: Fault, server: FaultServer) -> None:
    if fault.name in NOT_KEPT.get(way.name, {}):
        await check_that_it_is_worth_a_retry(way, fault, server)
        return
    async with way.settings() as settings:
        await play(fault, server, **settings)


async def check_that_it_is_worth_a_retry(way: Way, fault: Fault, server: FaultServer) -> None:
    assert fault.error is None
    async with way.settings() as settings, Provider(server.url(fault.name), "m", KEY, **settings) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(PROMPT)
    assert caught.value.retryable
    assert not is_shown(KEY, caught.value)


@on_each_loop(*OURS)
async def test_the_next_call_on_the_same_provider_is_sound(way: Way, server: FaultServer) -> None:
    async with way.settings() as settings:
        await play_twice(server, **settings)


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
@on_each_loop(*OURS)
async def test_what_breaks_behind_its_head_keeps_its_name(
    name: str, streamed: bool, way: Way, server: FaultServer
) -> None:
    async with (
        way.settings() as settings,
        Provider(server.url(name), "m", KEY, timeout=0.3, **settings) as provider,
    ):
        with pytest.raises(LLMError) as caught:
            if streamed:
                [piece async for piece in provider.stream(PROMPT)]
            else:
                await provider.complete(PROMPT)
    assert (caught.value.metadata["status"], caught.value.metadata["request_id"]) == (200, "req-1")


@pytest.mark.parametrize("name", ["reset-at-once", "reset-in-body"])
@on_each_loop(HTTPX)
async def test_a_connection_that_broke_says_what_the_system_said(
    name: str, way: Way, server: FaultServer
) -> None:
    async with way.settings() as settings, Provider(server.url(name), "m", KEY, **settings) as provider:
        with pytest.raises(ProviderError, match=r"ReadError: .*\[Errno \d+\] \w+"):
            await provider.complete(PROMPT)


@on_each_loop(*WAYS)
async def test_no_log_shows_what_a_server_echoes(
    way: Way, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    names = ["401-echo", "500-echo", "echo-status", "echo-header", "good-echo"]
    if way.setting == "transport":  # a client prints the line of a status, and is the user's
        names.append("echo-reason")
    for name in names:
        async with way.settings() as settings:
            await play(BY_NAME[name], server, **settings)
            async with Provider(server.url(name), "m", KEY, **settings) as provider:
                with suppress(LLMError):
                    [piece async for piece in provider.stream(PROMPT)]
    assert KEY not in caplog.text


@on_each_loop(HTTPX)
async def test_the_log_of_an_answer_tells_of_no_failure(
    way: Way, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with way.settings() as settings:
        await play(BY_NAME["good-plain"], server, **settings)
    assert "connect_tcp.complete" in caplog.text
    assert "failed" not in caplog.text


@on_each_loop(*OURS)
async def test_what_is_refused_names_no_query(way: Way, server: FaultServer) -> None:
    async with way.settings() as settings:
        for base_url in (server.url("status-text"), "http://127.0.0.1:9/v1"):
            async with Provider(f"{base_url}?api-key={IN_QUERY}", "m", **settings) as provider:
                with pytest.raises(LLMError) as caught:
                    await provider.complete(PROMPT)
            assert not is_shown(IN_QUERY, caught.value)
