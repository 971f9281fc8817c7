"""One completion: attempts until one answers, each reserved before it is sent and settled after."""

from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import msgspec

from executionkit.core.encoding import json_text
from executionkit.core.retry_quota import RetryQuota
from executionkit.core.until import call_ends_at
from executionkit.core.usage import TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    DeadlineExceededError,
    ExecutionKitError,
    LLMError,
    ProviderError,
    RateLimitError,
    described,
)
from executionkit.events import CallFinished, CallStarted, RetryScheduled, TextDelta
from executionkit.provider import LLMProvider, LLMResponse, shown_in
from executionkit.retry import RetryConfig, retry_delay
from executionkit.runtime.attempts import Attempt
from executionkit.runtime.ledger import Account, Request, Reservation
from executionkit.runtime.tracing import Span, Tracer

__all__ = ["Completion", "Settings"]


class Settings(msgspec.Struct, frozen=True):
    """What all stages of a run share.

    Args:
        retry: How transient failures are retried.
        tracer: Who is told; None for nobody.
        ends_at: The event loop's time by which the run must be over; None where there is no deadline.
        loop: The event loop that the run belongs to.
    """

    retry: RetryConfig
    tracer: Tracer | None
    ends_at: float | None
    loop: object = None


class Completion(msgspec.Struct, frozen=True):
    """A completion to be had, and on whose account.

    Args:
        provider: Whom to ask.
        account: Who pays.
        settings: The run's.
        span: What the calls belong to in the trace; None where nobody traces.
        request: What to send.
        temperature: Sampling temperature; None leaves it to the provider.
        options: Further request fields.
        stream: Whether to have the answer in pieces.
    """

    provider: LLMProvider
    account: Account
    settings: Settings
    span: Span | None
    request: Request
    temperature: float | None
    options: dict[str, Any]
    stream: bool

    async def answer(self) -> LLMResponse:
        """Return the first answer.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            LLMError: The last attempt failed.
        """
        if _is_paid_for(self.account):
            return await Attempt(self.provider).answer(
                self.request, self.temperature, self.request.max_tokens, self.options
            )
        attempt, failure = 1, None
        while True:
            reservation = await self._reserve(failure)
            answer = await self._dispatch(reservation, attempt)
            if isinstance(answer, LLMResponse):
                if (quota := _quota_of(self.provider)) is not None:
                    quota.refund()
                return answer
            failure = answer
            await self._back_off(attempt, failure)
            attempt += 1

    async def _reserve(self, failure: ExecutionKitError | None) -> Reservation:
        if self._is_too_late(0):
            raise DeadlineExceededError("not sent: the run's deadline has passed") from failure
        reservation = await self.account.reserve(self.request)
        if isinstance(reservation, Reservation):
            return reservation
        if reservation.is_halted and failure is not None:
            raise failure
        if reservation.is_halted:
            raise BudgetExhaustedError("not sent: a call beside it has failed")
        raise BudgetExhaustedError(
            f"the budget does not allow another call: {reservation.reason}; raise max_cost or ask for less"
        ) from failure

    async def _dispatch(self, reservation: Reservation, number: int) -> LLMResponse | ExecutionKitError:
        call: Span | None = None
        attempt = Attempt(self.provider)
        try:
            if self.span is not None:
                call = self._started(self.span.below(), reservation, number)
            if self.stream:
                attempt = Attempt(self.provider, partial(_send_delta, call))
            token, outer = _paid.set(self.account.root), call_ends_at.set(self.settings.ends_at)
            try:
                response = await attempt.answer(
                    self.request, self.temperature, reservation.max_tokens, self.options
                )
            finally:
                _paid.reset(token)
                call_ends_at.reset(outer)
        except Exception as error:
            failure = _as_failure(error, self.settings.retry, attempt)
            _failed(call, number, type(failure).__name__, reservation.abandon(failure.cost))
            return failure
        except BaseException as cancelled:
            _failed(call, number, type(cancelled).__name__, reservation.abandon(attempt.billed))
            raise
        cost = reservation.settle(response.usage, shown_in(response))
        if call is not None:
            _answered(call, number, response, cost)
        return response

    async def _back_off(self, attempt: int, failure: ExecutionKitError) -> None:
        delay = retry_delay(self.settings.retry, attempt, failure)
        if delay is None or self._is_too_late(delay) or not _may_retry(self.provider, failure):
            raise failure.stamped(failure.cost, {"attempts": attempt})
        if self.span is not None:
            self.span.send(RetryScheduled, attempt=attempt, delay=delay, error=type(failure).__name__)
        await anyio.sleep(delay)

    def _is_too_late(self, delay: float) -> bool:
        ends_at = self.settings.ends_at
        return ends_at is not None and anyio.current_time() + delay >= ends_at

    def _started(self, call: Span, reservation: Reservation, number: int) -> Span:
        prompt = json_text(self.request.messages) if call.content else None
        call.send(CallStarted, attempt=number, max_tokens=reservation.max_tokens, prompt=prompt)
        return call


_paid: ContextVar[Account | None] = ContextVar("_paid", default=None)
"""The run, while a provider is asked, whose ledger holds the reservation for it.

A provider may be a wrapper around the run's own metered one. What it passes on is paid for already: a second
reservation would count the call twice, and could wait for the first for ever.
"""


def _is_paid_for(account: Account) -> bool:
    """Tell whether this is the one call that a reservation of the same ledger was made for."""
    if _paid.get() is not account.root:
        return False
    _paid.set(None)
    return True


def _quota_of(provider: object) -> RetryQuota | None:
    quota: object = getattr(provider, "retry_quota", None)
    return quota if isinstance(quota, RetryQuota) else None


def _may_retry(provider: object, failure: ExecutionKitError) -> bool:
    quota = _quota_of(provider)
    return quota is None or quota.try_spend(throttled=isinstance(failure, RateLimitError))


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


def _failed(call: Span | None, number: int, error: str, cost: TokenUsage) -> None:
    if call is not None:
        call.send(CallFinished, attempt=number, duration=call.duration, cost=cost, error=error)


def _answered(call: Span, number: int, response: LLMResponse, cost: TokenUsage) -> None:
    call.send(
        CallFinished,
        attempt=number,
        duration=call.duration,
        cost=cost,
        finish_reason=response.finish_reason,
        text=response.content if call.content else None,
    )
