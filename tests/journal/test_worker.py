"""The thread of a store: what is written at once, what it is left with, and that nothing is lost or reordered."""

import math
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread
import pytest

import executionkit.journal.worker as worker_module
from executionkit.core.journal import Body, Charge, Reply, Row, packed
from executionkit.errors import JournalError
from executionkit.journal.ownership import this_process
from executionkit.journal.sqlite import SQLiteStore
from executionkit.journal.store import Write
from executionkit.journal.worker import (
    Worker,
    _InThread,  # pyright: ignore[reportPrivateUsage]
    _Job,  # pyright: ignore[reportPrivateUsage]
    this_loop,
)
from tests.journaling import row_of

pytestmark = pytest.mark.anyio


def row(seq: int, content: str = "", prompt: str | None = None) -> Row:
    body = Body([Charge()], reply=Reply(content) if content else None)
    return Row(seq, 0, "call", (0,), seq, "done" if content else "sent", b"f" * 16, body, prompt)


class Watched(SQLiteStore):
    """Notes which rows were written, on which thread, and what was left to the worker's."""

    def __init__(self, path: Path, *, power: bool = False) -> None:
        super().__init__(path, power=power)
        self.written: list[tuple[int, bool]] = []
        self.left = 0

    def _note(self, rows: Sequence[Write]) -> None:
        is_worker = threading.current_thread().name == "executionkit journal"
        self.written += [(row_of(data).seq, is_worker) for _, _, data in rows]

    def write(self, rows: Sequence[Write]) -> None:
        super().write(rows)
        self._note(rows)

    def write_at_once(self, rows: Sequence[Write]) -> bool:
        if super().write_at_once(rows):
            self._note(rows)
            return True
        self.left += 1
        return False

    @property
    def seqs(self) -> list[int]:
        return [seq for seq, _ in self.written]


class Opened:
    """A worker on a file, with a run of its own."""

    def __init__(self, path: Path, make: Callable[[Path], Watched] = Watched) -> None:
        self._make = make
        self._path = path

    def __enter__(self) -> Self:
        stores: list[Watched] = []

        def open_store() -> Watched:
            stores.append(self._make(self._path))
            return stores[0]

        self.worker = Worker(open_store)
        self.store = stores[0]
        opened = self.worker.call_now(lambda store: store.open_run("a", this_process()))
        self.number, self.token = opened.info.number, opened.token
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    def write(self, seq: int, content: str = "") -> Write:
        return self.number, self.token, packed(row(seq, content))

    async def commit(self, write: Write) -> None:
        stored = self.worker.commit(write, this_loop())
        if stored is not None:
            await stored


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110 - a thread does it
            await anyio.sleep(0.002)


async def test_what_is_short_is_written_at_once_with_what_was_handed_over_before(tmp_path: Path) -> None:
    with Opened(tmp_path / "runs.db") as opened:
        for seq in range(0, 40, 2):
            opened.worker.put(opened.write(seq, "an answer"))
            await opened.commit(opened.write(seq + 1))
            assert opened.store.seqs[-1] == seq + 1
    assert opened.store.seqs == [*range(40)]
    assert sum(is_worker for _, is_worker in opened.store.written) < 20


async def test_what_is_long_is_left_to_the_thread(tmp_path: Path) -> None:
    with Opened(tmp_path / "runs.db") as opened:
        await opened.commit(opened.write(0, "x" * 100_000))
        assert opened.store.left == 1
        assert opened.store.written == [(0, True)]


async def test_a_long_prompt_is_left_to_the_thread(tmp_path: Path) -> None:
    with Opened(tmp_path / "runs.db") as opened:
        await opened.commit((opened.number, opened.token, packed(row(0, prompt="x" * 100_000))))
        assert opened.store.written == [(0, True)]


async def test_what_shall_survive_a_loss_of_power_is_left_to_the_thread(tmp_path: Path) -> None:
    with Opened(tmp_path / "runs.db", lambda path: Watched(path, power=True)) as opened:
        await opened.commit(opened.write(0))
        assert opened.store.written == [(0, True)]


async def test_where_another_process_writes_nobody_waits_on_the_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Opened(path) as opened:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(opened.commit, opened.write(0))
            await until(lambda: opened.store.left == 1)
            assert opened.store.written == []
            other.execute("COMMIT")
        other.close()
        assert opened.store.written == [(0, True)]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_BUSY_RECOVERY])
async def test_whatever_another_process_keeps_the_file_busy_with_is_waited_for_by_the_thread(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(sqlite3.OperationalError):
        sqlite_errorcode = code

    def busy(*_: object) -> None:
        raise Busy("database is locked")

    with Opened(tmp_path / "runs.db") as opened:
        with monkeypatch.context() as patch:
            patch.setattr(opened.store, "_write", busy)
            assert not opened.store.write_at_once([opened.write(0)])
        await opened.commit(opened.write(0))


async def test_after_a_slow_write_the_event_loop_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    with Opened(tmp_path / "runs.db") as opened:
        monkeypatch.setattr("executionkit.journal.sqlite.time.monotonic", lambda: now[0])
        write = opened.store._write  # pyright: ignore[reportPrivateUsage]
        took = [0.5]

        def slow(notes: Sequence[tuple[int, str, Sequence[bytes]]]) -> None:
            now[0] += took[0]
            write(notes)

        monkeypatch.setattr(opened.store, "_write", slow)
        store, rows = opened.store, [opened.write(0)]
        assert store.write_at_once(rows)
        took[0] = 0.0
        now[0] = 100.0 + 10 * 0.5 - 0.01
        assert not store.write_at_once(rows)
        now[0] = 100.0 + 10 * 0.5
        assert store.write_at_once(rows)
        monkeypatch.undo()


async def test_a_row_that_nobody_waits_for_is_stored_all_the_same(tmp_path: Path) -> None:
    with Opened(tmp_path / "runs.db") as opened:
        opened.worker.put(opened.write(0, "soon"))
        await until(lambda: opened.store.seqs == [0])


async def test_a_thread_that_sleeps_is_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.journal.worker._AWAKE", 0)
    with Opened(tmp_path / "runs.db") as opened:
        for seq in range(5):
            await until(lambda: opened.worker._is_asleep)  # pyright: ignore[reportPrivateUsage]
            opened.worker.put(opened.write(seq, "soon"))
            await until(lambda seq=seq: opened.store.seqs == [*range(seq + 1)])  # type: ignore[misc]


async def test_any_number_of_event_loops_may_write_and_each_in_its_order(tmp_path: Path) -> None:
    each, threads, has_trio = 60, 4, find_spec("trio") is not None
    with Opened(tmp_path / "runs.db") as opened:

        async def many(first: int) -> None:
            for seq in range(first, first + each, 2):
                opened.worker.put(opened.write(seq, "x" * (1 if seq % 7 else 70_000)))
                await opened.commit(opened.write(seq + 1))

        def in_thread(number: int) -> None:
            anyio.run(many, number * each, backend="trio" if number % 2 and has_trio else "asyncio")

        async with anyio.create_task_group() as group:
            for number in range(1, threads):
                group.start_soon(anyio.to_thread.run_sync, in_thread, number)
            await many(0)
    seqs = opened.store.seqs
    assert sorted(seqs) == [*range(each * threads)]
    for number in range(threads):
        mine = [seq for seq in seqs if number * each <= seq < (number + 1) * each]
        assert mine == sorted(mine)


@pytest.mark.parametrize("method", ["write_at_once", "write", "tidy"])
async def test_a_store_with_a_bug_does_not_hang(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ZeroDivisionError("a bug")

    with Opened(tmp_path / "runs.db") as opened:
        monkeypatch.setattr(opened.store, method, broken)
        if method == "tidy":
            await opened.commit(opened.write(0))
            await opened.worker.call(lambda store: None)
        else:
            with pytest.raises(JournalError, match="a bug"):
                await opened.commit(opened.write(0, "" if method == "write_at_once" else "x" * 100_000))
            with pytest.raises(JournalError, match="a bug"):
                await opened.commit(opened.write(1))


async def test_the_log_of_a_long_run_is_brought_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Opened(path) as opened:
        log = path.with_name("runs.db-wal")
        longest, ends = 0, time.monotonic() + 30
        for seq in range(2_000):
            opened.worker.put(opened.write(seq, "x" * 1_000))
            await opened.commit(opened.write(10_000 + seq))
            if seq % 50 == 0:
                await anyio.sleep(0.02)  # as a server takes
            longest = max(longest, log.stat().st_size)
            assert time.monotonic() < ends
        assert path.stat().st_size > 1_000_000, "nothing was brought into the file before the end"
        assert longest < 4 * 2**22


async def test_what_a_cache_keeps_is_brought_into_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Opened(path) as opened:
        for number in range(60):
            opened.worker.call_soon(lambda store, number=number: store.keep(b"%d" % number, b"x" * 2**17))  # type: ignore[misc]
        await until(lambda: path.stat().st_size > 2**20)


async def test_the_log_that_a_killed_process_has_left_is_brought_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = tmp_path / "runs.db", tmp_path / "left.db"
    with Opened(path) as opened:
        monkeypatch.setattr(opened.store, "tidy", lambda: None)
        for number in range(30):
            opened.store.keep(b"%d" % number, b"x" * 2**18)
        for end in ("", "-wal"):  # at once: as it is if the process is killed now
            shutil.copy(f"{path}{end}", f"{left}{end}")
    assert left.stat().st_size < 2**20
    worker = Worker(lambda: SQLiteStore(left))
    try:
        await until(lambda: left.stat().st_size > 2**22)
    finally:
        worker.close()


@pytest.mark.usefixtures("no_collection")
async def test_an_interrupt_at_any_instant_leaves_the_journal_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.worker._TICK", 600)  # the thread does what it is called for
    monkeypatch.setattr("executionkit.journal.sqlite._SLOW", 600)
    with Opened(tmp_path / "runs.db") as opened:
        kept: list[BaseException] = []
        last, seq = 0, 0
        for instant in range(1, 1_000):
            seen, is_over = 0, False

            def interrupt(frame: object, event: str, argument: object, instant: int = instant) -> None:
                nonlocal seen
                if event not in {"call", "c_return"}:  # where Python looks for signals
                    return
                seen += 1
                if seen == instant:
                    raise KeyboardInterrupt

            opened.worker.put(opened.write(seq, "an answer"))
            sys.setprofile(interrupt)
            try:
                await opened.commit(opened.write(seq + 1))
                is_over = True
            except KeyboardInterrupt as error:
                kept.append(error)  # as a notebook does, with all that its frames hold
            finally:
                sys.setprofile(None)
            await opened.commit(opened.write(seq + 2))
            await opened.worker.call(lambda store: None)
            seq, last = seq + 3, instant
            if is_over and seen < instant:
                break
        assert 30 < last < 999
        kept.clear()
        await opened.commit(opened.write(seq))
        stored = {row.seq for row in opened.store.rows(opened.number)}
        assert stored >= {seq for seq in range(seq) if seq % 3 != 1}


async def test_who_waits_is_woken_where_an_interrupt_comes_to_the_one_who_wrote_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.worker._TICK", 600)  # the thread does what it is called for

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with Opened(tmp_path / "runs.db") as opened:
        waiter = _InThread()
        opened.worker._jobs.append(_Job(opened.write(0), waiter=waiter))  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr("executionkit.journal.worker._wake", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await opened.commit(opened.write(1))
        await opened.worker.call(lambda store: None)
        assert waiter.future.done()
        assert {*opened.store.seqs} == {0, 1}


async def test_rows_of_one_turn_are_written_together_and_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that is busy a write may be slow, and the thread look in the middle of a turn.
    monkeypatch.setattr("executionkit.journal.sqlite._SLOW", math.inf)
    monkeypatch.setattr(worker_module, "_TICK", 60.0)
    with Opened(tmp_path / "runs.db") as opened:
        transactions: list[int] = []
        write_at_once, write = opened.store.write_at_once, opened.store.write

        def counted_at_once(rows: Sequence[Write]) -> bool:
            transactions.append(len(rows))
            return write_at_once(rows)

        def counted(rows: Sequence[Write]) -> None:
            transactions.append(len(rows))
            write(rows)

        opened.store.write_at_once = counted_at_once  # type: ignore[method-assign]
        opened.store.write = counted  # type: ignore[method-assign]
        for many, most in ((1, 1), (8, 8), (12, 9), (200, 20)):
            before, first = len(transactions), len(opened.store.written)
            async with anyio.create_task_group() as group:
                for seq in range(first, first + many):
                    group.start_soon(opened.commit, opened.write(seq))
            assert len(transactions) - before <= most
            assert sorted(opened.store.seqs[first:]) == [*range(first, first + many)]
        assert not opened.worker._turns  # pyright: ignore[reportPrivateUsage]


async def test_once_a_write_has_failed_the_rows_of_that_turn_are_not_written_either(tmp_path: Path) -> None:
    told: list[str] = []
    with Opened(tmp_path / "runs.db") as opened:

        async def commit(seq: int) -> None:
            try:
                await opened.commit(opened.write(seq))
            except JournalError as error:
                told.append(str(error))

        async def fail() -> None:  # as another event loop's write does, before this turn has ended
            opened.worker._failure = JournalError("the disk is gone")  # pyright: ignore[reportPrivateUsage]

        async with anyio.create_task_group() as group:
            for seq in range(12):
                group.start_soon(commit, seq)
            group.start_soon(fail)
        written = opened.store.seqs
    assert len(written) + len(told) == 12
    assert told
    assert len(written) <= 8
    assert {*told} == {"the disk is gone"}


async def test_while_the_thread_brings_the_log_into_the_file_the_event_loop_goes_on(tmp_path: Path) -> None:
    with Opened(tmp_path / "runs.db") as opened:
        is_tidying, may_end = threading.Event(), threading.Event()

        def slow() -> None:
            is_tidying.set()
            may_end.wait(20)

        opened.store.tidy = slow  # type: ignore[method-assign]
        await until(is_tidying.is_set)
        async with anyio.create_task_group() as group:
            group.start_soon(opened.commit, opened.write(0))
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert opened.store.written == []
            may_end.set()
        assert opened.store.seqs == [0]


class Contended:
    """A desk that the thread takes just after an event loop has seen that nobody has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_taken = threading.Event()
        self.may_take = threading.Event()

    def locked(self) -> bool:
        if self._lock.locked():
            return True
        self.may_take.set()
        self.is_taken.wait(5)
        return False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if threading.current_thread().name != "executionkit journal":
            return self._lock.acquire(blocking, timeout)
        if not self.may_take.wait(5 if blocking else 0):
            return False
        got = self._lock.acquire(blocking, timeout)
        self.is_taken.set()
        return got

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


async def test_an_event_loop_does_not_wait_for_a_thread_that_was_about_to_use_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.worker._TICK", 600)  # the thread does what it is called for
    may_end = threading.Event()
    with Opened(tmp_path / "runs.db") as opened:
        worker = opened.worker
        desk = Contended()
        worker.desk = desk  # type: ignore[assignment, misc]  # pyright: ignore[reportAttributeAccessIssue]
        worker.call_soon(lambda store: may_end.wait(5))
        async with anyio.create_task_group() as group:
            group.start_soon(opened.commit, opened.write(0))
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert desk.is_taken.is_set()
            assert opened.store.written == []
            may_end.set()
        assert opened.store.written == [(0, True)]


async def test_an_interrupt_as_a_turn_begins_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.worker._TICK", 600)  # the thread does what it is called for
    soon = worker_module._soon  # pyright: ignore[reportPrivateUsage]

    def struck(loop: object, *, from_within: bool = False) -> Callable[..., object]:
        monkeypatch.setattr(worker_module, "_soon", soon)
        raise KeyboardInterrupt

    with Opened(tmp_path / "runs.db") as opened, anyio.fail_after(20):
        monkeypatch.setattr(worker_module, "_soon", struck)
        with pytest.raises(KeyboardInterrupt):
            await opened.commit(opened.write(0))
        for seq in range(1, 40):
            await opened.commit(opened.write(seq))
        assert opened.store.seqs[-1] == 39


async def test_who_hands_a_row_over_as_the_journal_is_closed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Opened(tmp_path / "runs.db") as opened, anyio.fail_after(20):

        def closed(write: Write | None, loop: object) -> bool:
            opened.worker.close()
            return False

        monkeypatch.setattr(opened.worker, "_write_here", closed)
        with pytest.raises(JournalError, match="closed"):
            await opened.commit(opened.write(0))


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a SIGINT")
def test_an_interrupt_while_a_journal_is_opened_ends_the_thread(tmp_path: Path) -> None:
    def open_store() -> Watched:
        threads.append(threading.current_thread())
        store = Watched(tmp_path / "runs.db")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.1)  # the program waits meanwhile
        return store

    threads = list[threading.Thread]()
    with pytest.raises(KeyboardInterrupt):
        Worker(open_store)
    threads[0].join(5)
    assert not threads[0].is_alive()
