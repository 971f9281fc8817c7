"""A stage over a data set, file to file: rows are kept as they end, and the output is whole or not there."""

import os
from collections import Counter
from collections.abc import AsyncIterable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeVar

import msgspec
from returns.result import Failure

from executionkit.batch import Batch, Key, Row, Source, Summary
from executionkit.core.budget import left_of
from executionkit.core.checks import check_function
from executionkit.core.encoding import json_text
from executionkit.core.seen import Seen
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.core.window import Adaptive
from executionkit.datasets.files import FilePath, Record, format_of, record_of, whole, write_records
from executionkit.errors import BudgetExhaustedError
from executionkit.events import Trace
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import RetryConfig
from executionkit.runtime.rows import used_key
from executionkit.runtime.run import in_new_loop
from executionkit.stage import Stage

__all__ = ["map_dataset"]

A = TypeVar("A")
B = TypeVar("B")


def map_dataset(
    source: Source[A],
    target: FilePath,
    stage: Stage[A, B],
    make_provider: Callable[[], LLMProvider],
    *,
    key: Callable[[A], Key],
    max_cost: TokenUsage | None = None,
    state: FilePath | None = None,
    max_concurrency: int | Adaptive = Adaptive(),  # noqa: B008 - a frozen value
    retry: RetryConfig | None = None,
    trace: Trace | None = None,
    deadline: float | None = None,
) -> Summary:
    """Run a stage for each row of a data set, and write what comes out to a file.

    Each row is kept in the folder `state` at the moment it ends. A process that was killed is started again
    with the same call: rows that answered are not run again, rows that failed are, and what all of them cost
    counts against the budget. What rows had spent that were under way when it was killed is not known.
    `target` is written, in the columns of `write_rows`, once the source has ended, rows in the order in which
    they ended; or when the batch ended early, with the rows that there are.

    Args:
        source: The rows, as `read_rows` gives them, or anything else to iterate over.
        target: A file that ends in `.jsonl`, `.ndjson`, `.csv` or `.parquet`; what is there is replaced.
        stage: What is run for each.
        make_provider: Returns the model to ask. It is opened and closed here.
        key: What a row is known by, in this life and in those to come; see `Stage.over`.
        max_cost: The budget of all rows, over all lives.
        state: The folder of what was done; `target` with `.state` behind it if None. It may be deleted once
            the target is there. One process at a time may use it.
        max_concurrency: As in `Stage.over`.
        retry: As in `Stage.over`.
        trace: As in `Stage.over`.
        deadline: Seconds that this life may take.

    Returns:
        What came of it. Rows and cost are those of all lives; `resumed` are the rows that an earlier one had
        answered; failures, seconds and percentiles are this life's.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, or the state is that of another kind of file.
        RuntimeError: An event loop runs in this thread, or another process uses the state.
        OSError: The state or the target cannot be written.
    """
    format_of(target)
    check_function("key", key)
    check_function("make_provider", make_provider)
    limit = checked_budget(max_cost) or NO_USAGE
    folder = Path(state) if state is not None else Path(f"{os.fspath(target)}.state")
    with _opened(folder) as done:
        settings: dict[str, Any] = {
            "key": key,
            "max_concurrency": max_concurrency,
            "retry": retry,
            "trace": trace,
            "deadline": deadline,
        }
        run = partial(_run, source, stage, make_provider, done, limit, settings)
        summary = in_new_loop(run, "map_dataset")
        write_records(target, done.records())
    return summary


async def _run(
    source: Source[A],
    stage: Stage[A, B],
    make_provider: Callable[[], LLMProvider],
    done: "_Done",
    limit: TokenUsage,
    settings: dict[str, Any],
) -> Summary:
    key: Callable[[A], Key] = settings["key"]
    left = left_of(limit, done.cost)
    if left is None:
        spent = BudgetExhaustedError("not begun: earlier lives have spent the budget", cost=done.cost)
        failure = spent if await _has_more(source, key, done) else None
        return Summary(done.resumed, 0, {}, done.cost, 0.0, 0.0, 0.0, failure, done.resumed)
    async with AsyncExitStack() as stack:
        provider = await _entered(stack, checked_provider(make_provider()))
        before = done.cost
        batch: Batch[A, B] = Batch(
            stage, _rest(source, key, done), provider, max_cost=left, keep=done.add, **settings
        )
        try:
            async with batch:
                async for _ in batch:
                    pass
        finally:
            done.add_cost(batch.cost - (done.cost - before))  # of rows that were not over
    if done.trouble is not None:
        raise done.trouble
    summary = batch.summary
    failures = Counter(summary.failures)
    if done.repeated:
        failures["InvalidPromptError"] += done.repeated
    return msgspec.structs.replace(
        summary,
        rows=done.resumed + summary.rows + done.repeated,
        failed=summary.failed + done.repeated,
        failures=MappingProxyType(failures),
        cost=done.cost,
        resumed=done.resumed,
    )


async def _entered(stack: AsyncExitStack, provider: LLMProvider) -> LLMProvider:
    """Open a provider that can be opened, and have it closed with the stack."""
    opened: Any = provider
    if hasattr(opened, "__aenter__"):
        await stack.enter_async_context(opened)
    elif callable(getattr(opened, "aclose", None)):
        stack.push_async_callback(opened.aclose)
    return provider


def _rest(source: Source[A], key: Callable[[A], Key], done: "_Done") -> Source[A]:
    """Return the rows that no earlier life has answered."""
    if isinstance(source, AsyncIterable):
        return (row async for row in source if not done.knows(row, key))
    return (row for row in source if not done.knows(row, key))


async def _has_more(source: Source[A], key: Callable[[A], Key], done: "_Done") -> bool:
    rest = _rest(source, key, done)
    if isinstance(rest, AsyncIterable):
        async for _ in rest:
            return True
        return False
    return any(True for _ in rest)


class _Line(msgspec.Struct):
    """One line of what was done.

    Args:
        record: A row as it stands in the target; None where only a cost is to be counted.
        cost: What it cost.
        is_answer: Whether it has an answer, and is not to be run again.
    """

    record: dict[str, Any] | None
    cost: TokenUsage
    is_answer: bool = False


class _Done:
    """The rows that are over, in a file of lines that only grows while a life lasts.

    Args:
        path: The file. What earlier lives did is read, and rewritten without the rows that failed and without
            a line that was not finished; their cost stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answered = Seen()
        self._passed = Seen()
        self.cost: TokenUsage = NO_USAGE
        self.resumed: int = 0
        self.repeated: int = 0
        """Rows whose key an earlier row has that was not run again."""
        self.trouble: OSError | None = None
        """Why a row could not be kept."""
        answered = NO_USAGE
        with whole(path) as part, part.open("wb") as file:
            for line in self._lines():
                self.cost += line.cost
                if line.record is not None and line.is_answer:
                    self._answered.add(line.record["key"])
                    self.resumed += 1
                    answered += line.cost
                    file.write(_encoded(line))
            file.write(_encoded(_Line(None, self.cost - answered)))
        self._file: BinaryIO = path.open("ab", buffering=0)

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
            self.repeated += 1
            self.add(Row(known, row, Failure(used_key(known))))
        return is_known

    def add(self, row: Row[Any, Any]) -> None:
        """Keep a row that is over.

        Raises:
            OSError: It cannot be written.
        """
        outcome = row.outcome
        is_answer = not isinstance(outcome, Failure)
        cost: TokenUsage = outcome.unwrap().cost if is_answer else outcome.failure().cost
        self._write(_Line(record_of(row), cost, is_answer))

    def add_cost(self, cost: TokenUsage) -> None:
        """Keep what rows cost that were not over when this life ended."""
        if cost != NO_USAGE:
            self._write(_Line(None, cost))

    def records(self) -> Iterator[Record]:
        """Return the rows, in the order in which they ended."""
        return (line.record for line in self._lines() if line.record is not None)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: _Line) -> None:
        self.cost += line.cost
        try:
            self._file.write(_encoded(line))
        except OSError as error:
            self.trouble = error
            raise

    def _lines(self) -> Iterator[_Line]:
        """Yield the lines of the file; the last may be half of one, of a life that was killed.

        Raises:
            ValueError: A line before the last cannot be read.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield _DECODER.decode(line)
                except msgspec.MsgspecError as error:
                    if lines.read(1):
                        raise ValueError(f"{self._path}, line {number}: {error}; it was changed") from error


_DECODER: Final = msgspec.json.Decoder(_Line)


def _encoded(line: _Line) -> bytes:
    try:
        return msgspec.json.encode(line) + b"\n"
    except (UnicodeEncodeError, ValueError, TypeError):  # lone surrogates, numbers that JSON has not
        return json_text(msgspec.to_builtins(line, enc_hook=str)).encode() + b"\n"


@contextmanager
def _opened(folder: Path) -> Generator[_Done, None, None]:
    """Open what was done, for this process alone.

    Raises:
        RuntimeError: Another process uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as lock:
        _lock(lock, folder)
        done = _Done(folder / "rows.jsonl")
        try:
            yield done
        finally:
            done.close()


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RuntimeError(f"another process uses the state in {folder}") from error
