"""TLS over a byte stream, the same on every event loop."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio

from executionkit.providers.http.sockets import READ_SIZE, ByteSocket

__all__ = ["TLSSocket", "secured"]

T = TypeVar("T")


async def secured(opened: ByteSocket, context: ssl.SSLContext, host: str) -> "TLSSocket":
    """Agree on TLS with the server at the other end of a stream, which is closed where that fails.

    Raises:
        ssl.SSLError: The server speaks no TLS, or none that `context` accepts.
        OSError: The connection broke.
    """
    try:
        agreed = TLSSocket(opened, context, host)
        await agreed.shake_hands()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await opened.abort()
        raise
    return agreed


class TLSSocket:
    """Python's own TLS between memory and another stream, as in its documentation, "Memory BIO Support".

    asyncio's transport and trio's stream do not tell whether something is left to be sent or to be read,
    without which a connection cannot safely be used again.

    Args:
        below: What to send encrypted bytes through.
        context: What to accept.
        host: The name, or address, that the certificate must be for.
    """

    def __init__(self, below: ByteSocket, context: ssl.SSLContext, host: str) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def shake_hands(self) -> None:
        """Agree on keys, and check the certificate.

        Raises:
            ssl.SSLError: That failed.
            OSError: The connection broke.
        """
        await self._do(self._tls.do_handshake)

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; `b""` once the stream has ended.

        A stream that ends without TLS's own goodbye is not told from one with it: HTTP says how long an
        answer is.

        Raises:
            OSError: The connection broke.
        """
        try:
            return await self._do(partial(self._tls.read, READ_SIZE))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`, without waiting for much of it."""
        # Into memory all of it goes at once.
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):  # its answer may still be read
            await self._do(partial(self._tls.write, data))

    async def _do(self, step: Callable[[], T]) -> T:
        """Take a step, as often as it lacks bytes of the other side, and send what it has to say."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                await self._flush()
            self._take_in(await self._below.read())

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._below.write(self._outgoing.read())

    def _take_in(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def is_stale(self) -> bool:
        """Whether it cannot carry another exchange."""
        return bool(self._incoming.pending or self._tls.pending()) or self._below.is_stale()

    async def abort(self) -> None:
        """Close at once, without a goodbye."""
        await self._below.abort()
