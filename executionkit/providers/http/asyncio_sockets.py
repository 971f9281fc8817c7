"""Byte streams on asyncio: a socket alone, and a transport where the event loop watches no sockets."""

import asyncio
import errno
import os
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any, Final, TypeAlias, cast

import anyio
from typing_extensions import override

from executionkit.providers.http.inbox import Inbox, wake
from executionkit.providers.http.sockets import READ_SIZE, is_readable

__all__ = ["PlainSocket", "TransportSocket", "alternating", "connect_asyncio"]

_HEAD_START: Final = 0.25
"""Seconds, the Connection Attempt Delay of RFC 8305, section 5."""

_Target: TypeAlias = tuple[Any, ...]
"""An address as `socket.connect` takes it."""
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR})


async def connect_asyncio(host: str, port: int) -> "PlainSocket | TransportSocket":
    """Open a connection.

    Where a name has several addresses they race, each a quarter of a second after the one before (RFC 8305).

    Raises:
        OSError: The host is unknown, or refuses.
    """
    loop, family = asyncio.get_running_loop(), _family(host)
    open_ = partial(_connect if _watches_sockets(loop) else _connect_transport, loop)
    if family is not None:
        return await open_(family, (host, port))
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await _race(open_, [(family, target) for family, _, _, _, target in found])


def _watches_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `add_reader` works, and tells of resets: not on Windows, nor on uvloop."""
    return isinstance(loop, asyncio.SelectorEventLoop)


@lru_cache(maxsize=256)
def _family(host: str) -> int | None:
    """Return the kind of address that a host is; None for a name, or an address with a zone (`%eth0`)."""
    if "%" in host:
        return None
    try:
        return socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        return None


async def _race(
    open_: "Callable[[int, _Target], Awaitable[_Connected]]", targets: Sequence[tuple[int, _Target]]
) -> "_Connected":
    """Return the first that connects; asyncio's own race leaves sockets open when it is cancelled."""
    connected: list[_Connected] = []
    failures: list[OSError] = []

    async def enter(family: int, target: _Target, failed: anyio.Event) -> None:
        try:
            connected.append(await open_(family, target))
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for family, target in alternating(targets):
                failed = anyio.Event()
                group.start_soon(enter, family, target, failed)
                with anyio.move_on_after(_HEAD_START):
                    await failed.wait()
    except BaseException:
        for late in connected:
            await late.abort()
        raise
    for late in connected[1:]:
        await late.abort()
    if not connected:
        raise failures[0] if len(failures) == 1 else OSError("; ".join(map(str, failures)) or "no address")
    return connected[0]


def alternating(targets: Sequence[tuple[int, _Target]]) -> list[tuple[int, _Target]]:
    """Return the targets with the kinds of address taking turns, in their order otherwise."""
    seen: Counter[int] = Counter()
    turns: list[int] = []
    for family, _ in targets:
        turns.append(seen[family])
        seen[family] += 1
    return [targets[index] for index in sorted(range(len(targets)), key=turns.__getitem__)]


async def _connect(loop: asyncio.AbstractEventLoop, family: int, target: _Target) -> "PlainSocket":
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = connecting.connect_ex(target)
        if problem in _UNDER_WAY:
            await asyncio.sleep(0)  # near by it is done then, and asking costs less than being told
            problem = connecting.connect_ex(target)
        if problem in _UNDER_WAY:
            await _writable(loop, connecting.fileno())
            problem = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem not in {0, errno.EISCONN}:
            raise OSError(problem, f"{os.strerror(problem)}, {target[0]}:{target[1]}")
        return PlainSocket(connecting)
    except BaseException:
        connecting.close()
        raise


async def _connect_transport(
    loop: asyncio.AbstractEventLoop, family: int, target: _Target
) -> "TransportSocket":
    connected: TransportSocket
    _, connected = await loop.create_connection(TransportSocket, *target[:2], family=family)
    return connected


async def _writable(loop: asyncio.AbstractEventLoop, number: int) -> None:
    waiter = loop.create_future()
    loop.add_writer(number, wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_writer(number)


class PlainSocket:
    """A socket alone. A transport of asyncio's takes three times as long to open, and costs more a read."""

    # Like its inbox it does not know its event loop.
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._inbox = Inbox()
        self._unsent: deque[memoryview] = deque()
        self._is_writing = False
        self._is_reading = False
        self._start_reading()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._hang_up(error)
            return
        if not data:
            self._hang_up(None)
            return
        self._inbox.put(data)
        if self._inbox.is_full:
            self._stop_reading()

    def _hang_up(self, failure: OSError | None) -> None:
        """Note that the server has ended the stream, and close what has nothing left to send."""
        self._inbox.end(failure)
        self._stop_reading()
        if not self._unsent:
            self._socket.close()

    def _start_reading(self) -> None:
        self._is_reading = True
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            asyncio.get_running_loop().remove_reader(self._socket.fileno())

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; `b""` once the stream has ended."""
        data = await self._inbox.get()
        if not self._is_reading and self._inbox.is_empty and not self._inbox.has_ended:
            self._start_reading()
        return data

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`, without waiting: a refusal may come, and be read, before all of it is sent."""
        self._unsent.append(memoryview(data))
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent[0])
                self._unsent[0] = self._unsent[0][sent:]
                if not self._unsent[0]:
                    self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            self._start_writing()
        except OSError:
            self._stop_writing()  # what is left makes it stale; the answer may still be read
        else:
            self._stop_writing()

    def _start_writing(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._send)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def is_stale(self) -> bool:
        """Whether it cannot carry another exchange."""
        inbox = self._inbox
        if self._unsent or inbox.has_ended or not inbox.is_empty:
            return True
        return is_readable(self._socket.fileno())

    async def abort(self) -> None:
        """Close at once, without a goodbye."""
        self._stop_reading()
        self._stop_writing()
        self._socket.close()
        self._inbox.end()


class TransportSocket(asyncio.Protocol):
    """A transport of an event loop that watches no sockets: asyncio's own on Windows, and uvloop.

    Of a server that resets the connection behind its answer it may lose that answer.
    """

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._is_paused = False
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # as create_connection promises

    @override
    def data_received(self, data: bytes) -> None:
        self._inbox.put(data)
        if self._inbox.is_full and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    @override
    def eof_received(self) -> None:
        self._inbox.end()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._inbox.end(exc)

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; `b""` once the stream has ended."""
        data = await self._inbox.get()
        if self._is_paused and self._inbox.is_empty and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`, without waiting: a refusal may come, and be read, before all of it is sent."""
        if self._transport is not None:
            self._transport.write(data)

    def is_stale(self) -> bool:
        """Whether it cannot carry another exchange."""
        transport, inbox = self._transport, self._inbox
        if transport is None or transport.is_closing() or inbox.has_ended or not inbox.is_empty:
            return True
        if transport.get_write_buffer_size():  # the answer came before all of the request was sent
            return True
        return is_readable(transport.get_extra_info("socket").fileno())

    async def abort(self) -> None:
        """Close at once, without a goodbye."""
        if self._transport is not None:
            self._transport.abort()


_Connected: TypeAlias = PlainSocket | TransportSocket
