"""What is about to end and has not heard of it yet: it is to buy nothing more."""

import math
import sys
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any, Final, TypeVar, cast

from anyio.lowlevel import EventLoopToken, cancel_shielded_checkpoint, checkpoint

from executionkit.runtime.tasks.cancellation import is_cancelled, is_interrupt_near

__all__ = ["Level", "heeding_interrupts", "is_ending", "is_interrupt_coming", "let_end"]

T = TypeVar("T")

_MOST_TURNS: Final = 20
"""Turns of the event loop in which an end arrives; who is shielded from it goes on then."""


class Level:
    """Work that somebody waits for: foreign code, a group of tasks, a run that is watched.

    Attributes:
        outer: The level around it.
        ends_at: The event loop's time at which it is left behind; infinite before it is cancelled.
        is_interrupted: Whether an interrupt was raised within, and so will end this as well.
    """

    __slots__ = ("ends_at", "is_interrupted", "outer")

    def __init__(self) -> None:
        self.outer: Final[Level | None] = _innermost.get()
        self.ends_at: float = math.inf
        self.is_interrupted: bool = False

    def enter(self) -> None:
        """Have the running task, and those that it begins, run in this level."""
        _innermost.set(self)

    def interrupt(self) -> None:
        """Say of this level, and of those around it, that an interrupt is on its way through them."""
        level: Level | None = self
        while level is not None:
            level.is_interrupted = True
            level = level.outer

    def time_left(self, now: float) -> float:
        """Return the seconds until a level around this one is left behind."""
        left, level = math.inf, self.outer
        while level is not None:
            left = min(left, level.ends_at - now)
            level = level.outer
        return left


_innermost: Final[ContextVar[Level | None]] = ContextVar("executionkit_level", default=None)


def is_ending(loop: EventLoopToken | None = None) -> bool:
    """Tell whether a cancellation, or an interrupt, has reached the running task or is on its way to it.

    Each task between takes a turn of the event loop to pass it on, and what runs in it meanwhile could buy.

    Args:
        loop: As in `is_cancelled`.
    """
    level = _innermost.get()
    while level is not None:
        if level.is_interrupted or level.ends_at < math.inf:
            return True
        level = level.outer
    return is_cancelled(loop) or is_interrupt_near()


async def let_end() -> None:
    """Wait for what `is_ending` tells of; who is shielded from it, or was left behind, goes on then."""
    for _ in range(_MOST_TURNS):
        await checkpoint()
        if not is_ending():
            return


def is_interrupt_coming() -> bool:
    """Tell whether an interrupt is on its way to the running task."""
    level = _innermost.get()
    while level is not None:
        if level.is_interrupted:
            return True
        level = level.outer
    return is_interrupt_near()


def heeding_interrupts(pending: Awaitable[T]) -> Awaitable[T]:
    """Return what is awaited so that on trio an interrupt meets it where it waits next, as on asyncio.

    Trio tells its main task, and that one ours; in the turns that this takes a request could go out.
    """
    trio = sys.modules.get("trio")
    return _heeding(_awaited(pending)) if trio is not None and trio.lowlevel.in_trio_run() else pending


async def _awaited(pending: Awaitable[T]) -> T:
    return await pending


@coroutine
def _heeding(steps: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    come: Any = None
    raised: BaseException | None = None
    while True:
        try:
            wanted = steps.send(come) if raised is None else steps.throw(raised)
        except StopIteration as done:
            return cast("T", done.value)
        finally:
            raised = None
        try:
            come = yield wanted
        except BaseException as error:  # noqa: BLE001 - it is for who waits
            raised = error
        else:
            for _ in range(_MOST_TURNS):
                if not is_interrupt_coming() or is_cancelled():
                    break
                # What has come is handed on nevertheless: a lock that nobody takes would stay locked.
                yield from cancel_shielded_checkpoint().__await__()
