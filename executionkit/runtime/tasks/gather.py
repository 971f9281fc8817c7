"""Several pieces of work at once: bounded, in order, and with one failure at most."""

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio
from sniffio import current_async_library

from executionkit.core.foreign import described
from executionkit.core.frozen import freeze_mapping
from executionkit.errors import BudgetExhaustedError, ExecutionKitError
from executionkit.errors.handling import with_last_failure
from executionkit.runtime.tasks.cancellation import (
    STRUCK,
    Waiter,
    is_cancellation,
    let_interrupts_wait,
    taken_as,
)
from executionkit.runtime.tasks.ending import Level

__all__ = ["gather"]

T = TypeVar("T")


async def gather(
    work: Callable[[int], Awaitable[T]],
    count: int,
    limit: int,
    finish_on: tuple[type[Exception], ...] = (),
    on_failure: Callable[[], None] | None = None,
) -> list[T]:
    """Return `[await work(0), ..., await work(count - 1)]`, with at most `limit` under way at once.

    The first failure cancels what is under way and keeps the rest from starting. It is raised alone, never in
    an `ExceptionGroup`; failures that came in meanwhile stand in its metadata as `other_failures`.

    After a failure of a class in `finish_on` what is under way is awaited instead: it is paid for already.
    `on_failure` is called at each: cancellation takes a turn of the event loop to arrive, and nothing may be
    bought meanwhile.

    An interrupt of one of them is raised in place of anything else.

    A few workers share one iterator: a task for each piece would cost twenty times as much.
    """
    if count < 2 or limit == 1:
        return [await work(index) for index in range(count)]
    gathering = _Gathering(work, count, finish_on, on_failure)
    try:
        with _ungrouped():
            await gathering.run(min(limit, count))
    finally:
        gathering.raise_interrupt()
    if gathering.failures:
        raise _first(gathering.failures)
    if len(gathering.results) < count:
        raise RuntimeError("a worker was cancelled by somebody else")
    return [gathering.results[index] for index in range(count)]


class _Gathering(Generic[T]):
    """Workers on one iterator of indices, and what has become of these."""

    __slots__ = (
        "_cancel",
        "_finish_on",
        "_indices",
        "_level",
        "_on_failure",
        "_work",
        "_working",
        "failures",
        "interrupts",
        "results",
    )

    def __init__(
        self,
        work: Callable[[int], Awaitable[T]],
        count: int,
        finish_on: tuple[type[Exception], ...],
        on_failure: Callable[[], None] | None,
    ) -> None:
        self._level = Level()
        self._work = work
        self._indices = iter(range(count))
        self._finish_on = finish_on
        self._on_failure = on_failure
        self._cancel: Callable[[], object] = _nothing
        self._working = 0
        self.results: dict[int, T] = {}
        self.failures: list[Exception] = []
        self.interrupts: list[BaseException] = []

    async def run(self, workers: int) -> None:
        """Do the work, with so many workers."""
        self._working = workers
        if current_async_library() == "trio":
            await self._run_on_trio(workers)
            return
        group = anyio.create_task_group()
        self._cancel = group.cancel_scope.cancel
        ended = Waiter(self._cancel)
        try:
            async with group:
                for _ in range(workers):
                    group.start_soon(self._worker, ended)
                await ended  # is told of a cancellation a turn sooner than the end of the block
        finally:
            if ended.was_struck and not self.interrupts:
                raise CancelledError(STRUCK)

    async def _run_on_trio(self, workers: int) -> None:
        """Do it in a nursery of trio's own: in anyio's an interrupt can strike its lines before ours."""
        import trio  # an extra

        let_interrupts_wait(self._worker)
        async with trio.open_nursery() as nursery:
            self._cancel = nursery.cancel_scope.cancel
            for _ in range(workers):
                nursery.start_soon(self._worker, None)

    async def _worker(self, ended: Waiter | None) -> None:
        self._level.enter()
        try:
            for index in self._indices:
                if self.failures or self.interrupts:
                    return
                self.results[index] = await self._work(index)
        except BaseException as raised:
            failure = taken_as(raised)
            if is_cancellation(failure):
                raise failure from None
            self._failed(failure)
        finally:
            self._working -= 1
            if not self._working and ended is not None:
                ended.end()

    def raise_interrupt(self) -> None:
        """Raise what one of them was interrupted by."""
        if self.interrupts:
            self._level.pass_on()
            raise self.interrupts[0]

    def _failed(self, failure: BaseException) -> None:
        if isinstance(failure, Exception):
            self.failures.append(failure)
        else:
            self._level.announce()
            self.interrupts.append(failure)  # raised by a worker, asyncio would raise it past us
        if self._on_failure is not None:
            self._on_failure()
        if not isinstance(failure, self._finish_on):
            self._cancel()


def _nothing() -> None:
    pass


@contextmanager
def _ungrouped() -> Generator[None, None, None]:
    """Let an interrupt, or the caller's cancellation, out as it is."""
    try:
        yield
    except BaseExceptionGroup as several:
        raise taken_as(several) from None


def _first(failures: list[Exception]) -> Exception:
    first, *others = failures
    if not (others and isinstance(first, ExecutionKitError)):
        return first
    error = first.stamped(first.cost)
    if isinstance(error, BudgetExhaustedError):
        error = with_last_failure(error, others)
    known: tuple[str, ...] = error.metadata.get("other_failures", ())
    noted = (*known, *map(described, others))
    error.metadata = freeze_mapping({**error.metadata, "other_failures": noted})
    return error
