"""What a worker of an engine sends back, whatever its shard ended by."""

import pickle
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from executionkit.core.usage import NO_USAGE
from executionkit.core.window import Adaptive
from executionkit.datasets.coordinator import Coordinator, Message, Reply
from executionkit.datasets.log import Begun
from executionkit.datasets.shards import Job, Report, Shard
from executionkit.datasets.workers import Task
from executionkit.errors import PermanentError
from executionkit.patterns.complete import complete
from executionkit.provider import LLMProvider, LLMResponse
from tests.conftest import needs
from tests.doubles import Asked, Model


class Link:
    """A link to a coordinator in the same process."""

    worker = "a worker"

    def __init__(self) -> None:
        self._coordinator = Coordinator(NO_USAGE, NO_USAGE, 1)

    async def ask(self, message: Message) -> Reply:
        return self._coordinator.answer(message)


class NoWayBackError(Exception):
    """An exception that is pickled and cannot be read again, as those of some SDKs."""

    def __init__(self, request: str, response: str) -> None:
        super().__init__(f"{request} {response}")


class LockedError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = Lock()


def refused(cause: Exception, metadata: dict[str, object]) -> Model:
    def answer(asked: Asked) -> LLMResponse:
        raise PermanentError("no such key", metadata={"status": 401, **metadata}) from cause

    return Model(answer)


def refused_with_a_lock() -> LLMProvider:
    return refused(LockedError(), {})


def refused_with_no_way_back() -> LLMProvider:
    return refused(NoWayBackError("a", "b"), {})


def refused_with_a_lock_noted() -> LLMProvider:
    return refused(ValueError("x"), {"lock": Lock()})


def refused_plainly() -> LLMProvider:
    return refused(ValueError("x"), {})


def ends_the_process() -> LLMProvider:
    sys.exit("no key is set")


def run(folder: Path, make_provider: Any) -> Report:
    job: Job[str, str] = Job(complete(), make_provider, str, Adaptive(), None, None, None, False)
    shard = Shard(0, ["a"], [])
    task = Task(pickle.dumps(job), pickle.dumps(shard), str(folder), Begun("n", "p", b""), None)
    return task.run(Link())


@pytest.fixture
def with_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have causes pickled with exceptions, as `tblib` does, which Dask brings."""

    def reduced(self: PermanentError) -> tuple[object, ...]:
        return _made, (self.args, dict(self.metadata), self.__cause__)

    monkeypatch.setattr(PermanentError, "__reduce__", reduced)


def _made(args: tuple[str], metadata: dict[str, object], cause: BaseException | None) -> PermanentError:
    error = PermanentError(*args, metadata=metadata)
    error.__cause__ = cause
    return error


@pytest.mark.usefixtures("with_causes")
@pytest.mark.parametrize(
    ("make_provider", "cause"),
    [
        (refused_plainly, ValueError),
        (refused_with_a_lock, type(None)),
        (refused_with_no_way_back, type(None)),
        (refused_with_a_lock_noted, type(None)),
    ],
)
def test_a_failure_arrives_whatever_caused_it(tmp_path: Path, make_provider: Any, cause: Any) -> None:
    report = pickle.loads(pickle.dumps(run(tmp_path, make_provider)))
    assert isinstance(report.failure, PermanentError)
    assert (str(report.failure), report.failure.metadata["status"]) == ("no such key", 401)
    assert isinstance(report.failure.__cause__, cause)


def test_what_is_to_end_a_process_is_told_and_ends_no_worker(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the work on a shard was ended: SystemExit: no key is set"):
        run(tmp_path, ends_the_process)


PROGRAM = """
import sys
from executionkit import react, tool
from executionkit.datasets.travel import pickled

RATE = 3


@tool
def tripled(number: int) -> int:
    return RATE * number


sys.stdout.buffer.write(pickled(react([tripled]), "the stage"))
"""


@needs("cloudpickle")
def test_a_tool_of_the_program_itself_travels_to_workers() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    (made,) = pickle.loads(done.stdout).tools
    assert made.execute.function(2) == 6
