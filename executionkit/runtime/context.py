"""What a running stage may do: ask the model, run other stages, say how far it got.

The only state of a run lives here and in the ledger. A stage adds up nothing and catches nothing: each result
and each error is stamped with its cost on leaving the frame that `Context.run` puts around a stage.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from anyio import current_time
from anyio.lowlevel import checkpoint_if_cancelled, current_token
from msgspec.structs import replace
from returns.result import Failure, Success

from executionkit.core.budget import Owner, Refused
from executionkit.core.checks import check_count
from executionkit.core.dialect import JsonForm, Request, answers_billed, limited
from executionkit.core.foreign import attribute, described
from executionkit.core.journal import Effects, Kind
from executionkit.core.usage import NO_USAGE, TokenUsage, sane_usage
from executionkit.errors import BudgetExhaustedError, ExecutionKitError, StageError
from executionkit.errors.handling import unwrapped
from executionkit.events import Path, StageFinished, StageStarted, VoidReason
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolSpec, supports_tools
from executionkit.runtime.calls.completion import Completed, completion
from executionkit.runtime.calls.delivery import OnText
from executionkit.runtime.calls.errors import out_of_budget
from executionkit.runtime.frame import PASSED_ON, Frame
from executionkit.runtime.journal.entries import ToolEntry, key_for
from executionkit.runtime.tasks.cancellation import cancellations, name_of_end, stop_if_cancelled, taken_as
from executionkit.runtime.tasks.gather import gather
from executionkit.runtime.tracing import Leave, Span

__all__ = [
    "Attempted",
    "Context",
    "MeteredProvider",
    "Performer",
    "as_outcome",
    "aside",
    "call_key",
    "charged",
    "expect_journaled",
    "first_position",
    "journaled_call",
    "nothing_left",
    "perform",
    "replay_within",
    "run_group",
    "run_input",
    "span_below",
    "stage_span",
    "tighten",
    "using",
]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

Attempted: TypeAlias = Success[T] | Failure[ExecutionKitError]
"""What came of a piece of work: its value, or its failure."""


class Performer(Protocol[In_contra, Out_co]):
    """What a context can run: a `Stage`, seen from below."""

    @property
    def name(self) -> str:
        """What to call it in traces and messages."""
        ...

    @property
    def kind(self) -> str:
        """What it is, whatever it is called."""
        ...

    @property
    def figures(self) -> tuple[str, ...]:
        """The keys of its metadata that hold counts and measures."""
        ...

    async def perform(self, value: In_contra, context: "Context") -> PatternResult[Out_co]:
        """Do the work; an `ExecutionKitError` says that it failed."""
        ...


class Context:
    """The world as a running stage sees it. Made by `Stage.run`, never by hand."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame: Frame = frame
        """The runtime's own record of the stage; a pattern does without."""

    @property
    def cost(self) -> TokenUsage:
        """What this stage has spent so far, the stages below it included."""
        return self.frame.account.cost

    @property
    def left(self) -> TokenUsage | None:
        """What every budget above still allows; 0 in a field means no limit, None that one has run out."""
        return self.frame.account.left()

    @property
    def time_left(self) -> float:
        """Seconds to the run's deadline, infinite where it has none."""
        ends_at = self.frame.settings.ends_at
        return math.inf if ends_at is None else ends_at - current_time()

    @property
    def path(self) -> Path:
        """Where this stage is in the pipeline."""
        return self.frame.path

    @property
    def provider(self) -> "MeteredProvider":
        """The provider on this context's ledger: what to hand to evaluators, steps and other foreign code."""
        return MeteredProvider(self)

    def report(self, achieved: Callable[[], Mapping[str, object]]) -> None:
        """Say what an error leaving this stage shall carry as metadata; asked only if there is one."""
        self.frame.reports.append(achieved)

    def part(self, *at: int | str, provider: LLMProvider | None = None) -> "Context":
        """Return the context of a part of this stage, such as one sample or one round.

        Args:
            *at: Where the part is below this stage, told apart from its other parts. Its calls are known by
                that in traces and journals, so it must not depend on timing.
            provider: Whom the part asks; None for the same provider.
        """
        frame = self.frame.below((*self.frame.path, *at), is_stage=False)
        if provider is not None:
            frame.provider = provider
        return Context(frame)

    async def gather(
        self,
        work: Callable[[int], Awaitable[T]],
        count: int,
        limit: int,
        *,
        finish_on: tuple[type[Exception], ...] = (),
    ) -> list[T]:
        """Return `[await work(0), ..., await work(count - 1)]`; the first failure ends all.

        Args:
            work: A coroutine function of the index. What it asks belongs into `part(index)`.
            count: How many pieces there are.
            limit: How many are under way at once.
            finish_on: Classes of failure after which what is under way is awaited, not cancelled.

        Raises:
            ExecutionKitError: The first failure; others that came in meanwhile stand in its metadata as
                `other_failures` (tuple of str).
        """
        account, has_failed = self.frame.account, False

        def halt() -> None:
            nonlocal has_failed
            account.halts += not has_failed
            has_failed = True

        try:
            return await gather(work, count, limit, finish_on, halt)
        finally:
            account.halts -= has_failed

    async def run(
        self,
        stage: Performer[In, Out],
        value: In,
        *,
        at: int | str | None = None,
        is_answer: bool = False,
    ) -> PatternResult[Out]:
        """Run a stage below this one, on an account of its own.

        Args:
            stage: The stage.
            value: Its input.
            at: Where it is below this stage; None for the next by number.
            is_answer: Whether its answer is this stage's, as it is: under `stream` its text is then handed
                out as it comes in. See `void`.

        Raises:
            ExecutionKitError: It failed; stamped with what it cost.
        """
        path = self.frame.path_of(() if at is None else (at,))
        below = self.frame.below(path, is_stage=True)
        below.is_answer = is_answer and self.frame.is_answer
        return await perform(stage, value, below)

    def void(self, reason: VoidReason) -> None:
        """Take back what was handed out as text of this stage's answer: another answer is to follow.

        Args:
            reason: Why.
        """
        tracer = self.frame.settings.tracer
        if tracer is not None and self.frame.is_answer:
            tracer.void(reason)

    async def attempt(self, work: Callable[["Context"], Awaitable[T]]) -> Attempted[T]:
        """Do some work of this stage and return its failure as a value, stamped with what it cost.

        Args:
            work: A coroutine function of the context that it is to use.
        """
        frame = self.frame.below(self.frame.path, is_stage=False)
        frame.counts, frame.is_answer = self.frame.counts, self.frame.is_answer
        failure: ExecutionKitError
        before = cancellations()
        try:
            return Success(await work(Context(frame)))
        except ExecutionKitError as error:
            failure = error
        # A provider may have turned a cancellation into this failure: nothing is to follow it.
        await checkpoint_if_cancelled()
        await stop_if_cancelled(before, failure)
        return Failure(frame.stamped(failure))

    def answer(
        self,
        request: Request,
        *,
        at: Path = (),
        stream: bool = False,
        is_answer: bool = False,
        on_text: OnText | None = None,
    ) -> Awaitable[Completed]:
        """Ask the model: within every budget above, with the run's retries, on the ledger.

        Args:
            request: What to ask for, in neutral words; the server's dialect says how it is said.
            at: Where the call is below this stage, such as the number of a sample; with none it is the next.
            stream: Have the answer streamed where the provider can, its pieces sent to a trace that asked for
                content. Once text was sent, a failure is not retried.
            is_answer: Whether its text is this stage's answer: under `stream` it is then streamed whatever
                `stream` says, where this stage's answer is the run's.
            on_text: Told of the answer's text as it comes in, where it is streamed to somebody; what it
                returns is sent as further records of the call.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            LLMError: The last attempt failed.
        """
        asked = completion(self.frame, request, at=at, stream=stream, is_answer=is_answer, on_text=on_text)
        return asked.answer()

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        n: int = 1,
        form: JsonForm | None = None,
        logprobs: bool = False,
        stream: bool = False,
        is_answer: bool = False,
        **options: Any,
    ) -> LLMResponse:
        """Ask the model, as `answer` does, and return its response.

        Args:
            messages: The conversation in OpenAI's format.
            temperature: Sampling temperature; None leaves it to the provider.
            max_tokens: Output tokens at most; lowered where the budget has less left.
            tools: Tools the model may call.
            n: Answers asked for at once; they reserve `n * max_tokens`.
            form: The form that the answer shall have.
            logprobs: Whether to ask for the log-probabilities of the tokens.
            stream: As in `answer`.
            is_answer: As in `answer`.
            **options: Further request fields, sent as they are. The output limit is held to the budget under
                whatever name it comes; so is what the server may bill for `best_of` and the like.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            LLMError: The last attempt failed.
        """
        limit_name, billed = "", 1
        if options:
            max_tokens, limit_name, options = limited(options, max_tokens)
            billed = answers_billed(options)
        if max_tokens is not None:
            check_count("max_tokens", max_tokens)
        check_count("n", n)
        request = Request(
            messages, temperature, max_tokens, tools, n, form, logprobs, options, limit_name, billed
        )
        return (await self.answer(request, stream=stream, is_answer=is_answer)).response


class MeteredProvider:
    """A provider on a running stage's ledger: what evaluators, steps and other foreign code are handed.

    A stage that is run with it joins the ledger, the retries and the trace of the run it came from. It works
    until that run is over, in the event loop that the run belongs to.
    """

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def supports_tools(self) -> bool:
        """Whether the provider behind it says that its models can call tools."""
        return supports_tools(self._context.frame.provider)

    @property
    def frame(self) -> Frame:
        """The running stage, for a run that joins it."""
        return self._context.frame

    def __getattr__(self, name: str) -> Any:
        """Pass on what the provider behind it says of itself: its model, its dialect, its retry quota."""
        if name in PASSED_ON:
            return attribute(self._context.frame.provider, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Ask the model; see `Context.complete`.

        Raises:
            RuntimeError: It was taken to another event loop.
        """
        check_loop(self.frame)
        try:
            return await self._context.complete(
                messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
            )
        except ExecutionKitError as error:
            raise error.stamped(self._context.cost) from error.__cause__


def check_loop(frame: Frame) -> None:
    """Check that a ledger is used in the event loop that it is kept in.

    Raises:
        RuntimeError: It is not.
    """
    loop = frame.settings.loop
    if loop is not None and loop != current_token():
        raise RuntimeError(
            "a metered provider was taken to another event loop; await the run in the loop it came from"
        )


async def perform(stage: Performer[In, Out], value: In, frame: Frame) -> PatternResult[Out]:
    """Perform a stage in a frame and stamp what comes out of it.

    Raises:
        ExecutionKitError: It failed. What else it raised is the cause of a `StageError`.
    """
    span = frame.span
    leave: Leave | None = None
    if span is not None:
        span.send(StageStarted, stage=stage.name, kind=stage.kind)
        leave = span.enter()
    try:
        result = _checked(await stage.perform(value, Context(frame)), stage)
    except BaseException as raised:
        error = taken_as(raised)
        if isinstance(error, Exception):
            failure = frame.stamped(_as_failure(error, stage.name))
            _send_end(span, stage, frame, failure.metadata, error=type(failure).__name__)
            raise failure from failure.__cause__
        _send_end(span, stage, frame, frame.achieved, error=name_of_end(error))
        frame.hand_up()
        if error is raised:
            raise
        raise error from None
    finally:
        if leave is not None:
            leave()
    _send_end(span, stage, frame, result.metadata, score=result.score)
    return result.stamped(frame.account.cost, frame.account.told())


async def run_input(stage: Performer[In, Out], value: In, at: int | str, part: Frame) -> PatternResult[Out]:
    """Run a stage for one of many inputs, in the context that traces want for it.

    Raises:
        ExecutionKitError: It failed; stamped with what it cost.
    """
    leave = None if part.span is None else part.span.enter()
    try:
        return await Context(part).run(stage, value, at=at)
    finally:
        if leave is not None:
            leave()


def _send_end(
    span: Span | None,
    stage: Performer[Any, Any],
    frame: Frame,
    achieved: Mapping[str, object] | Callable[[], Mapping[str, object]],
    *,
    score: float | None = None,
    error: str | None = None,
) -> None:
    if span is None:
        return
    known = achieved() if callable(achieved) else achieved
    told = {key: known.get(key) for key in stage.figures}
    span.send(
        StageFinished,
        stage=stage.name,
        duration=span.duration,
        cost=frame.account.cost,
        score=score,
        error=error,
        figures={key: figure for key, figure in told.items() if isinstance(figure, int | float)},
    )


def tighten(context: Context, limit: TokenUsage, stage: str = "the stage") -> None:
    """Give a stage a budget of its own, beside those above it."""
    frame = context.frame
    frame.account.tighten(limit, Owner(stage, frame.path))
    expect_journaled(frame)


def expect_journaled(frame: Frame) -> None:
    """Let a budget know what earlier lives of the run have paid below a stage."""
    recorder = frame.settings.recorder
    if recorder is not None:
        frame.account.expect(recorder.unpaid_below(frame.path))


def call_key(context: Context) -> str:
    """Return the idempotency key of a tool's call: the same one in every life of a journaled run."""
    frame = context.frame
    return frame.key or key_for(frame.settings.nonce, frame.path)


def journaled_call(
    context: Context, kind: Kind, tool: str, arguments: Mapping[str, Any], effects: Effects = "none"
) -> ToolEntry | None:
    """Return what the run's journal knows of a tool's call, or of the decision on it; None without one.

    Raises:
        JournalMismatchError: It is another call than before, and may have had an effect, or one since.
    """
    frame = context.frame
    recorder = frame.settings.recorder
    if recorder is None or not recorder.keeps_tools:
        return None
    return recorder.tool(kind, frame.path, tool, arguments, effects)


def replay_within(context: Context) -> None:
    """Count what an earlier life paid for calls within something that is not done again."""
    frame = context.frame
    if frame.settings.recorder is not None:
        for charge in frame.settings.recorder.charges_within(frame.path):
            frame.account.replay(charge)


async def run_group(
    context: Context, stage: Performer[In, Out], value: In, first: int, *, is_answer: bool
) -> PatternResult[Out]:
    """Run a named group of parts below a stage, their positions counted on from `first`.

    So a name changes no path: the parts have those that they had without it.
    """
    frame = context.frame.below(context.frame.path, is_stage=True)
    frame.first, frame.is_answer = first, is_answer and context.frame.is_answer
    return await perform(stage, value, frame)


def first_position(context: Context) -> int:
    """Return the position of the first part of a stage: not 0 in a named group."""
    return context.frame.first


def nothing_left(context: Context, what: str) -> BudgetExhaustedError:
    """Return the error for something that cannot begin, since a budget has run out."""
    refused = context.frame.account.spent_out() or Refused("")
    return out_of_budget(replace(refused, reason=f"nothing is left for {what}"))


def using(context: Context, provider: LLMProvider) -> Context:
    """Return the context of the same stage, asking another provider."""
    return Context(context.frame.twin(provider, is_answer=context.frame.is_answer))


def aside(context: Context) -> Context:
    """Return the context of the same stage, for work whose answer is not the stage's."""
    return Context(context.frame.twin(is_answer=False))


def span_below(context: Context) -> Span | None:
    """Number something that begins within a stage; None where nobody traces."""
    span = context.frame.span
    return None if span is None else span.below(context.frame.path)


def stage_span(context: Context) -> Span | None:
    """Return what a stage is in the trace; None where nobody traces."""
    return context.frame.span


async def charged(context: Context, call: Callable[[], Awaitable[PatternResult[Out]]]) -> PatternResult[Out]:
    """Await foreign code that reports its own cost, and charge what it spent past the ledger."""
    before = context.cost
    try:
        result = await call()
    except Exception as raised:
        error = unwrapped(raised)
        if isinstance(error, ExecutionKitError):
            _charge_difference(context, error.cost, before)
            raise error from error.__cause__
        raise
    _charge_difference(context, result.cost, before)
    return result


def _charge_difference(context: Context, declared: TokenUsage, before: TokenUsage) -> None:
    missing = (sane_usage(declared) or NO_USAGE) - (context.cost - before)
    context.frame.account.charge(missing.if_positive())


async def as_outcome(pending: Awaitable[PatternResult[Out]]) -> Outcome[Out]:
    """Await a result and return its failure as a value that holds on to no frame."""
    try:
        return Success(await pending)
    except ExecutionKitError as error:
        failure = error
    return Failure(failure.stamped(failure.cost))


def _checked(result: PatternResult[Out], stage: Performer[In, Out]) -> PatternResult[Out]:
    if _is_result(result):
        return result
    raise StageError(f"stage {stage.name} returned {type(result).__name__} instead of a PatternResult")


def _is_result(result: object) -> bool:
    return isinstance(result, PatternResult)


def _as_failure(raised: Exception, stage: str) -> ExecutionKitError:
    error = unwrapped(raised)
    if isinstance(error, ExecutionKitError):
        return error
    failure = StageError(f"stage {stage} raised {described(error)}")
    failure.__cause__ = error
    return failure
