"""A request's turn under a rate limit: waited for before it is sent, settled once its cost is known."""

from contextlib import nullcontext
from time import monotonic, time
from typing import Final

from anyio import current_time, sleep
from typing_extensions import override

from executionkit.core.rate_limit import Pace
from executionkit.errors import ProviderClosedError, RateLimitError
from executionkit.providers.http.exchange import Head
from executionkit.runtime.calls.open_call import call_under_way
from executionkit.runtime.calls.shared_limits import SharedLimit

__all__ = ["SharedTurn", "Turn"]


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
        """Return when the request may be sent. Whoever is cancelled meanwhile gives its place back.

        Raises:
            RateLimitError: That is after the deadline of the run; nothing was sent.
        """
        delay = self._pace.reserve(self.tokens, monotonic())
        self._is_held = True
        try:
            await self._passed(delay)
        except BaseException:
            self._is_held = False
            self._pace.give_up(self.tokens)
            raise

    async def _passed(self, delay: float) -> None:
        while delay > 0:
            _check_deadline(delay)
            await _waited(delay)
            delay = self._pace.closed_for(monotonic())  # an answer may have said so meanwhile

    def learn(self, head: Head) -> None:
        """Take note of what the server says is left."""
        self._pace.learn(head.headers, monotonic(), time())

    def settle(self, used: int) -> None:
        """Give back what the request did not take. Only the first time counts, and only after `wait`."""
        if self._is_held:
            self._is_held = False
            self._give(self.tokens - used)

    def _give(self, tokens: int) -> None:
        self._pace.settle(tokens, 0)


class SharedTurn(Turn):
    """The place of one request under a limit that is kept elsewhere, for other processes as well.

    Args:
        pace: Keeps what the server says is left, for the requests of this process.
        tokens: As in `Turn`.
        limit: The limit.
    """

    def __init__(self, pace: Pace, tokens: int, limit: SharedLimit) -> None:
        super().__init__(pace, tokens)
        self._limit = limit

    @override
    async def wait(self) -> None:
        """Return when the request may be sent. Whoever is cancelled meanwhile gives back the tokens only.

        Raises:
            ProviderClosedError: Nobody keeps the limit any more; nothing was sent.
            RateLimitError: As in `Turn`.
        """
        async with self._limit.turn:
            ends_at = _deadline()
            patience = None if ends_at is None else ends_at - current_time()
            try:
                delay = await self._limit.place(self.tokens, patience)
            except OSError as error:
                raise ProviderClosedError(f"not sent: {error}") from error
            _check_deadline(delay)  # which has taken no place
            self._is_held = True
            try:
                await self._passed(max(delay, self._pace.closed_for(monotonic())))
            except BaseException:
                self.settle(0)
                raise

    @override
    def _give(self, tokens: int) -> None:
        self._limit.unused += tokens


def _deadline() -> float | None:
    call = call_under_way.get()
    return None if call is None else call.ends_at


def _check_deadline(delay: float) -> None:
    ends_at = _deadline()
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
