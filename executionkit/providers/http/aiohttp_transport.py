"""The transport over aiohttp, which parses HTTP in C. It knows no event loop but asyncio's.

It is called without the layer of httpx in between, which costs as much again.
"""

import asyncio
import ssl
from functools import partial
from typing import Final, cast

import aiohttp
import anyio
from aiohttp.client_proto import ResponseHandler
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint
from typing_extensions import override
from yarl import URL

from executionkit.providers.http.address import Address
from executionkit.providers.http.exchange import (
    CONNECT_TIMEOUT,
    KEEPALIVE,
    Exchange,
    ExchangeError,
    Head,
    Request,
    is_tls_failure,
    no_connection,
)

__all__ = ["AiohttpTransport"]

_HEADERS_LIMIT: Final = 65_536
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)


class _Protocol(ResponseHandler):
    """Ends a connection with TLS at once: a polite end waits for the server, and may outlive its session."""

    @override
    def close(self) -> None:
        transport = self.transport
        super().close()
        if transport is not None and transport.get_extra_info("sslcontext") is not None:
            transport.abort()


class AiohttpTransport:
    """Sends through a session of aiohttp's, made for one event loop.

    Args:
        address: The server.
        tls: What to speak TLS with; None for plain HTTP.
        limit: Connections at most; requests beyond that wait.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext | None, limit: int) -> None:
        self._authority = address.authority
        self._url = URL(address.url, encoded=True)
        connector = aiohttp.TCPConnector(limit=limit, keepalive_timeout=KEEPALIVE, ssl=tls or True)
        protocol = partial(cast("type[ResponseHandler]", _Protocol), loop=asyncio.get_running_loop())
        connector._factory = protocol  # pyright: ignore[reportPrivateUsage]  # there is no public way
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
            auto_decompress=False,  # ours stops at a limit
            max_line_size=_HEADERS_LIMIT,
            max_field_size=_HEADERS_LIMIT,
        )
        self._in_flight = 0
        self._is_closing = False

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: No connection, or it broke, or what came back is not HTTP/1.1.
        """
        self._in_flight += 1
        try:
            for _ in range(2):  # the event loop asks for news, and hears it: which connections are closed
                await checkpoint()
            response = await self._session.post(
                self._url, data=request.body, headers=request.headers, allow_redirects=False
            )
        except Exception as error:  # noqa: BLE001 - whatever aiohttp makes of what a server sent
            await self.finished()
            # Not chained: what aiohttp raises holds the request, key and all.
            raise _broken(error, self._authority) from None
        except BaseException as cancelled:
            await self.finished()
            cancelled.__traceback__ = None  # aiohttp's frames hold the request, key and all
            raise
        exchange = _Exchange(self, response)
        problem = _unusual(response)
        if problem:
            await exchange.finish()
            raise ExchangeError(problem)
        return exchange

    async def finished(self) -> None:
        """Note that an exchange is over."""
        self._in_flight -= 1
        if self._is_closing and self._in_flight == 0:
            with anyio.CancelScope(shield=True):
                await self._session.close()

    async def aclose(self) -> None:
        """Close every connection, at once or after the last exchange that is under way."""
        self._is_closing = True
        if self._in_flight == 0:
            await self._session.close()
        # asyncio closes the sockets in its next pass.
        await cancel_shielded_checkpoint()


class _Exchange:
    def __init__(self, transport: AiohttpTransport, response: aiohttp.ClientResponse) -> None:
        self.head = Head(response.status, {name.lower(): value for name, value in response.headers.items()})
        self._transport: AiohttpTransport | None = transport
        self._response = response

    def end_reads_at(self, deadline: float) -> bool:  # noqa: ARG002 - a caller says it to every exchange
        return False

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except Exception as error:  # noqa: BLE001 - whatever aiohttp makes of what a server sent
            raise _broken(error) from None

    async def finish(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            # aiohttp has the connection back already where the answer was read to its end.
            self._response.close()
            await transport.finished()


def _unusual(response: aiohttp.ClientResponse) -> str:
    """Say what is wrong with a head that aiohttp lets pass."""
    if response.status < 200:
        return f"the status {response.status} cannot be that of an answer"
    framing = response.headers.get("Transfer-Encoding", "chunked").strip().lower()
    return "" if framing == "chunked" else "the answer is framed in an unknown way"


def _broken(error: Exception, authority: str = "the server") -> ExchangeError:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ExchangeError(f"no connection to {authority} within {CONNECT_TIMEOUT:g} s")
    if isinstance(error, aiohttp.ClientConnectorError) and not is_tls_failure(error):
        return no_connection(authority, error.os_error)
    # What such an error says of the request is left out: its URL may hold a key.
    said = error.message if isinstance(error, aiohttp.ClientResponseError) else error
    return ExchangeError(f"{type(error).__name__}: {said}", is_tls=is_tls_failure(error))
