"""Whose cancellation it is: the caller's passes, one that foreign code made up is a failure."""

import asyncio
import math
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from opcode import opmap
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio
from anyio.lowlevel import EventLoopToken, checkpoint_if_cancelled

from executionkit.core.groups import is_a, leaves, reasons

if TYPE_CHECKING:
    import trio

__all__ = [
    "INTERRUPTS",
    "STRUCK",
    "AnyWaiter",
    "TrioWaiter",
    "Waiter",
    "cancellations",
    "is_cancellation",
    "is_cancelled",
    "is_interrupt_near",
    "let_interrupts_wait",
    "name_of_end",
    "passes",
    "stop_if_cancelled",
    "taken_as",
]

STRUCK: Final = "the task was cancelled"
"""Marks a cancellation whose count in the task was lost.

Where a scope of anyio's (4.16) ends in a task of a group, it takes back what it asked of that task from
another: the one that waits for the group.
"""

_RAISE: Final = opmap["RAISE_VARARGS"]

INTERRUPTS: Final = (KeyboardInterrupt, SystemExit)
"""What ends the process: it passes, whatever stands beside it."""


def is_cancelled(loop: EventLoopToken | None = None) -> bool:
    """Tell whether somebody outside has asked the running task to stop.

    Args:
        loop: The event loop that runs it, where that is known: finding out takes longer than all else here.
    """
    if cancellations() > 0:
        return True
    if loop is None:
        return anyio.current_effective_deadline() == -math.inf
    return loop.backend_class.current_effective_deadline() == -math.inf


def is_interrupt_near() -> bool:
    """Tell whether trio has an interrupt that its main task does not know of yet.

    It says so nowhere in public: where it no longer stands here, an interrupt is met a few turns later.
    """
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return False
    runner: object = getattr(trio.lowlevel.current_task(), "_runner", None)
    if getattr(runner, "ki_pending", False):
        return True
    scheduled: object = getattr(getattr(runner, "main_task", None), "_next_send", None)
    return isinstance(getattr(scheduled, "error", None), KeyboardInterrupt)


def cancellations() -> int:
    """Return how often `asyncio.Task.cancel` has struck the running task; 0 on trio."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio runs here
        return 0
    return 0 if task is None else task.cancelling()


async def stop_if_cancelled(before: int, failure: BaseException) -> None:
    """Raise the cancellation that foreign code has turned into a failure: nothing is to follow it.

    Args:
        before: The `cancellations` before that code was called.
        failure: What it made of it. There are time-outs that cancel the task and never take it back; so the
            count alone says nothing.
    """
    all_reasons = list(reasons(failure))
    if not any(map(is_cancellation, all_reasons)):
        return
    await checkpoint_if_cancelled()
    if cancellations() > before and not any(is_a(reason, TimeoutError) for reason in all_reasons):
        raise asyncio.CancelledError


def let_interrupts_wait(function: Callable[..., object]) -> None:
    """Have trio raise Ctrl-C where `function`, or what it calls, awaits something, as asyncio does.

    Between two lines of ours, or of anyio's, it would leave open what was just opened.
    """
    import trio  # an extra

    trio.lowlevel.enable_ki_protection(function)


class Waiter(asyncio.Future[None]):
    """A future to wait for that tells at once when the task that waits for it is cancelled.

    `await task` does so: it cancels that task before the event loop takes another turn. In a turn a call
    could be sent.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._on_cancel = on_cancel
        self.was_struck: bool = False
        """Whether `Task.cancel` struck the task that waits; a cancel scope of anyio's signs its own."""

    def end(self, _: object = None) -> None:
        """End the wait, whatever for."""
        if not self.done():
            # A signal may cancel it between the two lines; or its event loop is closed, and nobody waits.
            with suppress(asyncio.InvalidStateError, RuntimeError):
                self.set_result(None)

    def cancel(self, msg: object = None) -> bool:
        """Cancel the wait, and what is waited for.

        In this order: a cancel scope that is cancelled first would put its own mark on the cancellation of a
        task that `Task.cancel` has struck, and take it for its own.
        """
        is_pending = not self.done()
        is_cancelled = super().cancel(msg)
        self.was_struck |= is_pending and not str(msg).startswith("Cancelled via cancel scope")
        if is_pending:
            with suppress(RuntimeError):  # its event loop is over, and cancels all tasks that there are
                self._on_cancel()
        return is_cancelled


class TrioWaiter:
    """The same on trio, which asks whoever waits for leave to wake it: before any task takes a turn.

    Args:
        on_cancel: Called when the wait is cancelled or interrupted, or its time is up.

    Attributes:
        is_over: Whether what is waited for has come.
    """

    __slots__ = ("_on_cancel", "_task", "is_over")

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._on_cancel = on_cancel
        self._task: trio.lowlevel.Task | None = None
        self.is_over: bool = False

    def end(self) -> None:
        """End the wait, whatever for."""
        import trio  # an extra

        self.is_over = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until `end` is called."""
        return self._wait().__await__()

    async def _wait(self) -> None:
        import trio  # an extra

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            self._on_cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        if not self.is_over:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)


AnyWaiter: TypeAlias = Waiter | TrioWaiter
"""What a task waits with, on whichever event loop."""


def is_cancellation(raised: object) -> bool:
    """Tell whether this is how an event loop cancels a task, of whichever library."""
    trio = sys.modules.get("trio")
    return is_a(raised, asyncio.CancelledError) or (
        trio is not None and is_a(raised, cast("type[BaseException]", trio.Cancelled))
    )


def passes(failure: BaseException | None) -> bool:
    """Tell whether this is an interrupt, or another exception that nobody is to catch."""
    return failure is not None and not isinstance(failure, Exception) and not is_cancellation(failure)


def name_of_end(ended: BaseException) -> str:
    """Name what ended a piece of work; cancellation has another class on each event loop."""
    return "Cancelled" if is_cancellation(ended) else type(ended).__name__


def taken_as(raised: BaseException) -> BaseException:
    """Return what a piece of foreign code is to be taken to have raised; only call it while that is handled.

    What leaves in place of a group is the one thing in it that matters most: an interrupt, else another
    exception that is no `Exception`, else the cancellation of the running task. A cancellation that nobody
    asked the running task for (of another task, awaited, or made up) is a `RuntimeError`, and so may be
    wrapped as any exception is. So is a `GeneratorExit`, except where a coroutine is being closed.

    >>> async def answer() -> None:
    ...     raise asyncio.CancelledError  # as `await` does where another task was cancelled
    >>> async def ask() -> BaseException | None:
    ...     try:
    ...         await answer()
    ...     except BaseException as raised:
    ...         return taken_as(raised)
    >>> anyio.run(ask)
    RuntimeError('it was cancelled by itself: nobody had asked it to stop')
    """
    if isinstance(raised, Exception):
        return raised
    if isinstance(raised, GeneratorExit) and _is_closing(raised):
        return raised
    found = list(leaves(raised))
    for leaf in found:
        if is_a(leaf, INTERRUPTS):
            return leaf
    for leaf in found:
        if not is_a(leaf, (Exception, GeneratorExit)) and not is_cancellation(leaf):
            return leaf
    own = anyio.get_cancelled_exc_class()
    for leaf in found:
        if is_a(leaf, own) and (is_cancelled() or STRUCK in leaf.args):
            return leaf
    failure = RuntimeError(
        "it raised GeneratorExit, and nobody had closed it"
        if any(is_a(leaf, GeneratorExit) for leaf in found)
        else "it was cancelled by itself: nobody had asked it to stop"
    )
    failure.__cause__ = raised
    return failure


def _is_closing(raised: GeneratorExit) -> bool:
    """Tell whether a coroutine is being closed; else somebody has raised this.

    A coroutine is closed where it waits, and no frame waits in a `raise`.
    """
    deepest = raised.__traceback__
    while deepest is not None and deepest.tb_next is not None:
        deepest = deepest.tb_next
    if deepest is None:
        return True
    code = deepest.tb_frame.f_code.co_code
    return not 0 <= deepest.tb_lasti < len(code) or code[deepest.tb_lasti] != _RAISE
