"""The end of an event loop: what was opened inside it is closed before it goes."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Final

import anyio
from anyio.lowlevel import current_token

__all__ = ["closing_at_exit", "on_loop_exit"]

_scope: Final[ContextVar[tuple[object, AsyncExitStack] | None]] = ContextVar(
    "executionkit_loop", default=None
)


@asynccontextmanager
async def closing_at_exit() -> AsyncGenerator[None, None]:
    """Close, at the end of this block, everything that was opened inside it, in reverse order.

    Put around the whole life of an event loop, as the `_sync` twins do.
    """
    async with AsyncExitStack() as stack:
        previous = _scope.set((current_token(), stack))
        try:
            yield
        finally:
            _scope.reset(previous)


def on_loop_exit(close: Callable[[], Awaitable[None]]) -> bool:
    """Have `close` awaited when the enclosing `closing_at_exit` block ends, also when it is cancelled.

    Returns:
        Whether there is such a block in this event loop; without one, closing is up to the caller.
    """
    scope = _scope.get()
    # A context copied into another thread's event loop must not be closed from this one.
    if scope is None or scope[0] != current_token():
        return False
    scope[1].push_async_callback(_shielded, close)
    return True


async def _shielded(close: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True):
        await close()
