"""The call that is under way where foreign code runs: what it may be lent, and until when it may wait."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.events import Path, WaitFinished, WaitReason, WaitStarted
from executionkit.runtime.calls.logs import log_wait
from executionkit.runtime.ledger.reservation import Reservation
from executionkit.runtime.tracing import Span

__all__ = ["OpenCall", "call_under_way"]


class OpenCall(msgspec.Struct, eq=False):
    """An attempt that a provider is being asked to make.

    A provider may be a wrapper around the run's own metered one. The first call that it passes on is the one
    that was reserved: it takes the reservation over, once, and any further call needs one of its own. When
    the attempt ends its ticket is void, so that a task which it left behind pays for itself.

    Such a wrapper may also be what a run of its own asks, on a ledger of its own. Then an error that it lets
    out says what the whole stage has spent; what this attempt did is what was charged within it.

    Args:
        reservation: What the attempt holds.
        place: The path and the ordinal of the logical call.
        ends_at: The event loop's time at which the run is over; None where it has no deadline.
        span: The attempt in the trace; None where nobody traces.
    """

    reservation: Reservation
    place: tuple[Path, int]
    _ends_at: float | None
    _span: Span | None
    _is_over: bool = False
    _is_taken: bool = False
    _is_passed_on: bool = False
    _charged: TokenUsage = NO_USAGE

    @property
    def ends_at(self) -> float | None:
        """The event loop's time at which the call is ended anyway; None where nothing ends it."""
        return None if self._is_over else self._ends_at

    def take_over(self) -> Reservation | None:
        """Return the reservation to whoever asks first; None to all others, and after the end."""
        if self._is_over or self._is_taken:
            return None
        self._is_taken = True
        return self.reservation

    def note_asked(self) -> None:
        """Note that a metered provider is asked within it."""
        self._is_passed_on = True

    def note_charged(self, cost: TokenUsage) -> None:
        """Note what such a call was charged: nothing where it was not sent either."""
        self._charged += cost

    def abandon(self, billed: object, *, is_estimate: bool = False) -> None:
        """Settle the attempt, which gave no answer; it does not count where all it was to send was refused.

        Args:
            billed: What the failure says it cost, or what had arrived.
            is_estimate: Whether that is not the server's own figure.
        """
        if not self._is_passed_on:
            self.reservation.abandon(billed, is_estimate=is_estimate)
        elif self._charged.llm_calls:
            self.reservation.abandon(self._charged)
        else:
            self.reservation.cancel()

    def end(self) -> None:
        """Void the ticket."""
        self._is_over = True

    @contextmanager
    def waiting(self, reason: WaitReason, delay: float) -> Generator[None, None, None]:
        """Tell the trace, and the log, of a wait within this attempt."""
        log_wait(self.place, reason, delay)
        if self._span is None or self._is_over:
            yield
            return
        span = self._span.below()
        span.send(WaitStarted, reason=reason, delay=delay)
        try:
            yield
        finally:
            span.send(WaitFinished, reason=reason, duration=span.duration)


call_under_way: Final[ContextVar[OpenCall | None]] = ContextVar("executionkit_call", default=None)
"""The attempt within which this code runs; child tasks inherit it, and find it void once it is over."""
