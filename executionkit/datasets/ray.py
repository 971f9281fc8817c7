"""The engine on a Ray cluster; `ray` is the extra `ray`."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Final, TypeVar

from executionkit.batch import Source
from executionkit.core.checks import check_count
from executionkit.core.usage import TokenUsage
from executionkit.datasets.coordinator import Coordinator, Message, Wire
from executionkit.datasets.shards import Job, Report
from executionkit.datasets.state import State
from executionkit.datasets.workers import Task, WorkerLostError, run_on

__all__ = ["Ray"]

A = TypeVar("A")
B = TypeVar("B")

_LOST: Final = frozenset(
    {"LocalRayletDiedError", "NodeDiedError", "NodePreemptedError", "OutOfMemoryError", "WorkerCrashedError"}
)
"""Errors of a shard whose worker died."""


class Ray:
    """The cluster that Ray is connected to; where it is to none, Ray starts or finds one by its own rules.

    As `Dask`: rows are read here and go to the workers in shards, each a task of one CPU; each worker asks
    the model and writes to the state. The budget, and a `RateLimit` of the provider, are kept by an actor on
    the node of this program. A shard whose worker died is run again by another, from the call where it was.

    Args:
        rows: Rows of a shard. Many small shards share the work better, large ones cost less each.

    Raises:
        ModuleNotFoundError: Ray is not installed; the message says how to.
        ValueError: `rows` is below 1.
    """

    def __init__(self, *, rows: int = 200) -> None:
        check_count("rows", rows)
        try:
            self._ray: Any = import_module("ray")
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise ModuleNotFoundError(
                'ray is not installed; in the clone, run: pip install ".[ray]"', name="ray"
            ) from None
        self._rows = rows

    def __repr__(self) -> str:
        return f"Ray(rows={self._rows})"

    async def run(self, job: Job[A, B], rows: Source[A], state: State, max_cost: TokenUsage) -> Report:
        """Run all rows on the workers.

        Raises:
            TypeError: What has to travel cannot be pickled.
            RuntimeError: There are no CPUs, or a shard could not be run again and again.
        """
        if not self._ray.is_initialized():
            self._ray.init()
        return await run_on(_Workers(self._ray), self._rows, job, rows, state, max_cost)


class _Workers:
    """What Ray is connected to: see `Workers`."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        # A worker that dies is told of here, so that its shard begins again as another attempt.
        self._run = ray.remote(num_cpus=1, max_retries=0)(_work)
        self._keeper: Any = None
        self._names: dict[Any, str] = {}

    @property
    def link(self) -> Wire:
        return Wire(_sender(self._keeper), "")

    def begin(self, limit: TokenUsage, spent: TokenUsage) -> int:
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if not cpus:
            raise RuntimeError("the Ray cluster has no CPUs to run shards on")
        strategies: Any = import_module("ray.util.scheduling_strategies")
        here = self._ray.get_runtime_context().get_node_id()
        near = strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        actor = self._ray.remote(num_cpus=0, scheduling_strategy=near)(_Keeper)
        self._keeper = actor.remote(limit, spent, cpus)
        return cpus

    def submit(self, task: Task, name: str) -> Any:
        handle = self._run.remote(task, self._keeper, name)
        self._names[handle] = name
        return handle

    def ended(self, running: list[Any]) -> list[Any]:
        ended: list[Any] = self._ray.wait(running, num_returns=len(running), timeout=0)[0] if running else []
        return ended

    async def report(self, handle: Any) -> Report:
        name = self._names.pop(handle)
        try:
            report: Report = self._ray.get(handle)
        except Exception as error:
            if type(error).__name__ not in _LOST:
                raise
            await self.link.ask(Message("gone", worker=name))
            raise WorkerLostError(f"the worker of a shard died: {error}") from error
        return report

    def end(self, running: list[Any]) -> None:
        for handle in running:
            self._ray.cancel(handle, force=True)
        self._ray.kill(self._keeper)


class _Keeper:
    """The actor that has the coordinator."""

    def __init__(self, limit: TokenUsage, spent: TokenUsage, workers: int) -> None:
        self._coordinator = Coordinator(limit, spent, workers)

    def answer(self, data: bytes) -> bytes:
        return self._coordinator.answer_bytes(data)


def _sender(keeper: Any) -> Callable[[bytes], Awaitable[bytes]]:
    return lambda data: asyncio.wrap_future(keeper.answer.remote(data).future())


def _work(task: Task, keeper: Any, name: str) -> Report:
    """Run a shard; called on a worker."""
    return task.run(Wire(_sender(keeper), name))
