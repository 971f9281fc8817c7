"""Plain functions in threads: the event loop goes on meanwhile, and the process may end before they do."""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TypeVar

import anyio
import anyio.to_thread
import sniffio

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Return `function()`, called in a thread of its own, in a copy of the context.

    When this is cancelled the thread runs on, unobserved: it cannot be killed. It does not keep the process
    from ending; anyio's own threads do so on asyncio.

    Raises:
        BaseException: Whatever the function raised.
    """
    if sniffio.current_async_library() != "asyncio":
        # A limiter of its own: a call that never returns must not keep others from their thread.
        return await anyio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
        )
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()
    context = copy_context()
    context.run(sniffio.current_async_library_cvar.set, None)  # no event loop runs in the thread

    def set_result(result: T) -> None:
        if not ended.done():
            ended.set_result(result)

    def set_failure(failure: BaseException) -> None:
        if not ended.done():
            ended.set_exception(failure)

    def work() -> None:
        with _known_to_anyio(loop), suppress(RuntimeError):  # the loop is closed: nobody wants to know
            try:
                result = context.run(function)
            except StopIteration as stop:  # no future takes one
                failure = RuntimeError("the function raised StopIteration")
                failure.__cause__ = stop
                loop.call_soon_threadsafe(set_failure, failure)
            except BaseException as failure:  # noqa: BLE001
                loop.call_soon_threadsafe(set_failure, failure)
            else:
                loop.call_soon_threadsafe(set_result, result)

    threading.Thread(target=work, name="executionkit tool", daemon=True).start()
    return await ended


@contextmanager
def _known_to_anyio(loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
    """Let `anyio.from_thread` find its way back, as from anyio's own threads."""
    try:
        from anyio._core._eventloop import claim_worker_thread, get_async_backend
    except ImportError:  # they are private; without them `from_thread.run(..., token=...)` still works
        yield
        return
    with claim_worker_thread(get_async_backend("asyncio"), loop):
        yield
