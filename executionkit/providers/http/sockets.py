"""What a byte stream to a server can do."""

import select
from typing import Final, Protocol

__all__ = ["READ_SIZE", "ByteSocket", "is_readable"]

READ_SIZE: Final = 65_536
"""Bytes that are read at once."""


class ByteSocket(Protocol):
    """A connected stream."""

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; `b""` once the stream has ended.

        Raises:
            OSError: The connection broke.
        """
        ...

    async def write(self, data: bytes | memoryview) -> None:
        """Send `data`, without waiting for much of it: a refusal may come, and be read, before all is sent.

        A server that stopped reading is no error here: its answer may still be read.
        """
        ...

    def is_stale(self) -> bool:
        """Whether it cannot carry another exchange.

        Something came in that nobody waited for, or the server hung up, or not all was sent.
        """
        ...

    async def abort(self) -> None:
        """Close at once, without a goodbye."""
        ...


def is_readable(number: int) -> bool:
    """Whether an idle socket has something to read: a goodbye, or bytes that nobody asked for."""
    if number < 0:
        return True
    if not hasattr(select, "poll"):  # Windows, where select() takes any number of a socket
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
