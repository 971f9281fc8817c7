"""What a connection on asyncio has brought and nobody has read yet."""

import asyncio
from collections import deque
from typing import Final

from executionkit.providers.http.sockets import READ_SIZE

__all__ = ["Inbox", "wake"]

_FULL: Final = 4 * READ_SIZE


class Inbox:
    """Bytes that came in, for one reader."""

    # It does not know its event loop: what a loop holds must not hold the loop.
    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.has_ended: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether all of it has been read."""
        return not self._chunks

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the reader that no more should be taken in."""
        return self._size > _FULL

    def put(self, data: bytes) -> None:
        """Take in what has come."""
        self._chunks.append(data)
        self._size += len(data)
        self._wake()

    def end(self, failure: Exception | None = None) -> None:
        """Note that nothing more will come."""
        if not self.has_ended:
            self.has_ended, self._failure = True, failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            wake(self._waiter)

    async def get(self) -> bytes:
        """Return the next bytes; `b""` at the end.

        Raises:
            OSError: The connection broke.
        """
        while not self._chunks:
            if self.has_ended:
                return self._end()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft()
        self._size -= len(data)
        return data

    def _end(self) -> bytes:
        if self._failure is None:
            return b""
        raise OSError(f"the connection broke: {self._failure}") from self._failure


def wake(waiter: "asyncio.Future[None]") -> None:
    """Let whoever waits go on, unless they were woken or cancelled already."""
    if not waiter.done():
        waiter.set_result(None)
