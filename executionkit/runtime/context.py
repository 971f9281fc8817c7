"""What a running stage may do: ask the model, run other stages, say how far it got.

The only state of a run lives here and in the ledger. A stage adds up nothing and catches nothing: each result
and each error is stamped with its cost on leaving the frame that `Context.run` puts around a stage.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from anyio import current_time
from anyio.lowlevel import checkpoint_if_cancelled
from msgspec.structs import replace
from returns.result import Failure, Success

from executionkit.core.checks import check_count
from executionkit.core.frozen import EMPTY
from executionkit.core.usage import NO_USAGE, TokenUsage, sane_usage
from executionkit.errors import ExecutionKitError, StageError, described
from executionkit.events import Event, StageFinished, StageStarted
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolSpec, supports_tools
from executionkit.retry import RetryConfig
from executionkit.runtime.completion import Completion, Settings
from executionkit.runtime.gather import gather
from executionkit.runtime.ledger import Account, Request
from executionkit.runtime.tracing import Span, Tracer

__all__ = ["Context", "MeteredProvider", "Performer", "Settings", "as_outcome", "new_context"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Performer(Protocol[In_contra, Out_co]):
    """What a context can run: a `Stage`, seen from below."""

    @property
    def name(self) -> str:
        """What to call it in traces and messages."""
        ...

    async def perform(self, value: In_contra, context: "Context") -> PatternResult[Out_co]:
        """Do the work; an `ExecutionKitError` says that it failed."""
        ...


class Context:
    """The world as a running stage sees it. Made by `Stage.run`, never by hand."""

    __slots__ = ("_above", "_account", "_handed_up", "_provider", "_reports", "_settings", "_span")

    def __init__(
        self,
        provider: LLMProvider,
        account: Account,
        settings: Settings,
        span: Span | None,
        above: "Context | None" = None,
    ) -> None:
        self._provider = provider
        self._account = account
        self._settings = settings
        self._span = span
        self._reports: list[Callable[[], Mapping[str, object]]] = []
        self._above = above
        self._handed_up: Callable[[], Mapping[str, object]] | None = None

    @property
    def cost(self) -> TokenUsage:
        """What this stage has spent so far, the stages below it included."""
        return self._account.to_usage()

    @property
    def left(self) -> TokenUsage | None:
        """What every budget above still allows; 0 in a field means no limit, None that one has run out."""
        return self._account.left()

    @property
    def time_left(self) -> float:
        """Seconds to the run's deadline, infinite where it has none."""
        ends_at = self._settings.ends_at
        return math.inf if ends_at is None else ends_at - current_time()

    @property
    def provider(self) -> "MeteredProvider":
        """A provider on this context's ledger, to hand to evaluators, steps and other foreign code."""
        return MeteredProvider(self, supports_tools(self._provider))

    @property
    def endpoint(self) -> LLMProvider:
        """The provider itself, for what it says of itself; ask it through `complete` only."""
        return self._provider

    @property
    def retry(self) -> RetryConfig:
        """How the run retries what fails for now."""
        return self._settings.retry

    def report(self, achieved: Callable[[], Mapping[str, object]]) -> None:
        """Say what an error leaving this stage shall carry as metadata; asked only if there is one."""
        self._reports.append(achieved)

    def tighten(self, limit: TokenUsage) -> None:
        """Give this stage a budget of its own, beside those above it."""
        self._account.tighten(limit)

    def using(self, provider: LLMProvider) -> "Context":
        """Return this context, asking another provider."""
        bound = Context(provider, self._account, self._settings, self._span, self._above)
        bound._reports = self._reports
        return bound

    def below(self) -> "Context":
        """Return the context of a stage below this one."""
        return new_context(self._provider, Account(self._account), self._settings, self._span, self)

    def retrying(self, retry: RetryConfig) -> "Context":
        """Return a context below this one that retries in another way."""
        settings = replace(self._settings, retry=retry)
        return new_context(self._provider, Account(self._account), settings, self._span, self)

    def joined(
        self,
        retry: RetryConfig | None,
        tracer: Tracer | None,
        ends_at: float | None,
        run: Span | None,
        loop: object = None,
    ) -> "Context":
        """Return the context of a run within this one: on its ledger, its own settings where given.

        Raises:
            RuntimeError: The run belongs to another event loop; a ledger is kept by one only.
        """
        settings = self._settings
        if None not in (loop, settings.loop) and settings.loop != loop:
            raise RuntimeError(
                "a metered provider was taken to another event loop; await the run in the loop it came from"
            )
        ends = [end for end in (ends_at, settings.ends_at) if end is not None]
        joined = Settings(
            retry or settings.retry, tracer or settings.tracer, min(ends, default=None), settings.loop
        )
        parent = self._span if tracer is None else run
        return new_context(self._provider, Account(self._account), joined, parent, self)

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
            work: A coroutine function of the index.
            count: How many pieces there are.
            limit: How many are under way at once.
            finish_on: Classes of failure after which what is under way is awaited, not cancelled.

        Raises:
            ExecutionKitError: The first failure; others that came in meanwhile stand in its metadata as
                `other_failures` (tuple of str).
        """
        account = self._account
        try:
            return await gather(work, count, limit, finish_on, lambda: account.halt(True))
        finally:
            account.halt(False)

    async def run(self, stage: Performer[In, Out], value: In) -> PatternResult[Out]:
        """Run a stage below this one, on an account of its own.

        Raises:
            ExecutionKitError: It failed; stamped with what it cost.
        """
        return await self.below().frame(stage, value)

    async def attempt(self, stage: Performer[In, Out], value: In) -> Outcome[Out]:
        """Run a stage below this one and return its failure as a value."""
        outcome = await as_outcome(self.run(stage, value))
        if isinstance(outcome, Failure):
            # A provider may have turned a cancellation into this failure: nothing is to follow it.
            await checkpoint_if_cancelled()
        return outcome

    async def frame(self, stage: Performer[In, Out], value: In) -> PatternResult[Out]:
        """Perform a stage in this very context and stamp what comes out of it."""
        if self._span is not None:
            self._span.send(StageStarted, stage=stage.name)
        try:
            result = _checked(await stage.perform(value, self), stage)
        except Exception as error:
            failure = self.stamped(_as_failure(error, stage.name))
            self._send_end(stage.name, error=type(failure).__name__)
            raise failure from failure.__cause__
        except BaseException as cancelled:
            self._send_end(stage.name, error=type(cancelled).__name__)
            self._hand_up()
            raise
        if self._span is not None:
            self._send_end(stage.name, score=result.score)
        return result.stamped(self.cost, self._caveats())

    async def charged(self, call: Callable[[], Awaitable[PatternResult[Out]]]) -> PatternResult[Out]:
        """Await foreign code that reports its own cost, and charge what it spent past the ledger."""
        before = self.cost
        try:
            result = await call()
        except ExecutionKitError as error:
            self._charge_difference(error.cost, before)
            raise
        self._charge_difference(result.cost, before)
        return result

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        stream: bool = False,
        **options: Any,
    ) -> LLMResponse:
        """Ask the model: within every budget above, with the run's retries, on the ledger.

        Args:
            messages: The conversation in OpenAI's format.
            temperature: Sampling temperature; None leaves it to the provider.
            max_tokens: Output tokens at most; lowered where the budget has less left.
            tools: Tools the model may call.
            stream: Have the answer streamed where the provider can, its pieces sent to a trace that asked for
                content. Once text was sent, a failure is not retried.
            **options: Further request fields, passed on as they are. `n` answers reserve `n * max_tokens`.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            LLMError: The last attempt failed.
        """
        if tools is not None:
            options["tools"] = tools
        if max_tokens is not None:
            check_count("max_tokens", max_tokens)
        if "n" in options:
            check_count("n", options["n"])
        request = Request(messages, max_tokens, tools, options.get("n", 1))
        completion = Completion(
            self._provider, self._account, self._settings, self._span, request, temperature, options, stream
        )
        return await completion.answer()

    def _charge_difference(self, declared: TokenUsage, before: TokenUsage) -> None:
        self._account.charge(((sane_usage(declared) or NO_USAGE) - (self.cost - before)).if_positive())

    def stamped(self, error: ExecutionKitError) -> ExecutionKitError:
        """Return a copy of an error with this stage's cost and what the stage has achieved."""
        return error.stamped(self.cost, self._achieved(), self._caveats())

    def _achieved(self) -> Mapping[str, object]:
        achieved: dict[str, object] = {}
        for report in self._reports:
            with suppress(Exception):  # a report that fails must not hide the failure it belongs to
                achieved.update(report())
        return achieved

    def _hand_up(self) -> None:
        """Leave what a cancelled stage achieved to the one above: an error may come back from there."""
        if self._above is not None:
            achieved = self._achieved()
            self._handed_up = lambda: achieved
            self._above._reports.insert(0, self._handed_up)

    def keep_to_itself(self) -> None:
        """Take back what `_hand_up` left above: the run ended by itself, and its error says it all."""
        if self._above is not None and self._handed_up is not None:
            self._above._reports.remove(self._handed_up)

    def _caveats(self) -> Mapping[str, object]:
        unreported = self._account.unreported
        return {"usage_estimated": unreported} if unreported else EMPTY

    def send(self, kind: Callable[..., Event], **fields: object) -> None:
        """Send a record about this stage to the run's trace, if there is one."""
        if self._span is not None:
            self._span.send(kind, **fields)

    def send_end(self, kind: Callable[..., Event], **fields: object) -> None:
        """Send a record about this stage that says how long it took."""
        if self._span is not None:
            self._span.send(kind, duration=self._span.duration, **fields)

    def _send_end(self, name: str, *, score: float | None = None, error: str | None = None) -> None:
        if self._span is not None:
            self.send_end(StageFinished, stage=name, cost=self.cost, score=score, error=error)

    def span(self) -> Span | None:
        """Number something that begins within this stage; None where nobody traces."""
        return None if self._span is None else self._span.below()


class MeteredProvider:
    """A provider on a running stage's ledger: what evaluators, steps and other foreign code are handed.

    A stage that is run with it joins the ledger, the retries and the trace of the run it came from.
    """

    __slots__ = ("context", "supports_tools")

    def __init__(self, context: Context, supports_tools: bool) -> None:
        self.context: Context = context
        self.supports_tools: bool = supports_tools

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Ask the model; see `Context.complete`."""
        try:
            return await self.context.complete(
                messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
            )
        except ExecutionKitError as error:
            raise error.stamped(self.context.cost) from error.__cause__


def new_context(
    provider: LLMProvider,
    account: Account,
    settings: Settings,
    parent: Span | None = None,
    above: Context | None = None,
) -> Context:
    """Make the context of one stage, below `parent` in the trace."""
    tracer = settings.tracer
    return Context(provider, account, settings, None if tracer is None else tracer.span(parent), above)


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


def _as_failure(error: Exception, stage: str) -> ExecutionKitError:
    if isinstance(error, ExecutionKitError):
        return error
    failure = StageError(f"stage {stage} raised {described(error)}")
    failure.__cause__ = error
    return failure
