"""What a run has told the reader of its stream and is not read yet: it bounds how far the run is ahead."""

from collections import deque
from collections.abc import Callable
from typing import Any

import anyio

from executionkit.runtime.tasks.cancellation import AnyWaiter

__all__ = ["Backlog"]


class Backlog:
    """Records between a run and the reader of its stream.

    The run waits with a piece of text while `ahead` records are here; it goes on once half of them are read,
    so that the two do not take turns with each one.

    Args:
        ahead: Records at most before the next piece of text.
    """

    __slots__ = ("_ahead", "_arrived", "_is_left", "_is_over", "_reopens", "_room", "records")

    def __init__(self, ahead: float) -> None:
        self.records: deque[Any] = deque()
        self._ahead = ahead
        self._reopens = ahead / 2
        self._room: anyio.Event | None = None
        self._arrived: AnyWaiter | None = None
        self._is_left = False
        self._is_over = False

    @property
    def is_full(self) -> bool:
        """Whether the next piece of text has to wait."""
        return len(self.records) >= self._ahead

    def add(self, record: object) -> None:
        """Take a record; it is dropped where nobody reads any more."""
        if not self._is_left:
            self.records.append(record)
            self._tell()

    async def room(self) -> None:
        """Wait while there are as many records as there may be."""
        while self.is_full:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    async def arrival(self, waiter: Callable[[], AnyWaiter]) -> bool:
        """Wait for a record, with what `waiter` returns; False where none will come."""
        while not self.records:
            if self._is_over or self._is_left:
                return False
            self._arrived = waiter()
            await self._arrived
        return True

    def take(self) -> Any:
        """Return the oldest record."""
        record = self.records.popleft()
        if self._room is not None and len(self.records) <= self._reopens:
            self._let_on()
        return record

    def end(self) -> None:
        """Note that the run is over: nothing more comes."""
        self._is_over = True
        self._tell()

    def leave(self) -> None:
        """Note that nobody reads on: what is here is dropped, and nothing waits for room any more."""
        self._is_left = True
        self.records.clear()
        self._let_on()
        self._tell()

    def _let_on(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def _tell(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.end()
