"""Calls wait here until their server has room for them, where a run adapts how many are under way."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from executionkit.core.window import Adaptive, Window
from executionkit.errors import ExecutionKitError, LLMError, RateLimitError
from executionkit.events import WaitFinished, WaitStarted
from executionkit.provider import LLMResponse
from executionkit.runtime.tracing import Span

__all__ = ["Gate", "Windows"]

_BUSY: Final = frozenset({429, 503, 529})
"""Statuses that say that a server has no room; 529 is Anthropic's."""


class Windows:
    """The windows of one run, one for each provider that it asks.

    Args:
        bounds: The least and the most calls at once, at each of them.
    """

    __slots__ = ("_bounds", "_gates")

    def __init__(self, bounds: Adaptive) -> None:
        self._bounds = bounds
        self._gates: dict[int, tuple[object, Gate]] = {}

    def gate(self, provider: object) -> "Gate":
        """Return what the calls to a provider go through."""
        known = self._gates.get(id(provider))
        if known is None:  # the provider is kept beside it, so that its number stays its own
            known = self._gates[id(provider)] = (provider, Gate(Window(self._bounds)))
        return known[1]

    @property
    def size(self) -> int:
        """How many calls may be under way in all: what a run needs to use them, but never above the most."""
        sizes = sum([gate.window.size for _, gate in self._gates.values()])
        return min(max(self._bounds.least, sizes), self._bounds.most)


class Gate:
    """Lets calls to one server through, in order, as its window has room.

    Args:
        window: How many may be under way.
    """

    __slots__ = ("_waiting", "window")

    def __init__(self, window: Window) -> None:
        self.window: Window = window
        self._waiting: deque[anyio.Event] = deque()

    async def through(
        self,
        attempt: Callable[[], Awaitable[LLMResponse | ExecutionKitError]],
        call: Span | None,
        patience: float,
    ) -> LLMResponse | ExecutionKitError:
        """Make an attempt as soon as there is room, and note how it went.

        Args:
            attempt: Sends it.
            call: The call in the trace, which is told of a wait; None where nobody traces.
            patience: Seconds for which the server may want no calls; for longer, the attempt is not made.
        """
        window = self.window
        closed = window.closed_for(anyio.current_time())
        if self._waiting or not window.has_room or closed:
            closed = await self._wait(call, patience)
        else:
            window.enter()
        if closed > patience:
            self._leave()
            return RateLimitError(
                f"not sent: the server wants no calls for {closed:.0f} s, which is longer than max_delay "
                f"({patience:g} s) of the retries; run again then, or have them wait longer",
                retry_after=closed,
            )
        number = window.send()
        outcome: LLMResponse | ExecutionKitError | None = None
        try:
            outcome = await attempt()
            return outcome
        finally:
            self._note(number, outcome)
            self._let_in()

    async def _wait(self, call: Span | None, patience: float) -> float:
        """Take a place in the window, and wait until the server wants calls.

        Returns:
            0; or for how long it wants none, which was too long to wait.
        """
        span = None if call is None else call.below()
        if span is not None:
            span.send(WaitStarted, reason="rate_limit")
        try:
            await self._place()
            return await self._opening(patience)
        finally:
            if span is not None:
                span.send(WaitFinished, reason="rate_limit", duration=span.duration)

    async def _place(self) -> None:
        if not self._waiting and self.window.has_room:
            return self.window.enter()
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._leave()
            else:
                self._waiting.remove(turn)
            raise

    async def _opening(self, patience: float) -> float:
        try:
            delay = self.window.closed_for(anyio.current_time())
            while 0 < delay <= patience:
                await anyio.sleep(delay)
                delay = self.window.closed_for(anyio.current_time())  # another call was told to wait
            return delay
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        self.window.left()
        self._let_in()

    def _let_in(self) -> None:
        """Give the places that there are to those who have waited longest."""
        while self._waiting and self.window.has_room:
            self.window.enter()
            self._waiting.popleft().set()

    def _note(self, number: int, outcome: LLMResponse | ExecutionKitError | None) -> None:
        if isinstance(outcome, LLMResponse):
            self.window.answered(number)
        elif isinstance(outcome, LLMError) and _is_busy(outcome):
            self.window.refused(number, anyio.current_time(), outcome.requested_delay)
        else:
            self.window.left()


def _is_busy(failure: LLMError) -> bool:
    """Tell whether a server refused a call for want of room; a quota that is used up is no such thing."""
    if failure.retry_hint is False:
        return False
    return isinstance(failure, RateLimitError) or failure.metadata.get("status") in _BUSY
