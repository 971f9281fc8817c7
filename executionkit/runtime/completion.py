"""One completion: attempts until one answers, each reserved before it is sent and settled after.

This is the one loop of attempts in the package, with the one memory of what a server takes.
"""

from functools import partial

import anyio
import msgspec
from msgspec.structs import replace

from executionkit.core.budget import Refused
from executionkit.core.dialect import Dialect, Request, ResponseFormat, asked_as, spell
from executionkit.core.encoding import json_text
from executionkit.core.learning import Refusal, learn, names_another_cause, without_last_option
from executionkit.core.retry_quota import RetryQuota
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    DeadlineExceededError,
    ExecutionKitError,
    LLMError,
    PermanentError,
    ProviderError,
    RateLimitError,
    described,
)
from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    TextDelta,
    WaitFinished,
    WaitStarted,
)
from executionkit.provider import LLMProvider, LLMResponse, shown_in
from executionkit.retry import DEFAULT_RETRY, RetryConfig, retry_delay
from executionkit.runtime.attempts import Attempt
from executionkit.runtime.cancellation import cancellations, stop_if_cancelled, taken_as
from executionkit.runtime.dialects import Memory, memory_of
from executionkit.runtime.frame import Frame, attribute
from executionkit.runtime.ledger import Payers, Reservation, reserve
from executionkit.runtime.open_call import OpenCall, call_under_way
from executionkit.runtime.tracing import Span

__all__ = ["Answered", "Completion"]

_REFUSALS = frozenset({400, 422, None})
"""The statuses with which a server says that it does not take a request as it is; None for no status."""


_FORM = "response_formats"
"""The field of a dialect that may change twice in one call: there are two forms to do without."""


class Answered(msgspec.Struct, frozen=True):
    """An answer, and how it was asked for.

    Args:
        response: The answer.
        response_format: Who was to hold it to its form, where it was to have one.
    """

    response: LLMResponse
    response_format: ResponseFormat


class Completion:
    """A completion to be had: one logical call.

    Args:
        frame: The stage that asks.
        request: What it asks for.
        stream: Whether to have the answer in pieces.
    """

    __slots__ = (
        "_attempts",
        "_cost",
        "_dialect",
        "_frame",
        "_has_learned",
        "_has_left_out",
        "_is_carried",
        "_lessons",
        "_ordinal",
        "_request",
        "_retries",
        "_span",
        "_stream",
    )

    def __init__(self, frame: Frame, request: Request, *, stream: bool = False) -> None:
        self._frame = frame
        self._request = request
        self._stream = stream
        self._ordinal = frame.next_call()
        self._span = None if frame.span is None else frame.span.below(frame.path)
        self._dialect = Dialect()
        self._attempts = 0
        self._retries = 0
        self._cost: TokenUsage = NO_USAGE
        self._has_learned = False
        self._lessons: list[str] = []
        self._has_left_out = False
        self._is_carried = False

    async def answer(self) -> Answered:
        """Return the first answer.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            LLMError: The last attempt failed.
        """
        if self._span is None:
            return await self._answer()
        self._send_started(self._span)
        try:
            answered = await self._answer()
        except BaseException as error:
            self._send_finished(self._span, None, type(error).__name__)
            raise
        self._send_finished(self._span, answered.response, None)
        return answered

    async def _answer(self) -> Answered:
        memory = memory_of(self._member(None))
        if memory.has_proven(self._request):
            return await self._attempt_until_answered()
        # One call finds out which of its fields the server takes; the others wait for that.
        proofs = self._frame.account.root.proofs
        proof = proofs.get(memory)
        if proof is not None:
            await proof.wait()
            return await self._attempt_until_answered()
        proof = proofs[memory] = anyio.Event()
        try:
            return await self._attempt_until_answered()
        finally:
            proof.set()

    async def _attempt_until_answered(self) -> Answered:
        failure: ExecutionKitError | None = None
        left_out: Dialect | None = None
        while True:
            provider = self._member(failure)
            memory = memory_of(provider)
            self._dialect = left_out or memory.dialect
            reservation = await self._reserve(failure)
            outcome = await self._attempt(provider, reservation, memory)
            if isinstance(outcome, LLMResponse):
                if left_out is None:
                    memory.note_taken(self._request, self._dialect)
                if (quota := _quota_of(provider)) is not None and not self._is_carried:
                    quota.refund()
                return Answered(outcome, asked_as(self._request, self._dialect))
            failure = outcome
            if self._has_learned:
                continue  # ask in the other way at once
            refusal = _refusal_in(failure)
            if refusal is not None and not self._has_left_out and not names_another_cause(refusal):
                self._has_left_out = True
                left_out = without_last_option(self._dialect, self._request)
                if left_out is not None:
                    continue
            self._retries += 1
            await self._back_off(provider, failure)
            if self._request.n > 1 and not memory.has_proven_n and "status" in failure.metadata:
                # Some servers refuse `n` with a 5xx; what they do not send is asked for one by one.
                left_out = replace(self._dialect, takes_n=False)

    def _member(self, failure: ExecutionKitError | None) -> LLMProvider:
        """Return whom to ask: the provider, or the one that it chooses for this attempt."""
        choose = attribute(self._frame.provider, "choose")
        return choose(failure) if callable(choose) else self._frame.provider

    async def _reserve(self, failure: ExecutionKitError | None) -> Reservation:
        if self._is_too_late(0):
            raise DeadlineExceededError("not sent: the run's deadline has passed") from failure
        if self._frame.account.root.is_closed:
            raise PermanentError("not sent: the run that this provider belongs to is over")
        reservation = await self._reserved(self._payers())
        if isinstance(reservation, Reservation):
            return reservation
        if reservation.is_halted and failure is not None:
            raise failure
        if reservation.is_halted:
            raise BudgetExhaustedError("not sent: a call beside it has failed")
        raise BudgetExhaustedError(
            f"the budget does not allow another call: {reservation.reason}; raise max_cost or ask for less"
        ) from failure

    def _payers(self) -> Payers:
        """Return who pays; where this is the call that a reservation was made for, it takes that one over."""
        account, under_way = self._frame.account, call_under_way.get()
        if under_way is None or under_way.reservation.payers.all[-1] is not account.root:
            return account.payers
        lent = under_way.take_over()
        if lent is None:
            return account.payers
        self._is_carried = True
        lent.cancel()
        return account.payers.joined(lent.payers)

    async def _reserved(self, payers: Payers) -> Reservation | Refused:
        """Reserve the next attempt, and tell the trace where it has to wait for that."""
        wait: Span | None = None

        def on_wait() -> None:
            nonlocal wait
            if self._span is not None:
                wait = self._span.below()
                wait.send(WaitStarted, reason="budget")

        try:
            return await reserve(payers, self._request, on_wait)
        finally:
            if wait is not None:
                wait.send(WaitFinished, reason="budget", duration=wait.duration)

    async def _attempt(
        self, provider: LLMProvider, reservation: Reservation, memory: Memory
    ) -> LLMResponse | ExecutionKitError:
        self._attempts += 1
        self._has_learned = False
        span = self._send_attempt(provider, reservation)
        attempt = Attempt(provider, partial(_send_delta, self._span) if self._stream else None)
        under_way = OpenCall(reservation, self._frame.settings.ends_at, span)
        token = call_under_way.set(under_way)
        before = cancellations()
        try:
            response = await attempt.answer(spell(self._request, self._dialect, reservation.max_tokens))
        except BaseException as raised:
            error = taken_as(raised)
            if isinstance(error, Exception):
                failure = _as_failure(error, self._retry(provider), attempt)
                learned = self._learn(memory, failure)
                self._settled(span, reservation.abandon(failure.cost), failure=failure, learned=learned)
                await stop_if_cancelled(before, error)
                return failure
            self._settled(span, reservation.abandon(attempt.billed), error=type(error).__name__)
            if error is raised:
                raise
            raise error from None
        finally:
            under_way.end()
            call_under_way.reset(token)
        cost = reservation.settle(response.usage, shown_in(response))
        self._settled(span, cost, finish_reason=response.finish_reason)
        return response

    def _learn(self, memory: Memory, failure: ExecutionKitError) -> tuple[str, ...]:
        """Learn from a refusal that names a field: once a field, twice for the form. Return what changed."""
        refusal = _refusal_in(failure)
        learned = None if refusal is None else learn(self._dialect, self._request, refusal)
        if learned is None:
            return ()
        changed = memory.learn(self._dialect, learned)
        self._has_learned = all(self._lessons.count(name) <= (name == _FORM) for name in changed)
        self._lessons.extend(changed)
        return changed

    async def _back_off(self, provider: LLMProvider, failure: ExecutionKitError) -> None:
        delay = retry_delay(self._retry(provider), self._retries, failure)
        if delay is None or self._is_carried or self._is_too_late(delay) or not _may_retry(provider, failure):
            raise failure.stamped(failure.cost, {"attempts": self._attempts})
        if self._span is None:
            return await anyio.sleep(delay)
        wait = self._span.below()
        error = type(failure).__name__
        wait.send(WaitStarted, reason="back_off", delay=delay, attempt=self._attempts, error=error)
        try:
            await anyio.sleep(delay)
        finally:
            wait.send(WaitFinished, reason="back_off", duration=wait.duration)

    def _retry(self, provider: LLMProvider) -> RetryConfig:
        """Return the run's policy, or else the provider's own."""
        own = attribute(provider, "retry")
        return self._frame.settings.retry or (own if isinstance(own, RetryConfig) else DEFAULT_RETRY)

    def _is_too_late(self, delay: float) -> bool:
        ends_at = self._frame.settings.ends_at
        return ends_at is not None and anyio.current_time() + delay >= ends_at

    def _send_started(self, span: Span) -> None:
        span.send(
            CallStarted,
            ordinal=self._ordinal,
            **_named(self._frame.provider),
            max_tokens=self._request.max_tokens,
            choices=self._request.n,
            prompt=json_text(self._request.messages) if span.content else None,
        )

    def _send_finished(self, span: Span, response: LLMResponse | None, error: str | None) -> None:
        span.send(
            CallFinished,
            ordinal=self._ordinal,
            attempts=self._attempts,
            duration=span.duration,
            cost=self._cost,
            finish_reason=None if response is None else response.finish_reason,
            error=error,
            text=response.content if response is not None and span.content else None,
        )

    def _send_attempt(self, provider: LLMProvider, reservation: Reservation) -> Span | None:
        if self._span is None:
            return None
        span = self._span.below()
        span.send(
            AttemptStarted,
            attempt=self._attempts,
            max_tokens=reservation.max_tokens,
            **_named(provider),
        )
        return span

    def _settled(
        self,
        span: Span | None,
        cost: TokenUsage,
        *,
        finish_reason: str | None = None,
        error: str | None = None,
        failure: ExecutionKitError | None = None,
        learned: tuple[str, ...] = (),
    ) -> None:
        if span is None:
            return
        self._cost += cost
        said = {} if failure is None else failure.metadata
        status, request_id = said.get("status"), said.get("request_id")
        span.send(
            AttemptFinished,
            attempt=self._attempts,
            duration=span.duration,
            cost=cost,
            finish_reason=finish_reason,
            error=error if failure is None else type(failure).__name__,
            status=status if isinstance(status, int) else None,
            request_id=request_id if isinstance(request_id, str) else None,
            learned=learned,
        )


def _refusal_in(failure: ExecutionKitError) -> Refusal | None:
    """Return what a server said when it did not take a request as it is; None where it is another failure."""
    said = failure.metadata
    if not isinstance(failure, PermanentError) or said.get("status") not in _REFUSALS:
        return None
    field, code = said.get("param"), said.get("code")
    return Refusal(
        str(failure), field if isinstance(field, str) else "", code if isinstance(code, str) else ""
    )


def _quota_of(provider: object) -> RetryQuota | None:
    quota = attribute(provider, "retry_quota")
    return quota if isinstance(quota, RetryQuota) else None


def _may_retry(provider: object, failure: ExecutionKitError) -> bool:
    quota = _quota_of(provider)
    return quota is None or quota.try_spend(throttled=isinstance(failure, RateLimitError))


def _named(provider: object) -> dict[str, str | None]:
    """Return the model and the host of a provider, where it names them."""
    model, server = attribute(provider, "model"), attribute(provider, "server")
    return {
        "model": model if isinstance(model, str) else None,
        "server": server if isinstance(server, str) else None,
    }


def _as_failure(error: Exception, retry: RetryConfig, attempt: Attempt) -> ExecutionKitError:
    """Wrap what a foreign provider raised, and say whether it is worth a retry."""
    if not isinstance(error, ExecutionKitError):
        may_pass = _may_pass(error, retry)
        failure = ProviderError(f"the provider raised {described(error)}", retryable=may_pass)
        failure.__cause__ = error
        error = failure
    if attempt.has_delivered and isinstance(error, LLMError) and error.retry_hint is not False:
        error = error.stamped(error.cost)  # a copy, for the original is the provider's
        error.retry_hint = False  # nobody can take back text that was handed out
    return error


def _may_pass(error: Exception, retry: RetryConfig) -> bool:
    """Tell whether a foreign exception is what the system reports, TLS aside, or what the caller named."""
    from ssl import SSLEOFError, SSLError  # takes long to import, and most runs do without

    is_tls = isinstance(error, SSLError) and not isinstance(error, SSLEOFError)
    return not is_tls and isinstance(error, (OSError, *retry.retryable))


def _send_delta(call: Span | None, text: str) -> None:
    if call is not None and call.content:
        call.send(TextDelta, text=text)
