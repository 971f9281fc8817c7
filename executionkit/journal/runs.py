"""`Journal`: the runs of one file, and `JournalRun`, what `journal=` takes."""

import re
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, cast

from executionkit.core.canonical import fingerprint_of
from executionkit.core.checks import check_count, check_flag
from executionkit.core.encoding import json_text
from executionkit.core.foreign import described
from executionkit.core.journal import ROWS_OF_A_BATCH, Row, cost_of, digest_of, packed
from executionkit.core.past_runs import PastRuns, past_runs
from executionkit.core.portable import to_plain
from executionkit.errors import ExecutionKitError, JournalError, JournalMismatchError
from executionkit.journal.ownership import this_process
from executionkit.journal.pipelines import Pipelined, changes_between, pipelined
from executionkit.journal.store import Ended, Opened, RunInfo, Store, Write
from executionkit.journal.worker import Worker, this_loop
from executionkit.runtime.journal.recorder import Recorder
from executionkit.stage import Stage

__all__ = ["Journal", "JournalRun", "OnChange", "check_resolution", "resolved"]

OnChange: TypeAlias = Literal["fail", "reuse"]
"""What to do where the pipeline or the input is not the one that a run began with."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class Journal:
    """One file that keeps what runs have paid for, so that a run goes on where it was ended, at any moment.

    `with` or `async with` opens and closes it. One journal serves any number of runs, threads and event loops
    at once, and several processes may have the same file open.

    Args:
        path: The file, on a disk of this machine. Where there is none it is made, for its owner to read only.
        prompts: Whether to keep what was asked in plain text, beside its hash. Answers are kept in any case,
            keys never.
        power: Whether each note also survives that the machine loses its power; that costs milliseconds.
        most_bytes: Longest answer that is kept, about in bytes; a longer one is asked again on resume.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range.
        JournalError: On entering: the file cannot be used.

    >>> import tempfile
    >>> from executionkit import ScriptedProvider, complete
    >>> with tempfile.TemporaryDirectory() as folder, Journal(f"{folder}/runs.db") as journal:
    ...     provider = ScriptedProvider(["Paris"])
    ...     run = journal.run("capital of France")
    ...     first = complete().run_sync(provider, "What is it?", journal=run).unwrap()
    ...     again = complete().run_sync(provider, "What is it?", journal=run).unwrap()
    >>> again.value, again.cost == first.cost == again.metadata["replayed"], len(provider.requests)
    ('Paris', True, 1)
    """

    def __init__(
        self, path: str | Path, *, prompts: bool = False, power: bool = False, most_bytes: int = 2**24
    ) -> None:
        if not isinstance(cast("object", path), str | Path):
            raise TypeError(f"a journal needs the path of a file, not {type(path).__name__}")
        check_flag("prompts", prompts)
        check_flag("power", power)
        check_count("most_bytes", most_bytes)
        self.path: Final = Path(path)
        self.prompts: Final = prompts
        self.most_bytes: Final = most_bytes
        self._power = power
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        if self._worker is not None:
            raise JournalError("the journal is open already; several runs can share it")
        self._worker = Worker(self._open)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _open(self) -> Store:
        from executionkit.journal.sqlite import SQLiteStore  # `sqlite3` loads where it is used

        return SQLiteStore(self.path, power=self._power)

    @property
    def worker(self) -> Worker:
        """The thread that the file is used on.

        Raises:
            JournalError: The journal is not open.
        """
        if self._worker is None:
            raise JournalError("the journal is not open; use it as `with Journal(path) as journal:`")
        return self._worker

    def run(self, run_id: str, *, on_change: OnChange = "fail") -> "JournalRun":
        """Return the journal of one run, for `stage.run(..., journal=...)`.

        A run that was ended is taken up: what it has paid for is not paid again. Calls that were under way
        are charged at their reservation and asked again. Where a run had ended with a failure of the
        provider, the calls that failed are asked again, too.

        Args:
            run_id: What to call the run; any text.
            on_change: What to do where the pipeline or its input is not the one that the run began with:
                `"fail"` fails with a `JournalMismatchError`, `"reuse"` takes each answer by what was asked,
                wherever that stands now, so that only what is new is paid.

        Raises:
            TypeError: The name is not text.
            ValueError: It is empty, or `on_change` is neither.
        """
        _check_name(run_id)
        if on_change not in {"fail", "reuse"}:
            raise ValueError(f'on_change must be "fail" or "reuse", not {on_change!r:.80}')
        return JournalRun(self, run_id, on_change)

    def resolve(self, run_id: str, key: str, observation: str) -> None:
        """Say what came of a tool's call that nobody knows the end of; the run then goes on with that.

        Args:
            run_id: The run.
            key: `metadata["key"]` of the `UnsettledToolError`.
            observation: What the model is to see as the call's result.

        Raises:
            TypeError: An argument is not text.
            ValueError: The run's name is empty.
            JournalError: The run has no such call, or it has ended; or the file cannot be used.
            RunBusyError: The run is under way.
        """
        _check_name(run_id)
        check_resolution(key, observation)
        self.worker.call_now(lambda store: _resolve(store, run_id, key, observation))

    def runs(self) -> Sequence[RunInfo]:
        """Return what is known of each run, the oldest first.

        Raises:
            JournalError: The file cannot be read.
        """
        return self.worker.call_now(lambda store: store.runs())

    def rows(self, run_id: str) -> Sequence[Row]:
        """Return the calls of a run, in the order in which they were begun.

        Raises:
            TypeError: The name is not text.
            ValueError: It is empty.
            JournalError: There is no such run, or the file cannot be read.
        """
        _check_name(run_id)

        def read(store: Store) -> Sequence[Row]:
            return [*store.rows(_known(store, run_id).number)]

        return self.worker.call_now(read)

    def past_runs(self, pipeline: Stage[Any, Any] | str, *, most: int = 100) -> PastRuns:
        """Return what runs of a pipeline took that are over, to stand beside its `bounds`.

        Counted are the calls of runs that began and ended with this pipeline, all lives together, whatever
        their inputs were; the rows of a batch are none.

        Args:
            pipeline: The pipeline, or its fingerprint.
            most: How many runs to look at, the last ones.

        Raises:
            TypeError: It is neither, or `most` is no whole number.
            ValueError: `most` is below 1.
            JournalError: The file cannot be read.

        >>> import tempfile
        >>> from executionkit import ScriptedProvider, complete
        >>> with tempfile.TemporaryDirectory() as folder, Journal(f"{folder}/runs.db") as journal:
        ...     for name in ("one", "two"):
        ...         _ = complete().run_sync(ScriptedProvider("Paris"), name, journal=journal.run(name))
        ...     print(journal.past_runs(complete()))
        2 runs took 1 call, 2 output tokens
        """
        check_count("most", most)
        if isinstance(pipeline, Stage):
            pipeline = fingerprint_of(pipeline)
        if not isinstance(cast("object", pipeline), str):
            raise TypeError(f"past_runs takes a pipeline or its fingerprint, not {type(pipeline).__name__}")
        fingerprint, batch = pipeline, input_fingerprint(ROWS_OF_A_BATCH)

        def read(store: Store) -> PastRuns:
            alike = [info for info in store.runs() if info.pipeline == fingerprint and not info.generation]
            over = [info for info in alike if info.ended in {"answered", "failed"} and info.input != batch]
            last = over[-most:]
            answered = [store.rows(info.number) for info in last if info.ended == "answered"]
            costs = [cost_of([charge for row in rows for charge in row.body.charges]) for rows in answered]
            return past_runs(costs, failed=len(last) - len(answered))

        return self.worker.call_now(read)

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"


class JournalRun:
    """The journal of one run. `Journal.run` makes one.

    Args:
        journal: The journal.
        run_id: What the run is called.
        on_change: What to do where the pipeline has changed.
    """

    def __init__(self, journal: Journal, run_id: str, on_change: OnChange) -> None:
        self.journal: Final = journal
        self.run_id: Final = run_id
        self.on_change: Final = on_change

    def __repr__(self) -> str:
        return f"{self.journal!r}.run({self.run_id!r}, on_change={self.on_change!r})"

    async def open(self, stage: object, value: object) -> Recorder:
        """Take the run up, or begin it; the runtime does so.

        Raises:
            JournalMismatchError: The pipeline, or its input, is not the one that the run began with.
            RunBusyError: Another process, or another task, has the run.
            JournalError: The file cannot be used.
        """
        worker = self.journal.worker
        prompts = self.journal.prompts
        pipeline, given = pipelined(stage, prompts=prompts), input_fingerprint(value)

        taken: list[Opened] = []

        def give_back(store: Store) -> None:
            for opened in taken:
                worker.tokens.pop(opened.token, None)
                info = opened.info
                store.close_run(info.number, opened.token, info.ended, info.error, info.asks_again)

        def take(store: Store) -> tuple[Opened, list[Row], int]:
            opened = store.open_run(self.run_id, this_process())
            taken.append(opened)
            worker.tokens[opened.token] = opened.info.number
            try:
                return self._begin(store, opened, pipeline, given)
            except BaseException:
                give_back(store)
                raise

        try:
            opened, rows, generation = await worker.call(take)
        except JournalError:
            raise
        except BaseException:  # cancelled; it may be taken all the same
            worker.call_soon(give_back)
            raise
        info = opened.info
        return Recorder(
            _Sink(worker, info.number, opened.token),
            rows,
            generation=generation,
            nonce=info.nonce,
            takes_anywhere=self.on_change == "reuse" or generation > 0,
            asks_again=info.asks_again,
            keeps_prompts=self.journal.prompts,
            most_bytes=self.journal.most_bytes,
        )

    def _begin(
        self, store: Store, opened: Opened, pipeline: Pipelined, given: bytes
    ) -> tuple[Opened, list[Row], int]:
        info = opened.info
        rows = [*store.rows(info.number)]
        changes: list[str] = []
        has_begun = info.generation >= 0
        if has_begun and info.pipeline != pipeline.fingerprint:
            changes = [*changes_between(info.plan, pipeline)]
        if has_begun and info.input != given:
            changes.append("the input is another one")
        if changes and self.on_change == "fail":
            raise JournalMismatchError(
                f"the run {self.run_id!r} began otherwise: {'; '.join(changes)}; "
                'give it another name, or take its answers where they fit with on_change="reuse"',
                metadata={"changes": tuple(changes)},
            )
        generation = info.generation + bool(changes or not has_begun)
        if changes or not has_begun:
            store.begin_life(
                info.number, opened.token, pipeline.fingerprint, pipeline.plan, given, generation
            )
        return opened, rows, generation


class _Sink:
    """The rows of one run, on their way to the file, from the event loop that the run is in.

    Once a row cannot be packed none of the run is stored any more: what follows would stand on it.
    """

    def __init__(self, worker: Worker, number: int, token: str) -> None:
        self._worker = worker
        self._loop = this_loop()
        self._number = number
        self._token = token
        self._failure: JournalError | None = None

    def put(self, row: Row) -> None:
        try:
            write = self._packed(row)
        except JournalError:
            return
        self._worker.put(write)

    def commit(self, row: Row) -> Awaitable[object] | None:
        return self._worker.commit(self._packed(row), self._loop)

    def _packed(self, row: Row) -> Write:
        self._check()
        try:
            return self._number, self._token, packed(row)
        except Exception as error:  # noqa: BLE001 - whatever a provider has put into its answer
            self._failure = JournalError(
                f"the {row.kind} at path {[*row.path]} cannot be stored: {described(error)}"
            )
            self._failure.__cause__ = error
        raise self._failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.stamped(self._failure.cost)

    async def close(self, error: ExecutionKitError | None, *, asks_again: bool) -> None:
        if self._failure is not None:
            self.release()
        self._check()
        ended: Ended = "answered" if error is None else "failed"
        kind = "" if error is None else type(error).__name__
        await self._worker.call(lambda store: self._give_up(store, ended, kind, asks_again))

    def release(self) -> None:
        self._worker.call_soon(lambda store: self._give_up(store, "stopped", "", False))

    def _give_up(self, store: Store, ended: Ended, kind: str, asks_again: bool) -> None:
        """Give the run up; where that fails, it is once more when the journal is closed."""
        store.close_run(self._number, self._token, ended, kind, asks_again)
        self._worker.tokens.pop(self._token, None)


def _check_name(run_id: object) -> None:
    if not isinstance(run_id, str):
        raise TypeError(f"a run's name must be text, not {type(run_id).__name__}")
    if not run_id:
        raise ValueError("a run's name must not be empty")


def input_fingerprint(value: object) -> bytes:
    """Return what stands for the input of a run; empty for one that looks another in each process."""
    try:
        text = json_text(to_plain(value))
    except Exception:  # noqa: BLE001 - an input may be anything
        return b""
    return b"" if _ADDRESS.search(text) else digest_of(text)


def _known(store: Store, run_id: str) -> RunInfo:
    found = store.runs(run_id)
    if not found:
        raise JournalError(f"there is no run {run_id!r}")
    return found[0]


def _resolve(store: Store, run_id: str, key: str, observation: str) -> None:
    number = _known(store, run_id).number
    opened = store.open_run(run_id, this_process())
    info = opened.info
    try:
        row = resolved(store.rows(number), key, observation, f"the run {run_id!r}")
        store.write([(number, opened.token, packed(row))])
    finally:
        store.close_run(number, opened.token, info.ended, info.error, info.asks_again)


def check_resolution(key: object, observation: object) -> None:
    """Check what a person says of a tool's call.

    Raises:
        TypeError: It is not text.
    """
    for what, given in (("a call's key", key), ("an observation", observation)):
        if not isinstance(given, str):
            raise TypeError(f"{what} is text, not {type(given).__name__}")


def resolved(rows: Iterable[Row], key: str, observation: str, where: str) -> Row:
    """Return the row of a tool's call as one that has ended.

    Args:
        rows: Those of its run.
        key: What it is known by.
        observation: What came of it.
        where: What the rows are of, for an error.

    Raises:
        JournalError: There is no such call, or it has ended.
    """
    tools = [row for row in rows if row.kind == "tool" and row.body.key == key]
    if not tools:
        raise JournalError(f"{where} has no tool call with the key {key!r}")
    row = tools[-1]
    if row.state == "done":
        raise JournalError(f"that call of {row.body.tool} has ended: {row.body.text!r:.200}")
    row.body.text, row.body.fault, row.state = observation, None, "done"
    return row
