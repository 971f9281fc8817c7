"""One thread that alone touches a store: writes that come in together are stored together.

It serves any number of event loops, of asyncio and of trio, and code without one.
"""

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar, cast

import sniffio

from executionkit.errors import JournalError
from executionkit.journal.ownership import LEASE
from executionkit.journal.store import Store, Write

__all__ = ["Worker"]

T = TypeVar("T")

_MOST: Final = 1_000
"""Jobs that are taken from the queue at once."""


_LINGER: Final = 0.001
"""Seconds that outcomes wait for the next call to be noted with them, where nobody waits for anything."""


class _Waiter(Protocol):
    """Somebody who waits for a job."""

    @property
    def loop(self) -> object:
        """Where to wake him."""
        ...

    def wake(self) -> None:
        """Wake him; called where `loop` is."""
        ...


class _Job:
    """A row to write, or a function to call, and who waits for it.

    Args:
        write: The row; None for a function.
        function: The function, called with the store.
        waiter: Who waits; None for nobody.
    """

    __slots__ = ("failure", "function", "result", "waiter", "write")

    def __init__(
        self,
        write: Write | None = None,
        function: Callable[[Store], object] | None = None,
        waiter: _Waiter | None = None,
    ) -> None:
        self.write = write
        self.function = function
        self.waiter = waiter
        self.result: object = None
        self.failure: BaseException | None = None


class _OnAsyncio:
    __slots__ = ("_future", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        await self._future


class _OnTrio:
    __slots__ = ("_event", "loop")

    def __init__(self) -> None:
        import trio  # an extra

        self.loop = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


class _InThread:
    __slots__ = ("future",)

    loop: object = None

    def __init__(self) -> None:
        self.future: Future[None] = Future()

    def wake(self) -> None:
        self.future.set_result(None)


class Worker:
    """The thread of a store.

    Once something could not be written nothing is written any more: what follows would stand on it.

    Args:
        open_store: Opens the store; called in the thread.

    Raises:
        JournalError: It could not be opened.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._failure: JournalError | None = None
        self._pid = os.getpid()
        self._is_closed = False
        self.tokens: set[str] = set()
        """What the owners of the runs under way are known by; their leases are renewed."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(open_store, ready), name="executionkit journal", daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self._thread.join()
            raise

    def put(self, write: Write) -> None:
        """Write a row soon."""
        if not self._is_closed:
            self._jobs.put(_Job(write))

    async def commit(self, write: Write) -> None:
        """Write a row, and return once it is stored.

        Raises:
            JournalError: It, or one before it, could not be.
        """
        await self._done(_Job(write))

    async def call(self, function: Callable[[Store], T]) -> T:
        """Return `function(store)`, called in the thread, after all that was handed over before.

        Raises:
            JournalError: It failed, or what came before it.
        """
        return cast("T", await self._done(_Job(function=function)))

    def call_soon(self, function: Callable[[Store], object]) -> None:
        """Call a function in the thread; whether it fails, nobody learns."""
        if not self._is_closed:
            self._jobs.put(_Job(function=function))

    def call_now(self, function: Callable[[Store], T]) -> T:
        """Return `function(store)` as `call` does, where no event loop is to be kept running."""
        self._check()
        waiter = _InThread()
        job = _Job(function=function, waiter=waiter)
        self._jobs.put(job)
        waiter.future.result()
        if job.failure is not None:
            raise _again(job.failure)
        return cast("T", job.result)

    async def _done(self, job: _Job) -> object:
        self._check()
        waiter = _OnTrio() if sniffio.current_async_library() == "trio" else _OnAsyncio()
        job.waiter = waiter
        self._jobs.put(job)
        await waiter.wait()
        if job.failure is not None:
            raise _again(job.failure)
        return job.result

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise JournalError("the journal was opened before this process was forked; open it in this one")
        if self._is_closed:
            raise JournalError(
                "the journal is closed; a run needs its `with` block to last as long as it does"
            )
        if self._failure is not None:
            raise _again(self._failure)

    def close(self) -> None:
        """Do what was handed over, close the store, and end the thread."""
        if not self._is_closed and os.getpid() == self._pid:
            self._is_closed = True
            self._jobs.put(None)
            self._thread.join()

    def _work(self, open_store: Callable[[], Store], ready: "Future[None]") -> None:
        try:
            store = open_store()
        except BaseException as error:  # noqa: BLE001 - raised where the journal is opened
            ready.set_exception(_as_journal_error(error) if isinstance(error, Exception) else error)
            return
        ready.set_result(None)
        heard = time.monotonic()
        is_over = False
        while not is_over:
            jobs = self._next_jobs()
            is_over = None in jobs
            done = [job for job in jobs if job is not None]
            self._do(store, done)
            _wake([job for job in done if job.waiter is not None])
            if self.tokens and time.monotonic() - heard > LEASE / 3:
                heard = time.monotonic()
                with suppress(JournalError):
                    store.renew([*self.tokens])
        store.close()

    def _next_jobs(self) -> "list[_Job | None]":
        """Wait for a job, or until a lease is to be renewed; return it with those that follow at once."""
        jobs: list[_Job | None] = []
        with suppress(Empty):
            jobs.append(self._jobs.get(timeout=LEASE / 3 if self.tokens else None))
            while len(jobs) < _MOST:
                jobs.append(self._jobs.get(timeout=_LINGER) if _can_wait(jobs) else self._jobs.get_nowait())
        return jobs

    def _do(self, store: Store, jobs: Sequence[_Job]) -> None:
        writes: list[_Job] = []
        for job in jobs:
            if job.write is not None:
                writes.append(job)
                continue
            self._write(store, writes)
            writes = []
            self._call(store, job)
        self._write(store, writes)

    def _write(self, store: Store, jobs: Sequence[_Job]) -> None:
        if jobs and self._failure is None:
            try:
                store.write([job.write for job in jobs if job.write is not None])
            except Exception as error:  # noqa: BLE001 - told to those who wait
                self._failure = _as_journal_error(error)
        if self._failure is not None:
            for job in jobs:
                job.failure = self._failure

    def _call(self, store: Store, job: _Job) -> None:
        if self._failure is not None:
            job.failure = self._failure
            return
        try:
            job.result = cast("Callable[[Store], object]", job.function)(store)
        except Exception as error:  # noqa: BLE001 - told to those who wait
            job.failure = _as_journal_error(error)


def _can_wait(jobs: "Sequence[_Job | None]") -> bool:
    last = jobs[-1]
    return last is not None and last.write is not None and last.waiter is None


def _as_journal_error(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    failure = JournalError(f"the journal's store failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _again(failure: BaseException) -> BaseException:
    """Return a failure to raise: each time another one, since tracebacks add up."""
    return failure.stamped(failure.cost) if isinstance(failure, JournalError) else failure


def _wake(jobs: Sequence[_Job]) -> None:
    """Wake those who wait, each event loop once."""
    by_loop: dict[Any, list[_Waiter]] = defaultdict(list)
    for job in jobs:
        waiter = cast("_Waiter", job.waiter)
        by_loop[waiter.loop].append(waiter)
    for loop, waiters in by_loop.items():
        if loop is None:
            _wake_all(waiters)
            continue
        soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        with suppress(Exception):  # the event loop is closed, and nobody waits there any more
            soon(_wake_all, waiters)


def _wake_all(waiters: Sequence[_Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
