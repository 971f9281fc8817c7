"""The description: a value whose key does not show; one provider in many loops, threads and processes."""

import asyncio
import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Literal

import anyio
import msgspec
import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import PermanentError, ProviderError
from executionkit.provider import LLMProvider, ToolCallingProvider, user
from executionkit.providers.http.address import parse_address
from executionkit.providers.http.clients import LoopClient
from executionkit.providers.http.exchange import Head, Request, Transport
from executionkit.providers.openai import Provider
from executionkit.providers.secret import Secret
from executionkit.runtime.tasks.event_loops import closing_at_exit
from tests.conftest import needs
from tests.faults.pressure import deaf_port
from tests.faults.server import FaultServer, fault_server
from tests.faults.ways import OURS, Way, on_each_loop

KEY = "sk-12345678-abcdef"
PROMPT = [user("Where?")]


def test_it_is_a_value() -> None:
    one, other = (Provider("http://localhost/v1", "m", KEY) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Provider("http://localhost/v1", "m", "sk-other")
    assert copy.copy(one) == copy.deepcopy(one) == one
    assert isinstance(one, LLMProvider)
    assert isinstance(one, ToolCallingProvider)
    assert KEY not in repr(one) + str(one) + repr(one.__rich_repr__()) + repr(msgspec.structs.asdict(one))


def test_a_literal_key_does_not_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="from_env"):
        pickle.dumps(Provider("http://localhost/v1", "m", KEY))
    monkeypatch.setenv("SOME_KEY", KEY)
    for provider in (
        Provider("http://localhost/v1", "m"),
        Provider("https://h/v1", "m", Secret.from_env("SOME_KEY")),
    ):
        pickled = pickle.dumps(provider)
        assert KEY.encode() not in pickled
        assert pickle.loads(pickled) == provider


def test_addresses() -> None:
    assert parse_address("HTTPS://H.example:443/v1//").url == "https://h.example/v1/chat/completions"
    assert parse_address("http://[::1]:8080").authority == "[::1]:8080"
    for host in ("localhost", "a.localhost", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"):
        assert parse_address(f"http://{host}").is_loopback
    for host in ("localhost.example", "10.0.0.1", "[::2]", "[::ffff:10.0.0.1]", "0.0.0.0"):
        assert not parse_address(f"http://{host}").is_loopback
    assert parse_address("https://h/x?api-version=1").target == "/x/chat/completions?api-version=1"


@pytest.mark.anyio
async def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(PermanentError, match="NO_SUCH_KEY is not set"):
        await Provider("http://localhost/v1", "m", Secret.from_env("NO_SUCH_KEY")).complete(PROMPT)


def ask_in_a_loop(provider: Provider, times: int = 3) -> list[str]:
    async def main() -> list[str]:
        async with closing_at_exit():
            return [(await provider.complete(PROMPT)).content for _ in range(times)]

    return anyio.run(main)


@pytest.fixture(scope="module")
def server() -> Any:
    with fault_server() as running:
        yield running


def test_one_loop_after_the_other(server: FaultServer) -> None:
    provider = Provider(server.url("good-plain"), "m", KEY)
    for _ in range(3):
        assert ask_in_a_loop(provider) == ["Paris"] * 3


def test_many_loops_at_once(server: FaultServer) -> None:
    provider = Provider(server.url("good-later"), "m", KEY)
    with ThreadPoolExecutor(4) as threads:
        assert all(answers == ["Paris"] * 3 for answers in threads.map(ask_in_a_loop, [provider] * 8))
    assert threading.active_count() < 20


def _ask_and_tell(provider: Provider, answers: Any) -> None:
    answers.put(ask_in_a_loop(provider))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_in_another_process(server: FaultServer, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    provider = Provider(server.url("good-plain"), "m")
    ask_in_a_loop(provider)
    context: Any = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=_ask_and_tell, args=(provider, answers))
    child.start()
    child.join(30)
    assert answers.get() == ["Paris"] * 3
    answers.close()
    assert ask_in_a_loop(provider) == ["Paris"] * 3


@needs("rich")
def test_what_is_sent_shows_in_no_traceback_of_rich() -> None:
    from rich.pretty import pretty_repr

    address = parse_address(f"https://api.example.com/v1?api-key={KEY}")
    sent = Request([("Authorization", f"Bearer {KEY}")], b"{}")
    for value in (address, sent, Head(200, {"x-echo": KEY})):
        assert KEY not in pretty_repr(value) + repr(value)


@pytest.mark.anyio
@on_each_loop(*OURS)
async def test_no_connection_in_time_costs_one_call(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"executionkit.providers.http.{way.name}_transport.CONNECT_TIMEOUT", 0.05)
    async with way.settings() as settings:
        with deaf_port() as port:
            async with Provider(f"http://127.0.0.1:{port}/v1?api-key={KEY}", "m", **settings) as provider:
                with pytest.raises(ProviderError, match="no connection to 127.0.0.1") as caught:
                    await provider.complete(PROMPT)
    assert caught.value.cost == TokenUsage(0, 0, 1)
    assert caught.value.retryable
    assert KEY not in repr(caught.value)


@pytest.mark.anyio
async def test_auto_takes_aiohttp_on_asyncio_where_it_is_installed(
    anyio_backend: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken(transport: Literal["auto", "httpx"]) -> str:
        async with Provider(server.url("good-plain"), "m", transport=transport) as provider:
            await provider.complete(PROMPT)
            return type(opened[-1]).__name__

    opened: list[object] = []
    noted = LoopClient.transport

    def noting(self: LoopClient, make: Callable[[], Transport]) -> Transport:
        opened.append(noted(self, make))
        return opened[-1]  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    monkeypatch.setattr(LoopClient, "transport", noting)
    has_it = anyio_backend == "asyncio" and find_spec("aiohttp") is not None
    assert await taken("auto") == ("AiohttpTransport" if has_it else "HttpxTransport")
    assert await taken("httpx") == "HttpxTransport"
    monkeypatch.setattr("executionkit.providers.remote.has_aiohttp", lambda: False)
    assert await taken("auto") == "HttpxTransport"


def test_a_transport_is_part_of_the_value() -> None:
    provider = Provider("http://localhost/v1", "m", transport="httpx")
    assert (
        provider
        == pickle.loads(pickle.dumps(provider))
        == Provider("http://localhost/v1", "m", transport="httpx")
    )
    assert provider != Provider("http://localhost/v1", "m")


@needs("uvloop")
@pytest.mark.parametrize("way", [pytest.param(way, id=way.name, marks=needs(way.module)) for way in OURS])
def test_it_works_on_uvloop(way: Way, server: FaultServer) -> None:
    import uvloop

    async def main() -> list[str]:
        texts: list[str] = []
        for host in ("127.0.0.1", "localhost"):
            url = server.url("good-plain").replace("127.0.0.1", host)
            async with way.settings() as settings, Provider(url, "m", **settings) as provider:
                texts += [(await provider.complete(PROMPT)).content for _ in range(2)]
        return texts

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == ["Paris"] * 4
