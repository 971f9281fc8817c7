"""Opens a run: checks its arguments, makes its ledger and its trace, bounds its time."""

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import sniffio
from returns.result import Failure

from executionkit.context import Context, MeteredProvider, Performer, Settings, as_outcome, new_context
from executionkit.core.usage import TokenUsage, checked_budget
from executionkit.errors import DeadlineExceededError
from executionkit.events import RunFinished, RunStarted, Trace
from executionkit.ledger import Account
from executionkit.loops import closing_at_exit
from executionkit.outcome import Outcome
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.tracing import Tracer

__all__ = ["in_new_loop", "run_stage"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")


async def run_stage(
    stage: Performer[In, Out],
    provider: LLMProvider,
    value: In,
    *,
    max_cost: TokenUsage | None,
    retry: RetryConfig | None,
    trace: Trace | None,
    deadline: float | None,
) -> Outcome[Out]:
    """Run a stage on a ledger of its own; with a metered provider, on the ledger that it belongs to.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A budget is negative, or a deadline not positive.
    """
    limit = checked_budget(max_cost)
    _check_retry(retry)
    _check_deadline(deadline)
    context = _open(checked_provider(provider), retry, trace, deadline)
    if limit is not None:
        context.tighten(limit)
    pending = _bounded(context, stage, value, deadline)
    return await (pending if trace is None else _traced(context, stage.name, pending, limit, deadline))


def in_new_loop(run: Callable[[], Awaitable[T]], what: str) -> T:
    """Run to the end on a new asyncio loop and close what was opened in it.

    Raises:
        RuntimeError: An event loop runs in this thread already.
    """
    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return anyio.run(_closing, run)
    raise RuntimeError(f"{what} can not be called inside a running {library} event loop; await it instead")


async def _closing(run: Callable[[], Awaitable[T]]) -> T:
    async with closing_at_exit():
        return await run()


def _open(
    provider: LLMProvider, retry: RetryConfig | None, trace: Trace | None, deadline: float | None
) -> Context:
    ends_at = None if deadline is None else anyio.current_time() + deadline
    tracer = None if trace is None else Tracer(trace)
    if isinstance(provider, MeteredProvider):
        return provider.context.joined(retry, tracer, ends_at)
    return new_context(provider, Account(), Settings(retry or DEFAULT_RETRY, tracer, ends_at))


async def _bounded(
    context: Context, stage: Performer[In, Out], value: In, deadline: float | None
) -> Outcome[Out]:
    if deadline is None:
        return await as_outcome(context.frame(stage, value))
    with anyio.move_on_after(deadline):
        return await as_outcome(context.frame(stage, value))
    error = DeadlineExceededError(f"the run did not end within its deadline of {deadline} s")
    return Failure(context.stamped(error))


async def _traced(
    context: Context,
    name: str,
    pending: Awaitable[Outcome[Out]],
    limit: TokenUsage | None,
    deadline: float | None,
) -> Outcome[Out]:
    context.send(RunStarted, stage=name, max_cost=limit, deadline=deadline)
    error: str | None = "Cancelled"
    try:
        outcome = await pending
        error = type(outcome.failure()).__name__ if isinstance(outcome, Failure) else None
    finally:
        context.send_end(RunFinished, cost=context.cost, error=error)
    return outcome


def _check_retry(retry: object) -> None:
    if not (retry is None or isinstance(retry, RetryConfig)):
        raise TypeError(f"retry must be a RetryConfig, not {type(retry).__name__}")


def _check_deadline(deadline: object) -> None:
    if deadline is None:
        return
    if not isinstance(deadline, (int, float)) or isinstance(deadline, bool):
        raise TypeError(f"a deadline is a number of seconds, not {type(deadline).__name__}")
    if not (math.isfinite(deadline) and deadline > 0):
        raise ValueError(f"a deadline must be positive and finite, not {deadline}")
