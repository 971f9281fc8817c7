"""The transport over httpx.

httpx's stock pool costs time in the square of what is in flight, and loses slots on cancellation. So a
provider keeps a transport of one stock connection for each slot, and hands the slots out from a stack.
"""

import math
import ssl
import sys
import time
from collections import deque
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TypeAlias

import anyio
import httpcore
import httpx
from anyio.lowlevel import cancel_shielded_checkpoint

from executionkit.errors import PermanentError
from executionkit.providers.http.address import Address
from executionkit.providers.http.certificates import shared_tls_context
from executionkit.providers.http.connection import Connector, WouldWaitError
from executionkit.providers.http.exchange import CONNECT_TIMEOUT, KEEPALIVE, Exchange, Request
from executionkit.providers.http.httpx_exchange import (
    UNLOGGED,
    ResponseExchange,
    body_type,
    broken,
    by_name,
    check_cancelled,
    refusal,
)
from executionkit.providers.http.proxies import UNUSABLE_PROXY
from executionkit.providers.secret import Secret

__all__ = ["HttpxTransport"]

_Body: Final = body_type(sys.modules["httpx"])
_TIMEOUTS: Final = {"connect": CONNECT_TIMEOUT}
_Sender: TypeAlias = httpcore.AsyncHTTPConnection | httpcore.AsyncConnectionPool
"""A connection, or, through a proxy, a pool of one."""


class HttpxTransport:
    """Sends through a stack of slots, each a transport of one connection.

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
        self._tls = tls
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
        unlogged = UNLOGGED.set(True)
        try:
            slot = await self._fresh_or_idle()
            # The request is made in place: a local name would show the key in a traceback.
            response = await slot.transport.handle_async_request(
                httpx.Request(
                    "POST",
                    self._url,
                    headers=request.headers,
                    stream=_Body(request.body),
                    extensions=slot.extensions,
                )
            )
            return _SlotExchange(self, slot, response)
        except Exception as error:  # noqa: BLE001 - whatever httpx and the event loop make of what happened
            await self.drop(slot)
            check_cancelled(error)
            answer = refusal(error, {} if slot is None else slot.headers)
            if answer is None:
                # Not chained: what httpx raises holds the request, key and all.
                raise broken(error, self._authority if self._proxy is None else "the proxy") from None
            return answer
        except BaseException as cancelled:
            await self.drop(slot)
            cancelled.__traceback__ = None  # the frames below may hold the request, key and all
            raise
        finally:
            UNLOGGED.reset(unlogged)

    async def _fresh_or_idle(self) -> "_Slot":
        while self._idle:
            slot = self._idle.pop()
            if not slot.is_stale():
                return slot
            await slot.close()
        return self._new_slot()

    def _new_slot(self) -> "_Slot":
        connector = Connector()
        if self._proxy is not None:
            return _Slot(_pool_of_one(self._proxy, self._tls, connector), connector, is_proxied=True)
        origin = _core_url(self._url).origin
        return _Slot(httpcore.AsyncHTTPConnection(origin, self._tls, network_backend=connector), connector)

    async def give_back(self, slot: "_Slot") -> None:
        """Take back a slot whose exchange is over and whose connection is sound."""
        if self._closed:
            await self.drop(slot)
            return
        slot.idle_since = time.monotonic()
        self._idle.append(slot)
        self._free.release()
        while self._idle and self._idle[0].idle_since < slot.idle_since - KEEPALIVE:
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


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's own, so that who instruments that sees each request, on one connection in place of a pool.

    Which connection, it can be told in private only.
    """

    def __init__(self, sender: _Sender) -> None:
        self._pool = sender  # type: ignore[assignment]


class _Slot:
    """A transport, the connection below it, and what a proxy said: httpcore keeps no more than its status."""

    def __init__(self, sender: _Sender, connector: Connector, *, is_proxied: bool = False) -> None:
        self.transport: httpx.AsyncHTTPTransport = _Transport(sender)
        self.headers: dict[str, str] = {}
        self.idle_since: float = time.monotonic()
        self.extensions: dict[str, Any] = {"timeout": _TIMEOUTS}
        if is_proxied:
            self.extensions["trace"] = self._follow
        self._connector = connector

    async def _follow(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith("receive_response_headers.complete"):
            self.headers = by_name(info["return_value"][3])

    def is_stale(self) -> bool:
        """Whether the connection was idle for too long, or the server hung up on it, or spoke unasked."""
        connection = self._connector.connection
        is_old = time.monotonic() - self.idle_since >= KEEPALIVE
        return connection is not None and (is_old or connection.is_stale)

    def end_reads_at(self, deadline: float | None) -> None:
        """Have reads raise from this time of the event loop on; None where none may wait."""
        if self._connector.connection is not None:
            self._connector.connection.reads_end_at = deadline

    def has_received_just(self, body: int) -> bool:
        """Whether a head and so many bytes are all that came for a request; False where that is not clear."""
        connection = self._connector.connection
        return connection is not None and connection.has_received_just(body)

    @property
    def has_unread(self) -> bool:
        """Whether more came than was read, or the end of TLS."""
        connection = self._connector.connection
        return connection is not None and connection.has_unread

    async def close(self) -> None:
        """Close at once."""
        with anyio.CancelScope(shield=True):
            await self.transport.aclose()
            if self._connector.connection is not None:
                await self._connector.connection.aclose()


class _SlotExchange(ResponseExchange):
    """An exchange that has a slot."""

    def __init__(self, owner: HttpxTransport, slot: _Slot, response: httpx.Response) -> None:
        super().__init__(response, by_name(response.headers.raw))
        self._owner = owner
        self._slot: _Slot | None = slot

    def end_reads_at(self, deadline: float) -> bool:
        if self._slot is not None:
            self._slot.end_reads_at(deadline)
        return True

    async def finish(self) -> None:
        slot, self._slot = self._slot, None
        if slot is None:
            return
        is_sound = False
        with anyio.CancelScope(shield=True):
            try:
                # An answer that the end of the connection ends leaves none to hand on.
                is_framed = not {"content-length", "transfer-encoding"}.isdisjoint(self.head.headers)
                is_sound = (
                    self.is_over and is_framed and not await self._has_more(slot) and not slot.has_unread
                )
                if not is_sound:
                    await super().finish()
            finally:
                slot.end_reads_at(math.inf)
                await (self._owner.give_back(slot) if is_sound else self._owner.drop(slot))

    async def _has_more(self, slot: _Slot) -> bool:
        """Whether httpx has received more than the answer; it would take that for the next one.

        Its stream, asked once more, ends at once where something is left, and else would wait for the server.
        """
        length = self.head.headers.get("content-length", "")
        is_plain = length.isdecimal() and "transfer-encoding" not in self.head.headers
        if is_plain and slot.has_received_just(int(length)):
            await super().finish()
            return False
        slot.end_reads_at(None)
        unlogged = UNLOGGED.set(True)
        try:
            async for _ in self._response.stream:
                break
        except WouldWaitError:
            return False
        except Exception:  # noqa: BLE001 - what it received is not even HTTP
            return True
        finally:
            UNLOGGED.reset(unlogged)
        return True


def _core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _proxy(url: Secret, trust_env: bool) -> httpx.Proxy:
    with suppress(ImportError, ValueError, httpx.InvalidURL):
        tls = shared_tls_context(trust_env) if url.reveal().lower().startswith("https:") else None
        proxy = httpx.Proxy(url.reveal(), ssl_context=tls)
        if proxy.url.scheme.startswith("socks"):
            import_module("socksio")  # an extra
        return proxy
    # Not raised where that failed: what failed there holds a password.
    raise PermanentError(UNUSABLE_PROXY)


def _pool_of_one(proxy: httpx.Proxy, tls: ssl.SSLContext | None, connector: Connector) -> _Sender:
    """Return what sends through a proxy."""
    if proxy.url.scheme.startswith("socks"):
        # To the checkers it may be a class that only says what is not installed.
        kind: Any = httpcore.AsyncSOCKSProxy
        made: _Sender = kind(
            _core_url(proxy.url), proxy.raw_auth, tls, max_connections=1, network_backend=connector
        )
        return made
    return httpcore.AsyncHTTPProxy(
        _core_url(proxy.url),
        proxy.raw_auth,
        proxy.headers.raw,
        tls,
        proxy.ssl_context,
        max_connections=1,
        network_backend=connector,
    )
