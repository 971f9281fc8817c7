"""A stage over any number of rows: `Stage.over` makes a `Batch`, `Stage.over_sync` a `SyncBatch`."""

import time
import warnings
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

import msgspec
from anyio.lowlevel import checkpoint_if_cancelled
from returns.result import Failure

from executionkit.core.checks import check_count, check_flag, check_function
from executionkit.core.durations import Durations
from executionkit.core.foreign import described
from executionkit.core.journal import ROWS_OF_A_BATCH
from executionkit.core.money import money_text
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.core.window import Adaptive
from executionkit.errors import ExecutionKitError, StageError, StoppedError
from executionkit.events import Trace
from executionkit.outcome import Outcome
from executionkit.provider import LLMProvider
from executionkit.retry import RetryConfig
from executionkit.runtime.calls.windows import Windows
from executionkit.runtime.context import Performer
from executionkit.runtime.journal.given import RunJournal
from executionkit.runtime.journal.recorder import Recorder
from executionkit.runtime.ledger.lending import Lender
from executionkit.runtime.rows import Key, Row, Rows, Source
from executionkit.runtime.run import check_journal, check_run, run_stage
from executionkit.runtime.tasks.background import Background, read_in_one_piece
from executionkit.runtime.tasks.cancellation import is_cancellation
from executionkit.runtime.tasks.handover import Handover

__all__ = ["Batch", "Key", "Row", "Source", "Summary", "SyncBatch", "check_source"]

A = TypeVar("A")
B = TypeVar("B")


class Summary(msgspec.Struct, frozen=True):
    """What came of a batch. As text it is a few lines for a person.

    Args:
        rows: Rows that are over.
        failed: Rows that failed.
        failures: How many of them by the class of their error.
        cost: What all rows cost.
        seconds: Seconds since the first row was asked for.
        p50: Seconds that half of the rows took at most, to one per cent.
        p95: Seconds that 19 of 20 rows took at most.
        failure: What ended the batch before its last row; None where nothing did.
        resumed: Of the rows, those that an earlier life has paid for, by the journal or by the state of
            `map_dataset`.
    """

    rows: int
    failed: int
    failures: Mapping[str, int]
    cost: TokenUsage
    seconds: float
    p50: float
    p95: float
    failure: ExecutionKitError | None = None
    resumed: int = 0

    def __str__(self) -> str:
        """Say it in lines."""
        cost = self.cost
        money = "" if cost.usd is None else f", {money_text(cost.usd)}"
        tokens = f"{cost.input_tokens:,} + {cost.output_tokens:,} tokens"
        resumed = f", {self.resumed:,} done before" if self.resumed else ""
        lines = [
            f"{self.rows:,} rows in {self.seconds:.1f} s, {self.failed:,} failed{resumed}",
            f"cost: {cost.llm_calls:,} calls, {tokens}{money}",
            f"a row took {self.p50:.3g} s (median), {self.p95:.3g} s (95th percentile)",
        ]
        most_first = sorted(self.failures.items(), key=lambda item: (-item[1], item[0]))
        lines.extend(f"{name}: {count:,}" for name, count in most_first)
        if self.failure is not None:
            lines.append(f"ended early: {described(self.failure)}")
        return "\n".join(lines)


class Batch(Generic[A, B]):
    """A stage over rows; `Stage.over` makes one.

    An async context manager, and within that an async iterator of `Row`: each row's key, its value, and an
    outcome with a cost of its own. Nothing is pulled or sent before the first row is asked for. Rows are run
    in a task of their own, so that a pull that is cancelled loses nothing. Leaving the block ends the batch:
    no more is bought, exchanges with servers are broken off, what arrived is settled, and no task is left.

    ::

        async with pipeline.over(rows, provider, key=lambda row: row.id, max_cost=budget) as batch:
            async for row in batch:
                match row.outcome:
                    case Success(result):
                        print(row.key, result.value)
                    case Failure(error):
                        print(row.key, error)
        if batch.failure is not None:  # it ended before the last row
            print(batch.failure)

    One task may read at a time.
    """

    def __init__(
        self,
        stage: Performer[A, B],
        rows: Source[A],
        provider: LLMProvider,
        *,
        key: Callable[[A], Key],
        max_concurrency: int | Adaptive = Adaptive(),  # noqa: B008 - a frozen value
        on_error: Literal["collect", "fail"] = "collect",
        ordered: bool = False,
        ahead: int = 1000,
        keep: Callable[[Row[A, B]], None] | None = None,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | tuple[Trace, ...] | None = None,
        deadline: float | None = None,
        journal: RunJournal | None = None,
        lender: Lender | None = None,
    ) -> None:
        check_run(provider, max_cost, retry, trace, deadline)
        check_journal(journal, provider)
        check_source(rows)
        check_function("key", key)
        check_flag("ordered", ordered)
        check_count("ahead", ahead)
        if on_error not in {"collect", "fail"}:
            raise ValueError(f'on_error must be "collect" or "fail", not {on_error!r}')
        windows = Windows(max_concurrency) if isinstance(max_concurrency, Adaptive) else None
        if not isinstance(max_concurrency, Adaptive):
            check_count("max_concurrency", max_concurrency)
        self._rows: Rows[A, B] = Rows(
            stage,
            rows,
            key,
            limit=max_concurrency.most if isinstance(max_concurrency, Adaptive) else max_concurrency,
            windows=windows,
            on_error=on_error,
            ordered=ordered,
            ahead=ahead,
            keep=keep,
        )
        run = partial(
            run_stage,
            self._rows,
            provider,
            None,
            max_cost=max_cost,
            retry=retry,
            trace=trace,
            deadline=deadline,
            windows=windows,
            journal=None if journal is None else _OfRows(journal, stage),
            asks_again=partial(getattr, self._rows, "has_failed_calls"),
            lender=lender,
        )
        self._run: _Run = _Run(self._rows, run)
        self._name = f"the batch of {stage.name}"
        self._limit = checked_budget(max_cost) or NO_USAGE
        self._task: Background | None = None
        self._is_reading = False

    @property
    def cost(self) -> TokenUsage:
        """What all rows have cost so far, those under way included; after the block what they cost in all."""
        return self._rows.cost

    @property
    def left(self) -> TokenUsage | None:
        """What the budget still allows; 0 in a field means no limit, None that it has run out."""
        context = self._rows.context
        return self._limit if context is None else context.left

    @property
    def done(self) -> int:
        """How many rows are over, failed ones included."""
        return self._rows.durations.count

    @property
    def failed(self) -> int:
        """How many rows failed."""
        return self._rows.failed

    @property
    def failure(self) -> ExecutionKitError | None:
        """What ended the batch before its last row, with the cost of all; None where nothing did so far.

        A failure that all rows share: a status 401, 402, 403 or 404, a used up quota, a wait for
        longer than the retries' `max_delay`, a closed provider, the budget or the deadline. With
        `on_error="fail"` the first failure. A `StageError` where rows could not be read, a
        `StoppedError` where the block was left.
        """
        return self._run.failure

    @property
    def unread(self) -> tuple[Row[A, B], ...]:
        """The rows that are over and were not read: also those of a batch that was left."""
        return tuple(self._rows.ready)

    @property
    def durations(self) -> Durations:
        """How long each row took that is over."""
        return self._rows.durations

    @property
    def summary(self) -> Summary:
        """What has come of it so far, also as a text of a few lines."""
        rows = self._rows
        return Summary(
            rows=rows.durations.count,
            failed=rows.failed,
            failures=MappingProxyType(dict(rows.failures)),
            cost=rows.cost,
            seconds=self._run.seconds,
            p50=rows.durations.quantile(0.5),
            p95=rows.durations.quantile(0.95),
            failure=self.failure,
            resumed=rows.resumed,
        )

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a batch is entered once; make another with `stage.over(...)`")
        read_in_one_piece(Batch)
        self._task = Background(self._run.work, self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the batch, if it has not ended. Leaving the block does this."""
        task, run = self._task, self._run
        if task is not None and not run.is_over:
            run.stop()
            await task.stop()
        run.leave()
        if task is not None:
            task.raise_interrupt()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Row[A, B]:
        if not self._rows.ready:
            await self._arrival()
        return self._rows.take()

    async def _arrival(self) -> None:
        """Wait for the next row.

        Raises:
            StopAsyncIteration: There is none.
        """
        task, run = self._task, self._run
        if task is None:
            raise RuntimeError("enter the batch first: `async with stage.over(...) as batch`")
        if self._is_reading:
            raise RuntimeError("another task is reading this batch; one at a time may")
        if not (task.is_started or run.is_over):
            task.start()
        self._is_reading = True
        try:
            while not self._rows.ready:
                if run.is_over:
                    task.raise_interrupt()
                    raise StopAsyncIteration
                # A task that is woken again and again is never found waiting, so that no scope cancels it.
                await checkpoint_if_cancelled()
                await self._rows.arrival(task.waiter())
        finally:
            self._is_reading = False

    async def several(self) -> "list[Row[A, B]]":
        """Return the rows that are there, at least one; none after the last."""
        if not self._rows.ready:
            try:
                await self._arrival()
            except StopAsyncIteration:
                return []
        return [self._rows.take() for _ in range(len(self._rows.ready))]

    def __del__(self) -> None:
        task = getattr(self, "_task", None)
        if task is not None and task.stop_soon():
            warnings.warn(
                f"{self._name} was dropped before it was closed; use `async with`",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class _OfRows:
    """The journal of a batch: the pipeline is that of its rows, which have no end to be compared by.

    Args:
        journal: The journal of the run.
        stage: What is run for each row.
    """

    def __init__(self, journal: RunJournal, stage: object) -> None:
        self._journal = journal
        self._stage = stage

    async def open(self, stage: object, value: object) -> Recorder:  # noqa: ARG002
        """Take the run up, or begin it."""
        return await self._journal.open(self._stage, ROWS_OF_A_BATCH)


class _Run:
    """The run behind a batch. It does not know the batch, so that one that is dropped can be collected."""

    def __init__(self, rows: Rows[Any, Any], start: Callable[[], Awaitable[Outcome[None]]]) -> None:
        self._rows = rows
        self._start = start
        self._is_stopped = False
        self._began = self._ended = 0.0
        self.is_over: bool = False
        self.failure: ExecutionKitError | None = None

    @property
    def seconds(self) -> float:
        """Seconds it has taken so far, or took."""
        if not self._began:
            return 0.0
        return (self._ended or time.perf_counter()) - self._began

    async def work(self) -> None:
        self._began = time.perf_counter()
        try:
            outcome = await self._start()
            if isinstance(outcome, Failure) and not self._is_stopped:
                self.failure = outcome.failure()
        except Exception as raised:
            error = StageError(f"the batch could not be run: {described(raised)}")
            error.__cause__ = raised
            self.failure = error.stamped(self._rows.cost)
        except BaseException as raised:
            if not is_cancellation(raised):
                raise  # the batch raises what is to end the process
            if not self._is_stopped:
                error = StageError("the batch's task was cancelled by somebody else")
                self.failure = error.stamped(self._rows.cost)
        finally:
            self.leave()

    def stop(self) -> None:
        """Let it buy nothing more, from this very moment on."""
        self._is_stopped = True
        self._rows.halt()

    def leave(self) -> None:
        """Note that nothing more comes, and tell whoever waits."""
        if self._is_stopped and not self.is_over:
            self._rows.leave_behind()
            error = StoppedError("the batch was left before its last row")
            self.failure = error.stamped(self._rows.cost, self._rows.counted())
        self._ended = self._ended or time.perf_counter()
        self.is_over = True
        self._rows.tell()


class SyncBatch(Generic[A, B]):
    """A stage over rows, from a script without `await`; `Stage.over_sync` makes one.

    A context manager, and within that an iterator: otherwise like `Batch`. The rows are pulled and run in a
    thread of their own, which ends with the block.

    Raises:
        RuntimeError: An event loop runs in this thread.
    """

    def __init__(self, batch: Batch[A, B]) -> None:
        self._batch = batch
        self._rows: Handover[Row[A, B]] = Handover(batch, batch.several, what="batch", method="over_sync")

    @property
    def cost(self) -> TokenUsage:
        """As in `Batch`."""
        return self._batch.cost

    @property
    def left(self) -> TokenUsage | None:
        """As in `Batch`."""
        return self._batch.left

    @property
    def done(self) -> int:
        """As in `Batch`."""
        return self._batch.done

    @property
    def failed(self) -> int:
        """As in `Batch`."""
        return self._batch.failed

    @property
    def failure(self) -> ExecutionKitError | None:
        """As in `Batch`."""
        return self._batch.failure

    @property
    def unread(self) -> tuple[Row[A, B], ...]:
        """As in `Batch`."""
        return (*self._rows.ready, *self._batch.unread)

    @property
    def summary(self) -> Summary:
        """As in `Batch`."""
        return self._batch.summary

    def __enter__(self) -> Self:
        self._rows.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._rows.leave()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row[A, B]:
        return self._rows.take()


def check_source(rows: object) -> None:
    """Check that rows can be iterated over, and are not a text: the path of a file, say.

    Raises:
        TypeError: They cannot.
    """
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable | AsyncIterable):
        raise TypeError(f"rows are something to iterate over, plain or async, not {type(rows).__name__}")
