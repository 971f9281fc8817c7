"""Byte streams on trio, opened by trio: a cancelled connect of anyio leaves its socket open, before 4.16."""

from collections import deque
from typing import Final

import trio

from executionkit.providers.http.sockets import READ_SIZE, is_readable

__all__ = ["TrioSocket", "connect_trio"]

_SENT_AT_ONCE: Final = 16_384
"""Bytes that are sent before the answer is looked for; more is sent beside, for a refusal may come first."""


async def connect_trio(host: str, port: int) -> "TrioSocket":
    """Open a connection.

    Raises:
        OSError: The host is unknown, or refuses.
    """
    return TrioSocket(await trio.open_tcp_stream(host, port))


class TrioSocket:
    """A stream of trio's."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unsent: deque[bytes | memoryview] = deque()
        self._is_sending = False

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; `b""` once the stream has ended."""
        try:
            return bytes(await self._stream.receive_some(READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise OSError(f"the connection broke: {error.__cause__ or error}") from error

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`; much of it goes on while the answer is read, until it is sent or `abort` ends it."""
        self._unsent.append(data)
        if self._is_sending:
            return  # who sends takes it along
        self._is_sending = True
        if len(data) <= _SENT_AT_ONCE:
            await self._send()
        else:
            trio.lowlevel.spawn_system_task(self._send)

    async def _send(self) -> None:
        try:
            while self._unsent:
                await self._stream.send_all(self._unsent[0])
                self._unsent.popleft()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # what is left makes it stale; the answer may still be read
        finally:
            self._is_sending = False

    def is_stale(self) -> bool:
        """Whether it cannot carry another exchange."""
        return bool(self._unsent) or is_readable(self._stream.socket.fileno())

    async def abort(self) -> None:
        """Close at once, without a goodbye."""
        await trio.aclose_forcefully(self._stream)
