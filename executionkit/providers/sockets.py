"""A byte stream to a server, on asyncio and on trio."""

import asyncio
import select
import ssl
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, cast

import sniffio
from typing_extensions import override

from executionkit.providers.address import Address

if TYPE_CHECKING:
    from trio import SocketStream
    from trio.abc import Stream

__all__ = ["ByteSocket", "connect"]

_READ_SIZE: Final = 65_536
_PAUSE_ABOVE: Final = 4 * _READ_SIZE
_HAPPY_EYEBALLS_DELAY: Final = 0.25


class ByteSocket(Protocol):
    """A connected stream."""

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; `b""` once the server has ended the stream."""
        ...

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`. A server that stopped reading is no error here: its answer may still be read."""
        ...

    def is_stale(self) -> bool:
        """Whether something came in, or the server hung up, while nobody was waiting for it."""
        ...

    async def abort(self) -> None:
        """Close at once, without a goodbye."""
        ...


async def connect(address: Address, tls: ssl.SSLContext | None) -> ByteSocket:
    """Open a connection.

    Raises:
        OSError: The host is unknown, refuses, or speaks no acceptable TLS (`ssl.SSLError`).
    """
    if sniffio.current_async_library() != "asyncio":
        return await _connect_trio(address, tls)
    loop = asyncio.get_running_loop()
    opening = partial(
        loop.create_connection,
        _AsyncioSocket,
        address.host,
        address.port,
        ssl=tls,
        server_hostname=address.host if tls else None,
    )
    # Other loops than asyncio's own (uvloop) do not know that keyword.
    is_plain = _is_literal(address.host) or not isinstance(loop, asyncio.BaseEventLoop)
    protocol: _AsyncioSocket
    _, protocol = await (opening() if is_plain else opening(happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY))
    return protocol


class _AsyncioSocket(asyncio.Protocol):
    """asyncio's own kind: anyio's stream stops and starts reading at each call, two system calls more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ended = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # as create_connection promises

    @override
    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > _PAUSE_ABOVE and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    @override
    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._failure = exc
        self._transport = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> bytes:
        while not self._chunks:
            if self._ended:
                return self._end()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def _end(self) -> bytes:
        if self._failure is None:
            return b""
        raise OSError(f"the connection broke: {self._failure}") from self._failure

    def _take(self) -> bytes:
        chunk = self._chunks.popleft()
        self._size -= len(chunk)
        if self._paused and not self._chunks and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def write(self, data: bytes | memoryview) -> None:
        # Not waited for: the body is in memory anyway, and a refusal may come before all of it is sent.
        if self._transport is not None:
            self._transport.write(data)

    def is_stale(self) -> bool:
        if self._transport is None or self._chunks or self._ended or self._transport.is_closing():
            return True
        if self._transport.get_write_buffer_size():  # the answer came before all of the request was sent
            return True
        return _is_readable(self._transport.get_extra_info("socket").fileno())

    async def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _connect_trio(address: Address, tls: ssl.SSLContext | None) -> ByteSocket:
    import trio  # an extra

    stream = await trio.open_tcp_stream(address.host, address.port)
    if tls is None:
        return _TrioSocket(stream, stream)
    secured = trio.SSLStream(stream, tls, server_hostname=address.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise OSError(f"the connection broke: {error.__cause__ or error}") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return _TrioSocket(secured, stream)


class _TrioSocket:
    """trio's own kind: connecting through anyio leaves sockets open when it is cancelled, before 4.16."""

    def __init__(self, stream: "Stream", plain: "SocketStream") -> None:
        import trio

        self._stream = stream
        self._plain = plain
        self._socket = plain.socket
        self._close = trio.aclose_forcefully
        self._broken = trio.BrokenResourceError

    async def read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_SIZE))
        except self._broken as error:
            raise OSError(f"the connection broke: {error.__cause__ or error}") from error

    async def write(self, data: bytes | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except self._broken:
            return

    def is_stale(self) -> bool:
        return self._holds_more() or _is_readable(self._socket.fileno())

    def _holds_more(self) -> bool:
        """Whether the TLS layer has read what nobody has asked it for; trio tells of that nowhere."""
        if self._stream is self._plain:
            return False
        unread = getattr(self._stream, "_incoming", None)
        return unread is None or bool(unread.pending)

    async def abort(self) -> None:
        await self._close(self._stream)


def _is_readable(number: int) -> bool:
    """Whether an idle socket has something to read: a goodbye, or bytes that nobody asked for."""
    if number < 0:
        return True
    if not hasattr(select, "poll"):  # Windows, where select() takes any number of a socket
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
