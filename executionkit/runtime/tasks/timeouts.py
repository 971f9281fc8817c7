"""Awaiting foreign code, which may not listen: it gets a task of its own, out of which nobody has to wait.

The task that awaits it can always go on. It cancels the child when its time is up, or when it is cancelled
itself, waits for `GRACE` seconds so that the child can clean up, and then leaves it behind, by name, in the
log. A child that was left behind keeps nobody waiting: on asyncio it ends with its event loop, on trio, which
knows no way to give up a task, as soon as it comes out of the shield that it hides behind.

A time-out or a cancel scope of the child's own is its own business: it is in another task.
"""

import asyncio
import math
from asyncio import _unregister_task  # pyright: ignore[reportPrivateUsage]  # documented for just this
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar

import anyio
import sniffio
from anyio.lowlevel import checkpoint_if_cancelled

from executionkit.runtime.tasks.cancellation import (
    INTERRUPTS,
    TrioWaiter,
    Waiter,
    passes,
    taken_as,
)
from executionkit.runtime.tasks.ending import Level

__all__ = ["A_LIFETIME", "GRACE", "finish_within"]

T = TypeVar("T")

GRACE: Final = 0.5
"""Seconds that code has to clean up once it is cancelled."""

A_LIFETIME: Final = 1e9
"""Seconds; not infinite, since not every event loop counts so far."""


async def finish_within(
    work: Callable[[], Awaitable[T]],
    seconds: float = math.inf,
    *,
    name: str,
    keeps_shields: bool = False,
) -> T:
    """Return `await work()`, or give up after `seconds`, and `GRACE` where it is stubborn.

    Whatever `work` raises is raised here. If this is cancelled, `work` is.

    Args:
        work: Foreign code; called and awaited in a task of its own, in a copy of the context.
        seconds: How long it may take.
        name: What to call it in the log, and its task.
        keeps_shields: Whether it is cancelled by a cancel scope on asyncio too, as code that knows anyio
            wants it. Else asyncio cancels it once, and it may await what it needs to clean up.

    Raises:
        TimeoutError: It took longer.
        RuntimeError: It ended as cancelled, though nobody had cancelled it.
    """
    child = _Child(work, name)
    if sniffio.current_async_library() == "trio":
        child.scope = anyio.CancelScope()
        return await _on_trio(child, min(seconds, A_LIFETIME), keeps_shields)
    if keeps_shields:
        child.scope = anyio.CancelScope()
    return await _on_asyncio(child, min(seconds, A_LIFETIME))


class _Child(Generic[T]):
    """A piece of foreign code, and what became of it."""

    __slots__ = (
        "_failure",
        "_is_left",
        "_level",
        "_results",
        "_work",
        "ended",
        "name",
        "scope",
        "task",
    )

    def __init__(self, work: Callable[[], Awaitable[T]], name: str) -> None:
        self._level = Level()
        self._work = work
        self._results: list[T] = []
        self._failure: BaseException | None = None
        self._is_left = False
        self.name: Final = name
        self.scope: anyio.CancelScope | None = None
        """What cancels it; None where `asyncio.Task.cancel` does."""
        self.task: asyncio.Task[None] | None = None
        self.ended: Waiter | None = None
        """Who waits for it on asyncio: told from within, which is a turn sooner than by the task."""

    def let_interrupts_in(self) -> None:
        """Let Ctrl-C into the work itself on trio, which keeps it out of tasks like these."""
        import trio  # an extra

        work = self._work

        @trio.lowlevel.disable_ki_protection
        async def unprotected() -> T:
            return await work()

        self._work = unprotected

    async def run(self) -> None:
        """Do the work and keep what comes of it, for the task that waits for it to take. Raises nothing."""
        self._level.enter()
        try:
            with nullcontext() if self.scope is None else self.scope:
                try:
                    self._results.append(await self._work())
                except BaseException as raised:  # noqa: BLE001
                    self.keep(taken_as(raised))
        except Exception as error:  # noqa: BLE001 - it left a cancel scope of its own open
            self.keep(error)
        finally:
            if self.ended is not None:
                self.ended.end()

    def keep(self, failure: BaseException) -> None:
        """Note what it raised; nothing that follows from an interrupt takes its place."""
        if self._is_left:
            if isinstance(failure, INTERRUPTS):
                _interrupt(failure)
            return
        if passes(failure):
            self._level.announce()
        if not passes(self._failure):
            self._failure = failure

    def cancel(self) -> None:
        """Cancel it, once, and begin its grace.

        That is shorter where the code around it is cancelled too: so the inner one is left behind first, and
        the outer one can still end by itself.
        """
        level = self._level
        if level.ends_at < math.inf:
            return
        try:
            now = anyio.current_time()
        except RuntimeError:
            return  # the event loop is over, and cancels every task that there is
        level.ends_at = now + max(GRACE / 10, min(GRACE, 0.9 * level.time_left(now)))
        if self.scope is not None:
            self.scope.cancel()
        elif self.task is not None:
            self.task.cancel()

    @property
    def ends_at(self) -> float:
        """The event loop's time at which it is left behind; infinite before it is cancelled."""
        return self._level.ends_at

    def leave(self) -> None:
        """Go on without it."""
        import logging  # takes long to import, and is needed once if ever

        self._is_left = True
        logging.getLogger("executionkit").warning(
            "%s did not end when it was cancelled, and is left behind as it is", self.name
        )

    def raise_interrupt(self) -> None:
        """Let an interrupt pass, whatever else there is to say."""
        failure = self._failure
        if failure is not None and passes(failure):
            self._failure = None
            self._level.pass_on()
            try:
                raise failure
            finally:
                del failure

    def result(self) -> T:
        """Return what `work` returned, or raise what it raised."""
        self.raise_interrupt()
        if self._results:
            return self._results.pop()
        failure, self._failure = self._failure, None
        try:
            if isinstance(failure, Exception):
                raise failure
            raise RuntimeError("its task was cancelled by somebody else") from failure
        finally:
            del failure


async def _on_asyncio(child: _Child[T], seconds: float) -> T:
    child.task = task = asyncio.get_running_loop().create_task(child.run(), name=child.name)
    cancelled: asyncio.CancelledError | None = None
    try:
        await _done_or(seconds, task, child)
    except asyncio.CancelledError as error:
        cancelled = error
    except BaseException:
        child.cancel()
        raise
    try:
        is_late = not task.done()
        if is_late:
            child.cancel()
            cancelled = await _ended(task, child) or cancelled
        child.raise_interrupt()
        if cancelled is not None:
            raise cancelled
        if is_late:
            await checkpoint_if_cancelled()
            raise TimeoutError
        return child.result()
    finally:
        del cancelled


async def _ended(task: "asyncio.Task[None]", child: _Child[Any]) -> asyncio.CancelledError | None:
    """Wait for a child that was cancelled, but not for ever; return what cancelled the wait, if anything."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done() and (left := child.ends_at - anyio.current_time()) > 0:
            try:
                await _done_or(left, task)
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
    if not task.done():
        child.leave()
        # The end of the loop neither waits for it nor tells of it: the log has said so already.
        _unregister_task(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        task.cancel()  # what swallowed the first may end by the second
    return cancelled


async def _done_or(seconds: float, task: "asyncio.Task[None]", child: _Child[Any] | None = None) -> None:
    """Wait until a task is done or the time is up; a cancellation of the wait reaches the child at once.

    There is no timer before the task has had its first turn: most are done by then.
    """
    ended, loop = Waiter(_nothing if child is None else child.cancel), task.get_loop()
    if child is not None:
        child.ended = ended
    timer: asyncio.TimerHandle | None = None
    ends_at = loop.time() + seconds

    def set_timer() -> None:
        nonlocal timer
        if not ended.done():
            timer = loop.call_at(ends_at, ended.end)

    first_turn = loop.call_soon(set_timer)
    task.add_done_callback(ended.end)  # it may be cancelled before it begins
    try:
        await ended
    finally:
        first_turn.cancel()
        if timer is not None:
            timer.cancel()
        task.remove_done_callback(ended.end)


def _nothing() -> None:
    pass


async def _on_trio(child: _Child[T], seconds: float, keeps_shields: bool) -> T:
    import trio  # an extra

    ended = TrioWaiter(child.cancel)
    if not keeps_shields:
        child.let_interrupts_in()

    async def host() -> None:
        try:
            with trio.CancelScope():  # closes what was left open within
                await child.run()
                await _close_nurseries()
        except BaseException as failure:  # noqa: BLE001 - an interrupt between two lines of ours, say
            child.keep(failure)
        finally:
            ended.end()

    trio.lowlevel.spawn_system_task(host, name=child.name, context=copy_context())
    is_late = True
    try:
        with trio.move_on_after(seconds):
            await ended
            is_late = False
    finally:
        if not ended.is_over:
            child.cancel()
            with trio.CancelScope(shield=True, deadline=child.ends_at):
                await ended
            if not ended.is_over:
                child.leave()
        child.raise_interrupt()
    if is_late:
        await checkpoint_if_cancelled()
        raise TimeoutError
    return child.result()


async def _close_nurseries() -> None:
    """Cancel and close the nurseries that the running task leaves open: trio takes that for its own error."""
    import trio  # an extra

    for nursery in reversed(trio.lowlevel.current_task().child_nurseries):
        nursery.cancel_scope.cancel()
        with suppress(Exception):  # what its tasks raise: nobody waits for that any more
            await nursery._nested_child_finished(None)  # pyright: ignore[reportPrivateUsage]  # else by its manager only


def _interrupt(failure: BaseException) -> None:
    """Let an interrupt out of a child that nobody waits for any more."""
    if sniffio.current_async_library() != "trio":
        raise failure
    if isinstance(failure, KeyboardInterrupt):
        import _thread  # trio hands it to the main task; raised here it would be an internal error of trio's

        _thread.interrupt_main()
