"""What traces are told of one call: its beginning, its attempts and its end."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

from executionkit.core.dialect import Request
from executionkit.core.encoding import json_text
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.events import AttemptFinished, AttemptStarted, CallFinished, CallStarted
from executionkit.provider import LLMResponse, finish_reasons_in
from executionkit.runtime.calls.endpoints import Endpoint
from executionkit.runtime.ledger.reservation import Reservation
from executionkit.runtime.tracing import Span

__all__ = ["CallTrace"]

_SETTINGS: Final = ("top_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "reasoning_effort")
"""What a trace is told of a request's further fields: numbers and words of an API, never content."""

_LEFT_BEHIND: Final = "Cancelled"
"""The error that is told of a call that outlives its run."""

_A_WORD: Final = 40
"""Characters of such a word at most."""


class CallTrace:
    """What traces are told of one call.

    Args:
        span: The call.
        request: What it asks for.
        ordinal: Which of the calls at its path it is.
    """

    __slots__ = (
        "_attempt",
        "_attempts",
        "_cost",
        "_is_estimated",
        "_is_over",
        "_ordinal",
        "_request",
        "first_piece",
        "is_replayed",
        "span",
    )

    def __init__(self, span: Span, request: Request, ordinal: int) -> None:
        self.span: Span = span
        self._request = request
        self._ordinal = ordinal
        self._attempts = 0  # of this life of the run: what an earlier one has sent is in its own records
        self._attempt: _Attempt | None = None
        self._is_over = False
        self._cost: TokenUsage = NO_USAGE
        self._is_estimated = False
        self.is_replayed: bool = False
        """Whether nobody was asked: a journal or a cache has answered."""
        self.first_piece: float | None = None
        """Seconds from the beginning of the last attempt to the first piece of the answer."""

    def started(self, endpoint: Endpoint, *, is_streamed: bool) -> None:
        """Tell that the call begins."""
        request, span = self._request, self.span
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
            is_streamed=is_streamed,
            prompt=json_text(request.messages) if span.content else None,
            tools=json_text(request.tools) if span.content and request.tools else None,
        )

    def finished(self, response: LLMResponse | None, error: str | None) -> None:
        """Tell that the call has ended, with an answer or an error; nothing where it was told before."""
        if self._is_over:
            return
        self._is_over = True
        self.span.send(
            CallFinished,
            ordinal=self._ordinal,
            attempts=self._attempts,
            duration=self.span.duration,
            cost=self._cost,
            is_estimated=self._is_estimated,
            is_replayed=self.is_replayed,
            error=error,
            **({} if response is None else self._answered(response)),
        )

    def end_with_run(self) -> None:
        """Tell that the call has ended, since its run has, with what the ledger counts for it."""
        if self._attempt is not None:
            self.attempt_finished(error=_LEFT_BEHIND)
        self.finished(None, _LEFT_BEHIND)

    def _answered(self, response: LLMResponse) -> dict[str, object]:
        """Return what the end of a call tells of its answer."""
        several = self._request.n > 1
        told: dict[str, object] = {
            "finish_reason": response.finish_reason,
            "finish_reasons": finish_reasons_in(response) if several else (response.finish_reason,),
            "response_id": _text(response.id),
            "response_model": _text(response.model),
            "first_piece": self.first_piece,
        }
        if self.span.content:
            told["text"] = response.content
            told["tool_calls"] = json_text(response.tool_calls) if response.tool_calls else None
        return told

    def attempt_started(self, attempt: int, member: Endpoint, reservation: Reservation) -> Span:
        """Tell that an attempt begins, and return it."""
        self._attempts += 1
        span = self.span.below()
        self._attempt = _Attempt(span, attempt, reservation)
        if not self._is_over:
            span.send(
                AttemptStarted,
                attempt=attempt,
                max_tokens=reservation.max_tokens,
                model=member.model,
                server=member.server,
                port=member.port,
                provider=member.kind,
            )
        return span

    def attempt_finished(
        self,
        *,
        response: LLMResponse | None = None,
        error: str | None = None,
        failure: ExecutionKitError | None = None,
        learned: tuple[str, ...] = (),
    ) -> None:
        """Tell how the attempt under way ended, and what it is charged; nothing where the call was over."""
        under_way, self._attempt = self._attempt, None
        if under_way is None or self._is_over:
            return
        cost = under_way.reservation.charged
        self._cost += cost
        self._is_estimated |= under_way.reservation.is_estimated
        status: object = None
        request_id: object = None
        if response is not None:
            status, request_id = response.status, response.request_id or None
        elif failure is not None:
            status, request_id = failure.metadata.get("status"), failure.metadata.get("request_id")
        under_way.span.send(
            AttemptFinished,
            attempt=under_way.number,
            duration=under_way.span.duration,
            cost=cost,
            finish_reason=None if response is None else response.finish_reason,
            error=error,
            status=status if isinstance(status, int) else None,
            request_id=request_id if isinstance(request_id, str) else None,
            learned=learned,
        )


class _Attempt(NamedTuple):
    """The attempt under way.

    Args:
        span: The attempt.
        number: Counted from 1.
        reservation: What it holds.
    """

    span: Span
    number: int
    reservation: Reservation


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


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
