"""Plain functions in threads: the event loop goes on meanwhile, and the process may end before they do."""

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TypeVar, cast

import anyio
import anyio.to_thread
import sniffio

from executionkit.runtime.tasks.cancellation import passes
from executionkit.runtime.tasks.ending import announce_interrupt

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
        result, failure = await anyio.to_thread.run_sync(
            _called, function, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
        )
        try:
            if failure is None:
                return cast("T", result)
            raise failure
        finally:
            del failure
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()
    context = copy_context()
    context.run(sniffio.current_async_library_cvar.set, None)  # no event loop runs in the thread

    def end(result: T | None, failure: BaseException | None) -> None:
        if ended.done():
            return
        if failure is None:
            ended.set_result(cast("T", result))
        else:
            ended.set_exception(failure)

    def work() -> None:
        with _known_to_anyio(loop), suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(end, *context.run(_called, function))

    threading.Thread(target=work, name="executionkit tool", daemon=True).start()
    return await ended


def _called(function: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return what a function returned or raised; trio would look at an exception, which may raise another."""
    try:
        return function(), None
    except StopIteration as stop:
        return None, _not_a_stop(stop)
    except BaseException as failure:  # noqa: BLE001
        if passes(failure):
            announce_interrupt(failure)  # from here: the event loop learns of it a turn later
        return None, failure


def _not_a_stop(stop: StopIteration) -> RuntimeError:
    """Return what stands for a `StopIteration`: no future takes one, and a coroutine that raises it fails."""
    failure = RuntimeError("the function raised StopIteration")
    failure.__cause__ = stop
    return failure


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
