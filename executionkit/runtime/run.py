"""Opens a run: checks its arguments, makes its ledger and its trace, bounds its time."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from inspect import iscoroutinefunction
from typing import TypeVar, cast

import anyio
import sniffio
from anyio.lowlevel import checkpoint, current_token
from msgspec.structs import replace
from returns.result import Failure, Success

from executionkit.core.budget import Owner
from executionkit.core.checks import is_finite
from executionkit.core.foreign import attribute, described, is_kind, method
from executionkit.core.usage import TokenUsage, checked_budget
from executionkit.errors import DeadlineExceededError, JournalError, LLMError, StageError
from executionkit.events import RunFinished, RunStarted, WithContent
from executionkit.outcome import Outcome
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import RetryConfig, checked_retry
from executionkit.runtime.backlog import Backlog
from executionkit.runtime.calls.windows import Windows
from executionkit.runtime.context import (
    MeteredProvider,
    Performer,
    as_outcome,
    check_loop,
    expect_journaled,
    perform,
)
from executionkit.runtime.frame import Frame, Settings
from executionkit.runtime.journal.given import RecordsRuns, RunJournal
from executionkit.runtime.ledger.accounts import Account
from executionkit.runtime.ledger.lending import Lender, LentBudget
from executionkit.runtime.tasks.cancellation import let_interrupts_wait, taken_as
from executionkit.runtime.tasks.timeouts import finish_within
from executionkit.runtime.tracing import Span, Tracer, Traces, traces_in

__all__ = ["check_deadline", "check_journal", "check_run", "leave_behind", "run_stage"]

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
    trace: Traces | None,
    deadline: float | None,
    backlog: Backlog | None = None,
    opened: Callable[[Frame], None] | None = None,
    windows: Windows | None = None,
    journal: RunJournal | None = None,
    asks_again: Callable[[], bool] = lambda: False,
    lender: Lender | None = None,
) -> Outcome[Out]:
    """Run a stage on a ledger of its own; with a metered provider, on the ledger that it belongs to.

    Args:
        stage: The stage.
        provider: The model to ask.
        value: The input.
        max_cost: The budget of the whole run.
        retry: How transient failures are retried.
        trace: Receives the records of the run.
        deadline: Seconds the whole run may take.
        backlog: Receives them for the reader of a stream.
        opened: Told of the frame of the run, before anything is done in it.
        windows: How many calls each provider may have under way; None where that is fixed.
        journal: What earlier lives of the run have paid for, and where this one notes it.
        asks_again: Tells, at the end, whether calls that failed are to be asked again when the run is taken
            up, whatever it ended with.
        lender: Lends `max_cost` in pieces, where it is the budget of others as well.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A budget is negative, or a deadline not positive; or a run within a run has a journal.
    """
    if sniffio.current_async_library() == "trio":
        let_interrupts_wait(run_stage)
        let_interrupts_wait(MeteredProvider.complete)
    if attribute(provider, "records_runs") is True:
        if journal is not None:
            raise ValueError("all runs of a recorded provider are recorded already; leave journal out")
        records = cast("RecordsRuns", provider)
        provider, journal = records.provider, records.next_run()
    limit = check_run(provider, max_cost, retry, trace, deadline)
    check_journal(journal, provider)
    above = provider.frame.settings.tracer if isinstance(provider, MeteredProvider) else None
    told = traces_in(trace, with_installed=above is None)
    tracer = Tracer(told, above, backlog) if told or backlog is not None else None
    run = None if tracer is None else tracer.span()
    frame = _open(provider, retry, tracer, deadline, run)
    if windows is not None:
        frame.settings = replace(frame.settings, windows=windows)
    if opened is not None:
        opened(frame)
    if limit is not None:
        owner = Owner(stage.name, frame.path, is_run=True)
        if lender is None:
            frame.account.tighten(limit, owner)
        else:
            frame.account.take(LentBudget(frame.account.spent, limit, owner, lender))
        expect_journaled(frame)
    pending = _bounded if journal is None else partial(_journaled, journal, asks_again)
    if run is None:
        return await pending(frame, stage, value, deadline)
    started = run.started
    payer = None if above is None else above.run
    run.send(
        RunStarted,
        stage=stage.name,
        max_cost=limit,
        deadline=deadline,
        started=started,
        charged_to=payer,
    )
    return await _traced(frame, run, pending(frame, stage, value, deadline))


async def _journaled(
    journal: RunJournal,
    asks_again: Callable[[], bool],
    frame: Frame,
    stage: Performer[In, Out],
    value: In,
    deadline: float | None,
) -> Outcome[Out]:
    """Run with a journal: what earlier lives of the run paid counts, and is not paid again."""
    try:
        recorder = await journal.open(stage, value)
    except JournalError as failure:
        return Failure(failure.stamped(failure.cost))
    frame.settings = replace(frame.settings, recorder=recorder, nonce=recorder.nonce)
    expect_journaled(frame)
    try:
        outcome = await _bounded(frame, stage, value, deadline)
    except BaseException:
        _count_rest(frame)
        recorder.release()
        raise
    replayed = recorder.replayed
    _count_rest(frame)
    error = outcome.failure() if isinstance(outcome, Failure) else None
    told: dict[str, object] = {**frame.account.told()}  # with what of the rest was estimated, say
    if recorder.tells:
        told |= {"replayed": replayed, "unsettled_calls": recorder.lost}
    if recorder.diverged:
        told["diverged_calls"] = recorder.diverged
    try:
        with anyio.CancelScope(shield=True):
            await recorder.close(error, asks_again=isinstance(error, LLMError) or asks_again())
    except JournalError as broken:
        told["journal_error"] = str(broken)
    return _stamped(outcome, frame.account.cost, told)


def leave_behind(frame: Frame) -> None:
    """Note of a run that did not end when it was to: nothing is bought any more, and its cost is final."""
    if frame.account is frame.account.root:
        _count_rest(frame)
    frame.account.close()


def _count_rest(frame: Frame) -> None:
    """Count what earlier lives of a run paid for calls that this one did not come to."""
    recorder = frame.settings.recorder
    if recorder is not None:
        for charge in recorder.rest():
            frame.account.replay(charge)


def _stamped(outcome: Outcome[Out], cost: TokenUsage, told: Mapping[str, object]) -> Outcome[Out]:
    if isinstance(outcome, Failure):
        return Failure(outcome.failure().stamped(cost, totals=told))
    return Success(outcome.unwrap().stamped(cost, told))


def check_run(
    provider: LLMProvider,
    max_cost: TokenUsage | None,
    retry: RetryConfig | None,
    trace: Traces | None,
    deadline: float | None,
) -> TokenUsage | None:
    """Check the arguments of a run; return its budget.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A budget is negative, or a deadline not positive.
    """
    limit = checked_budget(max_cost)
    checked_retry(retry)
    check_deadline(deadline)
    _check_trace(trace)
    checked_provider(provider)
    return limit


def _open(
    provider: LLMProvider,
    retry: RetryConfig | None,
    tracer: Tracer | None,
    deadline: float | None,
    run: Span | None,
) -> Frame:
    """Return the frame of a run's first stage: on a ledger of its own, or within the run it belongs to.

    Raises:
        RuntimeError: A metered provider was taken to another event loop; a ledger is kept by one only.
    """
    ends_at = None if deadline is None else anyio.current_time() + deadline
    if not isinstance(provider, MeteredProvider):
        settings = Settings(retry, tracer, ends_at, current_token())
        frame = Frame(provider, Account(), settings, (), None if run is None else run.below(()))
        frame.is_answer = True
        return frame
    above = provider.frame
    check_loop(above)
    frame = above.below(above.path_of(()), is_stage=True)
    settings = above.settings
    ends = [end for end in (ends_at, settings.ends_at) if end is not None]
    frame.settings = replace(
        settings,
        retry=retry or settings.retry,
        tracer=tracer or settings.tracer,
        ends_at=min(ends, default=None),
    )
    if run is not None:
        frame.span, frame.is_answer = run.below(frame.path), True
    return frame


async def _bounded(
    frame: Frame, stage: Performer[In, Out], value: In, deadline: float | None
) -> Outcome[Out]:
    """Run to the end, or to the deadline: in a task of its own there, so that nothing keeps us beyond it."""
    try:
        if deadline is None:
            return await _outcome(frame, stage, value)
        return await finish_within(
            lambda: _outcome(frame, stage, value),
            deadline,
            name=f"the run of {type(stage).__name__}",
            keeps_shields=True,
        )
    except TimeoutError:
        frame.keep_to_itself()
        error = DeadlineExceededError(f"the run did not end within its deadline of {deadline} s")
        return Failure(frame.stamped(error))
    except RuntimeError as cancelled:  # somebody has cancelled every task there is, but not ours
        failure = StageError(f"the run's task was cancelled: {cancelled}")
        failure.__cause__ = cancelled
        return Failure(frame.stamped(failure))
    finally:
        frame.account.close()


async def _outcome(frame: Frame, stage: Performer[In, Out], value: In) -> Outcome[Out]:
    """Run, and let nothing out but the caller's cancellation and interrupts."""
    try:
        outcome = await as_outcome(perform(stage, value, frame))
    except BaseException as raised:
        error = taken_as(raised)
        if not isinstance(error, Exception):
            if error is raised:
                raise
            raise error from None
        failure = StageError(
            f"stage {type(stage).__name__} raised {described(error)}", cost=frame.account.cost
        )
        failure.__cause__ = error
        outcome = Failure(failure)
    frame.account.close()  # at once: what a task left behind buys from now on is in no cost
    if isinstance(outcome, Failure):
        await checkpoint()  # a loop over runs that fail at once would starve the event loop
    return outcome


async def _traced(frame: Frame, run: Span, pending: Awaitable[Outcome[Out]]) -> Outcome[Out]:
    error: str | None = "Cancelled"
    try:
        outcome = await pending
        error = type(outcome.failure()).__name__ if isinstance(outcome, Failure) else None
    finally:
        if error is not None:
            run.tracer.void("failed")
        account = frame.account
        elsewhere = account.caveats.paid_elsewhere
        run.send(RunFinished, duration=run.duration, cost=account.cost, paid_elsewhere=elsewhere, error=error)
    return outcome


def check_journal(journal: object, provider: object) -> None:
    """Check the journal of a run.

    Raises:
        TypeError: It is not the journal of one run.
        ValueError: It is that of a run within a run.
    """
    if journal is None:
        return
    if method(journal, "open") is None:
        raise TypeError(
            f"journal takes the journal of one run, journal.run(run_id), not {type(journal).__name__}"
        )
    if isinstance(provider, MeteredProvider):
        raise ValueError("a run within a run is kept in the journal of the run around it; leave journal out")


def _check_trace(trace: object) -> None:
    if trace is None:
        return
    if isinstance(trace, tuple):
        for each in cast("tuple[object, ...]", trace):
            _check_trace(each)
        return
    if not callable(trace):
        raise TypeError(f"a trace must be callable, or a tuple of such, not {type(trace).__name__}")
    if is_kind(trace.trace if isinstance(trace, WithContent) else trace, iscoroutinefunction):
        raise TypeError("a trace is a plain function: an async one would never be awaited")


def check_deadline(deadline: object) -> None:
    """Check the seconds that a run may take.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not positive, or not finite.
    """
    if deadline is None:
        return
    if not isinstance(deadline, (int, float)) or isinstance(deadline, bool):
        raise TypeError(f"a deadline is a number of seconds, not {type(deadline).__name__}")
    if not (is_finite(deadline) and deadline > 0):
        raise ValueError(f"a deadline must be positive and finite, not {deadline}")
