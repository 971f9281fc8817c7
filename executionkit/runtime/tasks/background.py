"""Work in a task of its own, which nobody has to wait for inside a cancel scope.

A cancel scope that is entered in one call and left in another breaks where the code between the two is an
async generator (PEP 789): a web framework iterates over one in one task, and closes it in another or not at
all. So a run that is streamed has a task beside the reader's, as code that is awaited with a time-out has.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context

import anyio
import sniffio

from executionkit.runtime.tasks.cancellation import (
    AnyWaiter,
    TrioWaiter,
    Waiter,
    let_interrupts_wait,
    passes,
    taken_as,
)
from executionkit.runtime.tasks.ending import Level
from executionkit.runtime.tasks.timeouts import GRACE

__all__ = ["Background", "read_in_one_piece"]


def read_in_one_piece(reader: type) -> None:
    """Have an interrupt on trio come where a reader waits; within trio's own lines it breaks its event loop.

    Args:
        reader: The class of what is read. All its coroutine functions are meant.
    """
    if sniffio.current_async_library() == "trio":
        from inspect import iscoroutinefunction  # takes long to import; trio has done so already

        for function in vars(reader).values():
            if iscoroutinefunction(function):
                let_interrupts_wait(function)


class Background:
    """A piece of work in a task of its own.

    Args:
        work: Called and awaited in a copy of the context in which it is started.
        name: What to call its task, also in the log.
    """

    __slots__ = ("_ended", "_failure", "_level", "_name", "_scope", "_soon", "_task", "_work", "is_started")

    def __init__(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        self._level = Level()
        self._work = work
        self._name = name
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._soon: Callable[[Callable[[], None]], object] | None = None
        self.is_started: bool = False

    def start(self) -> None:
        """Begin."""
        self.is_started = True
        if sniffio.current_async_library() == "trio":
            import trio  # an extra

            self._soon = trio.lowlevel.current_trio_token().run_sync_soon
            trio.lowlevel.spawn_system_task(self._run, name=self._name, context=copy_context())
        else:
            loop = asyncio.get_running_loop()
            self._soon = loop.call_soon_threadsafe
            self._task = loop.create_task(self._run(), name=self._name)
            self._task.add_done_callback(self._note_end)  # it may be cancelled before it begins

    async def _run(self) -> None:
        self._level.enter()
        try:
            with self._scope:
                try:
                    await self._work()
                except BaseException as raised:  # noqa: BLE001 - it is kept for whoever waits
                    self._failure = taken_as(raised)
                    if passes(self._failure):
                        self._level.announce()
        except BaseException as failure:  # noqa: BLE001 - an interrupt between two lines of ours, say
            if not passes(self._failure):  # else it follows from that
                self._failure = failure
        finally:
            self._ended.set()

    def _note_end(self, _: object) -> None:
        self._ended.set()

    async def wait(self) -> None:
        """Wait until it has ended by itself."""
        await self._ended.wait()

    def waiter(self) -> AnyWaiter:
        """Return what its reader waits with.

        Where that wait is cancelled the reader may leave, in a turn of the event loop or two: meanwhile this
        buys nothing. It goes on where the reader does.
        """
        self._level.ends_at = math.inf
        if sniffio.current_async_library() == "trio":
            return TrioWaiter(self._note_struck)
        return Waiter(self._note_struck)

    def _note_struck(self) -> None:
        self._level.ends_at = anyio.current_time() + 2 * GRACE

    async def stop(self, grace: float = 2 * GRACE) -> None:
        """Cancel it and wait until it has ended; one that is stubborn is left behind, by name, in the log.

        Is not cancelled itself: the wait is short.

        Args:
            grace: Seconds to wait; more than the code below it is given, so that it can leave that in time.
        """
        if not self.is_started or self._ended.is_set():
            return
        self._scope.cancel()
        with anyio.move_on_after(grace, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():
            import logging  # takes long to import, and is needed once if ever

            logging.getLogger("executionkit").warning(
                "%s did not end when it was cancelled, and is left behind as it is", self._name
            )

    def stop_soon(self) -> bool:
        """Have it cancelled, from any thread, without a wait; return whether there was anything to stop."""
        if self._soon is None or self._ended.is_set():
            return False
        with suppress(RuntimeError):  # the event loop is over, and so is its task
            self._soon(self._scope.cancel)
        return True

    def raise_interrupt(self) -> None:
        """Raise what ended it if that is an interrupt or the end of a test, and so not a failure."""
        failure, self._failure = self._failure, None
        if failure is not None and passes(failure):
            self._level.pass_on()
            raise failure
