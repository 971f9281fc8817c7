"""A connection below httpcore: how it is opened, how a request goes out on it, and until when it is read."""

import math
import ssl
from collections.abc import Iterable, Sized
from contextlib import suppress
from typing import Any, Final

import anyio
import httpcore
import sniffio
from typing_extensions import override

__all__ = ["Connection", "Connector", "WouldWaitError"]

_JOINED: Final = 2**16
"""Bytes at most that are joined before they are sent."""
_HEAD_END: Final = b"\r\n\r\n"


class WouldWaitError(BaseException):
    """To read would be to wait for the server, which was not asked for."""


class Connector(httpcore.AsyncNetworkBackend):
    """Opens one connection, and keeps hold of it: httpcore loses one that is cancelled as TLS begins.

    Attributes:
        connection: The connection; None before it is made.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        is_trio = sniffio.current_async_library() == "trio"
        # To the checkers each may be a class that only says what is not installed.
        stock: Any = httpcore.TrioBackend() if is_trio else httpcore.AnyIOBackend()
        stream: httpcore.AsyncNetworkStream = await stock.connect_tcp(
            host, port, timeout, local_address, socket_options
        )
        self.connection = Connection(stream)
        return self.connection


class Connection(httpcore.AsyncNetworkStream):
    """A connection whose requests go out in one piece, and whose reads end when the caller says so.

    httpcore writes the head of a request and then its body. To send takes the kernel as long as all else that
    is done for a call.

    Attributes:
        reads_end_at: A time of the event loop; None where nothing may be waited for.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self.reads_end_at: float | None = math.inf
        self._stream = stream
        self._received = _received(stream)
        self._tls: list[Any] = []  # in a tunnel through a proxy that speaks TLS itself there are two
        self._unsent = b""
        self._received_since = 0  # bytes, since a request was sent
        self._head = 0  # bytes of them up to the end of a head that came in one piece

    @override
    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        self._stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        self._tls.append(self._stream.get_extra_info("ssl_object"))
        return self

    @override
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if len(self._unsent) + len(buffer) > _JOINED:
            await self._send_rest(timeout)
            await self._stream.write(buffer, timeout)
        else:
            self._unsent += buffer

    @override
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.reads_end_at is None:
            raise WouldWaitError
        with suppress(httpcore.WriteError):  # the server may have answered before it hung up
            await self._send_rest()
        if self.reads_end_at < math.inf:
            timeout = max(0.0, self.reads_end_at - anyio.current_time())
        received = await self._stream.read(max_bytes, timeout)
        if not self._received_since:
            self._head = received.find(_HEAD_END) + len(_HEAD_END)
        self._received_since += len(received)
        return received

    def has_received_just(self, body: int) -> bool:
        """Whether a head and so many bytes are all that came for a request; False where that is not clear."""
        return self._head >= len(_HEAD_END) and self._received_since == self._head + body

    async def _send_rest(self, timeout: float | None = None) -> None:
        unsent, self._unsent = self._unsent, b""
        if unsent:
            self._received_since = 0
            await self._stream.write(unsent, timeout)

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()

    @override
    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    @property
    def is_stale(self) -> bool:
        """Whether the server has hung up, or spoken unasked."""
        try:
            return bool(self._stream.get_extra_info("is_readable"))
        except ValueError:  # it is closed
            return True

    @property
    def has_unread(self) -> bool:
        """Whether more came than was read, or the end of TLS: what the system has already handed over."""
        return bool(self._received) or any(map(_has_undecrypted, self._tls))


def _received(stream: Any) -> Sized:
    """Return what asyncio received in one piece and nobody has read yet: anyio tells in private only."""
    with suppress(AttributeError):
        received: Sized = stream._stream._protocol.read_queue
        return received
    return ()


def _has_undecrypted(tls: Any) -> bool:
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        pass
    return True
