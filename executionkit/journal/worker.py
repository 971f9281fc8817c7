"""One thread for a store: writes that come in together are stored together.

It serves any number of event loops, of asyncio and of trio, and code without one. Where nobody else uses the
store and it can write what is given in some microseconds, that is done at once: to wake a thread, and to be
woken by it, takes several times as long.
"""

import asyncio
import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import WeakSet

import msgspec

from executionkit.errors import JournalError, RunBusyError
from executionkit.journal.ownership import LEASE
from executionkit.journal.store import Store, Write

__all__ = ["Worker", "this_loop"]

T = TypeVar("T")

_MOST: Final = 1_000
"""Jobs that the thread does in one go."""
_FEW: Final = 16
"""Rows at most that are written on an event loop at once."""
_SINGLY: Final = 8
"""Rows that are written one by one in one turn of an event loop; the others of that turn wait for its end."""
_TICK: Final = 0.01
"""Seconds between two looks of the thread at what was handed over and nobody waits for."""
_AWAKE: Final = 100
"""Ticks without anything to do before it sleeps until it is called."""
_FORK_PATIENCE: Final = 5.0
"""Seconds that a fork waits for whoever uses a store."""
_workers: Final[WeakSet["Worker"]] = WeakSet()
"""All of this process, and in a child those that were open as it was forked."""
_forking: Final = threading.Lock()
_held: Final[list[threading.Lock]] = []
"""What the fork under way holds."""


class _Waiter(Protocol):
    """Somebody who waits for a job."""

    @property
    def loop(self) -> object:
        """Where to wake him."""
        ...

    def wake(self, job: "_Job") -> None:
        """Tell him what came of it; called where `loop` is."""
        ...


class _Job(msgspec.Struct, eq=False):
    """A row to write, or a function to call, and who waits for it.

    Args:
        write: The row; None for a function.
        function: The function, called with the store.
        waiter: Who waits; None for nobody.
        result: What the function returned.
        failure: Why it could not be done.
    """

    write: Write | None = None
    function: Callable[[Store], object] | None = None
    waiter: _Waiter | None = None
    result: object = None
    failure: BaseException | None = None


class _OnAsyncio:
    __slots__ = ("_future", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._future: asyncio.Future[object] = self.loop.create_future()

    def wake(self, job: _Job) -> None:
        if self._future.done():
            return  # he was cancelled
        if job.failure is None:
            self._future.set_result(job.result)
        else:
            self._future.set_exception(_again(job.failure))

    def outcome(self) -> Awaitable[object]:
        return self._future


class _OnTrio:
    __slots__ = ("_event", "_job", "loop")

    def __init__(self) -> None:
        import trio  # an extra

        self.loop = trio.lowlevel.current_trio_token()
        self._event = trio.Event()
        self._job = _Job()

    def wake(self, job: _Job) -> None:
        self._job = job
        self._event.set()

    async def outcome(self) -> object:
        await self._event.wait()
        return _result_of(self._job)


class _InThread:
    __slots__ = ("future",)

    loop: object = None

    def __init__(self) -> None:
        self.future: Future[_Job] = Future()

    def wake(self, job: _Job) -> None:
        self.future.set_result(job)

    def outcome(self) -> object:
        return _result_of(self.future.result())


def _result_of(job: _Job) -> object:
    if job.failure is not None:
        raise _again(job.failure)
    return job.result


class Worker:
    """The thread of a store.

    Once something could not be written nothing is written any more: what follows would stand on it. Where
    another owner has taken a run over, the other runs go on.

    Args:
        open_store: Opens the store; called in the thread.

    Raises:
        JournalError: It could not be opened.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._jobs: deque[_Job] = deque()
        """What is to be done, in order. Anybody may add to it; whoever holds `desk` takes from it."""
        self.desk: Final = threading.Lock()
        """Held by whoever uses the store."""
        self._is_wanted = False
        """Whether the thread holds it, or takes it as soon as it is free."""
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._is_asleep = False
        self._turns: dict[object, int] = {}
        """How many rows were written one by one in this turn of an event loop."""
        self._failure: JournalError | None = None
        self._taken_over: dict[str, RunBusyError] = {}
        """By their tokens, why no more is written of runs that another owner has."""
        self._is_closed = False
        self.was_forked: bool = False
        """Whether this is a child of the process that has the thread."""
        _workers.add(self)
        self.tokens: dict[str, int] = {}
        """What the owners of the runs under way are known by, with their runs' numbers.

        Their leases are renewed; whose run is still under way when the journal is closed has lost it.
        """
        ready: Future[Store] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(open_store, ready), name="executionkit journal", daemon=True
        )
        self._thread.start()
        try:
            self._store = ready.result()
        except BaseException as error:
            self._is_closed = True  # an interrupt: the thread closes what it has opened
            self._bell.put(None)
            if isinstance(error, Exception):
                self._thread.join()
            raise

    def put(self, write: Write) -> None:
        """Write a row soon: with the next one that is waited for, or within some milliseconds."""
        if not self._is_closed and write[1] not in self._taken_over:
            self._jobs.append(_Job(write))
            if self._is_asleep:
                self._bell.put(None)

    def commit(self, write: Write, loop: object) -> Awaitable[object] | None:
        """Write a row, with all that was handed over before.

        Args:
            write: The row.
            loop: The running event loop, as `this_loop` returns it.

        Returns:
            What is to be awaited until it is stored; None where it is.

        Raises:
            JournalError: It, or one before it, could not be; also where that is awaited.
        """
        self._check()
        if write[1] in self._taken_over:
            raise _again(self._taken_over[write[1]])
        written = self._turns.get(loop, 0)
        if written == _SINGLY:
            return self._done(_Job(write), at_once=False)
        if not self._write_here(write, loop):
            return self._done(_Job(write))
        if not written:
            # First, for an interrupt may come before what follows.
            _soon(loop, from_within=True)(self._end_turn, loop)
        self._turns[loop] = written + 1
        if self._failure is not None:
            raise _again(self._failure)
        return None

    async def call(self, function: Callable[[Store], T]) -> T:
        """Return `function(store)`, called in the thread, after all that was handed over before.

        Raises:
            JournalError: It failed, or what came before it.
        """
        self._check()
        return cast("T", await self._done(_Job(function=function)))

    def call_soon(self, function: Callable[[Store], object]) -> None:
        """Call a function in the thread; whether it fails, nobody learns."""
        if not self._is_closed:
            self._hand_over(_Job(function=function))

    def call_now(self, function: Callable[[Store], T]) -> T:
        """Return `function(store)` as `call` does, where no event loop is to be kept running."""
        self._check()
        waiter = _InThread()
        self._hand_over(_Job(function=function, waiter=waiter))
        self._check_is_open()
        return cast("T", waiter.outcome())

    def _done(self, job: _Job, *, at_once: bool = True) -> Awaitable[object]:
        """Hand a job over; return what is to be awaited for its result."""
        waiter = job.waiter = _OnAsyncio() if _trio_here() is None else _OnTrio()
        self._jobs.append(job)
        if at_once:
            self._bell.put(None)
        self._check_is_open()
        return waiter.outcome()

    def _check(self) -> None:
        if self.was_forked:
            raise JournalError("the journal was opened before this process was forked; open it in this one")
        self._check_is_open()
        if self._failure is not None:
            raise _again(self._failure)

    def _check_is_open(self) -> None:
        """Check that the thread goes on: asked after a job was handed over, that it will do the job."""
        if self._is_closed:
            raise JournalError(
                "the journal is closed; a run needs its `with` block to last as long as it does"
            )

    def close(self) -> None:
        """Do what was handed over, close the store, and end the thread."""
        if not self._is_closed and not self.was_forked:
            self._is_closed = True
            self._bell.put(None)
            self._thread.join()

    def _hand_over(self, job: _Job) -> None:
        self._jobs.append(job)
        self._bell.put(None)

    def _end_turn(self, loop: object) -> None:
        """Write what was to be written in the same turn of an event loop, or leave it to the thread."""
        written = self._turns.pop(loop, 0)
        is_waited_for = written == _SINGLY and any(job.waiter is not None for job in [*self._jobs])
        if is_waited_for and not self._write_here(None, loop):
            self._bell.put(None)

    def _write_here(self, write: Write | None, loop: object) -> bool:
        """Write a row and those before it in a turn of `loop`, if that takes no longer than microseconds."""
        # First whether it is held, then whether it is wanted: the thread may take it in between.
        if len(self._jobs) >= _FEW or self.desk.locked() or self._is_wanted:
            return False
        with self.desk:  # held by another thread for a moment, where that was quicker
            before = [*self._jobs]
            rows = [job.write for job in before if job.write is not None]
            if self._is_closed or self._failure is not None or len(rows) < len(before):
                return False
            if write is not None:
                rows.append(write)
            try:
                if not self._store.write_at_once(rows):
                    return False
            except RunBusyError:
                return False  # the thread finds out which
            except Exception as error:  # noqa: BLE001 - told to those who wait
                self._failure = _as_journal_error(error)
            waiting = [job for job in before if job.waiter is not None]
            if waiting:
                for job in waiting:
                    job.failure = self._failure
                _wake(waiting, loop)
            for _ in before:  # last: where an interrupt comes before, the thread does them again
                self._jobs.popleft()
        return True

    def _work(self, open_store: Callable[[], Store], ready: "Future[Store]") -> None:
        try:
            with self.desk:
                store = open_store()
        except BaseException as error:  # noqa: BLE001 - raised where the journal is opened
            ready.set_exception(_as_journal_error(error) if isinstance(error, Exception) else error)
            return
        ready.set_result(store)
        heard, calm = time.monotonic(), 0
        while not self._is_closed or self._jobs:  # in this order, see `_check_is_open`
            was_called = self._wait_for_jobs(may_sleep=calm >= _AWAKE)
            self._is_wanted = True
            if not self.desk.acquire(blocking=was_called or self._is_closed):
                self._is_wanted = False
                continue  # whoever writes just now takes along what is to be done
            try:
                done = [self._jobs.popleft() for _ in range(min(_MOST, len(self._jobs)))]
                self._do(store, done)
            finally:
                self.desk.release()
                self._is_wanted = False
            _wake([job for job in done if job.waiter is not None])
            calm = 0 if done or was_called else calm + 1
            self._is_wanted = True
            with self.desk, suppress(Exception):  # nobody waits for it; the next write says what is wrong
                store.tidy()
                if self.tokens and time.monotonic() - heard > LEASE / 3:
                    heard = time.monotonic()
                    store.renew([*self.tokens])
            self._is_wanted = False
        with self.desk:
            for token, run in [*self.tokens.items()]:
                with suppress(Exception):
                    store.close_run(run, token, "stopped", "", False)
            store.close()

    def _wait_for_jobs(self, *, may_sleep: bool) -> bool:
        """Wait until somebody calls, for a tick, or until a lease is to be renewed.

        Returns:
            Whether somebody called.
        """
        with suppress(Empty):
            while True:  # whoever has called before is served now
                self._bell.get_nowait()
        self._is_asleep = may_sleep
        try:
            if self._is_closed or any(job.waiter is not None for job in [*self._jobs]):
                return True
            may_sleep = may_sleep and not self._jobs
            self._bell.get(timeout=_TICK if not may_sleep else LEASE / 3 if self.tokens else None)
        except Empty:
            return False
        finally:
            self._is_asleep = False
        return True

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
            except RunBusyError as error:
                self._write_apart(store, jobs, error)
            except Exception as error:  # noqa: BLE001 - told to those who wait
                self._failure = _as_journal_error(error)
        if self._failure is not None:
            for job in jobs:
                job.failure = self._failure

    def _write_apart(self, store: Store, jobs: Sequence[_Job], error: RunBusyError) -> None:
        """Write the rows of each run on their own, where another owner has taken one of the runs over."""
        runs: dict[str, list[_Job]] = defaultdict(list)
        for job in jobs:
            runs[cast("Write", job.write)[1]].append(job)
        if len(runs) > 1:
            for each in runs.values():
                self._write(store, each)
            return
        for token, rows in runs.items():
            self._taken_over[token] = error
            for job in rows:
                job.failure = error

    def _call(self, store: Store, job: _Job) -> None:
        if self._failure is not None:
            job.failure = self._failure
            return
        try:
            job.result = cast("Callable[[Store], object]", job.function)(store)
        except Exception as error:  # noqa: BLE001 - told to those who wait
            job.failure = _as_journal_error(error)


def _as_journal_error(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    failure = JournalError(f"the journal's store failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _again(failure: BaseException) -> BaseException:
    """Return a failure to raise: each time another one, since tracebacks add up."""
    return failure.stamped(failure.cost) if isinstance(failure, JournalError) else failure


def _wake(jobs: Sequence[_Job], here: object = None) -> None:
    """Wake those who wait, each event loop once; `here` is the one that runs on this thread."""
    by_loop: dict[Any, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_loop[cast("_Waiter", job.waiter).loop].append(job)
    for loop, waited_for in by_loop.items():
        if loop is None or loop is here:
            _wake_all(waited_for)
            continue
        with suppress(Exception):  # the event loop is closed, and nobody waits there any more
            _soon(loop)(_wake_all, waited_for)


def this_loop() -> Any:
    """Return the running event loop: what `_soon` takes."""
    trio = _trio_here()
    return asyncio.get_running_loop() if trio is None else trio.lowlevel.current_trio_token()


def _trio_here() -> Any:
    """Return trio where it runs on this thread; where nobody has imported it, it does not."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def _soon(loop: Any, *, from_within: bool = False) -> Callable[..., object]:
    """Return what has an event loop call a function in its next turn, from whichever thread.

    Args:
        loop: The event loop.
        from_within: Whether it runs on this thread, and need not be woken.
    """
    name = "call_soon" if from_within else "call_soon_threadsafe"
    soon: Callable[..., object] = getattr(loop, name, None) or loop.run_sync_soon
    return soon


def _wake_all(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        cast("_Waiter", job.waiter).wake(job)


def _before_fork() -> None:
    """Wait until nobody uses a store: what SQLite does just then would have no end in the child.

    It could not open the same file, and might wait for ever.
    """
    _forking.acquire()
    desks = [worker.desk for worker in [*_workers]]
    _held.extend([desk for desk in desks if desk.acquire(timeout=_FORK_PATIENCE)])


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _forking.release()


def _after_fork_in_child() -> None:
    for worker in [*_workers]:
        worker.was_forked = True
    _after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
