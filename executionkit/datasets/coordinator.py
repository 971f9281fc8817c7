"""The one place of a data set on an engine: who works on what, and who has how much of the budget.

Workers and whoever started them send it messages, as bytes; how those travel is the engine's affair.
"""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal, Protocol

import msgspec

from executionkit.core.foreign import described
from executionkit.core.leases import Grant, Leases
from executionkit.core.rate_limit import Places, RateLimit
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = ["Coordinator", "Link", "Message", "Place", "Reply", "Wire"]


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """The place of a request under a rate limit.

    Args:
        server: Whose limit it is.
        limit: The limit.
        tokens: What the request may take of it.
        unused: What requests before it have not taken; below 0 where they took more.
        patience: Seconds; where the wait is not below them, no place is taken. None for any wait.
    """

    server: str
    limit: RateLimit
    tokens: int = 0
    unused: int = 0
    patience: float | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said to a coordinator.

    Args:
        what: `begin` begins an attempt at a shard, `draw` asks for more of the budget, `pace` for the place
            of a request under a rate limit, `close` says what an attempt that is over has used, `gone` that a
            worker died, `lost` asks which attempts have nobody any more.
        attempt: Whose it is: the name of its file.
        worker: Which worker makes it.
        used: What it has used so far, with what is reserved.
        need: The worst case of its next call.
        is_busy: Whether it has calls in flight.
        is_end: Whether nothing more is to be begun: all rows would fail alike.
        place: What a `pace` asks for.
    """

    what: Literal["begin", "draw", "pace", "close", "gone", "lost"]
    attempt: str = ""
    worker: str = ""
    used: TokenUsage = NO_USAGE
    need: TokenUsage = NO_USAGE
    is_busy: bool = False
    is_end: bool = False
    place: Place | None = None


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a coordinator answers.

    Args:
        grant: What is lent.
        lost: Attempts whose worker is gone, and of which nobody has said what they used.
        is_over: Whether nothing is to be begun any more.
        delay: Seconds until a request may be sent.
    """

    grant: Grant = Grant()
    lost: tuple[str, ...] = ()
    is_over: bool = False
    delay: float = 0.0


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


class Wire:
    """A link over what an engine sends bytes with.

    Args:
        send: Sends a message, and returns the answer.
        worker: What the engine calls the worker.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[bytes]], worker: str) -> None:
        self._send = send
        self.worker: Final = worker

    async def ask(self, message: Message) -> Reply:
        """Say something, and return the answer.

        Raises:
            OSError: There is no coordinator any more.
        """
        try:
            answer = await self._send(msgspec.json.encode(message))
        except Exception as error:
            raise OSError(f"the coordinator of the data set cannot be reached: {described(error)}") from error
        return msgspec.json.decode(answer, type=Reply)


class Coordinator:
    """Answers messages.

    Args:
        limit: The budget of all rows; `NO_USAGE` for none.
        spent: What is spent of it.
        workers: How many work at once.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        limit: TokenUsage,
        spent: TokenUsage,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = Leases(limit, spent, workers)
        self._places: dict[tuple[str, RateLimit], Places] = {}
        self._clock = clock
        self._worker_of: dict[str, str] = {}
        self._lost: set[str] = set()
        self.is_over: bool = False
        """Whether nothing is to be begun any more."""

    def answer(self, message: Message) -> Reply:
        """Answer a message."""
        if message.what == "draw":
            return self._draw(message)
        if message.place is not None:
            return self._place(message.attempt, message.place)
        if message.what == "gone":
            self.lose(message.worker)
        if message.what == "begin" and not self.is_over:
            self._worker_of[message.attempt] = message.worker
        if message.what == "close":
            self._close(message)
        return Reply(lost=tuple(sorted(self._lost)), is_over=self.is_over)

    def answer_bytes(self, data: bytes) -> bytes:
        """Answer a message of a `Wire`."""
        return msgspec.json.encode(self.answer(msgspec.json.decode(data, type=Message)))

    def _may_buy(self, attempt: str) -> bool:
        return not self.is_over and attempt not in self._lost and attempt in self._worker_of

    def _draw(self, message: Message) -> Reply:
        if not self._may_buy(message.attempt):
            return Reply(Grant(is_last=True))
        draw = self._leases.draw
        return Reply(draw(message.attempt, message.used, message.need, is_busy=message.is_busy))

    def _place(self, attempt: str, place: Place) -> Reply:
        places = self._places.setdefault((place.server, place.limit), Places(place.limit))
        places.give(place.unused)
        if not self._may_buy(attempt):
            return Reply(is_over=True)
        patience = math.inf if place.patience is None else place.patience
        return Reply(delay=places.reserve(place.tokens, self._clock(), patience))

    def _close(self, message: Message) -> None:
        # What ended for an attempt that is given up as lost, it being alive after all, did not for others.
        self.is_over |= message.is_end and message.attempt not in self._lost
        self._lost.discard(message.attempt)
        self._worker_of.pop(message.attempt, None)
        self._leases.close(message.attempt, message.used)

    def lose(self, worker: str) -> None:
        """Note that a worker is gone: what its attempts hold counts as spent until somebody closes them."""
        self._lost.update(attempt for attempt, there in self._worker_of.items() if there == worker)
