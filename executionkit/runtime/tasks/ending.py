"""What is about to end and has not heard of it yet: it is to buy nothing more."""

import math
import sys
import time
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any, Final, TypeVar, cast

import anyio
from anyio.lowlevel import EventLoopToken, cancel_shielded_checkpoint, checkpoint

from executionkit.runtime.tasks.cancellation import is_cancelled, is_interrupt_near

__all__ = ["Level", "announce_interrupt", "interruptible", "is_ending", "is_interrupt_coming", "let_end"]

T = TypeVar("T")

_MOST_TURNS: Final = 20
"""Turns of the event loop in which an end arrives; who is shielded from it goes on then."""

_PATIENCE: Final = 1.0
"""Seconds for which code may hold up an interrupt, to clean up; then it is taken to be caught."""

_PAUSE: Final = 0.01
"""Seconds between two looks at an interrupt that is held up."""


class _Interrupt:
    """An interrupt on its way out of a run, as far as anybody can tell.

    Args:
        task: The task that has it, by its id; None while tasks of ours pass it on.
    """

    __slots__ = ("_task", "_until")

    def __init__(self, task: int | None) -> None:
        self._task = task
        # By no event loop's clock: what runs in a thread, with a loop of its own, is in these levels as well.
        self._until = time.monotonic() + _PATIENCE

    def is_coming(self) -> bool:
        """Tell whether it still is: a task that had it, and goes on without, has caught it."""
        if self._until > -math.inf and (self._was_caught() or time.monotonic() >= self._until):
            self._until = -math.inf
        return self._until > -math.inf

    def _was_caught(self) -> bool:
        if self._task is None or self._task != _running_task():
            return False
        handled = sys.exception()
        return handled is None or isinstance(handled, Exception)


class Level:
    """Work that somebody waits for: foreign code, a group of tasks, a run that is watched.

    It holds nothing of that: what is begun within it keeps its context, and so this, for as long as it likes.

    Attributes:
        outer: The level around it.
        ends_at: The event loop's time at which it is left behind; infinite before it is cancelled.
        interrupt: What was raised within, and so will end this as well; None where nothing was.
    """

    __slots__ = ("ends_at", "interrupt", "outer")

    def __init__(self) -> None:
        self.outer: Final[Level | None] = _innermost.get()
        self.ends_at: float = math.inf
        self.interrupt: _Interrupt | None = None
        if self.outer is not None and self.outer.interrupt is not None:
            self.outer.interrupt.is_coming()  # the task that begins this may have caught it

    def enter(self) -> None:
        """Have the running task, and those that it begins, run in this level."""
        _innermost.set(self)

    def announce(self, task: int | None = None) -> None:
        """Say here, and to the levels around, that an interrupt is on its way through them.

        Args:
            task: The task that has it now, by its id, and may catch it; None where tasks of ours pass it on.
        """
        interrupt, level = _Interrupt(task), cast("Level | None", self)
        while level is not None:
            level.interrupt = interrupt
            level = level.outer

    def pass_on(self) -> None:
        """Say that the task that waited for this, at the level around, has the interrupt now."""
        if self.outer is not None:
            self.outer.announce(_running_task())

    def time_left(self, now: float) -> float:
        """Return the seconds until a level around this one is left behind."""
        left, level = math.inf, self.outer
        while level is not None:
            left = min(left, level.ends_at - now)
            level = level.outer
        return left


_innermost: Final[ContextVar[Level | None]] = ContextVar("executionkit_level", default=None)


def announce_interrupt(raised: BaseException) -> None:
    """Say that an interrupt was raised in the running task or thread, which may catch it or let it pass."""
    level = _innermost.get()
    if level is not None and not isinstance(raised, GeneratorExit):  # that closes one coroutine alone
        level.announce(_running_task())


def _running_task() -> int | None:
    try:
        return anyio.get_current_task().id
    except RuntimeError:  # a thread without an event loop
        return None


def is_ending(loop: EventLoopToken | None = None) -> bool:
    """Tell whether a cancellation, or an interrupt, has reached the running task or is on its way to it.

    Each task between takes a turn of the event loop to pass it on, and what runs in it meanwhile could buy.

    Args:
        loop: As in `is_cancelled`.
    """
    level = _innermost.get()
    while level is not None:
        if level.ends_at < math.inf or (level.interrupt is not None and level.interrupt.is_coming()):
            return True
        level = level.outer
    return is_cancelled(loop) or is_interrupt_near()


async def let_end() -> None:
    """Wait for what `is_ending` tells of; who is shielded from it, or was left behind, goes on then."""
    for _ in range(_MOST_TURNS):
        await checkpoint()
        if not is_ending():
            return
    while _is_interrupt_announced():  # noqa: ASYNC110 - its end is a matter of time: nobody tells of it
        await anyio.sleep(_PAUSE)


def is_interrupt_coming() -> bool:
    """Tell whether an interrupt is on its way to the running task."""
    return _is_interrupt_announced() or is_interrupt_near()


def _is_interrupt_announced() -> bool:
    level = _innermost.get()
    while level is not None:
        if level.interrupt is not None and level.interrupt.is_coming():
            return True
        level = level.outer
    return False


def interruptible(pending: Awaitable[T]) -> Awaitable[T]:
    """Return what is awaited so that on trio an interrupt meets it where it waits next, as on asyncio.

    Trio tells its main task, and that one ours; in the turns that this takes a request could go out.
    """
    trio = sys.modules.get("trio")
    return _interruptible(_awaited(pending)) if trio is not None and trio.lowlevel.in_trio_run() else pending


async def _awaited(pending: Awaitable[T]) -> T:
    return await pending


@coroutine
def _interruptible(steps: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
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
        except BaseException as error:  # noqa: BLE001 - it is for whoever waits
            raised = error
        else:
            for _ in range(_MOST_TURNS):
                if not is_interrupt_coming() or is_cancelled():
                    break
                # What has come is handed on nevertheless: a lock that nobody takes would stay locked.
                yield from cancel_shielded_checkpoint().__await__()
