"""What is read with `await`, handed over to a script without: it is run in a thread of its own."""

import threading
from asyncio import AbstractEventLoop, get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import anyio

from executionkit.runtime.tasks.event_loops import check_no_loop, in_new_loop

__all__ = ["Handover"]

T = TypeVar("T")


class Handover(Generic[T]):
    """Items of something asynchronous, taken one by one from a thread without an event loop.

    Nothing is asked for before it is taken; what has come in meanwhile is handed over with it.

    Args:
        source: What is entered in the thread, and left there.
        several: Returns the items that are there, at least one; none after the last.
        what: What to call it in messages.
        method: The method of a stage that made it; one with the name without `_sync` is its async twin.

    Attributes:
        ready: Items that were handed over and not taken.

    Raises:
        RuntimeError: An event loop runs in this thread.
    """

    def __init__(
        self,
        source: AbstractAsyncContextManager[object],
        several: Callable[[], Awaitable[list[T]]],
        *,
        what: str,
        method: str,
    ) -> None:
        check_no_loop(method, f"use `async with stage.{method.removesuffix('_sync')}(...)` there")
        self._source = source
        self._several = several
        self._what = what
        self._method = method
        self._thread: threading.Thread | None = None
        self._loop: AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None
        self._wanted: anyio.Event | None = None
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._is_over = False
        self.ready: deque[T] = deque()

    def enter(self) -> None:
        """Start the thread."""
        if self._thread is not None:
            raise RuntimeError(
                f"a {self._what} is entered once; make another with `stage.{self._method}(...)`"
            )
        context = copy_context()
        name = f"executionkit {self._what}"
        # A daemon, since an interrupt may keep `leave` from being called: the process is to end nevertheless.
        self._thread = threading.Thread(target=context.run, args=(self._serve,), name=name, daemon=True)
        try:
            self._thread.start()
            self._answers.get()  # it is ready
        except BaseException:
            self._end()
            raise

    def leave(self) -> None:
        """End what is read, and the thread."""
        self._end()
        if self._thread is not None:
            self._thread.join()

    def _end(self) -> None:
        """Have the thread end what is read; it may not have begun with that."""
        self._is_over = True
        loop, scope = self._loop, self._scope
        if loop is not None and scope is not None:
            with suppress(RuntimeError):  # its event loop is over
                loop.call_soon_threadsafe(scope.cancel)

    def take(self) -> T:
        """Return the next item.

        Raises:
            StopIteration: There is none.
        """
        if self.ready:
            return self.ready.popleft()
        loop, wanted = self._loop, self._wanted
        if loop is None or wanted is None:
            raise RuntimeError(f"enter the {self._what} first: `with stage.{self._method}(...) as ...`")
        if self._is_over:
            raise StopIteration
        loop.call_soon_threadsafe(wanted.set)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            self._is_over = True
            raise answer
        self.ready.extend(answer)
        if not answer:
            self._is_over = True
            raise StopIteration
        return self.ready.popleft()

    def _serve(self) -> None:
        try:
            in_new_loop(self._hand_over, self._method)
        except BaseException as failure:  # noqa: BLE001 - it is the reader's
            self._answers.put(failure)

    async def _hand_over(self) -> None:
        """Hand items over as they are asked for, until there are none or the reader leaves."""
        self._loop, self._wanted = get_running_loop(), anyio.Event()
        async with self._source:
            with anyio.CancelScope() as self._scope:
                self._answers.put(None)
                if self._is_over:  # before there was a scope to cancel
                    return
                items: list[T] | None = None
                while items != []:
                    await self._wanted.wait()
                    self._wanted = anyio.Event()
                    items = await self._several()
                    self._answers.put(items)
