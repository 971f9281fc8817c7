"""The engine on Dask: the same program text, keys that do not travel, workers that are killed."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from executionkit.datasets import Dask, map_dataset, read_rows
from executionkit.datasets.travel import pickled
from executionkit.patterns.complete import complete
from executionkit.patterns.prompt import prompt
from executionkit.provider import LLMProvider
from executionkit.providers.openai import Provider
from executionkit.providers.secret import Secret
from tests.conftest import needs
from tests.datasets.clusters import campaign
from tests.doubles import Model

SCHEDULES = os.environ.get("EXECUTIONKIT_CLUSTERS", "1 2 2")  # how many, workers, seed

pytestmark = needs("distributed")


class Client:
    """As much of a client as is looked at before anything is sent."""

    asynchronous = False

    def run_on_scheduler(self) -> None: ...

    class loop:
        asyncio_loop = None

    scheduler = None


def test_random_schedules_with_killed_workers() -> None:
    assert campaign("dask", SCHEDULES)["schedules"] > 0


@pytest.mark.parametrize("how", ["provider", "secret"])
def test_a_key_does_not_travel(tmp_path: Path, how: str) -> None:
    key = "sk-travels-0123456789"
    provider = Provider("http://127.0.0.1:9", "m", key)
    secret = Secret(key)

    def captured() -> LLMProvider:
        return provider if how == "provider" else Provider("http://127.0.0.1:9", "m", secret)

    with pytest.raises(TypeError, match="make_provider, key or trace cannot be pickled") as caught:
        map_dataset(["a"], tmp_path / "out.jsonl", complete(), captured, key=str, engine=Dask(Client()))
    error: BaseException | None = caught.value
    while error is not None:
        assert key not in str(error)
        error = error.__cause__
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)


def test_a_struct_that_no_worker_can_find_is_refused(tmp_path: Path) -> None:
    class Here(msgspec.Struct):
        id: int

    class Workers(Client):
        id = "client"

        def nthreads(self) -> dict[str, int]:
            return {"worker": 1}

        def run_on_scheduler(self, *given: object) -> None: ...

        def submit(self, *given: object) -> None: ...

    @dataclass
    class Read:
        id: int

    (tmp_path / "in.jsonl").write_text('{"id": 1}')
    (read,) = read_rows(tmp_path / "in.jsonl", Read)
    assert len(pickled(read, "a row")) > 0
    with pytest.raises(
        TypeError, match=r"a row cannot be pickled .* the struct Here is defined in the program"
    ):
        map_dataset(
            [Here(1)],
            tmp_path / "out.jsonl",
            prompt("{id}") >> complete(),
            Model,
            key=lambda row: row.id,
            engine=Dask(Workers()),
        )


def test_only_a_client_will_do(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Dask takes a distributed\.Client, not str"):
        Dask("tcp://127.0.0.1:8786")
    with pytest.raises(ValueError, match="rows must be at least 1"):
        Dask(Client(), rows=0)
    waiting = Client()
    waiting.asynchronous = True
    with pytest.raises(TypeError, match="not asynchronous"):
        Dask(waiting)
    with pytest.raises(TypeError, match=r"an engine is Local\(\), Dask\(client\) or Ray\(\), not str"):
        map_dataset(["a"], tmp_path / "out.jsonl", complete(), Model, key=str, engine="dask")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_cluster_without_workers_is_told(tmp_path: Path) -> None:
    class Empty(Client):
        id = "client"

        def nthreads(self) -> dict[str, int]:
            return {}

    with pytest.raises(RuntimeError, match="has no workers"):
        map_dataset(["a"], tmp_path / "out.jsonl", complete(), Model, key=str, engine=Dask(Empty()))


def test_a_client_that_was_closed_is_told(tmp_path: Path) -> None:
    class Closed(Client):
        id = "client"
        status = "running"

        def nthreads(self) -> dict[str, int]:
            return {"worker": 1}

        def run_on_scheduler(self, *given: object) -> None:
            self.status = "closed"

    client = Closed()
    for _ in range(2):  # while it runs, and before
        with pytest.raises(RuntimeError, match="was closed; what was done is kept in the state"):
            map_dataset(["a"], tmp_path / "out.jsonl", complete(), Model, key=str, engine=Dask(client))
