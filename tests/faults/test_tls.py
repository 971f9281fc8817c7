"""TLS: a server whose certificate is trusted answers; any other is an error that is not retried."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from executionkit import RetryConfig, complete
from executionkit.errors import ProviderError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.doubles import error_of
from tests.faults.script import GOOD, reply
from tests.faults.server import FaultServer, fault_server

T = TypeVar("T")

HERE = Path(__file__).parent / "tls"
PROMPT = [user("What is the capital of France?")]

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def tls_server() -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(HERE / "cert.pem", HERE / "key.pem")
    with fault_server(context) as running:
        yield running


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=HERE / "cert.pem")


@pytest.mark.parametrize("kind", ["good-plain", "good-chunked", "good-close-header", "good-until-close"])
async def test_a_trusted_server_answers(tls_server: FaultServer, kind: str) -> None:
    url = tls_server.url(kind).replace("http:", "https:")
    async with Provider(url, "m", "sk-12345678", tls=trusting()) as provider:
        for _ in range(3):
            assert (await provider.complete(PROMPT)).content == "Paris"


async def test_one_connection_serves_many_calls(tls_server: FaultServer) -> None:
    before = tls_server.connections
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with Provider(url, "m", tls=trusting()) as provider:
        for _ in range(5):
            await provider.complete(PROMPT)
    assert tls_server.connections == before + 1


@pytest.mark.parametrize("kind", ["close-at-once", "reset-at-once", "close-in-body", "reset-in-body"])
async def test_a_broken_connection_is_asked_again(tls_server: FaultServer, kind: str) -> None:
    url = tls_server.url(kind).replace("http:", "https:")
    async with Provider(url, "m", tls=trusting()) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(PROMPT)
    assert caught.value.retryable


async def test_an_untrusted_certificate_is_not_asked_again(tls_server: FaultServer) -> None:
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with Provider(url, "m", "sk-12345678") as provider:
        with pytest.raises(ProviderError, match=r"TLS failed.*certificate") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable


async def test_a_certificate_for_another_host_is_refused(tls_server: FaultServer) -> None:
    url = tls_server.url("good-plain").replace("http://127.0.0.1", "https://127.0.0.2")
    async with Provider(url, "m", "sk-12345678", tls=trusting()) as provider:
        with pytest.raises(ProviderError, match="TLS failed") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable


async def test_a_server_without_tls_is_not_asked_again(server: FaultServer) -> None:
    url = server.url("good-plain").replace("http:", "https:")
    async with Provider(url, "m", timeout=5) as provider:
        with pytest.raises(ProviderError, match="TLS failed") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("named", [ssl.SSLError, OSError, Exception])
async def test_it_is_not_asked_again_whatever_the_run_names(
    tls_server: FaultServer, named: type[Exception]
) -> None:
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with Provider(url, "m") as provider:
        outcome = await complete().run(provider, "x", retry=RetryConfig(base_delay=0, retryable=(named,)))
    assert error_of(outcome).cost.llm_calls == 1


ANSWERS = [reply(GOOD), reply(GOOD.replace(b"Paris", b"Rome"))]


@contextmanager
def talkative_server(context: ssl.SSLContext) -> Generator[int, None, None]:
    """A server that sends two answers to each request, each in a TLS record, both in one segment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(2):
                connection, _address = listening.accept()
                with connection:
                    _answer_twice(connection, context)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


def _answer_twice(connection: socket.socket, context: ssl.SSLContext) -> None:
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
    for answer in ANSWERS:
        tls.write(answer)
    connection.sendall(outgoing.read())
    while connection.recv(65_536):
        pass


async def test_an_unasked_answer_in_a_record_of_its_own_is_nobodys() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(HERE / "cert.pem", HERE / "key.pem")
    with talkative_server(context) as port:
        async with Provider(f"https://127.0.0.1:{port}/v1", "m", tls=trusting()) as provider:
            for _ in range(2):
                assert (await provider.complete(PROMPT)).content == "Paris"


async def test_a_context_for_servers_is_refused_and_leaves_no_socket(tls_server: FaultServer) -> None:
    url = tls_server.url("good-plain").replace("http:", "https:")
    async with Provider(url, "m", tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as provider:
        with pytest.raises(ProviderError, match="TLS failed") as caught:
            await provider.complete(PROMPT)
    assert not caught.value.retryable
