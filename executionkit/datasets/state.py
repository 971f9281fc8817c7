"""The folder that keeps what was done to a data set, from one life of the process to the next."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, TypeVar

from returns.result import Failure

from executionkit.batch import Key, Row
from executionkit.core.journal import Row as CallRow
from executionkit.core.journal import cost_of
from executionkit.core.seen import Seen
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.datasets.lines import FilePath, Record
from executionkit.datasets.log import Begun, Line, Log, lines_of, lock
from executionkit.errors import JournalMismatchError
from executionkit.journal.pipelines import Pipelined, changes_between
from executionkit.journal.runs import OnChange, check_resolution, resolved
from executionkit.runtime.rows import used_key

__all__ = [
    "PATIENCE",
    "BusyError",
    "Fold",
    "State",
    "locked",
    "opened",
    "resolve",
    "spent_in",
    "total_of",
]

A = TypeVar("A")

_MAIN: Final = "rows.jsonl"
_PARTS: Final = "part-*.jsonl"
_LOCK: Final = "lock"
PATIENCE: Final = 60.0
"""Seconds to wait for a worker that is cut off from the others, and still works on a shard."""
_OFTEN: Final = 0.05


class BusyError(RuntimeError):
    """Another process has what can be had by one only."""


class Fold:
    """What one file after another says: which rows are over, and the calls of those that are not.

    Args:
        asks_again: Whether rows that failed are not over, and their calls that failed are asked again.
        but: Classes of errors; rows that failed with one are not over in any case, nor are such calls.
    """

    def __init__(self, *, asks_again: bool, but: Collection[str] = ()) -> None:
        self._asks_again = asks_again
        self._but = but
        self._calls: dict[Key, dict[int, CallRow]] = {}
        self._file_of: dict[Key, int] = {}
        self._cost = NO_USAGE
        self.answered: Seen = Seen()

    def lines(self, files: Iterable[Iterable[Line]]) -> Iterator[Line]:
        """Yield the lines that say the same as files do: rows, then what else was spent, then calls.

        Args:
            files: The lines of each. What a later one says of a row's calls takes the place of what an
                earlier one said.
        """
        for number, lines in enumerate(files):
            for line in lines:
                if line.call is not None:
                    self._take(line.call, number)
                if self._is_over(line):
                    yield line
                else:
                    self._cost += line.cost
        yield Line(cost=self._cost)
        for number, row in enumerate(self._left()):
            row.seq = number
            yield Line(call=row)

    def _is_over(self, line: Line) -> bool:
        """Tell whether a row is over by a line, and not by an earlier one."""
        if line.record is None:
            return False
        if not line.is_answer:
            return not self._asks_again and _error_class(line.record) not in self._but
        key: Key = line.record["key"]
        self._calls.pop(key, None)
        return self.answered.add(key)

    def _take(self, row: CallRow, number: int) -> None:
        key = row.path[0]
        if self._file_of.get(key) != number or key not in self._calls:
            self._file_of[key], self._calls[key] = number, {}
        self._calls[key][row.seq] = row

    def _left(self) -> Iterator[CallRow]:
        for rows in self._calls.values():
            for _, row in sorted(rows.items()):
                row.lose()
                error = row.body.error
                if row.state == "done" and error and (self._asks_again or error.get("error") in self._but):
                    row.state, row.body.error = "open", None
                yield row


def spent_in(path: Path) -> TokenUsage:
    """Return what was spent since a file was begun; for a call under way what it had reserved.

    Raises:
        FileNotFoundError: The file is folded into another already.
    """
    lines = [*Fold(asks_again=False).lines([lines_of(path)])]
    begun = next(lines_of(path)).begun
    return total_of(lines) - (NO_USAGE if begun is None else begun.before)


def total_of(lines: Iterable[Line]) -> TokenUsage:
    """Return what lines say was spent."""
    costs = [line.cost for line in lines]
    charges = [charge for line in lines if line.call is not None for charge in line.call.body.charges]
    return sum(costs, start=cost_of(charges))


def _error_class(record: Record) -> str | None:
    """Name the class of the error that a row failed with; None where it answered."""
    error: str | None = record["error"]
    return None if error is None else error.partition(":")[0]


class State:
    """What earlier lives did, and what this one does.

    Args:
        folder: Where it is kept.
        pipeline: What is run.
        on_change: What to do where earlier lives ran something else.

    Attributes:
        begun: What is run.
        log: The file of this process.
        resumed: Rows that earlier lives answered.
        written: How many rows are over, by the class of their error; None for those that answered.
        cost: What all lives have spent, once `records` has returned the last row.
        failure: Why nothing can be run; None where it can.
    """

    def __init__(self, folder: Path, pipeline: Pipelined, on_change: OnChange) -> None:
        self.folder: Final = folder
        self._passed = Seen()
        self.written: Counter[str | None] = Counter()
        self.cost: TokenUsage = NO_USAGE
        self.failure: JournalMismatchError | None = None
        main = folder / _MAIN
        before = _begun_in(main) if main.exists() else None
        for part in self.parts():
            _begun_in(part)
        for name in () if before is None else before.folded:
            (folder / name).unlink(missing_ok=True)  # a process was killed before it had removed them
        for part in self.parts():
            with locked(part, f"a worker of an earlier life still works on {part}", patience=PATIENCE):
                pass
        self.begun: Begun = self._begin(before, pipeline, on_change)
        fold = Fold(asks_again=True)
        lines = fold.lines(map(lines_of, [path for path in [main, *self.parts()] if path.exists()]))
        self.log: Log = Log(main, self.begun, lines, takes_anywhere=on_change == "reuse")
        for part in self.parts():
            part.unlink()
        self._answered = fold.answered
        self.resumed: int = len(fold.answered)

    def _begin(self, before: Begun | None, pipeline: Pipelined, on_change: OnChange) -> Begun:
        folded = tuple([part.name for part in self.parts()])
        nonce = os.urandom(16).hex() if before is None else before.nonce
        if before is None or before.pipeline == pipeline.fingerprint or on_change == "reuse":
            return Begun(nonce, pipeline.fingerprint, pipeline.plan, folded)
        changes = changes_between(before.plan, pipeline)
        self.failure = JournalMismatchError(
            f"{self.folder} is the state of another pipeline: {'; '.join(changes)}; give this one another "
            'state, or keep the rows that answered, and take answers where they fit, with on_change="reuse"',
            metadata={"changes": tuple(changes)},
        )
        return Begun(nonce, before.pipeline, before.plan, folded)

    def parts(self) -> list[Path]:
        """Return the files of shards, in order."""
        return sorted(self.folder.glob(_PARTS))

    def knows(self, row: A, key: Callable[[A], Key]) -> bool:
        """Tell whether an earlier life has answered a row; one that has the key of another fails again."""
        if not self.resumed:
            return False
        try:
            known = key(row)
            is_known = known in self._answered
        except Exception:  # noqa: BLE001 - the batch says so of the row
            return False
        if is_known and not self._passed.add(known):
            self.log.add(Row(known, row, Failure(used_key(known))))
        return is_known

    def records(self) -> Iterator[Record]:
        """Return the rows that are over."""
        for line in Fold(asks_again=False).lines(map(lines_of, [self.folder / _MAIN, *self.parts()])):
            self.cost += line.cost
            if line.call is not None:
                self.cost += cost_of(line.call.body.charges)
            if line.record is not None:
                self.written[_error_class(line.record)] += 1
                yield line.record


def _begun_in(path: Path) -> Begun:
    """Return what was run where a file was written.

    Raises:
        ValueError: It is a file of somebody else's, which is not to be changed.
    """
    with suppress(ValueError):
        begun = next(lines_of(path), Line()).begun
        if begun is not None:
            return begun
    raise ValueError(f"{path} is no part of a state of map_dataset; name another folder as state, a new one")


def check_folder(folder: Path, target: FilePath) -> None:
    """Check that a state and what is written in the end keep out of each other's way.

    Raises:
        ValueError: They do not.
    """
    file, folder = Path(os.path.realpath(target)), Path(os.path.realpath(folder))
    if file == folder:
        raise ValueError(
            f"{os.fspath(target)!r} is the target, and cannot be the folder of the state as well"
        )
    if file.parent == folder and (file.name in {_MAIN, _LOCK} or fnmatch(file.name, _PARTS)):
        raise ValueError(
            f"{os.fspath(target)!r} is a file of the state; give the target another name or folder"
        )


@contextmanager
def opened(folder: Path, pipeline: Pipelined, on_change: OnChange) -> Generator[State, None, None]:
    """Open what was done, for this process alone.

    Raises:
        RuntimeError: Another process uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LOCK).touch()
    with locked(folder / _LOCK, f"another process uses the state in {folder}"):
        state = State(folder, pipeline, on_change)
        try:
            yield state
        finally:
            state.log.end()


def resolve(state: FilePath, key: str, observation: str) -> None:
    """Say what came of a tool's call that nobody knows the end of; `map_dataset` then goes on with that.

    Args:
        state: The folder of what was done: the target with `.state` behind it, unless another was named.
        key: `metadata["key"]` of the `UnsettledToolError`.
        observation: What the model is to see as the call's result.

    Raises:
        TypeError: The key or the observation is not text.
        ValueError: The folder is none of a state.
        JournalError: There is no such call, or it has ended.
        RuntimeError: Another process uses the state.
        OSError: The state cannot be written.
    """
    check_resolution(key, observation)
    folder = Path(state)
    if not (folder / _MAIN).exists():
        raise ValueError(f"there is no state of map_dataset in {folder}")
    before = _begun_in(folder / _MAIN)
    with opened(folder, Pipelined(before.pipeline, before.plan), "fail") as found:
        found.log.put(resolved(found.log.known, key, observation, f"the state in {folder}"))
        if found.log.trouble is not None:
            raise found.log.trouble


@contextmanager
def locked(path: Path, otherwise: str, *, patience: float = 0.0) -> Generator[None, None, None]:
    """Have a file for this process alone, as long as it lives.

    Args:
        path: The file.
        otherwise: What to say where another process has it.
        patience: Seconds to wait for another process.

    Raises:
        BusyError: Another process has it.
        FileNotFoundError: There is none.
    """
    with path.open("r+b") as file:
        give_up = time.monotonic() + patience
        while not lock(file):
            if time.monotonic() >= give_up:
                raise BusyError(otherwise)
            time.sleep(_OFTEN)
        yield
