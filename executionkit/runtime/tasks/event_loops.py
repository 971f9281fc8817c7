"""An event loop of our own for scripts, and its end: what was opened inside is closed before it goes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Final, TypeVar

import anyio
import sniffio
from anyio.lowlevel import current_token

__all__ = ["IN_A_THREAD", "check_no_loop", "closer", "closing_at_exit", "in_new_loop", "on_loop_exit"]

IN_A_THREAD: Final = "call it in a thread of its own"
"""What to do in a running event loop with what has no async form."""

T = TypeVar("T")

_closing: Final[set["asyncio.Task[None]"]] = set()
"""Tasks that close what was dropped; an event loop alone does not keep them."""

_scope: Final[ContextVar[tuple[object, AsyncExitStack] | None]] = ContextVar(
    "executionkit_loop", default=None
)


def in_new_loop(run: Callable[[], Awaitable[T]], what: str, remedy: str = IN_A_THREAD) -> T:
    """Run to the end on a new asyncio loop and close what was opened in it.

    Args:
        run: What to run.
        what: What the caller called.
        remedy: What to do in its place where an event loop runs.

    Raises:
        RuntimeError: An event loop runs in this thread already.
    """
    check_no_loop(what, remedy)
    context = copy_context()
    # `anyio.run` notes its library in a context variable, which follows `asyncio.to_thread` into threads
    # where no event loop runs.
    context.run(sniffio.current_async_library_cvar.set, None)
    return context.run(anyio.run, _to_its_end, run)


def check_no_loop(what: str, remedy: str) -> None:
    """Check that no event loop runs in this thread.

    Raises:
        RuntimeError: One does.
    """
    library = _running_library()
    if library is not None:
        raise RuntimeError(f"{what} cannot be called inside a running {library} event loop; {remedy}")


def _running_library() -> str | None:
    """Name the library whose event loop runs in this thread, also within its callbacks, where no task is."""
    if sniffio.thread_local.name is not None:
        return sniffio.thread_local.name
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    return "asyncio"


async def _to_its_end(run: Callable[[], Awaitable[T]]) -> T:
    async with closing_at_exit():
        return await run()


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


def closer() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Return what has something awaited in this event loop, soon: from a finalizer, in whatever thread."""
    if sniffio.current_async_library() == "trio":
        import trio  # an extra

        soon: Callable[..., Any] = trio.lowlevel.current_trio_token().run_sync_soon

        def start(close: Callable[[], Awaitable[None]]) -> None:
            trio.lowlevel.spawn_system_task(_quietly, close)

    else:
        loop = asyncio.get_running_loop()
        soon = loop.call_soon_threadsafe

        def start(close: Callable[[], Awaitable[None]]) -> None:
            task = loop.create_task(_quietly(close))
            _closing.add(task)
            task.add_done_callback(_closing.discard)

    def closing(close: Callable[[], Awaitable[None]]) -> None:
        with suppress(RuntimeError):  # the event loop is over
            soon(start, close)

    return closing


async def _quietly(close: Callable[[], Awaitable[None]]) -> None:
    with suppress(Exception):
        await _shielded(close)
