"""The pool of connections that a `Provider` sends its requests through, one for each event loop."""

import os
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Final, Protocol

import anyio
import certifi
from anyio.lowlevel import cancel_shielded_checkpoint

from executionkit.errors import PermanentError
from executionkit.providers.http.http1 import Connection, ExchangeError, Head, Request
from executionkit.providers.http.sockets import ByteSocket

__all__ = [
    "BROKEN",
    "Exchange",
    "Pool",
    "Transport",
    "is_tls_failure",
    "shared_tls_context",
]

CONNECT_TIMEOUT: Final = 5.0
KEEPALIVE: Final = 4.0
"""Seconds a connection may idle. Common servers hang up after 5 s; a call must not race with that."""


BROKEN: Final = (ExchangeError, OSError)
"""Every exception that a broken exchange may raise."""


class Exchange(Protocol):
    """One request under way."""

    head: Head

    async def read(self) -> bytes:
        """Return the next piece of the answer's body as sent, `b""` at its end."""
        ...

    async def finish(self) -> None:
        """Give the connection back, or close it where the answer was not read to its end."""
        ...


class Transport(Protocol):
    """What carries requests to a server."""

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there."""
        ...

    async def aclose(self) -> None:
        """Close every idle connection; those in use close when their exchange is finished."""
        ...


def is_tls_failure(error: BaseException) -> bool:
    """Whether TLS itself failed, down the chain of causes; a hang-up in the middle is not that."""
    link: BaseException | None = error
    for _ in range(10):
        if isinstance(link, ssl.SSLError):
            return not isinstance(link, ssl.SSLEOFError)
        link = None if link is None else link.__cause__ or link.__context__
    return False


class Pool:
    """Connections to one server. Handing one out takes the same short time however many there are.

    A connection that a cancelled or broken exchange used is closed, never handed out again; so is one
    that the server hung up on, or wrote to unasked, while it was idle.

    Args:
        name: The server's, for errors.
        connect: Opens a connection to it.
        limit: Connections at most; requests beyond that wait.
    """

    def __init__(self, name: str, connect: Callable[[], Awaitable[ByteSocket]], limit: int) -> None:
        self._name = name
        self._connect = connect
        self._slots = anyio.Semaphore(limit, max_value=limit, fast_acquire=True)
        self._idle: deque[Connection] = deque()
        self._closed = False

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            OSError: No connection, or it broke.
            ExchangeError: No connection in time, or what came back is not HTTP/1.1.
        """
        await self._slots.acquire()
        try:
            connection = await self._fresh_or_idle()
        except BaseException:
            self._slots.release()
            raise
        try:
            return _Lease(self, connection, await connection.send(request))
        except BaseException:
            await self._drop(connection)
            raise

    async def _fresh_or_idle(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < KEEPALIVE and not connection.is_stale():
                return connection
            await _abort(connection)
        with anyio.move_on_after(CONNECT_TIMEOUT):
            return Connection(await self._connect())
        raise ExchangeError(f"no connection to {self._name} within {CONNECT_TIMEOUT:g} s")

    async def give_back(self, connection: Connection) -> None:
        """Take back a connection whose exchange is over."""
        if self._closed or not connection.is_reusable():
            await self._drop(connection)
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        self._slots.release()
        await self._close_expired(connection.idle_since - KEEPALIVE)

    async def _drop(self, connection: Connection) -> None:
        try:
            await _abort(connection)
        finally:
            self._slots.release()

    async def _close_expired(self, before: float) -> None:
        while self._idle and self._idle[0].idle_since < before:
            await _abort(self._idle.popleft())

    async def aclose(self) -> None:
        """Close every idle connection; those in use close when their exchange is finished."""
        self._closed = True
        while self._idle:
            await _abort(self._idle.pop())
        # A transport of asyncio's is closed in its loop's next pass.
        await cancel_shielded_checkpoint()


async def _abort(connection: Connection) -> None:
    with anyio.CancelScope(shield=True):
        await connection.abort()


class _Lease:
    """A pooled connection during one exchange."""

    __slots__ = ("_connection", "_pool", "head")

    def __init__(self, pool: Pool, connection: Connection, head: Head) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self.head = head

    async def read(self) -> bytes:
        return await self._connection.read() if self._connection is not None else b""

    async def finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._pool.give_back(connection)


def shared_tls_context(trust_env: bool = False) -> ssl.SSLContext:
    """Return the TLS context that all connections share: making one takes 20 ms.

    Args:
        trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` may name the certificates to trust.

    Raises:
        PermanentError: They name none that can be read.
    """
    file = os.environ.get("SSL_CERT_FILE") if trust_env else None
    directory = os.environ.get("SSL_CERT_DIR") if trust_env else None
    try:
        return _tls_context(file or None, directory or None)
    except OSError as error:
        raise PermanentError(
            f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}"
        ) from error


@cache
def _tls_context(file: str | None, directory: str | None) -> ssl.SSLContext:
    default = None if file or directory else certifi.where()
    context = ssl.create_default_context(cafile=file or default, capath=directory)
    context.set_alpn_protocols(["http/1.1"])
    return context
