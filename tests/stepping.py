"""Counts the steps that a run's tasks take, from one wait to the next, and cancels the run at one of them."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import sniffio

__all__ = ["cancelled_at", "steps_of", "task_cancelled_at"]

NEVER = 1_000_000


class _Steps:
    def __init__(self, last: int) -> None:
        self.count = 0
        self.last = last
        self.cancel: Callable[[], object] = lambda: None
        self.was_cut = False

    def take(self) -> None:
        self.count += 1
        if self.count == self.last:
            self.cancel()


_steps: ContextVar[_Steps | None] = ContextVar("_steps", default=None)


async def steps_of(run: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """Return how many steps the tasks of a run take together."""
    return (await _played(run, NEVER)).count


async def cancelled_at(step: int, run: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Cancel a run at one of its steps; return whether that cut it short."""
    return (await _played(run, step)).was_cut


async def task_cancelled_at(step: int, run: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """The same by `asyncio.Task.cancel`, which strikes once and not again."""
    steps = _Steps(step)
    with _counting():
        token = _steps.set(steps)
        task = asyncio.create_task(run())
        _steps.reset(token)
        steps.cancel = task.cancel
        await asyncio.wait([task])
    return task.cancelled()


async def _played(run: Callable[[], Coroutine[Any, Any, object]], last: int) -> _Steps:
    steps = _Steps(last)
    with _counting(), anyio.CancelScope() as scope:
        steps.cancel = scope.cancel
        async with anyio.create_task_group() as group:
            token = _steps.set(steps)  # what the tasks of the run inherit, and no other does
            group.start_soon(run)
            _steps.reset(token)
    steps.was_cut = scope.cancelled_caught
    return steps


@contextmanager
def _counting() -> Generator[None]:
    if sniffio.current_async_library() == "trio":
        import trio

        class Instrument(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                steps = task.context.get(_steps)
                if steps is not None:
                    steps.take()

        instrument = Instrument()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)
    else:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_counted_task)
        try:
            yield
        finally:
            loop.set_task_factory(None)


def _counted_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
    steps = _steps.get()
    if steps is None:
        return asyncio.Task(work, loop=loop, **options)
    task = asyncio.Task(_counted(work, steps), loop=loop, **options)
    task.add_done_callback(lambda _: work.close())  # one that is cancelled before it begins never sees it
    return task


async def _counted(coroutine: Coroutine[Any, Any, Any], steps: _Steps) -> Any:
    return await _Driven(coroutine, steps)


class _Driven:
    def __init__(self, coroutine: Coroutine[Any, Any, Any], steps: _Steps) -> None:
        self._coroutine = coroutine
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            self._steps.take()
            waiting = self._coroutine.send(None)
            while True:
                try:
                    sent = yield waiting
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except BaseException as error:
                    self._steps.take()
                    waiting = self._coroutine.throw(error)
                else:
                    self._steps.take()
                    waiting = self._coroutine.send(sent)
        except StopIteration as stop:
            return stop.value
