"""`trust_env`: without it the environment is not read; with it, it names the proxy and the certificates."""

import base64
import random
import ssl
import sys
import traceback
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from executionkit import RetryConfig, complete
from executionkit.errors import LLMError, PermanentError, ProviderError, RateLimitError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.conftest import needs
from tests.faults.certificates import CERTIFICATE, serving
from tests.faults.server import FaultServer, fault_server
from tests.leaks import open_sockets
from tests.stepping import cancelled_at, steps_of

TLS = Path(__file__).parents[2] / "faults" / "tls"
KEY = "sk-Secret/1+2=3"
PROMPT = [user("Where?")]
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

pytestmark = pytest.mark.anyio


class Proxy:
    """A proxy on the loopback interface, to which every host is the loopback interface too."""

    def __init__(self, refuses: bytes | None = None) -> None:
        self.port = 0
        self.seen: list[str] = []
        self.heads: list[str] = []
        self._refuses = refuses

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, client: ByteStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with client:
                head = await client.receive()
                while b"\r\n\r\n" not in head:
                    head += await client.receive()
                await self._pass_on(client, head)

    async def _pass_on(self, client: ByteStream, head: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        self.seen.append(line.decode())
        self.heads.append(head.partition(b"\r\n\r\n")[0].decode())
        method, target, version = line.split(b" ")
        is_tunnel = method == b"CONNECT"
        address = urlsplit(target if not is_tunnel else b"//" + target)
        if self._refuses is not None:
            await (client.send(self._refuses) if self._refuses else anyio.sleep(20))
            return
        async with await anyio.connect_tcp("127.0.0.1", address.port or 80) as server:
            if is_tunnel:
                await client.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                await server.send(b" ".join((method, address.path, version)) + b"\r\n" + rest)
            await _pass_both_ways(client, server)


async def _pass_both_ways(client: ByteStream, server: ByteStream) -> None:
    """Pass on what each side says, until one of them hangs up."""
    async with anyio.create_task_group() as group:

        async def pass_on(source: ByteStream, sink: ByteStream) -> None:
            await _pump(source, sink)
            group.cancel_scope.cancel()

        group.start_soon(pass_on, client, server)
        group.start_soon(pass_on, server, client)


async def _pump(source: ByteStream, sink: ByteStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await sink.send(await source.receive())


@asynccontextmanager
async def proxying(
    refuses: bytes | None = None, tls: ssl.SSLContext | None = None, kind: type[Proxy] = Proxy
) -> AsyncGenerator[Proxy]:
    proxy = kind(refuses)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy.port = listener.extra(SocketAttribute.local_port)
    accepting = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(accepting.serve, proxy.serve)
        yield proxy
        group.cancel_scope.cancel()


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture(scope="module")
def tls_server() -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    with fault_server(context) as running:
        yield running


class Environment:
    """The variables that a provider may trust, and none but those that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        for name in (*VARIABLES, *map(str.lower, VARIABLES), "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)

    def set(self, **variables: object) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, str(value))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    return Environment(monkeypatch)


async def ask(url: str, trust_env: bool, transport: Literal["auto", "httpx"] = "auto") -> str:
    async with Provider(url, "m", KEY, trust_env=trust_env, transport=transport) as provider:
        return (await provider.complete(PROMPT)).content


def elsewhere(server: FaultServer) -> str:
    """The server's address under a name that only the proxy knows."""
    return server.url("good-plain").replace("127.0.0.1", "localhost")


def secure(server: FaultServer) -> str:
    return server.url("good-plain").replace("http:", "https:")


async def test_without_trust_no_proxy_is_asked(
    server: FaultServer, tls_server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(
            HTTP_PROXY=proxy.url, HTTPS_PROXY=proxy.url, ALL_PROXY=proxy.url, http_proxy=proxy.url
        )
        environment.set(SSL_CERT_FILE=TLS / "cert.pem")
        assert await ask(server.url("good-plain"), trust_env=False) == "Paris"
        with pytest.raises(ProviderError, match="TLS failed"):
            await ask(secure(tls_server), trust_env=False)
    assert not proxy.seen


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_plain_http_goes_through_the_proxy(
    variable: str, server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(**{variable: proxy.url})
        url = elsewhere(server)
        assert await ask(url, trust_env=True) == "Paris"
    assert proxy.seen == [f"POST {url}/chat/completions HTTP/1.1"]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_https_goes_through_a_tunnel(
    variable: str, tls_server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(**{variable: proxy.url, "SSL_CERT_FILE": TLS / "cert.pem"})
        assert await ask(secure(tls_server), trust_env=True) == "Paris"
    assert proxy.seen == [f"CONNECT 127.0.0.1:{tls_server.port} HTTP/1.1"]


@pytest.mark.parametrize(
    "exception", ["127.0.0.1", "127.0.0.1:{port}", "*", "a.example, .0.0.1", "127.0.0.1,b"]
)
async def test_no_proxy_names_exceptions(
    exception: str, server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(HTTP_PROXY=proxy.url, NO_PROXY=exception.format(port=server.port))
        assert await ask(server.url("good-plain"), trust_env=True) == "Paris"
    assert not proxy.seen


@pytest.mark.parametrize("exception", ["127.0.0.2", "127.0.0.1:1", "7.0.0.1", "localhost"])
async def test_other_exceptions_do_not_count(
    exception: str, server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(HTTP_PROXY=proxy.url, NO_PROXY=exception)
        assert await ask(server.url("good-plain"), trust_env=True) == "Paris"
    assert len(proxy.seen) == 1


async def test_a_proxy_for_the_other_scheme_is_not_asked(
    server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(HTTPS_PROXY=proxy.url)
        assert await ask(server.url("good-plain"), trust_env=True) == "Paris"
    assert not proxy.seen


async def test_the_environment_names_the_certificates(
    tls_server: FaultServer, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.set(SSL_CERT_FILE=TLS / "cert.pem")
    assert await ask(secure(tls_server), trust_env=True) == "Paris"
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ProviderError, match="TLS failed"):
        await ask(secure(tls_server), trust_env=True)


async def test_certificates_that_cannot_be_read(tls_server: FaultServer, environment: Environment) -> None:
    environment.set(SSL_CERT_FILE="/nowhere/cert.pem")
    with pytest.raises(PermanentError, match="SSL_CERT_FILE"):
        await ask(secure(tls_server), trust_env=True)


@pytest.mark.parametrize(
    "proxy",
    [
        "gopher://u:pass-word@proxy:1",
        "http://u:pass-word@pro\nxy",
        "http://u:pass-word@host:bad/",
        "http://u:pass-word@ho st:80/",
        "ftp://u:pass-word@host:80",
        "socks5://u:pass-word@host:bad",
        "socks5://u:pass-word@127.0.0.1:9",
    ],
)
async def test_a_proxy_that_cannot_be_used_does_not_show_its_password(
    proxy: str, server: FaultServer, environment: Environment
) -> None:
    environment.set(HTTP_PROXY=proxy)
    with pytest.raises(LLMError) as caught:  # of SOCKS httpx knows, where its extra is there
        await ask(server.url("good-plain"), trust_env=True)
    error: BaseException | None = caught.value
    while error is not None:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
        inside = [
            frame
            for frame in frames.stack
            if "executionkit" in frame.filename and "tests" not in frame.filename
        ]
        assert "pass-word" not in repr((error, [frame.locals for frame in inside]))
        error = error.__cause__ or error.__context__


async def test_a_proxy_that_is_down_is_worth_another_attempt(
    server: FaultServer, environment: Environment
) -> None:
    environment.set(HTTP_PROXY="http://127.0.0.1:9")
    with pytest.raises(ProviderError) as caught:
        await ask(server.url("good-plain"), trust_env=True)
    assert caught.value.retryable


REFUSAL = b"HTTP/1.1 %d Not that host\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("status", "calls"), [(407, 1), (403, 1), (429, 2), (502, 2)])
async def test_a_proxy_that_refuses(
    scheme: str, status: int, calls: int, server: FaultServer, environment: Environment
) -> None:
    async with proxying(REFUSAL % status) as proxy:
        environment.set(ALL_PROXY=proxy.url)
        provider = Provider(server.url("good-plain").replace("http:", f"{scheme}:"), "m", KEY, trust_env=True)
        async with provider:
            retry = RetryConfig(max_retries=1, base_delay=0.0)
            error = (await complete().run(provider, "Where?", retry=retry)).failure()
    assert str(status) in error.message
    assert ("the proxy answered" in error.message) is (scheme == "https")
    assert ("proxy" in error.message) is (scheme == "https" or status == 407)
    assert ("Not that host" in error.message) is (scheme == "https")  # where it comes in place of a tunnel
    assert "the key may not" not in error.message or scheme == "http"
    assert isinstance(error, LLMError)
    assert (error.metadata["status"], error.retry_after) == (status, 0.0)
    assert isinstance(error, RateLimitError) is (status == 429)
    assert error.cost.llm_calls == calls == len(proxy.seen)
    assert KEY not in repr((error, proxy.seen))


async def test_a_tunnel_carries_one_call_after_the_other(
    tls_server: FaultServer, environment: Environment
) -> None:
    async with proxying() as proxy:
        environment.set(HTTPS_PROXY=proxy.url, SSL_CERT_FILE=TLS / "cert.pem")
        async with Provider(secure(tls_server), "m", KEY, trust_env=True) as provider:
            for _ in range(3):
                assert (await provider.complete(PROMPT)).content == "Paris"
    assert len(proxy.seen) == 1
    assert KEY not in "".join(proxy.heads)


@pytest.mark.parametrize("is_tunnel", [False, True])
@pytest.mark.parametrize(
    ("user", "sent"), [("u:p%40ss-word", b"u:p@ss-word"), ("only", b"only:"), ("a%3Ab:c", b"a:b:c")]
)
async def test_a_proxy_is_told_who_asks(
    user: str,
    sent: bytes,
    is_tunnel: bool,
    server: FaultServer,
    tls_server: FaultServer,
    environment: Environment,
) -> None:
    async with proxying() as proxy:
        environment.set(ALL_PROXY=proxy.url.replace("//", f"//{user}@"), SSL_CERT_FILE=TLS / "cert.pem")
        await ask(secure(tls_server) if is_tunnel else elsewhere(server), trust_env=True)
    assert f"Proxy-Authorization: Basic {base64.b64encode(sent).decode()}" in proxy.heads[0].split("\r\n")


async def test_a_proxy_may_speak_tls_itself(
    server: FaultServer, tls_server: FaultServer, environment: Environment
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    async with proxying(tls=context) as proxy:
        environment.set(ALL_PROXY=proxy.url.replace("http:", "https:"), SSL_CERT_FILE=TLS / "cert.pem")
        assert await ask(elsewhere(server), trust_env=True) == "Paris"
        assert await ask(secure(tls_server), trust_env=True) == "Paris"
    assert [line.split()[0] for line in proxy.seen] == ["POST", "CONNECT"]


async def test_a_proxy_without_a_scheme_speaks_http(server: FaultServer, environment: Environment) -> None:
    async with proxying() as proxy:
        environment.set(HTTP_PROXY=f"127.0.0.1:{proxy.port}")
        assert await ask(elsewhere(server), trust_env=True) == "Paris"
    assert len(proxy.seen) == 1


async def test_a_proxy_that_says_nothing_is_waited_for_within_the_time(
    tls_server: FaultServer, environment: Environment
) -> None:
    async with proxying(b"") as proxy:
        environment.set(HTTPS_PROXY=proxy.url)
        async with Provider(secure(tls_server), "m", KEY, trust_env=True, timeout=0.1) as provider:
            with anyio.fail_after(10), pytest.raises(ProviderError, match=r"within 0\.1 s"):
                await provider.complete(PROMPT)


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 Con"])
async def test_a_proxy_that_does_not_speak_http(
    answer: bytes, tls_server: FaultServer, environment: Environment
) -> None:
    async with proxying(answer) as proxy:
        environment.set(HTTPS_PROXY=proxy.url)
        with pytest.raises(ProviderError) as caught:
            await ask(secure(tls_server), trust_env=True)
    assert caught.value.retryable


async def test_a_storm_of_cancelled_calls_leaves_the_proxied_provider_usable(
    tls_server: FaultServer, environment: Environment
) -> None:
    """httpcore loses a slot for each call that is cancelled while connecting (encode/httpcore#1093)."""
    chance = random.Random(1)

    async def cancelled_call(provider: Provider) -> None:
        with anyio.move_on_after(chance.uniform(0, 0.02)):
            await provider.complete(PROMPT)

    async with proxying() as proxy:
        environment.set(HTTPS_PROXY=proxy.url, SSL_CERT_FILE=TLS / "cert.pem")
        async with Provider(secure(tls_server), "m", KEY, trust_env=True, max_connections=5) as provider:
            for _ in range(5):
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(cancelled_call, provider)
            with anyio.fail_after(20):
                for _ in range(5):
                    assert (await provider.complete(PROMPT)).content == "Paris"


class SocksProxy(Proxy):
    """A proxy that speaks SOCKS5 (RFC 1928, 1929), to which every host is the loopback interface too."""

    async def serve(self, client: ByteStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with client:
                methods = (await _exactly(client, 2))[1]
                wants_password = 2 in await _exactly(client, methods)
                await client.send(b"\x05\x02" if wants_password else b"\x05\x00")
                if wants_password:
                    name = await _exactly(client, (await _exactly(client, 2))[1])
                    word = await _exactly(client, (await _exactly(client, 1))[0])
                    self.heads.append(f"{name.decode()}:{word.decode()}")
                    await client.send(b"\x01\x00")
                kind = (await _exactly(client, 4))[3]
                length = 4 if kind == 1 else (await _exactly(client, 1))[0]
                await _exactly(client, length)
                port = int.from_bytes(await _exactly(client, 2))
                self.seen.append(f"SOCKS {port}")
                async with await anyio.connect_tcp("127.0.0.1", port) as server:
                    await client.send(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
                    await _pass_both_ways(client, server)


async def _exactly(stream: ByteStream, count: int) -> bytes:
    read = b""
    while len(read) < count:
        read += await stream.receive(count - len(read))
    return read


@needs("socksio")
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
@pytest.mark.parametrize("user", ["", "u:p%40ss-word@"])
async def test_socks(
    scheme: str, user: str, server: FaultServer, tls_server: FaultServer, environment: Environment
) -> None:
    async with proxying(kind=SocksProxy) as proxy:
        environment.set(
            ALL_PROXY=proxy.url.replace("http://", f"{scheme}://{user}"), SSL_CERT_FILE=TLS / "cert.pem"
        )
        for url, port in ((elsewhere(server), server.port), (secure(tls_server), tls_server.port)):
            assert await ask(url, trust_env=True) == "Paris"
            assert proxy.seen[-1] == f"SOCKS {port}"
    assert set(proxy.heads) == ({"u:p@ss-word"} if user else set())


async def test_socks_without_its_extra_is_said(
    server: FaultServer, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    environment.set(ALL_PROXY="socks5://127.0.0.1:9")
    with pytest.raises(PermanentError, match=r'pip install "\.\[socks\]"'):
        await ask(server.url("good-plain"), trust_env=True)


@needs("socksio")
@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("way", ["direct", "tunnel", "tunnel in TLS", "SOCKS"])
async def test_a_call_that_is_cancelled_at_any_step_leaves_no_socket(
    way: str, tls_server: FaultServer, environment: Environment
) -> None:
    """In the handshake of TLS, of the one within the other, in CONNECT, in that of SOCKS."""
    async with proxying(
        tls=serving() if "TLS" in way else None, kind=SocksProxy if way == "SOCKS" else Proxy
    ) as proxy:
        scheme = {"tunnel in TLS": "https://", "SOCKS": "socks5://"}.get(way, "http://")
        if way != "direct":
            environment.set(ALL_PROXY=proxy.url.replace("http://", scheme))
        environment.set(SSL_CERT_FILE=CERTIFICATE)

        async def call() -> None:
            assert await ask(secure(tls_server), trust_env=True, transport="httpx") == "Paris"

        steps = await steps_of(call)
        before = open_sockets()
        for step in range(1, steps + 1):
            await cancelled_at(step, call)
        with anyio.move_on_after(5):
            # The servers have to notice, too, and no event of theirs says so.
            while open_sockets() - before:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert open_sockets() <= before
        await call()
