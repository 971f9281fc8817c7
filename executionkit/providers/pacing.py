"""A request's turn under a rate limit: waited for before it is sent, settled once its cost is known."""

from contextlib import nullcontext
from time import monotonic, time
from typing import Final

from anyio import current_time, sleep

from executionkit.core.rate_limit import Pace
from executionkit.errors import RateLimitError
from executionkit.providers.http.exchange import Head
from executionkit.runtime.calls.open_call import call_under_way

__all__ = ["Turn"]


class Turn:
    """The place of one request.

    Args:
        pace: What all requests of a provider share.
        tokens: What the request may take at most, by an estimate of its input.
    """

    def __init__(self, pace: Pace, tokens: int) -> None:
        self._pace = pace
        self._is_held = False
        self.tokens: Final = tokens

    async def wait(self) -> None:
        """Return when the request may be sent. Who is cancelled meanwhile gives its place back.

        Raises:
            RateLimitError: That is after the deadline of the run; nothing was sent.
        """
        delay = self._pace.reserve(self.tokens, monotonic())
        self._is_held = True
        try:
            while delay > 0:
                _check_deadline(delay)
                await _waited(delay)
                delay = self._pace.closed_for(monotonic())  # an answer may have said so meanwhile
        except BaseException:
            self._is_held = False
            self._pace.give_up(self.tokens)
            raise

    def learn(self, head: Head) -> None:
        """Take note of what the server says is left."""
        self._pace.learn(head.headers, monotonic(), time())

    def settle(self, used: int) -> None:
        """Give back what the request did not take. Only the first time counts, and only after `wait`."""
        if self._is_held:
            self._is_held = False
            self._pace.settle(self.tokens, used)


def _check_deadline(delay: float) -> None:
    call = call_under_way.get()
    ends_at = None if call is None else call.ends_at
    if ends_at is not None and current_time() + delay >= ends_at:
        raise RateLimitError(
            f"not sent: the rate limit allows it in {delay:.3g} s only, after the run's deadline",
            retry_after=delay,
        )


async def _waited(delay: float) -> None:
    """Sleep, and tell the trace of the run that asks, where one does."""
    call = call_under_way.get()
    with nullcontext() if call is None else call.waiting("rate_limit", delay):
        await sleep(delay)
