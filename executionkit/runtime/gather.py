"""Several pieces of work at once: bounded, in order, and with one failure at most."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from sniffio import current_async_library

from executionkit.core.frozen import freeze_mapping
from executionkit.errors import ExecutionKitError, described
from executionkit.runtime.cancellation import Waiter, is_cancellation, let_interrupts_wait, taken_as

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
    results: dict[int, T] = {}
    under_way = min(limit, count)
    failures: list[Exception] = []
    interrupts: list[BaseException] = []
    indices = iter(range(count))

    async def worker() -> None:
        nonlocal under_way
        try:
            for index in indices:
                if failures or interrupts:
                    return
                results[index] = await work(index)
        except BaseException as raised:
            failure = taken_as(raised)
            if is_cancellation(failure):
                raise failure from None
            if isinstance(failure, Exception):
                failures.append(failure)
            else:
                interrupts.append(failure)  # raised by a worker, asyncio would raise it past us
            if on_failure is not None:
                on_failure()
            if not isinstance(failure, finish_on):
                group.cancel_scope.cancel()
        finally:
            under_way -= 1
            if not under_way and ended is not None:
                ended.end()

    is_trio = current_async_library() == "trio"
    if is_trio:
        let_interrupts_wait(worker)
    with _ungrouped():
        async with anyio.create_task_group() as group:
            ended = None if is_trio else Waiter(group.cancel_scope.cancel)
            for _ in range(under_way):
                group.start_soon(worker)
            if ended is not None:
                await ended
    if interrupts:
        raise interrupts[0]
    if failures:
        raise _first(failures)
    if len(results) < count:
        raise RuntimeError("a worker was cancelled by somebody else")
    return [results[index] for index in range(count)]


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
    known: tuple[str, ...] = first.metadata.get("other_failures", ())
    error = first.stamped(first.cost)
    noted = (*known, *map(described, others))
    error.metadata = freeze_mapping({**first.metadata, "other_failures": noted})
    return error
