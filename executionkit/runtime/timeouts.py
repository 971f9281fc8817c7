"""Bounding the time of code that may not listen.

A cancel scope around foreign code is not enough: code that swallows its cancellation, or shields itself from
it, keeps whoever awaits it. On asyncio the coroutine is therefore driven by hand, in the task that awaits
it: it is asked to stop once, gets `GRACE` seconds to clean up, and is then closed where it stands. Code that
never waits costs a microsecond, since there is nothing to bound. On trio it gets a task of its own, out of
which nobody waits for it once the grace is over.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar

import sniffio

from executionkit.errors import DeadlineExceededError
from executionkit.runtime.context import Context

__all__ = ["A_LIFETIME", "GRACE", "finish_in_time", "finish_within"]

T = TypeVar("T")

GRACE: Final = 0.5
"""Seconds that code has to clean up once it is cancelled."""


A_LIFETIME: Final = 1e9
"""Seconds; not infinite, since not every event loop counts so far."""


async def finish_in_time(
    work: Callable[[], Coroutine[Any, Any, T]], context: Context, seconds: float = A_LIFETIME
) -> T:
    """Do as `finish_within`, and go no further than the run's deadline.

    Raises:
        TimeoutError: It took longer than `seconds`.
        DeadlineExceededError: It took longer than the run may.
    """
    try:
        return await finish_within(work, max(0.0, min(seconds, context.time_left)))
    except TimeoutError:
        if context.time_left > 0:
            raise
        raise DeadlineExceededError("an evaluator or a tool did not end within the run's deadline") from None


async def finish_within(work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    """Return `await work()`, or give up after `seconds`, and `GRACE` where it is stubborn.

    Whatever `work` raises is raised here. If this is cancelled, `work` is.

    Raises:
        TimeoutError: It took longer.
        RuntimeError: It ended as cancelled, though nobody had cancelled it.
    """
    if sniffio.current_async_library() == "trio":
        return await _on_trio(work, seconds)
    return await _Driven(work(), seconds)


class _Driven(Generic[T]):
    """A coroutine driven by hand: as `await coroutine` would, but with a way out."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], seconds: float) -> None:
        self._coroutine = coroutine
        self._seconds = seconds

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except asyncio.CancelledError:
            raise RuntimeError("cancelled by itself") from None
        return (yield from self._drive(waiting))

    def _drive(self, waiting: Any) -> Generator[Any, Any, T]:
        watch = _Watch(self._seconds)
        try:
            while True:
                try:
                    sent = yield waiting
                except asyncio.CancelledError as cancelled:
                    waiting = self._cancel(watch, cancelled)
                else:
                    waiting = self._coroutine.send(sent)
        except StopIteration as stop:
            result: T = stop.value
            watch.close()
            return result
        except asyncio.CancelledError:
            watch.close()
            raise RuntimeError("cancelled by itself") from None
        except BaseException:
            self._coroutine.close()
            watch.close()
            raise

    def _cancel(self, watch: "_Watch", cancelled: asyncio.CancelledError) -> Any:
        if not watch.is_over:
            watch.cancelled(cancelled)
            return self._coroutine.throw(cancelled)
        with suppress(RuntimeError):  # what ignores even that is left as it stands, and never runs again
            self._coroutine.close()
        raise cancelled


class _Watch:
    """The clock of a coroutine: cancels its task when time is up, and again when the grace is over.

    A cancellation that arrives may come from outside, or from a time-out of the coroutine's own. The count
    of requests that its task keeps tells them apart: who asked from within takes it back on the way out.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._task = _current_task()
        self._deadline = self._loop.call_later(seconds, self._expire)
        self._grace: asyncio.TimerHandle | None = None
        self._last: asyncio.CancelledError | None = None
        self._cancels_before = self._task.cancelling()
        self._cancels = 0

    @property
    def _is_cancelled(self) -> bool:
        """Whether somebody asked, us included, and has not taken it back."""
        return self._task.cancelling() > self._cancels_before

    def _expire(self) -> None:
        self._cancel()
        self._stop_grace()
        self._start_grace()

    def _end(self) -> None:
        self._grace = None
        if self._is_cancelled:
            self.is_over = True
            self._cancel()

    def _cancel(self) -> None:
        self._cancels += 1
        self._task.cancel()

    def _start_grace(self) -> None:
        if self._grace is None:
            self._grace = self._loop.call_later(GRACE, self._end)

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def cancelled(self, cancelled: asyncio.CancelledError) -> None:
        """Note a cancellation that is about to reach the coroutine; one from outside starts the grace too."""
        self._last = cancelled
        self._start_grace()

    def close(self) -> None:
        """Stop the clock.

        Raises:
            asyncio.CancelledError: The task was cancelled from outside, whatever the coroutine made of it.
            TimeoutError: Time was up.
        """
        self._deadline.cancel()
        self._stop_grace()
        for _ in range(self._cancels):
            self._task.uncancel()
        if self._last is not None and self._is_cancelled:
            raise self._last
        if self._cancels:
            raise TimeoutError


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("there is no task to run this in; await it from one")
    return task


async def _on_trio(work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    import trio  # an extra

    done = trio.Event()
    results: list[T] = []
    failures: list[BaseException] = []
    scope = trio.CancelScope()

    async def host() -> None:
        try:
            with scope:
                results.append(await work())
        except trio.Cancelled:
            raise
        except BaseException as failure:  # noqa: BLE001 - raised where it is waited for
            failures.append(failure)
        finally:
            done.set()

    trio.lowlevel.spawn_system_task(host, context=copy_context())
    try:
        with trio.move_on_after(seconds):
            await done.wait()
    finally:
        if not done.is_set():
            scope.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE):
                await done.wait()
    if scope.cancel_called or not (results or failures):
        raise TimeoutError
    if failures:
        raise failures[0]
    return results[0]
