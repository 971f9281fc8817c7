"""The engine on a Dask cluster; `distributed` is the extra `dask`."""

import asyncio
import os
import pickle
import time
from collections.abc import Coroutine
from contextlib import aclosing
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import msgspec
from typing_extensions import override

from executionkit.batch import Source
from executionkit.core.checks import check_count
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.datasets.coordinator import Coordinator, Message, Reply
from executionkit.datasets.log import Begun
from executionkit.datasets.shards import Job, Report, Shard, count_lost, cut, run_shard
from executionkit.datasets.state import BusyError, State
from executionkit.errors import DeadlineExceededError, StageError, described
from executionkit.runtime.tasks.event_loops import in_new_loop

__all__ = ["Dask", "pickled"]

A = TypeVar("A")
B = TypeVar("B")

_AHEAD: Final = 2
"""Shards for each thread of a worker that are handed out at once."""
_TICK: Final = 0.02
"""Seconds between two looks at what is under way, and ..."""
_ROUND: Final = 0.5
"""... at which workers are gone."""
_GRACE: Final = 10.0
"""Seconds after the deadline in which shards may end by themselves."""
_TRIES: Final = 10
"""How often a shard is handed out again whose workers died."""


class Dask:
    """The workers of a Dask cluster.

    Rows are read here and go to the workers in shards; each worker asks the model and writes to the state, so
    that only counts come back. The budget is lent to them in pieces by a coordinator on the scheduler: what
    is lent never adds up to more than the budget, and what a worker held that died counts as spent until its
    file has been read. A shard whose worker died is run again by another, from the call where it was.

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
        return await _Map(self._client, self._rows, job, state, max_cost).run(rows)


class _Map:
    """One data set on a cluster.

    Args:
        client: The client.
        size: Rows of a shard.
        job: What is to be done.
        state: Where it is kept.
        limit: The budget.
    """

    def __init__(self, client: Any, size: int, job: Job[Any, Any], state: State, limit: TokenUsage) -> None:
        self._client = client
        self._size = size
        self._job = job
        self._state = state
        self._limit = limit
        self._payload = pickled(job, "the stage, make_provider, key or trace")
        self._name = f"executionkit_{os.urandom(16).hex()}"
        self._link = _Link(client.scheduler, client.loop.asyncio_loop, self._name, "")
        self._running: dict[Any, tuple[Shard[Any], int]] = {}
        self._report = Report()
        self._looked = time.monotonic()

    async def run(self, rows: Source[Any]) -> Report:
        threads = sum(self._client.nthreads().values())
        if not threads:
            raise RuntimeError(f"{self._client!r} has no workers")
        spent = self._state.log.paid
        owner = self._client.id
        self._client.run_on_scheduler(_install, self._name, owner, self._limit, spent, threads)
        try:
            try:
                async with aclosing(cut(self._job, rows, self._state, self._size)) as shards:
                    async for shard in shards:
                        self._submit(shard, 1)
                        while len(self._running) >= _AHEAD * threads and not self._is_late:
                            await self._wait()
                        if self._report.failure is not None:
                            break
            except StageError as failure:
                self._report.failure = failure
            while self._running and not self._is_late:
                await self._wait()
        finally:
            for future in self._running:
                future.cancel()
            self._client.run_on_scheduler(_uninstall, self._name)
        return self._report

    @property
    def _is_late(self) -> bool:
        """Whether shards should have ended that have not, for want of workers; says so if they have not."""
        ends_at = self._job.ends_at
        if ends_at is None or time.time() < ends_at + _GRACE:
            return False
        self._report.failure = DeadlineExceededError("no worker has ended all rows by the deadline")
        return True

    def _submit(self, shard: Shard[Any], attempt: int) -> None:
        begun = self._state.begun
        limit = self._limit if self._limit != NO_USAGE else None
        future = self._client.submit(
            _work,
            self._payload,
            pickled(shard, "a row"),
            str(self._state.folder.resolve()),
            begun,
            limit,
            self._name,
            key=f"{self._name}-{shard.number}-{attempt}",
            pure=False,
        )
        self._running[future] = shard, attempt

    async def _wait(self) -> None:
        """Wait a little, and take what has ended."""
        await anyio.sleep(_TICK)
        if time.monotonic() - self._looked > _ROUND:
            self._looked = time.monotonic()
            await count_lost(self._link, self._state.folder)
        for future in [future for future in self._running if future.done()]:
            shard, attempt = self._running.pop(future)
            error = future.exception()
            if error is None:
                self._report.add(future.result())
            elif attempt < _TRIES and _is_of_worker(error):
                self._submit(shard, attempt + 1)
            else:
                raise error


class _Link:
    """Reaches the coordinator through the scheduler.

    Args:
        scheduler: What the engine calls it with.
        loop: Where that is to be used.
        name: Of the coordinator.
        worker: Who asks.
    """

    def __init__(self, scheduler: Any, loop: asyncio.AbstractEventLoop, name: str, worker: str) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._name = name
        self.worker: Final = worker

    async def ask(self, message: Message) -> Reply:
        """Say something, and return the answer.

        Raises:
            OSError: There is no coordinator any more.
        """
        sent: Coroutine[Any, Any, bytes] = self._send(msgspec.json.encode(message))
        try:
            answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sent, self._loop))
        except Exception as error:
            raise OSError(f"the coordinator of the data set cannot be reached: {described(error)}") from error
        return msgspec.json.decode(answer, type=Reply)

    async def _send(self, data: bytes) -> bytes:
        answer: bytes = await getattr(self._scheduler, self._name)(data=data)
        return answer


def _work(
    payload: bytes, rows: bytes, folder: str, begun: Begun, limit: TokenUsage | None, name: str
) -> Report:
    """Run a shard; called on a worker."""
    job: Job[Any, Any] = pickle.loads(payload)  # noqa: S301 - from who runs the workers
    shard: Shard[Any] = pickle.loads(rows)  # noqa: S301
    worker: Any = import_module("distributed").get_worker()
    link = _Link(worker.scheduler, worker.loop.asyncio_loop, name, worker.address)
    return in_new_loop(partial(run_shard, job, shard, Path(folder), begun, limit, link), "a shard")


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
        return msgspec.json.encode(coordinator.answer(msgspec.json.decode(data, type=Message)))

    dask_scheduler.handlers[name] = answer
    dask_scheduler.add_plugin(Watch(), name=name)


def _uninstall(name: str, dask_scheduler: Any = None) -> None:
    """End a coordinator; called on the scheduler."""
    dask_scheduler.handlers.pop(name, None)
    dask_scheduler.remove_plugin(name)


def pickled(value: object, what: str) -> bytes:
    """Return a value as bytes.

    Args:
        value: The value.
        what: What to call it.

    Raises:
        TypeError: It cannot be pickled, or not be read again elsewhere.
    """
    cloudpickle: Any = import_module("cloudpickle")

    def checked(pickler: Any, part: object) -> Any:
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and _is_of_program(part):
            raise TypeError(
                f"the struct {part.__name__} is defined in the program itself, where no worker finds it; put "
                "it into a module that the workers import too, or make it a dataclass"
            )
        if isinstance(part, type) and "__msgspec_cache__" in vars(part) and _is_of_program(part):
            delattr(part, "__msgspec_cache__")  # of a dataclass that was read; made again where it is missed
        return cloudpickle.CloudPickler.reducer_override(pickler, part)

    pickler = type("Pickler", (cloudpickle.CloudPickler,), {"reducer_override": checked})
    file = BytesIO()
    try:
        pickler(file).dump(value)
    except Exception as error:
        raise TypeError(f"{what} cannot be pickled for the workers: {error}") from error
    return file.getvalue()


def _is_of_program(kind: type) -> bool:
    return kind.__module__ == "__main__" or "<locals>" in kind.__qualname__


def _is_of_worker(error: BaseException) -> bool:
    """Tell whether a shard could not be run for its workers, and may be on another."""
    return isinstance(error, BusyError) or type(error).__name__ in {"KilledWorker", "FutureCancelledError"}
