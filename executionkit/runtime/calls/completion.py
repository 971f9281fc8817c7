"""One completion: attempts until one answers, each reserved before it is sent and settled after.

This is the one loop of attempts in the package, with the one memory of what a server takes.
"""

from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any

import anyio
import msgspec
from msgspec.structs import replace

from executionkit.core.budget import Refused
from executionkit.core.dialect import PLAIN, Dialect, Request, ResponseFormat, asked_as, spell
from executionkit.core.foreign import attribute, method
from executionkit.core.journal import digest_of, plain_request
from executionkit.core.learning import learn, names_another_cause, without_last_option
from executionkit.core.usage import NO_USAGE
from executionkit.errors import (
    BudgetExhaustedError,
    DeadlineExceededError,
    ExecutionKitError,
    PermanentError,
    RateLimitError,
)
from executionkit.errors.handling import with_last_failure
from executionkit.events import Path, WaitFinished, WaitStarted
from executionkit.provider import LLMResponse
from executionkit.retry import RetryConfig, retry_delay
from executionkit.runtime.calls.attempts import StreamedAttempt, ask
from executionkit.runtime.calls.delivery import Delivery, OnText
from executionkit.runtime.calls.endpoints import Endpoint, endpoint_of, learn_again, lesson_of, place_of
from executionkit.runtime.calls.errors import as_failure, billed_in, out_of_budget, placed, refusal_in
from executionkit.runtime.calls.logs import log_failover, log_lesson, log_retry, log_wait
from executionkit.runtime.calls.open_call import OpenCall, call_under_way
from executionkit.runtime.calls.trace import CallTrace
from executionkit.runtime.frame import Frame
from executionkit.runtime.journal.entries import Entry
from executionkit.runtime.journal.given import CallCache
from executionkit.runtime.journal.recorder import Recorder
from executionkit.runtime.ledger.accounts import Budget, Payers
from executionkit.runtime.ledger.reservation import RUN_IS_OVER, Reservation, reserve, try_to_reserve
from executionkit.runtime.tasks.cancellation import (
    cancellations,
    name_of_end,
    passes,
    stop_if_cancelled,
    taken_as,
)
from executionkit.runtime.tasks.ending import announce_interrupt, is_ending, let_end
from executionkit.runtime.tracing import Span

__all__ = ["Completed", "Completion", "completion"]

_FORM = "response_formats"
"""The field of a dialect that may change twice in one call: there are two forms to do without."""


class Completed(msgspec.Struct, frozen=True):
    """An answer, and how it was asked for.

    Args:
        response: The answer.
        response_format: Who was to hold it to its form, where it was to have one.
    """

    response: LLMResponse
    response_format: ResponseFormat


def completion(
    frame: Frame,
    request: Request,
    *,
    at: Path = (),
    stream: bool = False,
    is_answer: bool = False,
    on_text: OnText | None = None,
) -> "Completion":
    """Return a completion that is to be had next.

    Args:
        frame: The stage that asks.
        request: What it asks for.
        at: Where the call is below the stage, where it has a place of its own.
        stream: Whether to have the answer in pieces.
        is_answer: Whether its text is the stage's answer: with a reader of a stream it comes in pieces then.
        on_text: Reads the text as it comes in, where somebody is told of it.
    """
    ordinal = 0 if at else frame.next_call()
    path = (*frame.path, *at) if at else frame.path
    span = None if frame.span is None else frame.span.below(path)
    is_answer = is_answer and frame.is_answer
    is_read = stream or (is_answer and frame.backlog is not None)
    return Completion(
        frame,
        request,
        path,
        ordinal,
        frame.account.payers,
        Delivery(span, is_answer=is_answer, on_text=on_text) if is_read else None,
        None if span is None else CallTrace(span, request, ordinal),
    )


class Completion(msgspec.Struct, eq=False):
    """A completion to be had: one logical call.

    Args:
        frame: The stage that asks.
        request: What it asks for.
        path: Where the call is.
        ordinal: Which of the calls at that path it is.
        payers: Who pays.
        delivery: Receives the answer in pieces; None where it is had in one.
        trace: Is told of the call; None where nobody is.
    """

    frame: Frame
    request: Request
    path: Path
    ordinal: int
    payers: Payers
    delivery: Delivery | None
    trace: CallTrace | None
    _dialect: Dialect = PLAIN
    _entry: Entry | None = None
    _lessons: tuple[str, ...] = ()
    _attempts: int = 0
    _retries: int = 0
    _has_delivered: bool = False
    _lesson: Mapping[str, Any] = {}
    _has_left_out: bool = False
    _is_carried: bool = False
    _is_final: bool = False
    _was_lowered: bool = False
    _cancellations: int = 0

    def answer(self) -> Awaitable[Completed]:
        """Have the first answer.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            JournalError: The run's journal could not note the call, so that it was not sent.
            LLMError: The last attempt failed.
        """
        endpoint = endpoint_of(self.frame.provider, self.frame.account)
        return self._ask(endpoint) if self.trace is None else self._traced(self.trace, endpoint)

    async def _traced(self, trace: CallTrace, endpoint: Endpoint) -> Completed:
        is_streamed = self.delivery is not None and method(self.frame.provider, "stream") is not None
        trace.started(endpoint, is_streamed=is_streamed)
        leave, under_way = trace.span.enter(), self.frame.account.ledger.under_way
        under_way[trace] = trace.end_with_run
        try:
            answered = await self._ask(endpoint)
        except BaseException as error:
            trace.finished(None, name_of_end(error))
            raise
        finally:
            del under_way[trace]
            if leave is not None:
                leave()
        trace.finished(answered.response, None)
        return answered

    def _ask(self, endpoint: Endpoint) -> Awaitable[Completed]:
        """Take the answer out of the run's journal, where it has one, or ask."""
        recorder = self.frame.settings.recorder
        return self._ask_anew(endpoint) if recorder is None else self._journaled(recorder, endpoint)

    def _ask_anew(self, endpoint: Endpoint) -> Awaitable[Completed]:
        """Take the answer out of the provider's cache, where it has one, or ask."""
        cache = endpoint.cache
        if cache is None or not cache.admits(self.request):
            return self._ask_model(endpoint)
        return self._cached(cache, endpoint)

    def _ask_model(self, endpoint: Endpoint) -> Awaitable[Completed]:
        member = self._member(endpoint, None)
        if member.memory.has_proven(self.request):
            return self._attempt_until_answered(endpoint, member)
        return self._prove(endpoint, member)

    async def _cached(self, cache: CallCache, endpoint: Endpoint) -> Completed:
        asked = digest_of(plain_request(self.request, endpoint.identity))
        alike = self.frame.account.ledger.asked
        key = digest_of([asked.hex(), alike[asked]])  # so that the samples of a vote stay several
        alike[asked] += 1
        kept = await cache.recall(key)
        if kept is None:
            answered = await self._ask_model(endpoint)
            if not self._is_cut_by_budget(answered.response):
                cache.keep(key, answered.response, answered.response_format, raw=self._is_read)
            return answered
        if self._entry is not None:
            self._entry.cached(kept, raw=self._is_read)
        return self._handed_out(Completed(kept.response, kept.form), is_cached=True)

    def _is_cut_by_budget(self, response: LLMResponse) -> bool:
        """Tell whether a run with more to spend may have a longer answer; of several any may be cut."""
        return self._was_lowered and (response.was_truncated or self.request.n > 1)

    @property
    def _is_read(self) -> bool:
        """Whether more is read of the answer than its text: what a journal then keeps whole."""
        return self.request.n > 1 or self.request.logprobs

    def _journaled(self, recorder: Recorder, endpoint: Endpoint) -> Awaitable[Completed]:
        """Take from the journal what an earlier life of the run has paid, or ask and note it there."""
        entry = self._entry = recorder.call(self.path, self.ordinal, self.request, endpoint.identity)
        return self._taken_up(recorder, endpoint, entry) if entry.is_known else self._ask_anew(endpoint)

    async def _taken_up(self, recorder: Recorder, endpoint: Endpoint, entry: Entry) -> Completed:
        """Take what an earlier life of the run has paid for the call, and ask where it has no outcome."""
        body = entry.body
        for charge in body.charges:
            self.frame.account.replay(charge)
        learn_again(self.frame.provider, self.frame.account, body.taught)
        await recorder.replaying()
        if entry.is_done:
            return self._replayed(entry)
        await recorder.quiet()
        self._attempts = body.attempts - body.lost
        self._retries, self._has_left_out = body.retries, body.left_out
        return await self._ask_anew(endpoint)

    def _replayed(self, entry: Entry) -> Completed:
        outcome = entry.outcome()
        if not isinstance(outcome, LLMResponse):
            self._note_replayed()
            raise outcome
        return self._handed_out(Completed(outcome, entry.body.form), is_cached=entry.body.cached)

    def _handed_out(self, answered: Completed, *, is_cached: bool) -> Completed:
        """Hand out an answer that nobody was asked for."""
        self._note_replayed()
        for account in self.frame.account.payers.all if is_cached else ():
            account.noted.cached += 1
        if self.delivery is not None and answered.response.content:
            self.delivery(answered.response.content, whole=True)
        return answered

    def _note_replayed(self) -> None:
        if self.trace is not None:
            self.trace.is_replayed = True

    async def _prove(self, endpoint: Endpoint, member: Endpoint) -> Completed:
        """Have one call of the run find out which of its fields the server takes, before the others go."""
        memory, proofs = member.memory, self.frame.account.ledger.proofs
        proof = proofs.get(memory)
        if proof is not None:
            await proof.wait()
            return await self._attempt_until_answered(endpoint, member)
        proof = proofs[memory] = anyio.Event()
        try:
            return await self._attempt_until_answered(endpoint, member)
        finally:
            proof.set()

    async def _attempt_until_answered(self, endpoint: Endpoint, member: Endpoint) -> Completed:
        failure: ExecutionKitError | None = None
        left_out: Dialect | None = None
        if self._has_left_out:  # in an earlier life of the run
            left_out = without_last_option(member.memory.dialect, self.request)
        try:
            while True:
                self._dialect = left_out or member.memory.dialect
                outcome = await self._next_attempt(member, failure)
                if isinstance(outcome, LLMResponse):
                    return self._completed(endpoint, member, outcome, left_out)
                failure = outcome
                if self._lesson:
                    left_out = None if left_out is None else replace(left_out, **self._lesson)
                    self._keep(left_out)
                    continue  # ask in the other way at once
                left_out = self._without_an_option(failure)
                if left_out is not None:
                    self._keep(left_out)
                    continue
                self._retries += 1
                left_out = await self._pause(endpoint, member, failure)
                asked, member = member, self._member(endpoint, failure)
                if member is not asked:  # another member of a pool, which may have to be learned as well
                    left_out = None
                    self._lessons = ()
        except BaseException as error:
            self._note_end(error)
            raise

    def _next_attempt(
        self, member: Endpoint, failure: ExecutionKitError | None
    ) -> Awaitable[LLMResponse | ExecutionKitError]:
        """Make the next attempt: in its turn, where the run adapts how many are under way."""
        windows = self.frame.settings.windows
        if windows is None:
            return self._attempt(member, failure)
        span = None if self.trace is None else self.trace.span
        attempt = partial(self._attempt, member, failure)
        self._lesson = {}  # it may not come to an attempt
        return windows.gate(member.provider).through(attempt, span, self._retry(member).max_delay)

    def _completed(
        self, endpoint: Endpoint, member: Endpoint, response: LLMResponse, left_out: Dialect | None
    ) -> Completed:
        """Note an answer, and what it shows of whoever gave it."""
        taken = member.memory.note_taken(self.request, self._dialect) if left_out is None else ()
        form = asked_as(self.request, self._dialect)
        if self._entry is not None:
            self._entry.learned(place_of(member, endpoint), proven=taken)
            self._entry.answered(response, form, raw=self._is_read)
        if member.retry_quota is not None and not self._is_carried:
            member.retry_quota.refund()
        return Completed(response, form)

    def _note_end(self, error: BaseException) -> None:
        """Have the journal store that there will be no further attempt: a failure, or how the call stands."""
        if self._entry is not None and self._is_final and isinstance(error, ExecutionKitError):
            self._entry.failed(error)
        else:
            self._keep(None)

    def _without_an_option(self, failure: ExecutionKitError) -> Dialect | None:
        """Return the dialect for one more try where a refusal names nothing, once a call."""
        refusal = refusal_in(failure)
        if refusal is None or self._has_left_out or names_another_cause(refusal):
            return None
        self._has_left_out = True
        return without_last_option(self._dialect, self.request)

    def _member(self, endpoint: Endpoint, failure: ExecutionKitError | None) -> Endpoint:
        """Return whom to ask: the provider, or the one that it chooses for this attempt."""
        if endpoint.choose is None:
            return endpoint
        return endpoint_of(endpoint.choose(failure), self.frame.account)

    async def _pause(
        self, endpoint: Endpoint, member: Endpoint, failure: ExecutionKitError
    ) -> Dialect | None:
        """Wait before a retry, unless another member of a pool makes it; return how to ask, if otherwise."""
        if self._moves_on(endpoint, member, failure):
            self._keep(None)
            log_failover((self.path, self.ordinal), self._attempts, member, failure)
            return None
        await self._back_off(member, failure)
        if self.request.n > 1 and not member.memory.has_proven_n and "status" in failure.metadata:
            # Some servers refuse `n` with a 5xx; what they do not send is asked for one by one.
            return replace(self._dialect, takes_n=False)
        return None

    def _moves_on(self, endpoint: Endpoint, member: Endpoint, failure: ExecutionKitError) -> bool:
        """Tell whether another member of a pool is asked at once: a retry that waits for nothing."""
        moves_on = endpoint.moves_on
        if moves_on is None or self._has_delivered or self._is_carried:
            return False
        return self._retries <= self._retry(member).max_retries and moves_on(member.provider, failure)

    def _try_to_reserve(
        self, member: Endpoint, failure: ExecutionKitError | None
    ) -> Reservation | Refused | Budget:
        """Reserve the next attempt where that is possible at once; else return why it is not."""
        if self._is_too_late(0):
            raise DeadlineExceededError("not sent: the run's deadline has passed") from failure
        account, under_way = self.frame.account, call_under_way.get()
        self.payers = account.payers
        if account.payers.are_closed:
            raise PermanentError(RUN_IS_OVER)
        if under_way is not None and under_way.reservation.payers.all[-1] is account.root:
            lent = under_way.take_over()
            if lent is not None:  # this is the call that it was made for
                self._is_carried = True
                lent.cancel()
                self.payers = self.payers.joined(lent.payers)
        return try_to_reserve(self.payers, self.request, member.terms)

    async def _wait_to_reserve(
        self, first: Refused | Budget, member: Endpoint, failure: ExecutionKitError | None
    ) -> Reservation:
        """Reserve the next attempt as soon as calls in flight have made room.

        Raises:
            BudgetExhaustedError: They will not make enough.
        """
        if not isinstance(first, Refused):
            log_wait((self.path, self.ordinal), "budget")
        trace = self.trace
        wait = None if trace is None or isinstance(first, Refused) else trace.span.below()
        if wait is not None:
            wait.send(WaitStarted, reason="budget")
        try:
            decision = await reserve(self.payers, self.request, member.terms)
        finally:
            if wait is not None:
                wait.send(WaitFinished, reason="budget", duration=wait.duration)
        if isinstance(decision, Reservation):
            return decision
        if decision.is_halted and failure is not None:
            raise failure
        if decision.is_halted:
            raise BudgetExhaustedError("not sent: a call beside it has failed", metadata={"halted": True})
        raise with_last_failure(out_of_budget(decision), [failure]) from failure

    async def _attempt(
        self, member: Endpoint, before_it: ExecutionKitError | None
    ) -> LLMResponse | ExecutionKitError:
        """Reserve and make the next attempt; its failure is a value."""
        within = call_under_way.get()
        if within is not None:
            within.note_asked()
        reservation = await self._reserved(member, before_it)
        self._attempts += 1
        self._was_lowered = reservation.max_tokens != self.request.max_tokens
        self._lesson = {}
        trace, delivery, span, streamed = self.trace, self.delivery, None, None
        if trace is not None:
            span = trace.attempt_started(self._attempts, member, reservation)
        if delivery is not None:
            waited = None if trace is None else trace.span.waited
            streamed = StreamedAttempt(member.provider, delivery, self.frame.backlog, waited)
        place = (self.path, self.ordinal)
        under_way = OpenCall(reservation, place, self.frame.settings.ends_at, span)
        call_under_way.set(under_way)
        try:
            asked = spell(self.request, self._dialect, reservation.max_tokens)
            response = await (ask(member.provider, asked) if streamed is None else streamed.answer(asked))
        except BaseException as raised:
            error = taken_as(raised)
            failure = self._settle_failed(member, under_way, error, span, streamed)
            if within is not None:
                within.note_charged(reservation.charged)
            if failure is not None:
                await stop_if_cancelled(self._cancellations, error)
                return failure
            if error is raised:
                raise
            raise error from None
        finally:
            under_way.end()
            if call_under_way.get() is under_way:  # not where a coroutine is closed in another context
                call_under_way.set(within)
        self._settle(reservation, response, span, streamed)
        if within is not None:
            within.note_charged(reservation.charged)
        return response

    async def _reserved(self, member: Endpoint, before_it: ExecutionKitError | None) -> Reservation:
        """Reserve the next attempt; where the run is ending nothing is held, or counted, meanwhile."""
        self._cancellations = 0
        reservation = await self._noted(member, self._try_to_reserve(member, before_it), before_it)
        if not is_ending(self.frame.settings.loop):
            return reservation
        reservation.cancel()
        if self._entry is not None:  # the next life would charge it as one that was under way
            self._entry.take_back()
        await let_end()
        self._cancellations = cancellations()
        if self.payers.are_closed:
            raise PermanentError(RUN_IS_OVER)
        # With the same payers: where the call carries another one, it took that over the first time.
        decision = try_to_reserve(self.payers, self.request, member.terms)
        return await self._noted(member, decision, before_it)

    async def _noted(
        self,
        member: Endpoint,
        decision: Reservation | Refused | Budget,
        before_it: ExecutionKitError | None,
    ) -> Reservation:
        """Wait for a reservation where there is none yet; with a journal, note there that it is sent."""
        if not isinstance(decision, Reservation):
            decision = await self._wait_to_reserve(decision, member, before_it)
        if self._entry is not None:
            try:
                await self._entry.send(decision.worst)
            except BaseException:
                decision.cancel()
                raise
        return decision

    def _settle(
        self,
        reservation: Reservation,
        response: LLMResponse,
        span: Span | None,
        streamed: StreamedAttempt | None,
    ) -> None:
        """Charge an attempt that was answered, and tell whoever listens."""
        reservation.settle(response.usage, response)
        if self._entry is not None:
            self._entry.paid(reservation.charge)
        if self.delivery is not None:
            self.delivery.end(response.content)
        if self.trace is not None and span is not None:
            self.trace.first_piece = None if streamed is None else span.seconds_to(streamed.first_at)
            self.trace.attempt_finished(response=response)

    def _settle_failed(
        self,
        member: Endpoint,
        under_way: OpenCall,
        error: BaseException,
        span: Span | None,
        streamed: StreamedAttempt | None,
    ) -> ExecutionKitError | None:
        """Charge an attempt that was not answered, and learn from it; None where it was cancelled."""
        failure: ExecutionKitError | None = None
        learned: tuple[str, ...] = ()
        reservation = under_way.reservation
        if passes(error):
            announce_interrupt(error)
        if isinstance(error, Exception):
            self._has_delivered = streamed is not None and streamed.has_delivered
            failure = as_failure(error, self._retry(member), has_delivered=self._has_delivered)
            failure = placed(failure, member)
            learned = self._learn(member, failure)
            under_way.abandon(billed_in(error, failure))
        elif streamed is None:
            under_way.abandon(NO_USAGE)
        else:
            under_way.abandon(attribute(streamed, "billed"), is_estimate=streamed.is_broken_off)
        if self._entry is not None:
            self._entry.paid(reservation.charge)
        if self._entry is not None and learned:
            endpoint = endpoint_of(self.frame.provider, self.frame.account)
            lesson = {name: getattr(member.memory.dialect, name) for name in learned}
            self._entry.learned(place_of(member, endpoint), lesson)
        if self.delivery is not None:
            self.delivery.void()
        if self.trace is not None and span is not None:
            ended = name_of_end(error if failure is None else failure)
            self.trace.attempt_finished(error=ended, failure=failure, learned=learned)
        return failure

    def _keep(self, left_out: Dialect | None) -> None:
        """Have the journal store how the call stands after a failure, and how it goes on."""
        if self._entry is not None:
            self._entry.keep(self._retries, left_out=left_out is not None)

    def _learn(self, member: Endpoint, failure: ExecutionKitError) -> tuple[str, ...]:
        """Learn from a refusal that names a field: once a field, twice for the form. Return what changed."""
        refusal = refusal_in(failure)
        learned = None if refusal is None else learn(self._dialect, self.request, refusal)
        if learned is None:
            return ()
        lesson = lesson_of(self._dialect, learned)
        if any(self._lessons.count(name) > (name == _FORM) for name in lesson):
            return ()  # it refuses what it was refused for before: nothing follows from that
        member.memory.learn(lesson)
        self._lessons = (*self._lessons, *lesson)
        self._lesson = lesson
        learned_fields = tuple(lesson)
        log_lesson((self.path, self.ordinal), self._attempts, member, failure, learned_fields)
        return learned_fields

    async def _back_off(self, member: Endpoint, failure: ExecutionKitError) -> None:
        delay = retry_delay(self._retry(member), self._retries, failure)
        is_too_late = delay is not None and self._is_too_late(delay)
        if delay is None or self._is_carried or is_too_late or not _may_retry(member, failure):
            self._is_final = not is_too_late
            raise failure.stamped(failure.cost, {"attempts": self._attempts})
        self._keep(None)
        log_retry((self.path, self.ordinal), self._attempts, member, failure, delay)
        if self.trace is None:
            return await anyio.sleep(delay)
        wait = self.trace.span.below()
        error = type(failure).__name__
        wait.send(WaitStarted, reason="back_off", delay=delay, attempt=self._attempts, error=error)
        try:
            await anyio.sleep(delay)
        finally:
            wait.send(WaitFinished, reason="back_off", duration=wait.duration)

    def _retry(self, member: Endpoint) -> RetryConfig:
        """Return the run's policy, or else the provider's own."""
        return self.frame.settings.retry or member.retry

    def _is_too_late(self, delay: float) -> bool:
        ends_at = self.frame.settings.ends_at
        return ends_at is not None and anyio.current_time() + delay >= ends_at


def _may_retry(member: Endpoint, failure: ExecutionKitError) -> bool:
    quota = member.retry_quota
    return quota is None or quota.try_spend(throttled=isinstance(failure, RateLimitError))
