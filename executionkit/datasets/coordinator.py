"""The one place of a data set on an engine: who works on what, and who has how much of the budget.

Workers and whoever started them send it messages, as bytes; how those travel is the engine's affair.
"""

from typing import Literal, Protocol

import msgspec

from executionkit.core.leases import Grant, Leases
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = ["Coordinator", "Link", "Message", "Reply"]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said to a coordinator.

    Args:
        what: `begin` begins an attempt at a shard, `draw` asks for more of the budget, `close` says what an
            attempt that is over has used, `lost` asks which attempts have nobody any more.
        attempt: Whose it is: the name of its file.
        worker: Which worker makes it.
        used: What it has used so far, with what is reserved.
        need: The worst case of its next call.
        is_busy: Whether it has calls in flight.
        is_end: Whether nothing more is to be begun: all rows would fail alike.
    """

    what: Literal["begin", "draw", "close", "lost"]
    attempt: str = ""
    worker: str = ""
    used: TokenUsage = NO_USAGE
    need: TokenUsage = NO_USAGE
    is_busy: bool = False
    is_end: bool = False


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a coordinator answers.

    Args:
        grant: What is lent.
        lost: Attempts whose worker is gone, and of which nobody has said what they used.
        is_over: Whether nothing is to be begun any more.
    """

    grant: Grant = Grant()
    lost: tuple[str, ...] = ()
    is_over: bool = False


class Link(Protocol):
    """How a worker reaches the coordinator."""

    @property
    def worker(self) -> str:
        """What the engine calls the worker."""
        ...

    async def ask(self, message: Message) -> Reply:
        """Say something, and return the answer.

        Raises:
            OSError: There is no coordinator any more.
        """
        ...


class Coordinator:
    """Answers messages.

    Args:
        limit: The budget of all rows; `NO_USAGE` for none.
        spent: What is spent of it.
        workers: How many work at once.
    """

    def __init__(self, limit: TokenUsage, spent: TokenUsage, workers: int) -> None:
        self._leases = Leases(limit, spent, workers)
        self._worker_of: dict[str, str] = {}
        self._lost: set[str] = set()
        self.is_over: bool = False
        """Whether nothing is to be begun any more."""

    def answer(self, message: Message) -> Reply:
        """Answer a message."""
        if message.what == "draw":
            return self._draw(message)
        if message.what == "begin" and not self.is_over:
            self._worker_of[message.attempt] = message.worker
        if message.what == "close":
            self._close(message)
        return Reply(lost=tuple(sorted(self._lost)), is_over=self.is_over)

    def _draw(self, message: Message) -> Reply:
        if self.is_over or message.attempt in self._lost or message.attempt not in self._worker_of:
            return Reply(Grant(is_last=True))
        draw = self._leases.draw
        return Reply(draw(message.attempt, message.used, message.need, is_busy=message.is_busy))

    def _close(self, message: Message) -> None:
        # What ended for an attempt that is given up as lost, it being alive after all, did not for others.
        self.is_over |= message.is_end and message.attempt not in self._lost
        self._lost.discard(message.attempt)
        self._worker_of.pop(message.attempt, None)
        self._leases.close(message.attempt, message.used)

    def lose(self, worker: str) -> None:
        """Note that a worker is gone: what its attempts hold counts as spent until somebody closes them."""
        self._lost.update(attempt for attempt, there in self._worker_of.items() if there == worker)
