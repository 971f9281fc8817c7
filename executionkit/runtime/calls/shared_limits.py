"""Rate limits that the requests of a run share with those of other processes."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, Protocol

import anyio

from executionkit.core.rate_limit import RateLimit

__all__ = ["SharedLimit", "SharedLimits", "shared_limits"]


class SharedLimit:
    """A rate limit that is kept elsewhere.

    One request of this process at a time has a place there that it still waits for. So what is lost with a
    process that dies, or with a request that is cancelled, is one place; it counts as used.

    Args:
        ask: Asks for the place of a request: the tokens that it may take, those that requests before it have
            not taken, and the wait in seconds from which on it takes none; returns the wait.
    """

    def __init__(self, ask: Callable[[int, int, float | None], Awaitable[float]]) -> None:
        self._ask = ask
        self.turn: Final = anyio.Lock()
        """Held by the request that waits for its place."""
        self.unused: int = 0
        """Tokens to be given back with the next request."""

    async def place(self, tokens: int, patience: float | None) -> float:
        """Take the place of a request, and return the seconds until it may be sent.

        Args:
            tokens: What it may take at most.
            patience: Where the wait is not below so many seconds, no place is taken; None for any wait.

        Raises:
            OSError: Nobody keeps the limit any more.
        """
        unused, self.unused = self.unused, 0
        return await self._ask(tokens, unused, patience)


class SharedLimits(Protocol):
    """The rate limits of a run."""

    @property
    def salt(self) -> bytes:
        """What to make digests with that stand for a key."""
        ...

    def limit_of(self, server: str, limit: RateLimit) -> SharedLimit:
        """Return a limit.

        Args:
            server: What all requests under it have in common.
            limit: The limit.
        """
        ...


shared_limits: Final[ContextVar[SharedLimits | None]] = ContextVar("executionkit_limits", default=None)
"""The limits that are shared by what runs here; None where each provider keeps its own."""
