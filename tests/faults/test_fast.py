"""`transport="fast"`: the promises of the default, on asyncio. On any other loop it is the default."""

import asyncio
import pickle
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from executionkit.errors import ProviderClosedError, ProviderError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.conftest import BARE
from tests.faults import test_attempts, test_patterns, test_pool, test_schedules, test_streams
from tests.faults.kinds import BY_NAME, FAULTS, STRICTER, UNANNOUNCED
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.streams import STREAMS
from tests.faults.test_tls import tls_server, trusting

__all__ = ["tls_server"]

if BARE:
    pytest.importorskip("aiohttp")

KEY = "sk-Secret/1+2=3"
PROMPT = [user("Where?")]
Fast = partial(Provider, transport="fast")


async def cancel_by_scope(provider: Provider) -> BaseException:
    with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.1):
        await provider.complete(PROMPT)
    return caught.value


async def cancel_by_task(provider: Provider) -> BaseException:
    task = asyncio.create_task(provider.complete(PROMPT))
    await asyncio.sleep(0.1)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough") as caught:
        await task
    assert task.cancelled()
    return caught.value


on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
pytestmark = pytest.mark.anyio

KINDS = [fault for fault in FAULTS if fault.name not in STRICTER]


@on_asyncio
@pytest.mark.parametrize("fault", KINDS, ids=[fault.name for fault in KINDS])
async def test_a_fault_gives_an_answer_or_its_error(fault: Fault, server: FaultServer) -> None:
    await test_attempts.play(fault, server, transport="fast")


@on_asyncio
@pytest.mark.parametrize("name", STRICTER)
async def test_what_it_is_stricter_with_is_worth_a_retry(name: str, server: FaultServer) -> None:
    assert BY_NAME[name].error is None
    async with Fast(server.url(name), "m", KEY) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(PROMPT)
    assert caught.value.retryable


@on_asyncio
async def test_the_next_call_on_the_same_provider_is_sound(server: FaultServer) -> None:
    server.calls.clear()  # each fault is played to the first call of its name
    await test_attempts.play_twice(server, transport="fast")


@on_asyncio
@pytest.mark.parametrize("fault", STREAMS, ids=[fault.name for fault in STREAMS])
async def test_a_stream_gives_its_text_or_its_error(fault: Fault, server: FaultServer) -> None:
    await test_streams.play(fault, server, transport="fast")


@on_asyncio
@pytest.mark.parametrize("name", test_patterns.PATTERNS)
async def test_a_pattern_survives_every_fault(name: str, server: FaultServer) -> None:
    faults = [fault for fault in test_patterns.KINDS if fault.name not in STRICTER]
    # aiohttp may hand out a connection that the server has just closed.
    await test_patterns.play_all(name, "fast", faults, server, UNANNOUNCED, transport="fast")


@on_asyncio
async def test_random_schedules(server: FaultServer) -> None:
    await test_schedules.play_all("fast", test_schedules.SEEDS // 2, server, transport="fast")


@on_asyncio
async def test_a_storm_of_cancelled_calls_leaves_the_provider_usable(server: FaultServer) -> None:
    await test_pool.weather_a_storm(Fast(server.url("good-later"), "m", max_connections=100))


@on_asyncio
async def test_connections_are_bounded_and_used_again(server: FaultServer) -> None:
    before = server.connections
    async with Fast(server.url("good-later"), "m", max_connections=3) as provider:
        for _ in range(3):
            await test_pool.ask_many(provider, 12)
    assert server.connections == before + 3


@on_asyncio
async def test_a_connection_that_the_server_closed_is_replaced(server: FaultServer) -> None:
    async with Fast(server.url("good-silent-close"), "m") as provider:
        for _ in range(5):
            assert await test_pool.ask(provider) == "Paris"
            await anyio.sleep(0.02)


@on_asyncio
async def test_a_connection_that_was_closed_while_the_loop_was_busy_is_replaced(server: FaultServer) -> None:
    async with Fast(server.url("good-silent-close"), "m") as provider:
        for _ in range(5):
            assert await test_pool.ask(provider) == "Paris"
            time.sleep(0.05)  # noqa: ASYNC251 - so that the loop has not seen it yet


@on_asyncio
async def test_closing_under_a_call_in_flight_lets_it_end(server: FaultServer) -> None:
    provider, answers = Fast(server.url("good-later"), "m"), list[str]()

    async def ask() -> None:
        answers.append(await test_pool.ask(provider))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.sleep(0.01)
        await provider.aclose()
        with pytest.raises(ProviderClosedError):
            await test_pool.ask(provider)
    assert answers == ["Paris"]


@on_asyncio
async def test_tls(tls_server: FaultServer) -> None:
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with Fast(url, "m", KEY, tls=trusting()) as provider:
        assert await test_pool.ask(provider) == "Paris"
    for wrong in (url, url.replace("127.0.0.1", "127.0.0.2")):
        async with Fast(wrong, "m", KEY, tls=None if wrong == url else trusting()) as provider:
            with pytest.raises(ProviderError, match="TLS failed") as caught:
                await provider.complete(PROMPT)
        assert not caught.value.retryable


async def test_it_works_on_every_event_loop(server: FaultServer) -> None:
    async with Fast(server.url("good-plain"), "m") as provider:
        assert await test_pool.ask(provider) == "Paris"


def test_it_is_still_a_value() -> None:
    provider = Fast("http://localhost/v1", "m")
    assert provider == pickle.loads(pickle.dumps(provider)) == Fast("http://localhost/v1", "m")
    assert provider != Provider("http://localhost/v1", "m")
    assert hash(provider) == hash(Fast("http://localhost/v1", "m"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr("executionkit.providers.openai.find_spec", find_nothing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"executionkit\[fast\]\""):
        Fast("http://localhost/v1", "m")


def test_there_is_no_other_name() -> None:
    wrong: str = "faster"
    with pytest.raises(ValueError, match="faster"):
        Provider("http://localhost/v1", "m", transport=wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@on_asyncio
@pytest.mark.parametrize("name", ["stall-at-once", "stall-in-body"])
@pytest.mark.parametrize("cancel", [cancel_by_scope, cancel_by_task])
async def test_no_frame_of_a_cancelled_call_shows_the_key(
    name: str, cancel: Callable[[Provider], Awaitable[BaseException]], server: FaultServer
) -> None:
    async with Fast(server.url(name), "m", KEY) as provider:
        error = await cancel(provider)
    shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert KEY not in "".join(shown)


@on_asyncio
async def test_what_is_refused_names_no_query(server: FaultServer) -> None:
    url = server.url("status-text") + "?api-key=secret-in-the-query"
    async with Fast(url, "m") as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(PROMPT)
    assert "secret-in-the-query" not in str(caught.value)
