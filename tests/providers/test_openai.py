"""The description: a value whose key does not show; one provider in many loops, threads and processes."""

import asyncio
import copy
import multiprocessing
import pickle
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Literal

import anyio
import httpx
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


@pytest.mark.parametrize("key", ["sk-\n123456", "sk-12345\r\nX: y", " sk-123456", "sk-1234é", "sk-\x00123"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_quoted(key: str) -> None:
    given = [key]
    with pytest.raises(ValueError, match="key must") as caught:
        Provider("http://localhost/v1", "m", given[0])
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert repr(key)[1:-1] not in "".join(f"{frame.locals}" for frame in frames)


def test_a_key_of_another_type_is_refused() -> None:
    wrong: Any = b"sk-12345678"
    with pytest.raises(TypeError, match="not bytes"):
        Provider("http://localhost/v1", "m", wrong)


BAD_URLS = [
    *(
        "",
        "localhost/v1",
        "ftp://h/v1",
        "http://",
        "http://u:p@h/v1",
        "http://h:0/v1",
        "http://h:99999/v1",
        "http://h:x/",
    ),
    *(
        "http://h\n/v1",
        "http://h /v1",
        "http://h\\@evil/",
        "http://h/v1#x",
        "http://[::1/v1",
        "http://h..x/",
        "http://é/",
    ),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_address_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Provider(url, "m")
    assert "u:p" not in str(caught.value)


def with_no_key(url: Any) -> Provider:
    return Provider(url, "m")


def with_a_bad_key(url: Any) -> Provider:
    return Provider(url, "m", "\n")


@pytest.mark.parametrize("make", [parse_address, with_no_key, with_a_bad_key])
@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@h/v1",
        "ftp://u:hunter2@h",
        "http://u:hunter2@h:x",
        "http://u:hunter2@h/\n",
        b"hunter2",
    ],
)
def test_no_frame_shows_what_a_bad_address_holds(make: Callable[[Any], object], url: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="base_url") as caught:
        make(url)
    link: BaseException | None = caught.value
    while link is not None:
        stack = traceback.TracebackException.from_exception(link, capture_locals=True).stack
        ours = [frame for frame in stack if frame.filename != __file__]
        assert "hunter2" not in str(link) + "".join(f"{frame.locals}" for frame in ours)
        link = link.__cause__ or link.__context__


def test_addresses() -> None:
    assert parse_address("HTTPS://H.example:443/v1//").url == "https://h.example/v1/chat/completions"
    assert parse_address("http://[::1]:8080").authority == "[::1]:8080"
    for host in ("localhost", "a.localhost", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"):
        assert parse_address(f"http://{host}").is_loopback
    for host in ("localhost.example", "10.0.0.1", "[::2]", "[::ffff:10.0.0.1]", "0.0.0.0"):
        assert not parse_address(f"http://{host}").is_loopback
    assert parse_address("https://h/x?api-version=1").target == "/x/chat/completions?api-version=1"


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_connections": 0},
        {"default_max_tokens": 0},
        {"model": ""},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make({"base_url": "http://localhost/v1", "model": "m", **settings})


@pytest.mark.parametrize("name", ["max_connections", "default_max_tokens"])
def test_counts_are_whole_numbers(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number"):
        make({"base_url": "http://localhost/v1", "model": "m", name: 2.5})


def make(settings: dict[str, Any]) -> Provider:
    return Provider(**settings)


def test_a_key_over_plain_http_warns_once() -> None:
    with pytest.warns(UserWarning, match="unencrypted"):
        Provider("http://plain.example/v1", "m", KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Provider("http://plain.example/v1", "m", KEY)
        Provider("http://127.0.0.1/v1", "m", KEY)
        Provider("http://[::ffff:127.0.0.1]/v1", "m", KEY)
        Provider("http://other.example/v1", "m")


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
    monkeypatch.setattr("executionkit.providers.openai._has_aiohttp", lambda: False)
    assert await taken("auto") == "HttpxTransport"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.providers.openai._has_aiohttp", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"\.\[fast\]\""):
        Provider("http://localhost/v1", "m", transport="aiohttp")


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"transport": "fast"}, ValueError, '"auto", "httpx", "aiohttp".*not \'fast\''),
        ({"transport": None}, TypeError, "handle_async_request.*NoneType has none"),
        ({"transport": httpx.Client}, TypeError, "a client is given as client"),
        ({"client": "http://localhost"}, TypeError, "build_request and send.*str has not"),
        (
            {"client": object(), "transport": httpx.AsyncHTTPTransport(verify=False)},
            ValueError,
            "either client or transport",
        ),
    ],
)
def test_what_is_no_transport_is_refused(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Provider("http://localhost/v1", "m", **settings)


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
