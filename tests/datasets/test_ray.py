"""The engine on Ray: shards whose workers died go out again; what needs a cluster is `just long ray`."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.datasets import Ray, map_dataset, read_rows
from executionkit.patterns.complete import complete
from tests.conftest import needs
from tests.datasets.clusters import campaign
from tests.doubles import Model

SCHEDULES = os.environ.get("EXECUTIONKIT_RAY")  # how many, workers, seed


class WorkerCrashedError(Exception):
    """As Ray calls it."""


class Remote:
    """What `ray.remote` makes of a function or a class: it is called in this process, when it is waited for."""

    def __init__(self, ray: "FakeRay", target: Any) -> None:
        self._ray = ray
        self._target = target

    def remote(self, *given: Any) -> Any:
        if isinstance(self._target, type):
            keeper = Keeper(self._target(*given))
            self._ray.keepers.append(keeper)
            return keeper
        return Shard(self._target, given)


class Keeper:
    """An actor, and the method that is called; it answers at once."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @property
    def answer(self) -> "Keeper":
        return self

    def remote(self, data: bytes) -> Any:
        future: Future[bytes] = Future()
        future.set_result(self._actor.answer(data))
        return SimpleNamespace(future=lambda: future)


class Shard:
    """A task."""

    def __init__(self, work: Any, given: tuple[Any, ...]) -> None:
        self.work = work
        self.given = given


class FakeRay(ModuleType):
    """As much of Ray as the engine uses."""

    def __init__(self, cpus: int = 2, deaths: int = 0) -> None:
        super().__init__("ray")
        self.cpus = cpus
        self.deaths = deaths
        self.keepers: list[Any] = []
        self.killed: list[Any] = []
        self.cancelled: list[Any] = []
        self.options: list[dict[str, Any]] = []
        self.is_begun = False

    def is_initialized(self) -> bool:
        return self.is_begun

    def init(self) -> None:
        self.is_begun = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus), "memory": 1.0} if self.cpus else {}

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "this node")

    def remote(self, **options: Any) -> Callable[[Any], Remote]:
        self.options.append(options)
        return partial(Remote, self)

    def wait(self, handles: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(handles)
        assert timeout == 0
        return handles[:1], handles[1:]

    def get(self, handle: Shard) -> Any:
        if self.deaths:
            self.deaths -= 1
            raise WorkerCrashedError("the worker died")
        ended: list[Any] = []

        def work() -> None:
            try:
                ended.append(handle.work(*handle.given))
            except BaseException as error:
                ended.append(error)

        thread = Thread(target=work)  # a worker has no event loop
        thread.start()
        thread.join()
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    def cancel(self, handle: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(handle)

    def kill(self, keeper: Any) -> None:
        self.killed.append(keeper)


def near(node: str, *, soft: bool) -> tuple[str, bool]:
    return node, soft


def installed(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> FakeRay:
    strategies = ModuleType("ray.util.scheduling_strategies")
    vars(strategies)["NodeAffinitySchedulingStrategy"] = near
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util", ModuleType("ray.util"))
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return ray


@pytest.mark.skipif(not SCHEDULES, reason="a campaign: `just long ray`")
def test_random_schedules_with_killed_workers() -> None:
    assert find_spec("ray") is not None, 'Ray is not installed; in the clone, run: pip install ".[ray]"'
    assert campaign("ray", SCHEDULES or "")["schedules"] > 0


@needs("cloudpickle")
@pytest.mark.parametrize("deaths", [0, 3])
def test_a_shard_goes_out_again_where_its_worker_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    ray = installed(monkeypatch, FakeRay(deaths=deaths))
    target = tmp_path / "out.jsonl"
    rows = [f"row {number}" for number in range(20)]
    budget = TokenUsage(llm_calls=20)
    done = map_dataset(rows, target, complete(), Model, key=str, engine=Ray(rows=3), max_cost=budget)
    assert (done.rows, done.failed, done.failure, done.cost.llm_calls) == (20, 0, None, 20)
    assert sorted(row["key"] for row in read_rows(target, dict[str, Any])) == sorted(rows)
    assert ray.is_begun
    assert ray.deaths == 0
    assert {"num_cpus": 1, "max_retries": 0} in ray.options
    assert {"num_cpus": 0, "scheduling_strategy": ("this node", True)} in ray.options
    assert len(ray.keepers) == len(ray.killed) == 1


@needs("cloudpickle")
def test_what_kills_every_worker_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = installed(monkeypatch, FakeRay(deaths=1000))
    with pytest.raises(RuntimeError, match="the worker of a shard died: the worker died") as caught:
        map_dataset(["a", "b"], tmp_path / "out.jsonl", complete(), Model, key=str, engine=Ray(rows=1))
    assert isinstance(caught.value.__cause__, WorkerCrashedError)
    assert len(ray.killed) == len(ray.cancelled) == 1


@needs("cloudpickle")
def test_what_a_shard_raises_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, FakeRay())

    def make_provider() -> Model:
        raise LookupError("there is no such model here")

    with pytest.raises(LookupError, match="no such model here"):
        map_dataset(["a"], tmp_path / "out.jsonl", complete(), make_provider, key=str, engine=Ray())


@needs("cloudpickle")
def test_a_cluster_without_cpus_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, FakeRay(cpus=0))
    with pytest.raises(RuntimeError, match="the Ray cluster has no CPUs"):
        map_dataset(["a"], tmp_path / "out.jsonl", complete(), Model, key=str, engine=Ray())


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'ray is not installed; in the clone, run: pip install "\.\[ray\]"'
    ):
        Ray()
    with pytest.raises(ValueError, match="rows must be at least 1"):
        Ray(rows=0)
