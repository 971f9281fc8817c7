"""TLS: a server whose certificate is trusted answers; any other is an error that is not retried."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from executionkit.errors import ProviderError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from tests.faults.server import FaultServer, fault_server

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
