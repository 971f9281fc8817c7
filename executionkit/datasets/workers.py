"""A data set on workers elsewhere: shards go out, and counts come back. An engine says how they travel."""

import pickle
import time
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
import msgspec

from executionkit.batch import Source
from executionkit.core.foreign import described
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.datasets.coordinator import Link
from executionkit.datasets.log import Begun
from executionkit.datasets.shards import Job, Report, Shard, count_lost, cut, run_shard
from executionkit.datasets.state import BusyError, State
from executionkit.datasets.travel import pickled
from executionkit.errors import DeadlineExceededError, ExecutionKitError, StageError
from executionkit.runtime.tasks.event_loops import in_new_loop

__all__ = ["Task", "WorkerLostError", "Workers", "run_on"]

H = TypeVar("H")

_AHEAD: Final = 2
"""Shards for each that can be run at once that are handed out."""
_TICK: Final = 0.02
"""Seconds between two looks at what is under way, and ..."""
_ROUND: Final = 0.5
"""... at which workers are gone."""
_GRACE: Final = 10.0
"""Seconds after the deadline in which shards may end by themselves."""
_TRIES: Final = 10
"""How often a shard is handed out whose workers died."""


class WorkerLostError(RuntimeError):
    """The worker of a shard died, and another may run it."""


class Task(msgspec.Struct, frozen=True):
    """A shard on its way to a worker.

    Args:
        job: What is to be done, pickled.
        shard: The rows, pickled.
        folder: The state.
        begun: What is run.
        limit: The budget of all rows; None for none.
    """

    job: bytes
    shard: bytes
    folder: str
    begun: Begun
    limit: TokenUsage | None

    def run(self, link: Link) -> Report:
        """Run it; called on the worker, where no event loop runs.

        Args:
            link: To the coordinator.

        Raises:
            BusyError: Another worker still works on it.
            OSError: The state cannot be written.
            RuntimeError: Something in it was to end the process, as `sys.exit` does: engines would let the
                worker go, and hand the shard to the next.
        """
        job: Job[Any, Any] = pickle.loads(self.job)  # noqa: S301 - from whoever runs the workers
        shard: Shard[Any] = pickle.loads(self.shard)  # noqa: S301
        work = partial(run_shard, job, shard, Path(self.folder), self.begun, self.limit, link)
        try:
            report = in_new_loop(work, "a shard")
        except Exception:
            raise
        except BaseException as ended:
            raise RuntimeError(f"the work on a shard was ended: {described(ended)}") from ended
        if report.failure is not None:
            report.failure = _travelling(report.failure)
        return report


def _travelling(failure: ExecutionKitError) -> ExecutionKitError:
    """Return a failure that can be pickled: without its cause, which goes with it, where that cannot be."""
    alone = failure.stamped(failure.cost)
    alone.__cause__ = alone.__context__ = None
    for each in (failure, alone):
        with suppress(Exception):
            pickle.loads(pickle.dumps(each))  # noqa: S301
            return each
    return ExecutionKitError.from_dict(failure.to_dict())


class Workers(Protocol[H]):
    """What an engine has: workers, and a place for a coordinator that they reach."""

    @property
    def link(self) -> Link:
        """The way to the coordinator from here."""
        ...

    def begin(self, limit: TokenUsage, spent: TokenUsage) -> int:
        """Begin the coordinator, and return how many shards can be run at once.

        Args:
            limit: The budget of all rows; `NO_USAGE` for none.
            spent: What is spent of it.

        Raises:
            RuntimeError: There are no workers.
        """
        ...

    def submit(self, task: Task, name: str) -> H:
        """Hand a shard out.

        Args:
            task: The shard.
            name: What this attempt at it is known by.
        """
        ...

    def ended(self, running: list[H]) -> list[H]:
        """Return what of it has ended."""
        ...

    async def report(self, handle: H) -> Report:
        """Return what came of a shard that has ended.

        Raises:
            WorkerLostError: Its worker died.
            BaseException: What it raised itself.
        """
        ...

    def end(self, running: list[H]) -> None:
        """End what is still under way, and the coordinator."""
        ...


async def run_on(
    workers: Workers[H], size: int, job: Job[Any, Any], rows: Source[Any], state: State, limit: TokenUsage
) -> Report:
    """Run all rows on workers.

    Args:
        workers: The workers.
        size: Rows of a shard.
        job: What is to be done with each.
        rows: Those that no earlier life has answered.
        state: Where it is kept.
        limit: The budget; `NO_USAGE` for none.

    Raises:
        TypeError: What has to travel cannot be pickled.
        RuntimeError: There are no workers, or a shard could not be run again and again.
    """
    return await _Map(workers, job, state, limit).run(rows, size)


class _Map(Generic[H]):
    def __init__(self, workers: Workers[H], job: Job[Any, Any], state: State, limit: TokenUsage) -> None:
        self._workers = workers
        self._job = job
        self._state = state
        self._limit = limit
        self._payload = pickled(job, "the stage, make_provider, key or trace")
        self._running: dict[H, tuple[Shard[Any], int]] = {}
        self._report = Report()
        self._looked = time.monotonic()

    async def run(self, rows: Source[Any], size: int) -> Report:
        most = _AHEAD * self._workers.begin(self._limit, self._state.log.paid)
        try:
            try:
                async with aclosing(cut(self._job, rows, self._state, size)) as shards:
                    async for shard in shards:
                        self._submit(shard, 1)
                        while len(self._running) >= most and not self._is_late:
                            await self._wait()
                        if self._report.failure is not None:
                            break
            except StageError as failure:
                self._report.failure = failure
            while self._running and not self._is_late:
                await self._wait()
        finally:
            self._workers.end([*self._running])
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
        folder = str(self._state.folder.resolve())
        limit = self._limit if self._limit != NO_USAGE else None
        task = Task(self._payload, pickled(shard, "a row"), folder, self._state.begun, limit)
        self._running[self._workers.submit(task, f"{shard.number}-{attempt}")] = shard, attempt

    async def _wait(self) -> None:
        """Wait a little, and take what has ended."""
        await anyio.sleep(_TICK)
        if time.monotonic() - self._looked > _ROUND:
            self._looked = time.monotonic()
            await count_lost(self._workers.link, self._state.folder)
        for handle in self._workers.ended([*self._running]):
            shard, attempt = self._running.pop(handle)
            try:
                self._report.add(await self._workers.report(handle))
            except (BusyError, WorkerLostError):
                if attempt >= _TRIES:
                    raise
                self._submit(shard, attempt + 1)
