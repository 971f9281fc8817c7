"""Several pieces of work at once: bounded, in order, and with one failure at most."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar, cast

import anyio

from executionkit.core.frozen import freeze_mapping
from executionkit.errors import ExecutionKitError, described

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

    A few workers share one iterator: a task for each piece would cost twenty times as much.
    """
    if count == 1 or limit == 1:
        return [await work(index) for index in range(count)]
    results: dict[int, T] = {}
    failures: list[Exception] = []
    indices = iter(range(count))

    async def worker() -> None:
        try:
            for index in indices:
                if failures:
                    return
                results[index] = await work(index)
        except Exception as failure:
            failures.append(failure)
            if on_failure is not None:
                on_failure()
            if not isinstance(failure, finish_on):
                group.cancel_scope.cancel()

    with _ungrouped():
        async with anyio.create_task_group() as group:
            for _ in range(min(limit, count)):
                group.start_soon(worker)
    if failures:
        raise _first(failures)
    return [results[index] for index in range(count)]


@contextmanager
def _ungrouped() -> Generator[None, None, None]:
    """Let a KeyboardInterrupt or SystemExit out as it is: workers raise nothing else."""
    try:
        yield
    except BaseExceptionGroup as several:
        raise _innermost(several) from None


def _innermost(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _innermost(cast("BaseExceptionGroup[BaseException]", first))
    return first


def _first(failures: list[Exception]) -> Exception:
    first, *others = failures
    if not (others and isinstance(first, ExecutionKitError)):
        return first
    known: tuple[str, ...] = first.metadata.get("other_failures", ())
    error = first.stamped(first.cost)
    noted = (*known, *map(described, others))
    error.metadata = freeze_mapping({**first.metadata, "other_failures": noted})
    return error
