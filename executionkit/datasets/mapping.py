"""A stage over a data set, file to file: rows are kept as they end, and the output is whole or not there."""

import os
import time
from collections.abc import AsyncIterable, Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

from executionkit.batch import Key, Source, Summary, check_source
from executionkit.core.bounds import budget_text
from executionkit.core.budget import left_of
from executionkit.core.checks import check_function
from executionkit.core.foreign import method
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.core.window import Adaptive
from executionkit.datasets.engines import Engine, Local
from executionkit.datasets.files import FilePath, check_target, write_records
from executionkit.datasets.shards import Job, Report
from executionkit.datasets.state import State, check_folder, opened
from executionkit.errors import BudgetExhaustedError
from executionkit.events import Trace
from executionkit.journal.pipelines import pipelined
from executionkit.journal.runs import OnChange
from executionkit.provider import LLMProvider
from executionkit.retry import RetryConfig
from executionkit.runtime.run import check_deadline
from executionkit.runtime.tasks.event_loops import IN_A_THREAD, check_no_loop, in_new_loop
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
    engine: Engine = Local(),  # noqa: B008 - a frozen value
    max_cost: TokenUsage | None = None,
    state: FilePath | None = None,
    max_concurrency: int | Adaptive = Adaptive(),  # noqa: B008 - a frozen value
    retry: RetryConfig | None = None,
    trace: Trace | None = None,
    deadline: float | None = None,
    on_change: OnChange = "fail",
) -> Summary:
    """Run a stage for each row of a data set, and write what comes out to a file.

    Each row is kept in the folder `state` at the moment it ends, and until then each of its calls. A process
    that was killed is started again with the same call: rows that answered are not run again, rows that
    failed or were under way go on at the call where they were, and what all lives spent counts against the
    budget. A call that was under way is charged at its reservation, and made again. `target` is written, in
    the columns of `write_rows`, once the source has ended, rows in the order in which they ended; or when the
    batch ended early, with the rows that there are.

    Args:
        source: The rows, as `read_rows` gives them, or anything else to iterate over.
        target: A file that ends in `.jsonl`, `.ndjson`, `.csv` or `.parquet`; what is there is replaced.
        stage: What is run for each.
        make_provider: Returns the model to ask, called where that is done: on each worker, so that no key
            travels. What it returns is opened and closed.
        key: What a row is known by, in this life and in those to come; see `Stage.over`.
        engine: What runs the rows: `Local()` in this process, `Dask(client)` or `Ray()` on a cluster.
        max_cost: The budget of all rows, over all lives and workers.
        state: The folder of what was done; `target` with `.state` behind it if None. Made, or that of
            an earlier life; it may be deleted once `failure` is None and no failed row is to be asked again.
            One process at a time may use it; where an engine has workers on other machines, they see it under
            the same path.
        max_concurrency: As in `Stage.over`.
        retry: As in `Stage.over`.
        trace: As in `Stage.over`; where an engine has workers, it is called there.
        deadline: Seconds that this life may take.
        on_change: What to do where earlier lives ran another pipeline: `"fail"` ends with a
            `JournalMismatchError`, `"reuse"` keeps the rows that answered, and takes what was paid for others
            where the same is asked.

    Returns:
        What came of it. Rows and cost are those of all lives; `resumed` are the rows that an earlier one had
        answered; failures, seconds and percentiles are this life's.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, or a file of somebody else's in the state's folder has the
            name of one of the state.
        ModuleNotFoundError: The target is Parquet, and `pyarrow` is not installed.
        RuntimeError: An event loop runs in this thread (call it in another one), or another process uses
            the state.
        OSError: The state or the target cannot be written.
    """
    began = time.perf_counter()
    check_no_loop("map_dataset", IN_A_THREAD)  # before anything is written
    check_source(source)
    if not isinstance(cast("object", stage), Stage):
        raise TypeError(f"a stage is wanted, as complete() makes one, not {type(stage).__name__}")
    check_target(target)
    check_function("key", key)
    check_function("make_provider", make_provider)
    if on_change not in {"fail", "reuse"}:
        raise ValueError(f'on_change must be "fail" or "reuse", not {on_change!r:.80}')
    check_deadline(deadline)
    if method(engine, "run") is None:
        raise TypeError(f"an engine is Local(), Dask(client) or Ray(), not {type(engine).__name__}")
    limit = checked_budget(max_cost) or NO_USAGE
    job = Job(
        stage,
        make_provider,
        key,
        max_concurrency,
        retry,
        trace,
        None if deadline is None else time.time() + deadline,
        on_change == "reuse",
    )
    folder = Path(state) if state is not None else Path(f"{os.fspath(target)}.state")
    check_folder(folder, target)
    with opened(folder, pipelined(stage, prompts=False), on_change) as done:
        report = in_new_loop(partial(_run, job, source, done, limit, engine), "map_dataset")
        write_records(target, done.records())
    answered = done.written.pop(None, 0)
    return Summary(
        rows=answered + done.written.total(),
        failed=done.written.total(),
        failures=MappingProxyType({name: count for name, count in done.written.items() if name}),
        cost=done.cost,
        seconds=time.perf_counter() - began,
        p50=report.durations.quantile(0.5),
        p95=report.durations.quantile(0.95),
        failure=None if report.failure is None else report.failure.stamped(done.cost),
        resumed=done.resumed + report.resumed,
    )


async def _run(job: Job[A, B], source: Source[A], done: State, limit: TokenUsage, engine: Engine) -> Report:
    if done.failure is not None:
        return Report(failure=done.failure)
    spent = done.log.spent
    left = left_of(limit, spent)
    if left is not None:
        report = await engine.run(job, _rest(source, job.key, done), done, left)
        if isinstance(report.failure, BudgetExhaustedError) and spent != NO_USAGE:
            report.failure = _beside(report.failure, spent)
        return report
    if await _has_more(source, job.key, done):
        return Report(
            failure=BudgetExhaustedError("not begun: earlier lives have spent the budget; raise max_cost")
        )
    return Report()


def _beside(failure: BudgetExhaustedError, spent: TokenUsage) -> BudgetExhaustedError:
    """Return why nothing more was run; the figures in that are of what earlier lives had left."""
    told = BudgetExhaustedError(
        f"{failure.message}; beside that, earlier lives have spent {budget_text(spent)}",
        cost=failure.cost,
        metadata=failure.metadata,
    )
    told.__cause__ = failure.__cause__
    return told


def _rest(source: Source[A], key: Callable[[A], Key], done: State) -> Source[A]:
    """Return the rows that no earlier life has answered."""
    if isinstance(source, AsyncIterable):
        return (row async for row in source if not done.knows(row, key))
    return (row for row in source if not done.knows(row, key))


async def _has_more(source: Source[A], key: Callable[[A], Key], done: State) -> bool:
    rest = _rest(source, key, done)
    if isinstance(rest, AsyncIterable):
        async for _ in rest:
            return True
        return False
    return any(True for _ in rest)
