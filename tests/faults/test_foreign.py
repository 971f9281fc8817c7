"""Transports and clients that the user hands in: the same promises, whatever they raise."""

import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
import sniffio

from executionkit.errors import LLMError, PermanentError, ProviderError
from executionkit.provider import LLMResponse, user
from executionkit.providers.openai import Provider
from tests.faults.kinds import FAULTS, HEAVY
from tests.faults.script import GOOD
from tests.faults.server import FaultServer

KEY = "sk-Secret/1+2=3"
PROMPT = [user("What is the capital of France?")]

pytestmark = [
    pytest.mark.anyio,
    # httpcore does not close its inner generators where a body is not read to its end; trio says so.
    pytest.mark.filterwarnings("ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"),
]


def httpx_transport() -> dict[str, Any]:
    return {"transport": httpx.AsyncHTTPTransport(verify=False)}


def httpx_client() -> dict[str, Any]:
    return {"client": httpx.AsyncClient(verify=False)}


def httpx2_client() -> dict[str, Any]:
    httpx2 = pytest.importorskip("httpx2")
    return {"client": httpx2.AsyncClient(verify=False)}


def aiohttp_transport() -> dict[str, Any]:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("aiohttp knows no other event loop than asyncio")
    httpx_aiohttp = pytest.importorskip("httpx_aiohttp")
    return {"transport": httpx_aiohttp.AiohttpTransport(verify=False)}


@asynccontextmanager
async def opened(make: Callable[[], dict[str, Any]]) -> AsyncGenerator[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        given = make()
        for owned in given.values():
            stack.push_async_callback(owned.aclose)
        yield given


# Framing that is right, or harmless, and that other clients give up on.
STRICTER_ELSEWHERE = {"good-early", "good-continue", "good-extra-bytes", "good-unasked-answer"}
KINDS = [httpx_transport, httpx_client, httpx2_client, aiohttp_transport]


@pytest.mark.parametrize("make", KINDS)
async def test_every_fault_is_an_answer_or_an_error(
    make: Callable[[], dict[str, Any]], server: FaultServer
) -> None:
    for fault in FAULTS:
        if fault.name in HEAVY or fault.slow:
            continue
        # One for each fault: other pools carry on after bytes that nobody asked for.
        async with opened(make) as given:
            outcome = await _outcome(Provider(server.url(fault.name), "m", KEY, timeout=5, **given))
            if fault.error is None and fault.name not in STRICTER_ELSEWHERE:
                assert isinstance(outcome, LLMResponse), (fault.name, outcome)
                assert outcome.content == fault.text
            elif fault.name.startswith(("status-", "200-", "429-", "500-", "401-")):
                assert type(outcome) is fault.error, (fault.name, outcome)


@pytest.mark.parametrize("make", KINDS)
async def test_a_stalled_answer_ends_in_time(make: Callable[[], dict[str, Any]], server: FaultServer) -> None:
    async with opened(make) as given:
        for kind in ("stall-at-once", "stall-in-body", "drip-body", "drip-headers"):
            outcome = await _outcome(Provider(server.url(kind), "m", KEY, timeout=0.2, **given))
            assert isinstance(outcome, ProviderError), kind
        after = Provider(server.url("good-plain"), "m", KEY, **given)
        assert (await after.complete(PROMPT)).content == "Paris"


async def _outcome(provider: Provider) -> LLMResponse | LLMError:
    try:
        response = await provider.complete(PROMPT)
    except LLMError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        assert KEY not in "".join(shown)
        return error
    assert KEY not in repr(response)
    return response


async def test_a_handler_is_enough() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.url == "https://api.example.com/v1/chat/completions"
        return httpx.Response(200, content=GOOD)

    provider = Provider("https://api.example.com/v1", "m", KEY, transport=httpx.MockTransport(handle))
    assert (await provider.complete(PROMPT)).content == "Paris"


async def test_a_redirect_of_a_client_that_follows_them_is_not_followed() -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return httpx.Response(307, headers={"Location": "https://evil.example.com/"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle), follow_redirects=True)
    async with client:
        with pytest.raises(ProviderError, match="redirects are not followed"):
            await Provider("https://api.example.com/v1", "m", KEY, client=client).complete(PROMPT)
    assert seen == ["api.example.com"]


async def test_what_a_transport_raises_is_wrapped() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError(f"no way with {request.headers['authorization']}")

    provider = Provider("https://api.example.com/v1", "m", KEY, transport=httpx.MockTransport(handle))
    outcome = await _outcome(provider)
    assert isinstance(outcome, ProviderError)
    assert "ZeroDivisionError: no way with Bearer ***" in outcome.message


async def test_permanent_errors_stay_permanent() -> None:
    transport = httpx.MockTransport(
        lambda request: httpx.Response(401, text=request.headers["authorization"])
    )
    outcome = await _outcome(Provider("https://api.example.com/v1", "m", KEY, transport=transport))
    assert isinstance(outcome, PermanentError)


class _Endless(httpx.AsyncByteStream):
    """Events without end, each of them there as soon as it is asked for."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"data: {}\n\n"


async def test_a_stream_that_never_pauses_ends_in_time() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=_Endless()))
    async with Provider("http://localhost/v1", "m", timeout=0.1, transport=transport) as provider:
        with pytest.raises(ProviderError, match=r"within 0\.1 s"):
            async for _ in provider.stream(PROMPT):
                pass


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["stall-at-once", "stall-in-body"])
async def test_no_frame_of_a_cancelled_call_shows_the_key(
    name: str, make: Callable[[], dict[str, Any]], server: FaultServer
) -> None:
    async with opened(make) as given, Provider(server.url(name), "m", KEY, **given) as provider:
        with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.1):
            await provider.complete(PROMPT)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    assert KEY not in "".join(shown)


class _Echo(httpx.AsyncByteStream):
    """An answer that quotes the key, and never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        said = f'data: {{"choices": [{{"delta": {{"content": "{KEY}"}}}}]}}\n\n'.encode()
        yield said
        await anyio.sleep_forever()


async def test_no_frame_of_a_cancelled_stream_shows_what_the_server_said() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=_Echo()))
    async with Provider("http://localhost/v1", "m", KEY, transport=transport) as provider:
        with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.1):
            async for _ in provider.stream(PROMPT):
                pass
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    assert KEY not in "".join(shown)
