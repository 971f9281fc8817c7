"""One completion: attempts until one answers, each reserved before it is sent and settled after.

This is the one loop of attempts in the package, with the one memory of what a server takes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias, cast
from zlib import crc32

import anyio
import msgspec
from msgspec.structs import replace

from executionkit.core.budget import Refused
from executionkit.core.dialect import PLAIN, Dialect, Request, ResponseFormat, asked_as, spell
from executionkit.core.encoding import json_text
from executionkit.core.journal import digest_of, plain_request
from executionkit.core.learning import Refusal, learn, names_another_cause, without_last_option
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
    unwrapped,
)
from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    DeltaKind,
    Element,
    PartialValue,
    Path,
    TextDelta,
    WaitFinished,
    WaitStarted,
)
from executionkit.provider import LLMResponse, finish_reasons_in
from executionkit.retry import RetryConfig, retry_delay
from executionkit.runtime.attempts import Attempt
from executionkit.runtime.cancellation import cancellations, name_of_end, stop_if_cancelled, taken_as
from executionkit.runtime.dialects import Endpoint, endpoint_of, learn_again, lesson_of, place_of
from executionkit.runtime.entries import Entry
from executionkit.runtime.frame import Frame, attribute, method
from executionkit.runtime.journaling import Recorder
from executionkit.runtime.ledger import RUN_IS_OVER, Account, Payers, Reservation, reserve, try_to_reserve
from executionkit.runtime.logs import log_failover, log_lesson, log_retry, log_wait
from executionkit.runtime.open_call import OpenCall, call_under_way
from executionkit.runtime.tracing import Span

__all__ = ["Completed", "Completion", "OnText", "TextReader", "out_of_budget"]

TextReader: TypeAlias = Callable[[str], Iterable[tuple[type[PartialValue | Element], dict[str, object]]]]
"""Reads an answer as it comes in: takes a piece, `""` at its end, and returns what records to send."""

OnText: TypeAlias = Callable[[], TextReader]
"""Begins to read an answer, each time that one begins to come in."""

_REFUSALS = frozenset({400, 422, None})
"""The statuses with which a server says that it does not take a request as it is; None for no status."""


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


class Completion:
    """A completion to be had: one logical call.

    Args:
        frame: The stage that asks.
        request: What it asks for.
        at: Where the call is below the stage, where it has a place of its own.
        stream: Whether to have the answer in pieces.
        is_answer: Whether its text is the stage's answer: with a reader of a stream it comes in pieces then.
        on_text: Reads the text as it comes in, where somebody is told of it.
    """

    __slots__ = (
        "_attempts",
        "_cost",
        "_dialect",
        "_entry",
        "_first_piece",
        "_frame",
        "_has_delivered",
        "_has_learned",
        "_has_left_out",
        "_has_said",
        "_is_answer",
        "_is_carried",
        "_is_estimated",
        "_is_final",
        "_is_replayed",
        "_lessons",
        "_on_text",
        "_ordinal",
        "_path",
        "_payers",
        "_read",
        "_request",
        "_retries",
        "_said_checksum",
        "_said_length",
        "_span",
        "_stream",
    )

    def __init__(
        self,
        frame: Frame,
        request: Request,
        *,
        at: Path = (),
        stream: bool = False,
        is_answer: bool = False,
        on_text: OnText | None = None,
    ) -> None:
        tracer = frame.settings.tracer
        self._frame = frame
        self._request = request
        self._is_answer = is_answer and frame.is_answer
        self._stream = stream or (self._is_answer and tracer is not None and tracer.backlog is not None)
        self._on_text = on_text
        self._read: TextReader | None = None
        self._has_said = False
        # Of the text that was handed out: the text itself is kept once, by whoever puts it together.
        self._said_length = self._said_checksum = 0
        self._ordinal = 0 if at else frame.next_call()
        self._path: Path = (*frame.path, *at) if at else frame.path
        self._span = None if frame.span is None else frame.span.below(self._path)
        self._payers: Payers = frame.account.payers
        self._dialect = PLAIN
        self._attempts = 0
        self._retries = 0
        self._cost: TokenUsage = NO_USAGE
        self._has_learned = False
        self._lessons: list[str] = []
        self._has_left_out = False
        self._has_delivered = False
        self._is_carried = False
        self._is_final = False
        self._entry: Entry | None = None
        self._is_estimated = False
        self._is_replayed = False
        self._first_piece: float | None = None

    async def answer(self) -> Completed:
        """Return the first answer.

        Raises:
            BudgetExhaustedError: The call, or another attempt at it, no longer fits.
            DeadlineExceededError: The run's time is over.
            JournalError: The run's journal could not note the call, so that it was not sent.
            LLMError: The last attempt failed.
        """
        if self._span is not None:
            return await self._traced(self._span)
        recorder = self._frame.settings.recorder
        return await (self._ask() if recorder is None else self._journaled(recorder))

    async def _ask(self) -> Completed:
        """Take the answer out of the provider's cache, where it has one, or ask."""
        endpoint = endpoint_of(self._frame.provider, self._frame.account)
        cache = endpoint.cache
        if cache is None or not cache.admits(self._request):
            return await self._ask_model()
        asked = digest_of(plain_request(self._request, endpoint.identity))
        alike = self._frame.account.root.asked
        key = digest_of([asked.hex(), alike[asked]])  # so that the samples of a vote stay several
        alike[asked] += 1
        is_read = self._request.n > 1 or self._request.logprobs
        kept = await cache.recall(key)
        if kept is None:
            answered = await self._ask_model()
            cache.keep(key, answered.response, answered.response_format, raw=is_read)
            return answered
        if self._entry is not None:
            self._entry.cached(kept, raw=is_read)
        return self._handed_out(Completed(kept.response, kept.form), is_cached=True)

    async def _ask_model(self) -> Completed:
        member = self._member(None)
        if member.memory.has_proven(self._request):
            return await self._attempt_until_answered(member)
        return await self._prove(member)

    async def _journaled(self, recorder: Recorder) -> Completed:
        """Take from the journal what an earlier life of the run has paid, or ask and note it there."""
        endpoint = endpoint_of(self._frame.provider, self._frame.account)
        entry = recorder.call(self._path, self._ordinal, self._request, endpoint.identity)
        if entry.is_known:
            for charge in entry.body.charges:
                self._frame.account.replay(charge)
            learn_again(self._frame.provider, self._frame.account, entry.body.taught)
            await recorder.replaying()
            if entry.is_done:
                return self._replayed(entry)
            await recorder.quiet()
        self._entry = entry
        body = entry.body
        self._attempts = body.attempts - body.lost
        self._retries, self._has_left_out = body.retries, body.left_out
        try:
            return await self._ask()
        except BaseException as error:
            if self._is_final and isinstance(error, ExecutionKitError):
                entry.failed(error)
            else:
                self._keep(None)
            raise

    def _replayed(self, entry: Entry) -> Completed:
        self._is_replayed = True
        outcome = entry.outcome()
        if not isinstance(outcome, LLMResponse):
            raise outcome
        return self._handed_out(Completed(outcome, entry.body.form), is_cached=entry.body.cached)

    def _handed_out(self, answered: Completed, *, is_cached: bool) -> Completed:
        """Hand out an answer that nobody was asked for."""
        self._is_replayed = True
        for account in self._frame.account.payers.all if is_cached else ():
            account.cached += 1
        if self._stream and answered.response.content:
            self._deliver(answered.response.content, whole=True)
        return answered

    async def _traced(self, span: Span) -> Completed:
        self._send_started(span)
        recorder = self._frame.settings.recorder
        leave = span.enter()
        try:
            answered = await (self._ask() if recorder is None else self._journaled(recorder))
        except BaseException as error:
            self._send_finished(span, None, name_of_end(error))
            raise
        finally:
            if leave is not None:
                leave()
        self._send_finished(span, answered.response, None)
        return answered

    async def _prove(self, member: Endpoint) -> Completed:
        """Have one call of the run find out which of its fields the server takes, before the others go."""
        memory, proofs = member.memory, self._frame.account.proofs
        if memory.has_proven(self._request):
            return await self._attempt_until_answered(member)
        proof = proofs.get(memory)
        if proof is not None:
            await proof.wait()
            return await self._attempt_until_answered(member)
        proof = proofs[memory] = anyio.Event()
        try:
            return await self._attempt_until_answered(member)
        finally:
            proof.set()

    async def _attempt_until_answered(self, member: Endpoint) -> Completed:
        failure: ExecutionKitError | None = None
        left_out: Dialect | None = None
        if self._has_left_out:  # in an earlier life of the run
            left_out = without_last_option(member.memory.dialect, self._request)
        while True:
            memory = member.memory
            self._dialect = left_out or memory.dialect
            outcome = await self._sent(member, failure)
            if isinstance(outcome, LLMResponse):
                taken = memory.note_taken(self._request, self._dialect) if left_out is None else ()
                if self._entry is not None:
                    is_read = self._request.n > 1 or self._request.logprobs
                    form = asked_as(self._request, self._dialect)
                    self._entry.learned(self._place_of(member), proven=taken)
                    self._entry.answered(outcome, form, raw=is_read)
                if member.retry_quota is not None and not self._is_carried:
                    member.retry_quota.refund()
                return Completed(outcome, asked_as(self._request, self._dialect))
            failure = outcome
            if self._has_learned:
                self._keep(left_out)
                continue  # ask in the other way at once
            left_out = self._without_an_option(failure)
            if left_out is not None:
                self._keep(left_out)
                continue
            self._retries += 1
            left_out = await self._pause(member, failure)
            asked, member = member, self._member(failure)
            if member is not asked:  # another member of a pool, which may have to be learned as well
                left_out = None
                self._lessons.clear()

    async def _sent(
        self, member: Endpoint, failure: ExecutionKitError | None
    ) -> LLMResponse | ExecutionKitError:
        """Reserve and make the next attempt, in its turn where the run adapts how many are under way."""
        windows = self._frame.settings.windows
        if windows is None:
            return await self._reserve_and_attempt(member, failure)
        gate = windows.gate(member.provider)
        return await gate.through(partial(self._reserve_and_attempt, member, failure), self._span)

    async def _reserve_and_attempt(
        self, member: Endpoint, failure: ExecutionKitError | None
    ) -> LLMResponse | ExecutionKitError:
        reservation = self._try_to_reserve(member, failure)
        if not isinstance(reservation, Reservation):
            reservation = await self._wait_to_reserve(reservation, member, failure)
        return await self._attempt(member, reservation)

    def _without_an_option(self, failure: ExecutionKitError) -> Dialect | None:
        """Return the dialect for one more try where a refusal names nothing, once a call."""
        refusal = _refusal_in(failure)
        if refusal is None or self._has_left_out or names_another_cause(refusal):
            return None
        self._has_left_out = True
        return without_last_option(self._dialect, self._request)

    def _member(self, failure: ExecutionKitError | None) -> Endpoint:
        """Return whom to ask: the provider, or the one that it chooses for this attempt."""
        endpoint = endpoint_of(self._frame.provider, self._frame.account)
        if endpoint.choose is None:
            return endpoint
        return endpoint_of(endpoint.choose(failure), self._frame.account)

    async def _pause(self, member: Endpoint, failure: ExecutionKitError) -> Dialect | None:
        """Wait before a retry, unless another member of a pool makes it; return how to ask, if otherwise."""
        if self._moves_on(member, failure):
            self._keep(None)
            log_failover((self._path, self._ordinal), self._attempts, member, failure)
            return None
        await self._back_off(member, failure)
        if self._request.n > 1 and not member.memory.has_proven_n and "status" in failure.metadata:
            # Some servers refuse `n` with a 5xx; what they do not send is asked for one by one.
            return replace(self._dialect, takes_n=False)
        return None

    def _moves_on(self, member: Endpoint, failure: ExecutionKitError) -> bool:
        """Tell whether another member of a pool is asked at once: a retry that waits for nothing."""
        moves_on = endpoint_of(self._frame.provider, self._frame.account).moves_on
        if moves_on is None or self._has_delivered or self._is_carried:
            return False
        return self._retries <= self._retry(member).max_retries and moves_on(member.provider, failure)

    def _try_to_reserve(
        self, member: Endpoint, failure: ExecutionKitError | None
    ) -> Reservation | Refused | Account:
        """Reserve the next attempt where that is possible at once; else return why it is not."""
        if self._is_too_late(0):
            raise DeadlineExceededError("not sent: the run's deadline has passed") from failure
        account, under_way = self._frame.account, call_under_way.get()
        self._payers = account.payers
        if self._payers.all[-1].is_closed:
            raise PermanentError(RUN_IS_OVER)
        if under_way is not None and under_way.reservation.payers.all[-1] is self._payers.all[-1]:
            lent = under_way.take_over()
            if lent is not None:  # this is the call that it was made for
                self._is_carried = True
                lent.cancel()
                self._payers = self._payers.joined(lent.payers)
        return try_to_reserve(self._payers, self._request, member.terms)

    async def _wait_to_reserve(
        self, first: Refused | Account, member: Endpoint, failure: ExecutionKitError | None
    ) -> Reservation:
        """Reserve the next attempt as soon as calls in flight have made room.

        Raises:
            BudgetExhaustedError: They will not make enough.
        """
        if not isinstance(first, Refused):
            log_wait((self._path, self._ordinal), "budget")
        wait = None if self._span is None or isinstance(first, Refused) else self._span.below()
        if wait is not None:
            wait.send(WaitStarted, reason="budget")
        try:
            decision = await reserve(self._payers, self._request, member.terms)
        finally:
            if wait is not None:
                wait.send(WaitFinished, reason="budget", duration=wait.duration)
        if isinstance(decision, Reservation):
            return decision
        if decision.is_halted and failure is not None:
            raise failure
        if decision.is_halted:
            raise BudgetExhaustedError("not sent: a call beside it has failed", metadata={"halted": True})
        raise out_of_budget(decision) from failure

    async def _attempt(self, member: Endpoint, reservation: Reservation) -> LLMResponse | ExecutionKitError:
        if self._entry is not None:
            await self._note_sent(self._entry, reservation)
        self._attempts += 1
        self._has_learned = False
        span = None if self._span is None else self._send_attempt(self._span.below(), member, reservation)
        waited = None if self._span is None else self._span.waited
        attempt = Attempt(
            member.provider, self._deliver if self._stream else None, self._frame.backlog, waited
        )
        place = (self._path, self._ordinal)
        under_way = OpenCall(reservation, place, self._frame.settings.ends_at, span)
        token = call_under_way.set(under_way)
        before = cancellations()
        try:
            response = await attempt.answer(spell(self._request, self._dialect, reservation.max_tokens))
        except BaseException as raised:
            error = taken_as(raised)
            if isinstance(error, Exception):
                failure = _placed(_as_failure(error, self._retry(member), attempt), member)
                self._has_delivered = attempt.has_delivered
                learned = self._learn(member, failure)
                reservation.abandon(attribute(failure, "cost"))
                self._note_paid(reservation)
                self._note_learned(member, learned)
                self._void()
                self._settled(span, reservation, failure=failure, learned=learned)
                await stop_if_cancelled(before, error)
                return failure
            reservation.abandon(attribute(attempt, "billed"), is_estimate=attempt.is_broken_off)
            self._note_paid(reservation)
            self._void()
            self._settled(span, reservation, error=name_of_end(error))
            if error is raised:
                raise
            raise error from None
        finally:
            under_way.end()
            call_under_way.reset(token)
        reservation.settle(response.usage, response)
        if self._entry is not None:
            self._entry.paid(reservation.charge)
        if self._said_length and not self._has_said_all(response.content):
            self._void()  # thoughts were found in it that nobody could know for such before its end
            self._deliver(response.content, whole=True)
        if self._span is not None and self._said_length:
            self._send_read(self._span, "")
        if span is not None:
            self._first_piece = span.seconds_to(attempt.first_at)
            self._settled(span, reservation, response=response)
        return response

    async def _note_sent(self, entry: Entry, reservation: Reservation) -> None:
        """Have the journal note that an attempt is about to be sent; where it cannot, nothing is."""
        try:
            await entry.send(reservation.worst)
        except BaseException:
            reservation.cancel()
            raise

    def _note_paid(self, reservation: Reservation) -> None:
        """Have the journal note what an attempt was charged that gave no answer."""
        if self._entry is not None:
            self._entry.paid(reservation.charge)

    def _note_learned(self, member: Endpoint, learned: tuple[str, ...]) -> None:
        """Have the journal note what a refusal taught: the fields of the dialect that it changed."""
        if self._entry is not None and learned:
            dialect = member.memory.dialect
            self._entry.learned(self._place_of(member), {name: getattr(dialect, name) for name in learned})

    def _place_of(self, member: Endpoint) -> int | None:
        return place_of(member, endpoint_of(self._frame.provider, self._frame.account))

    def _keep(self, left_out: Dialect | None) -> None:
        """Have the journal store how the call stands after a failure, and how it goes on."""
        if self._entry is not None:
            self._entry.keep(self._retries, left_out=left_out is not None)

    def _deliver(
        self,
        text: str,
        kind: DeltaKind = "text",
        *,
        whole: bool = False,
        tool: str | None = None,
        index: int = 0,
    ) -> None:
        """Tell whoever wants texts of a piece."""
        span = self._span
        if span is None or not span.content:
            return
        self._has_said = True
        if kind == "arguments":
            span.send(TextDelta, text=text, kind=kind, tool=tool, index=index)
            return
        if kind == "reasoning":
            span.send(TextDelta, text=text, kind=kind)
            return
        if not self._said_length:
            if self._is_answer:
                span.tracer.note_said(span)
            self._read = None if self._on_text is None else self._on_text()
        self._said_length += len(text)
        self._said_checksum = crc32(text.encode("utf-8", "surrogatepass"), self._said_checksum)
        span.send(TextDelta, text=text, whole=whole, is_answer=self._is_answer)
        self._send_read(span, text)

    def _send_read(self, span: Span, text: str) -> None:
        """Tell what can be read of the text so far; at its end that is called with no text."""
        if self._read is not None:
            for record, fields in self._read(text):
                span.send(record, is_answer=self._is_answer, **fields)

    def _void(self) -> None:
        """Take back what the call has said, where it has said anything."""
        if self._span is not None and self._has_said:
            self._span.tracer.void("failed", self._span)
            self._has_said = False
            self._said_length = self._said_checksum = 0

    def _has_said_all(self, text: str) -> bool:
        """Whether what was handed out is this text."""
        checksum = crc32(text.encode("utf-8", "surrogatepass"))
        return (len(text), checksum) == (self._said_length, self._said_checksum)

    def _learn(self, member: Endpoint, failure: ExecutionKitError) -> tuple[str, ...]:
        """Learn from a refusal that names a field: once a field, twice for the form. Return what changed."""
        refusal = _refusal_in(failure)
        learned = None if refusal is None else learn(self._dialect, self._request, refusal)
        if learned is None:
            return ()
        lesson = lesson_of(self._dialect, learned)
        if any(self._lessons.count(name) > (name == _FORM) for name in lesson):
            return ()  # it refuses what it was refused for before: nothing follows from that
        member.memory.learn(lesson)
        self._lessons.extend(lesson)
        self._has_learned = True
        learned_fields = tuple(lesson)
        log_lesson((self._path, self._ordinal), self._attempts, member, failure, learned_fields)
        return learned_fields

    async def _back_off(self, member: Endpoint, failure: ExecutionKitError) -> None:
        delay = retry_delay(self._retry(member), self._retries, failure)
        is_too_late = delay is not None and self._is_too_late(delay)
        if delay is None or self._is_carried or is_too_late or not _may_retry(member, failure):
            self._is_final = not is_too_late
            raise failure.stamped(failure.cost, {"attempts": self._attempts})
        self._keep(None)
        log_retry((self._path, self._ordinal), self._attempts, member, failure, delay)
        if self._span is None:
            return await anyio.sleep(delay)
        wait = self._span.below()
        error = type(failure).__name__
        wait.send(WaitStarted, reason="back_off", delay=delay, attempt=self._attempts, error=error)
        try:
            await anyio.sleep(delay)
        finally:
            wait.send(WaitFinished, reason="back_off", duration=wait.duration)

    def _retry(self, member: Endpoint) -> RetryConfig:
        """Return the run's policy, or else the provider's own."""
        return self._frame.settings.retry or member.retry

    def _is_too_late(self, delay: float) -> bool:
        ends_at = self._frame.settings.ends_at
        return ends_at is not None and anyio.current_time() + delay >= ends_at

    def _send_started(self, span: Span) -> None:
        endpoint, request = endpoint_of(self._frame.provider, self._frame.account), self._request
        span.send(
            CallStarted,
            ordinal=self._ordinal,
            model=endpoint.model,
            server=endpoint.server,
            port=endpoint.port,
            provider=endpoint.kind,
            max_tokens=request.max_tokens,
            choices=request.n,
            temperature=_number(request.temperature),
            settings=_settings(request.options) if request.options else {},
            has_form=request.form is not None,
            is_streamed=self._stream and method(self._frame.provider, "stream") is not None,
            prompt=json_text(request.messages) if span.content else None,
            tools=json_text(request.tools) if span.content and request.tools else None,
        )

    def _send_finished(self, span: Span, response: LLMResponse | None, error: str | None) -> None:
        span.send(
            CallFinished,
            ordinal=self._ordinal,
            attempts=self._attempts,
            duration=span.duration,
            cost=self._cost,
            is_estimated=self._is_estimated,
            is_replayed=self._is_replayed,
            error=error,
            **({} if response is None else self._told(span, response)),
        )

    def _told(self, span: Span, response: LLMResponse) -> dict[str, object]:
        """Return what the end of a call tells of its answer."""
        told: dict[str, object] = {
            "finish_reason": response.finish_reason,
            "response_id": _text(response.id),
            "response_model": _text(response.model),
            "first_piece": self._first_piece,
        }
        if self._request.n > 1:
            told["finish_reasons"] = finish_reasons_in(response)
        else:
            told["finish_reasons"] = (response.finish_reason,)
        if span.content:
            told["text"] = response.content
            told["tool_calls"] = json_text(response.tool_calls) if response.tool_calls else None
        return told

    def _send_attempt(self, span: Span, member: Endpoint, reservation: Reservation) -> Span:
        span.send(
            AttemptStarted,
            attempt=self._attempts,
            max_tokens=reservation.max_tokens,
            model=member.model,
            server=member.server,
            port=member.port,
            provider=member.kind,
        )
        return span

    def _settled(
        self,
        span: Span | None,
        reservation: Reservation,
        *,
        response: LLMResponse | None = None,
        error: str | None = None,
        failure: ExecutionKitError | None = None,
        learned: tuple[str, ...] = (),
    ) -> None:
        if span is None:
            return
        cost = reservation.charged
        self._cost += cost
        self._is_estimated |= reservation.is_estimated
        status: object = None
        request_id: object = None
        if response is not None:
            status, request_id = response.status, response.request_id or None
        elif failure is not None:
            status, request_id = failure.metadata.get("status"), failure.metadata.get("request_id")
        span.send(
            AttemptFinished,
            attempt=self._attempts,
            duration=span.duration,
            cost=cost,
            finish_reason=None if response is None else response.finish_reason,
            error=error if failure is None else type(failure).__name__,
            status=status if isinstance(status, int) else None,
            request_id=request_id if isinstance(request_id, str) else None,
            learned=learned,
        )


def out_of_budget(refused: Refused) -> BudgetExhaustedError:
    """Return the error for a call that a budget has no room for."""
    owner = refused.owner
    if owner is None:
        return BudgetExhaustedError(
            f"the budget does not allow another call: {refused.reason}; {refused.remedy}"
        )
    noted = {
        "budget": "run" if owner.is_run else "stage",
        "budget_path": owner.path,
        "budget_limit": refused.limit,
        "budget_spent": refused.spent,
        "budget_needed": refused.needed,
    }
    needed, call = refused.needed, ""
    if needed.llm_calls:
        tokens = f"{needed.input_tokens:,} input tokens and up to {needed.output_tokens:,} output tokens"
        call = f"the call needs about {tokens}; "
    return BudgetExhaustedError(
        f"{owner.described} does not allow another call: {refused.reason}; {call}{refused.remedy}",
        metadata=noted,
    )


_SETTINGS: Final = ("top_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "reasoning_effort")
"""What a trace is told of a request's further fields: numbers and words of an API, never content."""


def _settings(options: Mapping[str, object]) -> dict[str, float | int | str | tuple[str, ...]]:
    told = {name: options.get(name) for name in _SETTINGS}
    settings: dict[str, float | int | str | tuple[str, ...]] = {
        name: value[:_A_WORD] if isinstance(value, str) else value
        for name, value in told.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    stop: object = options.get("stop", options.get("stop_sequences"))
    given = cast("Sequence[object]", stop) if isinstance(stop, list | tuple) else (stop,)
    words = tuple([each[:_A_WORD] for each in given if isinstance(each, str)])
    return {**settings, "stop": words} if words else settings


_A_WORD: Final = 40


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _refusal_in(failure: ExecutionKitError) -> Refusal | None:
    """Return what a server said when it did not take a request as it is; None where it is another failure."""
    said = failure.metadata
    if not isinstance(failure, PermanentError) or said.get("status") not in _REFUSALS:
        return None
    field, code = said.get("param"), said.get("code")
    return Refusal(
        str(failure), field if isinstance(field, str) else "", code if isinstance(code, str) else ""
    )


def _may_retry(member: Endpoint, failure: ExecutionKitError) -> bool:
    quota = member.retry_quota
    return quota is None or quota.try_spend(throttled=isinstance(failure, RateLimitError))


def _as_failure(error: Exception, retry: RetryConfig, attempt: Attempt) -> ExecutionKitError:
    """Wrap what a foreign provider raised, and say whether it is worth a retry."""
    error = unwrapped(error)
    if not isinstance(error, ExecutionKitError):
        may_pass = _may_pass(error, retry)
        failure = ProviderError(f"the provider raised {described(error)}", retryable=may_pass)
        failure.__cause__ = error
        error = failure
    if attempt.has_delivered and isinstance(error, LLMError) and error.retry_hint is not False:
        error = error.stamped(error.cost)  # a copy, for the original is the provider's
        error.retry_hint = False  # nobody can take back text that was handed out
    return error


def _placed(failure: ExecutionKitError, member: Endpoint) -> ExecutionKitError:
    """Say who was asked, in the message and as `model` and `server`, once and where the provider tells."""
    who = {"model": member.model, "server": member.server}
    told = {key: name for key, name in who.items() if name}
    if not told or not isinstance(failure, LLMError) or told.keys() & failure.metadata.keys():
        return failure
    placed = failure.stamped(failure.cost, told)
    if placed.args and isinstance(placed.args[0], str):
        placed.args = (f"{placed.args[0]} ({' at '.join(told.values())})", *placed.args[1:])
    return placed


def _may_pass(error: Exception, retry: RetryConfig) -> bool:
    """Tell whether a foreign exception is what the system reports, TLS aside, or what the caller named."""
    from ssl import SSLEOFError, SSLError  # takes long to import, and most runs do without

    is_tls = isinstance(error, SSLError) and not isinstance(error, SSLEOFError)
    return not is_tls and isinstance(error, (OSError, *retry.retryable))
