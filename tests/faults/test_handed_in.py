"""Transports and clients that the user hands in: the same promises, whatever they raise."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from executionkit.errors import LLMError, PermanentError, ProviderError
from executionkit.provider import LLMResponse
from executionkit.providers.openai import Provider
from tests.conftest import needs
from tests.faults.kinds import FAULTS, HEAVY, NOT_KEPT
from tests.faults.playing import KEY, LONG, PROMPT, deviations, is_shown
from tests.faults.script import GOOD
from tests.faults.server import FaultServer
from tests.faults.streams import STREAMS
from tests.faults.ways import HANDED_IN, Way, on_each_loop

TABLE = [*(fault for fault in FAULTS if LONG or fault.name not in HEAVY), *STREAMS]

pytestmark = [
    pytest.mark.anyio,
    # httpcore does not close its inner generators where a body is not read to its end; trio says so.
    pytest.mark.filterwarnings("ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"),
]


@on_each_loop(*HANDED_IN)
async def test_every_fault_is_the_answer_or_the_error_of_the_table(way: Way, server: FaultServer) -> None:
    first = HANDED_IN.index(way) % 3  # a third of them in the suite, of each way another
    found = await deviations(TABLE if LONG else TABLE[first::3], server, way)
    unexpected = [each for each in found if each.partition(":")[0] not in NOT_KEPT[way.name]]
    assert not unexpected, "\n".join(unexpected)


@on_each_loop(*HANDED_IN)
async def test_a_stalled_answer_ends_in_time(way: Way, server: FaultServer) -> None:
    async with way.settings() as settings:
        for kind in ("stall-at-once", "stall-in-body", "drip-body", "drip-headers"):
            outcome = await _outcome(Provider(server.url(kind), "m", KEY, timeout=0.2, **settings))
            assert isinstance(outcome, ProviderError), kind
        after = Provider(server.url("good-plain"), "m", KEY, **settings)
        assert (await after.complete(PROMPT)).content == "Paris"


async def _outcome(provider: Provider) -> LLMResponse | LLMError:
    outcome: LLMResponse | LLMError
    try:
        outcome = await provider.complete(PROMPT)
    except LLMError as error:
        outcome = error
    assert KEY not in repr(outcome)
    assert not (isinstance(outcome, LLMError) and is_shown(KEY, outcome))
    return outcome


@needs("httpx2")
async def test_requests_are_made_with_the_classes_of_the_package_that_a_transport_is_from() -> None:
    import httpx2

    seen: list[object] = []

    class Own(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            seen.extend((request, request.stream, await request.aread()))
            return httpx2.Response(200, content=GOOD)

    async with Provider("http://localhost/v1", "m", transport=Own()) as provider:
        assert (await provider.complete(PROMPT)).content == "Paris"
    assert isinstance(seen[0], httpx2.Request)
    assert isinstance(seen[1], httpx2.AsyncByteStream)
    assert b"capital of France" in (seen[2] if isinstance(seen[2], bytes) else b"")


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
async def test_a_client_may_send_a_request_twice(package: str) -> None:
    module: Any = pytest.importorskip(package)

    def handle(request: Any) -> Any:
        if "authorization" in request.headers and request.headers["authorization"].startswith("Digest"):
            return module.Response(200, content=GOOD)
        asked = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
        return module.Response(401, headers={"www-authenticate": asked})

    transport = module.MockTransport(handle)
    async with module.AsyncClient(transport=transport, auth=module.DigestAuth("u", "p")) as client:
        response = await Provider("http://localhost/v1", "m", client=client).complete(PROMPT)
    assert response.content == "Paris"


async def test_a_proxy_that_a_client_cannot_pass_has_answered() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ProxyError("403 Not that host")

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        outcome = await _outcome(Provider("http://localhost/v1", "m", KEY, client=client))
    assert isinstance(outcome, PermanentError)
    assert "the proxy answered 403" in outcome.message
    assert outcome.message.endswith("Not that host")
    assert "key" not in outcome.message


async def test_errors_that_lead_to_each_other_end_nowhere() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        error, first = httpx.ConnectError("no"), OSError("first")
        error.__cause__, first.__cause__ = ExceptionGroup("addresses", [first, OSError("second")]), error
        raise error

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        with anyio.fail_after(10):
            outcome = await _outcome(Provider("http://localhost/v1", "m", KEY, client=client))
    assert isinstance(outcome, ProviderError)
    assert "no connection" in outcome.message


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


@on_each_loop(*HANDED_IN)
@pytest.mark.parametrize("name", ["stall-at-once", "stall-in-body"])
async def test_no_frame_of_a_cancelled_call_shows_the_key(name: str, way: Way, server: FaultServer) -> None:
    async with way.settings() as settings, Provider(server.url(name), "m", KEY, **settings) as provider:
        with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.1):
            await provider.complete(PROMPT)
    assert not is_shown(KEY, caught.value)


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
    assert not is_shown(KEY, caught.value)
