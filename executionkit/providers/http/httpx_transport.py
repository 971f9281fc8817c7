"""The transports over httpx: slots of this package's own, and clients or transports that a user hands in.

httpx's stock pool costs time in the square of what is in flight, and loses slots on cancellation. So a
provider keeps one stock transport of one connection for each slot, and hands the slots out from a stack.
"""

import ssl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any, Final

import anyio
import httpx
from anyio.lowlevel import cancel_shielded_checkpoint

from executionkit.errors import PermanentError
from executionkit.providers.http.address import Address
from executionkit.providers.http.certificates import shared_tls_context
from executionkit.providers.http.exchange import (
    CONNECT_TIMEOUT,
    KEEPALIVE,
    Exchange,
    ExchangeError,
    Head,
    HTTPClient,
    HTTPTransport,
    Request,
    is_tls_failure,
)
from executionkit.providers.http.proxies import UNUSABLE_PROXY
from executionkit.providers.secret import Secret

__all__ = ["ForeignClient", "ForeignTransport", "HttpxTransport"]

_LIMITS: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
_LEFT_AT_MOST: Final = 10_000
"""Pieces of an answer that may have come in one read."""


class HttpxTransport:
    """Sends through a stack of slots, each a stock `httpx.AsyncHTTPTransport` of one connection.

    Handing a slot out takes the same short time however many there are. The connection of a cancelled or
    broken exchange is closed, never handed on; so is one that the server hung up on, or wrote to unasked.

    Args:
        address: The server.
        tls: What to speak TLS with; None for plain HTTP.
        limit: Connections at most; requests beyond that wait.
        proxy: The URL of a proxy to go through, or None.
        trust_env: Whether the environment may name the certificates that are trusted of a proxy.

    Raises:
        PermanentError: The proxy's address is none, or of a kind that is not installed.
    """

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        limit: int,
        proxy: Secret | None = None,
        trust_env: bool = False,
    ) -> None:
        self._authority = address.authority
        self._url = httpx.URL(address.url)
        self._tls = tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would load certificates for each
        self._proxy = None if proxy is None else _proxy(proxy, trust_env)
        self._free = anyio.Semaphore(limit, max_value=limit, fast_acquire=True)
        self._idle: deque[_Slot] = deque()
        self._closed = False

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        A proxy that would not open a tunnel has answered, too: its words are the body.

        Raises:
            ExchangeError: No connection in time, or it broke, or what came back is not HTTP/1.1.
        """
        await self._free.acquire()
        slot: _Slot | None = None
        try:
            slot = await self._fresh_or_idle()
            timeouts: dict[str, Any] = {"connect": CONNECT_TIMEOUT}
            # The request is made in place: a local name would show the key in a traceback.
            response = await slot.transport.handle_async_request(
                httpx.Request(
                    "POST",
                    self._url,
                    headers=request.headers,
                    stream=_Body(request.body),
                    extensions={"timeout": timeouts, **slot.extensions},
                )
            )
            return _SlotExchange(self, slot, response, timeouts)
        except Exception as error:  # noqa: BLE001 - whatever httpx and the event loop make of what happened
            await self.drop(slot)
            refusal = _refusal(error, {} if slot is None else slot.headers)
            if refusal is None:
                # Not chained: what httpx raises holds the request, key and all.
                raise _broken(error, self._authority) from None
            return refusal
        except BaseException as cancelled:
            await self.drop(slot)
            cancelled.__traceback__ = None  # the frames below may hold the request, key and all
            raise

    async def _fresh_or_idle(self) -> "_Slot":
        while self._idle:
            slot = self._idle.pop()
            if not slot.is_stale():
                return slot
            await slot.close()
        return self._new_slot()

    def _new_slot(self) -> "_Slot":
        return _Slot(
            httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=_LIMITS, proxy=self._proxy)
        )

    async def give_back(self, slot: "_Slot") -> None:
        """Take back a slot whose exchange is over and whose connection is sound."""
        if self._closed:
            await self.drop(slot)
            return
        slot.idle_since = time.monotonic()
        self._idle.append(slot)
        self._free.release()
        while self._idle[0].idle_since < slot.idle_since - KEEPALIVE:
            await self._idle.popleft().close()

    async def drop(self, slot: "_Slot | None") -> None:
        """Close a slot; another one may take its place."""
        try:
            if slot is not None:
                await slot.close()
        finally:
            self._free.release()

    async def aclose(self) -> None:
        """Close every idle connection; those in use close when their exchange is finished."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()
        # A transport of asyncio's is closed in its loop's next pass.
        await cancel_shielded_checkpoint()


class _Slot:
    """A transport of one connection. It follows how the connection is made, as httpx's `trace` tells it.

    httpx loses a connection whose TLS handshake is cancelled, and what a proxy said besides its status.
    """

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.headers: dict[str, str] = {}
        self.idle_since = time.monotonic()
        self._connection: Any = None
        self._tls: Any = None

    @property
    def extensions(self) -> dict[str, Any]:
        """What the next request asks httpx to tell; nothing once the connection is made."""
        return {} if self._connection is not None else {"trace": self._follow}

    async def _follow(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            self._connection = info["return_value"]
        elif event.endswith("start_tls.complete"):
            self._tls = info["return_value"].get_extra_info("ssl_object")
        elif event.endswith("receive_response_headers.complete"):
            self.headers = _by_name(info["return_value"][3])

    def is_stale(self) -> bool:
        """Whether the connection was idle for too long, or the server hung up on it, or spoke unasked."""
        if self._connection is None:
            return False
        if time.monotonic() - self.idle_since >= KEEPALIVE:
            return True
        try:
            return bool(self._connection.get_extra_info("is_readable"))
        except ValueError:  # httpx has closed it
            return True

    def has_more(self) -> bool:
        """Whether more than the answer came, or the end, and waits to be decrypted."""
        if self._tls is None:
            return False
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        return True

    async def close(self) -> None:
        """Close at once."""
        with anyio.CancelScope(shield=True):
            await self.transport.aclose()
            if self._connection is not None:
                await self._connection.aclose()


class _ResponseExchange:
    """An exchange from a response of httpx's shape."""

    def __init__(self, response: Any, headers: dict[str, str]) -> None:
        self.head = Head(int(response.status_code), headers)
        if self.head.status < 200:
            raise ExchangeError(f"the status {self.head.status} is not the one of an answer")
        self._response = response
        self._chunks: AsyncIterator[bytes] | None = None
        self._is_over = False

    async def read(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._response.stream)
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
            raise _broken(error) from None
        except BaseException as cancelled:
            cancelled.__traceback__ = None  # the frames below may hold what the server said
            raise
        self._is_over = True
        return b""

    async def finish(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._response.aclose()
        if self._chunks is not None and not self._is_over:
            await _exhaust(self._chunks)


async def _exhaust(chunks: AsyncIterator[bytes]) -> None:
    """Let the generators behind a body end that nobody reads on: trio complains of those that are dropped.

    Their response is closed, so what is left is what was received already; nothing is waited for.
    """
    with anyio.move_on_after(0, shield=True), suppress(Exception):
        for _ in range(_LEFT_AT_MOST):
            await anext(chunks)
    close = getattr(chunks, "aclose", None)  # an async generator has one
    if close is not None:
        with anyio.CancelScope(shield=True):
            await close()


class _SlotExchange(_ResponseExchange):
    """An exchange that has a slot."""

    def __init__(
        self, owner: HttpxTransport, slot: _Slot, response: httpx.Response, timeouts: dict[str, Any]
    ) -> None:
        super().__init__(response, _by_name(response.headers.raw))
        self._owner = owner
        self._slot: _Slot | None = slot
        self._timeouts = timeouts

    async def finish(self) -> None:
        slot, self._slot = self._slot, None
        if slot is None:
            return
        is_sound = False
        with anyio.CancelScope(shield=True):
            try:
                # An answer that the end of the connection ends leaves none to hand on.
                is_framed = not {"content-length", "transfer-encoding"}.isdisjoint(self.head.headers)
                is_sound = self._is_over and is_framed and not await self._has_more() and not slot.has_more()
                if not is_sound:
                    await super().finish()
            finally:
                await (self._owner.give_back(slot) if is_sound else self._owner.drop(slot))

    async def _has_more(self) -> bool:
        """Whether httpx has received more than the answer; it would take that for the next one.

        Its stream, asked once more, ends at once where something is left, and else would wait for the server.
        """
        self._timeouts["read"] = _NoTimeToWait()
        try:
            async for _ in self._response.stream:
                break
        except _WouldWait:
            return False
        except Exception:  # noqa: BLE001 - what it received is not even HTTP
            return True
        return True


class _WouldWait(BaseException):
    """Reading would have to wait for the server."""


class _NoTimeToWait(float):
    """A time-out that raises `_WouldWait` as soon as anybody takes it for one, before a byte is read."""

    def __radd__(self, now: float) -> float:  # anyio adds it to the time
        raise _WouldWait

    def __lt__(self, other: float) -> bool:  # trio checks that it is not negative
        raise _WouldWait


class ForeignTransport:
    """Sends through a transport that a user hands in. Its limits and its life are the owner's business.

    Args:
        transport: The transport. Requests are made with the classes of the package that it comes from.
        url: Where requests go.
        timeout: Seconds that any of its waits may take; the whole is bounded by the provider.
    """

    def __init__(self, transport: HTTPTransport, url: str, timeout: float) -> None:
        self._transport = transport
        self._package = _package_of(transport, "AsyncBaseTransport")
        self._url = url
        self._timeouts = {"connect": CONNECT_TIMEOUT, "read": timeout, "write": timeout, "pool": timeout}

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: The transport raised.
        """
        return await _foreign_exchange(
            lambda: self._transport.handle_async_request(
                _streaming(
                    self._package.Request(
                        "POST",
                        self._url,
                        headers=request.headers,
                        content=request.body,
                        extensions={"timeout": self._timeouts},
                    ),
                    self._package,
                    request.body,
                )
            )
        )

    async def aclose(self) -> None:
        """Do nothing: who made the transport closes it."""


class ForeignClient:
    """Sends through a client that a user hands in. Its limits and its life are the owner's business.

    Args:
        client: The client.
        url: Where requests go.
        timeout: Seconds that any of its waits may take; the whole is bounded by the provider.
    """

    def __init__(self, client: HTTPClient, url: str, timeout: float) -> None:
        self._client = client
        self._package = _package_of(client, "AsyncClient")
        self._url = url
        self._timeout = timeout

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: The client raised.
        """
        return await _foreign_exchange(
            lambda: self._client.send(
                _streaming(
                    self._client.build_request(
                        "POST",
                        self._url,
                        content=request.body,
                        headers=request.headers,
                        timeout=self._timeout,
                    ),
                    self._package,
                    request.body,
                ),
                stream=True,
                follow_redirects=False,
            )
        )

    async def aclose(self) -> None:
        """Do nothing: who opened the client closes it."""


async def _foreign_exchange(send: Callable[[], Awaitable[Any]]) -> Exchange:
    try:
        response = await send()
        return _ResponseExchange(
            response, {str(name).lower(): str(value) for name, value in response.headers.items()}
        )
    except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
        refusal = _refusal(error, {})
        if refusal is None:
            raise _broken(error) from None
        return refusal
    except BaseException as cancelled:
        cancelled.__traceback__ = None  # the frames below may hold the request, key and all
        raise


def _package_of(given: object, base: str) -> Any:
    """Return the package (httpx, httpx2) whose `base` this derives from; httpx if it only has the shape."""
    for kind in type(given).__mro__:
        package = sys.modules.get(kind.__module__.partition(".")[0])
        if issubclass(type(given), getattr(package, base, ())):
            return package
    return httpx


def _streaming(request: Any, package: Any, body: bytes) -> Any:
    """Return the request with a body that is a stream object.

    httpx's own is an async generator, of which trio complains when sending is cancelled.
    """
    request.stream = _body_type(package)(body)
    return request


@cache
def _body_type(package: Any) -> Callable[[bytes], Any]:
    """Return the class of a request's body for a package of httpx's shape, which checks for its own."""

    class Body(package.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, body: bytes) -> None:
            self._body = body

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _OnePiece(self._body)

    return Body


_Body: Final = _body_type(httpx)


class _OnePiece:
    def __init__(self, body: bytes) -> None:
        self._left = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece, self._left = self._left, b""
        if not piece:
            raise StopAsyncIteration
        return piece


class _Refusal:
    """The answer of a proxy that would not open a tunnel, as an exchange."""

    def __init__(self, head: Head, words: bytes) -> None:
        self.head = head
        self._words = words

    async def read(self) -> bytes:
        words, self._words = self._words, b""
        return words

    async def finish(self) -> None:
        """Do nothing: its connection is closed."""


def _refusal(error: Exception, headers: dict[str, str]) -> Exchange | None:
    """Return what a proxy answered, where httpx raised that: it keeps the status and the words beside it."""
    status, _, words = str(error).partition(" ")
    if type(error).__name__ != "ProxyError" or not (len(status) == 3 and status.isdecimal()):
        return None
    said = {name: value for name, value in headers.items() if not name.startswith("content-")}
    return _Refusal(Head(int(status), said, "the proxy"), words.encode())


def _broken(error: Exception, authority: str = "the server") -> ExchangeError:
    if isinstance(error, ExchangeError):
        return error
    if type(error).__name__ == "ConnectTimeout":
        return ExchangeError(f"no connection to {authority} within {CONNECT_TIMEOUT:g} s")
    return ExchangeError(f"{type(error).__name__}: {_said(error)}", is_tls=is_tls_failure(error))


def _said(error: BaseException) -> BaseException:
    """Return the error itself; where there is no connection, what the system said at the end of the chain."""
    if type(error).__name__ != "ConnectError":
        return error
    while link := error.__cause__ or error.__context__:
        error = link.exceptions[0] if isinstance(link, BaseExceptionGroup) else link
    return error


def _by_name(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _proxy(url: Secret, trust_env: bool) -> httpx.Proxy:
    with suppress(ImportError, ValueError, httpx.InvalidURL):
        tls = shared_tls_context(trust_env) if url.reveal().lower().startswith("https:") else None
        proxy = httpx.Proxy(url.reveal(), ssl_context=tls)
        # Whether its kind is installed shows only here.
        httpx.AsyncHTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_env=False, proxy=proxy)
        return proxy
    # Not raised where that failed: what failed there holds a password.
    raise PermanentError(UNUSABLE_PROXY)
