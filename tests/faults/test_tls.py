"""TLS: a server whose certificate is trusted answers; any other is an error that is not retried."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest

from executionkit import RetryConfig, complete
from executionkit.errors import ProviderError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.doubles import error_of
from tests.faults.certificates import EXPIRED, serving, trusting
from tests.faults.script import GOOD, reply
from tests.faults.server import FaultServer, fault_server
from tests.faults.ways import HTTPX, OURS, Way, on_each_loop

T = TypeVar("T")

PROMPT = [user("What is the capital of France?")]
KEY = "sk-12345678"
Make = Callable[..., Provider]

pytestmark = pytest.mark.anyio
on_ours = on_each_loop(*OURS)


@pytest.fixture
def make(way: Way) -> Make:
    settings: dict[str, Any] = {way.setting: way.name}
    return partial(Provider, **settings)


@pytest.mark.parametrize("kind", ["good-plain", "good-chunked", "good-close-header", "good-until-close"])
@on_ours
async def test_a_trusted_server_answers(make: Make, tls_server: FaultServer, kind: str) -> None:
    url = tls_server.url(kind).replace("http:", "https:")
    async with make(url, "m", KEY, tls=trusting()) as provider:
        for _ in range(3):
            assert (await provider.complete(PROMPT)).content == "Paris"


@on_ours
async def test_one_connection_serves_many_calls(make: Make, tls_server: FaultServer) -> None:
    before = tls_server.connections
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with make(url, "m", tls=trusting()) as provider:
        for _ in range(5):
            await provider.complete(PROMPT)
    assert tls_server.connections == before + 1


@pytest.mark.parametrize("kind", ["close-at-once", "reset-at-once", "close-in-body", "reset-in-body"])
@on_ours
async def test_a_broken_connection_is_asked_again(make: Make, tls_server: FaultServer, kind: str) -> None:
    url = tls_server.url(kind).replace("http:", "https:")
    async with make(url, "m", tls=trusting()) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(PROMPT)
    assert caught.value.retryable


@on_ours
async def test_an_untrusted_certificate_is_not_asked_again(make: Make, tls_server: FaultServer) -> None:
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with make(url, "m", KEY) as provider:
        with pytest.raises(ProviderError, match=r"TLS failed.*certificate") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable


@on_ours
async def test_a_certificate_for_another_host_is_refused(make: Make, tls_server: FaultServer) -> None:
    url = tls_server.url("good-plain").replace("http://127.0.0.1", "https://127.0.0.2")
    async with make(url, "m", KEY, tls=trusting()) as provider:
        with pytest.raises(ProviderError, match="TLS failed") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable


@on_ours
async def test_an_expired_certificate_is_refused(make: Make) -> None:
    with fault_server(serving(EXPIRED)) as server:
        url = server.url("good-plain").replace("http:", "https:")
        async with make(url, "m", KEY, tls=trusting(EXPIRED)) as provider:
            with pytest.raises(ProviderError, match=r"TLS failed.*expired") as caught:
                await provider.complete(PROMPT)
    assert not caught.value.retryable


@on_ours
async def test_a_server_without_tls_is_not_asked_again(make: Make, server: FaultServer) -> None:
    url = server.url("good-plain").replace("http:", "https:")
    async with make(url, "m", timeout=5) as provider:
        with pytest.raises(ProviderError, match="TLS failed") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("named", [ssl.SSLError, OSError, Exception])
@on_ours
async def test_it_is_not_asked_again_whatever_the_run_names(
    make: Make, tls_server: FaultServer, named: type[Exception]
) -> None:
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with make(url, "m") as provider:
        outcome = await complete().run(provider, "x", retry=RetryConfig(base_delay=0, retryable=(named,)))
    assert error_of(outcome).cost.llm_calls == 1


ANSWERS = [reply(GOOD), reply(GOOD.replace(b"Paris", b"Rome"))]


@contextmanager
def answering(context: ssl.SSLContext, answers: list[bytes], connections: int) -> Generator[int, None, None]:
    """A server that sends these answers, each in a TLS record, all in one segment, on so many connections.

    It says nothing more, and does not answer where the client ends TLS.
    """
    kept_open: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(connections):
                connection, address = listening.accept()
                with connection:
                    try:
                        _answer(connection, context, answers)
                    except TimeoutError:
                        kept_open.append(str(address))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()
    assert kept_open == []


def _answer(connection: socket.socket, context: ssl.SSLContext, answers: list[bytes]) -> None:
    connection.settimeout(5)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)

    def until_done(step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65_536))

    until_done(tls.do_handshake)
    while b"messages" not in until_done(lambda: tls.read(65_536)):
        pass
    for answer in answers:
        tls.write(answer)
    connection.sendall(outgoing.read())
    while connection.recv(65_536):
        pass


@on_each_loop(HTTPX)  # aiohttp takes it for a broken answer
async def test_an_unasked_answer_in_a_record_of_its_own_is_nobodys(make: Make) -> None:
    with answering(serving(), ANSWERS, 2) as port:
        async with make(f"https://127.0.0.1:{port}/v1", "m", tls=trusting()) as provider:
            for _ in range(2):
                assert (await provider.complete(PROMPT)).content == "Paris"


@on_ours
async def test_a_connection_that_is_not_kept_is_closed_with_its_provider(make: Make) -> None:
    last = reply(GOOD, 200, "Connection: close")
    with answering(serving(), [last], 1) as port:
        async with make(f"https://127.0.0.1:{port}/v1", "m", tls=trusting()) as provider:
            assert (await provider.complete(PROMPT)).content == "Paris"


@pytest.mark.parametrize(
    ("tls", "error"), [(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ValueError), ("ca.pem", TypeError)]
)
def test_what_is_no_context_for_clients_is_refused(tls: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="tls must be"):
        Provider("https://127.0.0.1/v1", "m", tls=tls)
