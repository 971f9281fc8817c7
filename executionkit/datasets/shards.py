"""What runs a stage for some of the rows of a data set, in this process, on whatever engine."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeVar

import msgspec

from executionkit.batch import Batch, Key, Source
from executionkit.core.durations import Durations
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.core.window import Adaptive
from executionkit.datasets.log import Log
from executionkit.errors import ExecutionKitError
from executionkit.events import Trace
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import RetryConfig
from executionkit.stage import Stage

__all__ = ["Job", "Report", "run_rows"]

A = TypeVar("A")
B = TypeVar("B")


class Job(msgspec.Struct, Generic[A, B], frozen=True):
    """What is to be done with each row. It travels to where that is done.

    Args:
        stage: What is run.
        make_provider: Returns the model to ask; called there.
        key: What a row is known by.
        max_concurrency: As in `Stage.over`.
        retry: As in `Stage.over`.
        trace: As in `Stage.over`.
        ends_at: When no more time is left, in seconds since 1970; None for never.
        takes_anywhere: Whether an answer of an earlier life is taken by what was asked.
    """

    stage: Stage[A, B]
    make_provider: Callable[[], LLMProvider]
    key: Callable[[A], Key]
    max_concurrency: int | Adaptive
    retry: RetryConfig | None
    trace: Trace | None
    ends_at: float | None
    takes_anywhere: bool


class Report(msgspec.Struct):
    """What came of rows.

    Args:
        rows: Rows that are over.
        failures: How many of them failed, by the class of their error.
        cost: What all cost, with what earlier lives paid for their calls.
        durations: How long each took.
        resumed: Rows whose calls earlier lives had paid for.
        failure: What ended them before the last row.
    """

    rows: int = 0
    failures: Counter[str] = msgspec.field(default_factory=Counter[str])
    cost: TokenUsage = NO_USAGE
    durations: Durations = msgspec.field(default_factory=Durations)
    resumed: int = 0
    failure: ExecutionKitError | None = None


async def run_rows(job: Job[A, B], rows: Source[A], log: Log, max_cost: TokenUsage | None) -> Report:
    """Run a stage for rows, and keep what comes out.

    Args:
        job: What to do.
        rows: The rows that no earlier life has answered.
        log: Where it is kept.
        max_cost: The budget of all rows, with what earlier lives paid for their calls.

    Raises:
        OSError: The log cannot be written.
    """
    async with AsyncExitStack() as stack:
        provider = await _entered(stack, checked_provider(job.make_provider()))
        batch: Batch[A, B] = Batch(
            job.stage,
            rows,
            provider,
            key=job.key,
            max_concurrency=job.max_concurrency,
            keep=log.add,
            max_cost=max_cost,
            retry=job.retry,
            trace=job.trace,
            deadline=None if job.ends_at is None else max(0.001, job.ends_at - time.time()),
            journal=log,
        )
        try:
            async with batch:
                async for _ in batch:
                    pass
        finally:
            log.leave(batch.cost)
    if log.trouble is not None:
        raise log.trouble
    summary = batch.summary
    return Report(
        summary.rows,
        Counter(summary.failures),
        summary.cost + log.unneeded,
        batch.durations,
        summary.resumed,
        summary.failure,
    )


async def _entered(stack: AsyncExitStack, provider: LLMProvider) -> LLMProvider:
    """Open a provider that can be opened, and have it closed with the stack."""
    opened: Any = provider
    if hasattr(opened, "__aenter__"):
        await stack.enter_async_context(opened)
    elif callable(getattr(opened, "aclose", None)):
        stack.push_async_callback(opened.aclose)
    return provider
