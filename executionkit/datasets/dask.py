"""The engine on a Dask cluster; `distributed` is the extra `dask`."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Final, TypeVar

from typing_extensions import override

from executionkit.batch import Source
from executionkit.core.checks import check_count
from executionkit.core.usage import TokenUsage
from executionkit.datasets.coordinator import Coordinator, Wire
from executionkit.datasets.shards import Job, Report
from executionkit.datasets.state import State
from executionkit.datasets.workers import Task, WorkerLostError, run_on

__all__ = ["Dask"]

A = TypeVar("A")
B = TypeVar("B")

_LOST: Final = frozenset({"KilledWorker", "FutureCancelledError"})
"""Errors of a shard whose workers died."""


class Dask:
    """The workers of a Dask cluster.

    Rows are read here and go to the workers in shards; each worker asks the model and writes to the state, so
    that only counts come back. The budget is lent to them in pieces by a coordinator on the scheduler: what
    is lent never adds up to more than the budget, and what a worker held that died counts as spent until its
    file has been read. A `RateLimit` of the provider is kept there, for all of them together. A shard whose
    worker died is run again by another, from the call where it was.

    Args:
        client: A `distributed.Client` that is not asynchronous.
        rows: Rows of a shard. Many small shards share the work better, large ones cost less each.

    Raises:
        TypeError: It is no such client.
        ValueError: `rows` is below 1.
    """

    def __init__(self, client: object, *, rows: int = 200) -> None:
        check_count("rows", rows)
        if not callable(getattr(client, "run_on_scheduler", None)):
            raise TypeError(f"Dask takes a distributed.Client, not {type(client).__name__}")
        if getattr(client, "asynchronous", False):
            raise TypeError("Dask takes a client that is not asynchronous: Client(..., asynchronous=False)")
        self._client: Any = client
        self._rows = rows

    def __repr__(self) -> str:
        return f"Dask({self._client!r}, rows={self._rows})"

    async def run(self, job: Job[A, B], rows: Source[A], state: State, max_cost: TokenUsage) -> Report:
        """Run all rows on the workers.

        Raises:
            TypeError: What has to travel cannot be pickled.
            RuntimeError: There are no workers, or a shard could not be run again and again.
        """
        return await run_on(_Workers(self._client), self._rows, job, rows, state, max_cost)


class _Workers:
    """What a client reaches: see `Workers`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._name = f"executionkit_{os.urandom(16).hex()}"
        self.link: Final = Wire(_sender(client.scheduler, client.loop.asyncio_loop, self._name), "")

    @property
    def _is_closed(self) -> bool:
        return getattr(self._client, "status", None) in {"closing", "closed"}

    def _check_open(self) -> None:
        """Check that the client still reaches the cluster.

        Raises:
            RuntimeError: It was closed.
        """
        if self._is_closed:
            raise RuntimeError(f"{self._client!r} was closed; what was done is kept in the state")

    def begin(self, limit: TokenUsage, spent: TokenUsage) -> int:
        self._check_open()
        threads: int = sum(self._client.nthreads().values())
        if not threads:
            raise RuntimeError(f"{self._client!r} has no workers")
        self._client.run_on_scheduler(_install, self._name, self._client.id, limit, spent, threads)
        return threads

    def submit(self, task: Task, name: str) -> Any:
        self._check_open()
        return self._client.submit(_work, task, self._name, key=f"{self._name}-{name}", pure=False)

    def ended(self, running: list[Any]) -> list[Any]:
        return [future for future in running if future.done()]

    async def report(self, handle: Any) -> Report:
        self._check_open()
        error: BaseException | None = handle.exception()
        if error is None:
            report: Report = handle.result()
            return report
        if type(error).__name__ in _LOST:
            raise WorkerLostError(f"the workers of a shard died: {error}") from error
        raise error

    def end(self, running: list[Any]) -> None:
        if self._is_closed:  # which has cancelled them, and ended the coordinator
            return
        for future in running:
            future.cancel()
        self._client.run_on_scheduler(_uninstall, self._name)


def _sender(
    scheduler: Any, loop: asyncio.AbstractEventLoop, name: str
) -> Callable[[bytes], Awaitable[bytes]]:
    """Return what reaches a coordinator through the scheduler.

    Args:
        scheduler: What the engine calls it with.
        loop: Where that is to be used.
        name: Of the coordinator.
    """

    async def send(data: bytes) -> bytes:
        answer: bytes = await getattr(scheduler, name)(data=data)
        return answer

    return lambda data: asyncio.wrap_future(asyncio.run_coroutine_threadsafe(send(data), loop))


def _work(task: Task, name: str) -> Report:
    """Run a shard; called on a worker."""
    worker: Any = import_module("distributed").get_worker()
    return task.run(Wire(_sender(worker.scheduler, worker.loop.asyncio_loop, name), worker.address))


def _install(
    name: str, owner: str, limit: TokenUsage, spent: TokenUsage, workers: int, dask_scheduler: Any = None
) -> None:
    """Begin a coordinator; called on the scheduler."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    coordinator = Coordinator(limit, spent, workers)

    class Watch(SchedulerPlugin):
        """Tells the coordinator who is gone."""

        @override
        def remove_worker(self, scheduler: object, worker: str, **_: object) -> None:
            coordinator.lose(worker)

        @override
        def remove_client(self, scheduler: object, client: str) -> None:
            coordinator.is_over |= client == owner

    async def answer(comm: object, data: bytes) -> bytes:  # noqa: ARG001
        return coordinator.answer_bytes(data)

    dask_scheduler.handlers[name] = answer
    dask_scheduler.add_plugin(Watch(), name=name)


def _uninstall(name: str, dask_scheduler: Any = None) -> None:
    """End a coordinator; called on the scheduler."""
    dask_scheduler.handlers.pop(name, None)
    dask_scheduler.remove_plugin(name)
