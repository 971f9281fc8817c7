"""Runs in one SQLite file: `sqlite3` of the standard library, with a write-ahead log."""

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec

from executionkit.core.journal import BadRowError, Row, packed, sealed, unpacked
from executionkit.errors import JournalError, RunBusyError
from executionkit.journal.older import OlderRows
from executionkit.journal.ownership import Owner, is_gone, network_mount
from executionkit.journal.store import DAMAGED, Ended, Opened, RunInfo, Write, damaged

__all__ = ["SQLiteStore"]

T = TypeVar("T")

_APPLICATION: Final = 0x45_4B_4A_31
"""Marks a file as a journal (`EKJ1`)."""
_VERSION: Final = 4
_PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes."""
_UNKNOWN: Final = -1.0
"""Stands for the patience while it is being changed."""
_LONG: Final = 2**16
"""Bytes from which on rows are not written on an event loop."""
_SLOW: Final = 0.02
"""Seconds from which on a write has held an event loop up; for `_PAUSE` times as long none is made there."""
_PAUSE: Final = 10
_PAUSE_FOR_LOG: Final = 0.005
"""Seconds between two attempts to begin the write-ahead log."""
_LOG_BYTES: Final = 2**22
"""What is written before the write-ahead log is brought into the file."""
_NOTE_BYTES: Final = 2**12
"""What a note takes of the log beside its rows: the page that it changes."""
_SHORT: Final = 2**14
"""Bytes from which on the rows that come after begin another note."""
_PART: Final = 2**20
"""Bytes, about, of the notes of which others are made in one go; other processes wait so long to write."""
_NUMBER_BITS: Final = 32
# Rows that are written together are one note. Notes are only added, each behind the last one of its run:
# that changes one page. Of a row that is in several the last one counts. A note is found by its run's number,
# and one of its own in the last 32 bits: an index would be one more page to write. These have no gap, so that
# notes that are lost are missed.
_SCHEMA: Final = """
CREATE TABLE run (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, nonce TEXT NOT NULL,
    pipeline TEXT NOT NULL DEFAULT '', plan BLOB NOT NULL DEFAULT x'', input BLOB NOT NULL DEFAULT x'',
    generation INTEGER NOT NULL DEFAULT -1,
    lives INTEGER NOT NULL DEFAULT 0, ended TEXT NOT NULL DEFAULT 'running', error TEXT NOT NULL DEFAULT '',
    asks_again INTEGER NOT NULL DEFAULT 0, began REAL NOT NULL, changed REAL NOT NULL,
    token TEXT, owner TEXT, heard REAL NOT NULL DEFAULT 0
);
CREATE TABLE cache (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_NOTES: Final = "CREATE TABLE note (number INTEGER PRIMARY KEY, rows BLOB NOT NULL)"
_RUN: Final = ", ".join(RunInfo.__struct_fields__)
_SELECT_OWNED: Final = f"SELECT token, owner, heard, {_RUN} FROM run WHERE name = ?"  # noqa: S608 - our own words
_SELECT_OWNERS: Final = "SELECT name, owner, heard FROM run WHERE token IS NOT NULL"
_SELECT_RUNS: Final = f"SELECT {_RUN} FROM run WHERE ? IS NULL OR name = ? ORDER BY number"  # noqa: S608
_SELECT_NOTES: Final = "SELECT number, rows FROM note WHERE number BETWEEN ? AND ? ORDER BY number"
_SELECT_LAST: Final = "SELECT max(number) FROM note WHERE number BETWEEN ? AND ?"
_INSERT_OWNED: Final = "INSERT INTO note SELECT ?, ? FROM run WHERE number = ? AND token = ?"
"""Adds a note where the run has that owner still; one statement, which needs no transaction around it."""

_DELETE_NOTES: Final = "DELETE FROM note WHERE number BETWEEN ? AND ?"
_SELECT_OWN: Final = "SELECT 1 FROM run WHERE number = ? AND token = ?"

_given_up: Final[set[str]] = set()
"""Tokens of runs of this process that it has given up, where no file tells of that: the disk was full."""
_FAILURES: Final = (sqlite3.Error, OSError, ValueError, OverflowError, msgspec.MsgspecError)
"""What a file that cannot be used fails with. A ValueError: names that are no text, by most msgspecs. An
OverflowError: a number of a run that is none."""
_What: TypeAlias = Literal["opened", "read", "written"]
_Note: TypeAlias = tuple[int, str, Sequence[bytes]]
"""Rows to be written together: their run's number, the token of its owner, and each of them."""
_Noted: TypeAlias = tuple[int, int, list[Row]]
"""The number of a note, its bytes, and its rows."""


class SQLiteStore:
    """Runs in one file. One method is called at a time, on whichever thread.

    Args:
        path: The file; made where there is none, for its owner alone to read.
        power: Whether a note survives that the machine loses its power, not only that the process ends.
        clock: The time in seconds since 1970.

    Raises:
        JournalError: The file cannot be used: no journal, damaged, of a newer version, read-only, or on a
            network file system.
    """

    def __init__(self, path: Path, *, power: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._power = power
        self._patience = _PATIENCE
        self._slow_until = 0.0
        self._ends: dict[int, int] = {}
        """Of each run that was written to, the number of its next note."""
        self._unmoved = 0
        """Bytes in the write-ahead log since it was brought into the file, about."""
        shared = network_mount(path.resolve())
        if shared is not None:
            raise JournalError(
                f"{path} is on a network file system ({shared}), where SQLite loses data; "
                "put the journal on a disk of this machine"
            )
        with self._telling("opened"):
            # From the root on: the folder that a process is in may change, and `:memory:` is no file.
            self._place = os.path.abspath(path)  # noqa: PTH100 - text, for it is looked at with every note
            _make_private(path)
            self._file = _identity(self._place)
            self._database = sqlite3.connect(
                self._place, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
        self._cursor = self._database.cursor()
        """What notes are added through: a new one each time takes as long as a row's packing."""
        try:
            with self._telling("opened"):
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        database = self._database
        # In this order: another process may make the tables, and mark the file as a journal, in between.
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION and (tables or application):
            raise JournalError(
                f"{self._path} is a database of something else; give the journal a file of its own"
            )
        self._check_version()
        self._begin_log()
        database.execute(f"PRAGMA synchronous={'FULL' if self._power else 'NORMAL'}")
        database.execute("PRAGMA wal_autocheckpoint=0")  # it waits for the disk; `tidy` does it
        self._transact(self._make_tables)
        self._older = OlderRows.found(database)
        log = self._path.with_name(f"{self._path.name}-wal")
        self._unmoved = log.stat().st_size if log.exists() else 0  # what a process that was killed has left

    def _check_version(self) -> None:
        """Check that the file is of no newer version.

        Raises:
            JournalError: It is.
        """
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise JournalError(
                f"{self._path} was written by a newer executionkit (version {version} of the file, this one "
                f"knows {_VERSION}); upgrade, or take another file"
            )

    def _make_tables(self) -> None:
        database = self._database
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == _VERSION:
            return
        if version == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                database.execute(statement)
        else:
            self._check_is_left()
            OlderRows(database, version).take_over()
        database.execute(_NOTES)
        database.execute(f"PRAGMA application_id={_APPLICATION}")
        database.execute(f"PRAGMA user_version={_VERSION}")

    def _check_is_left(self) -> None:
        """Check that no process has a run of a file of an older version: it could write no more.

        Raises:
            RunBusyError: One has.
        """
        for name, by, heard in self._database.execute(_SELECT_OWNERS).fetchall():
            try:
                owner = msgspec.json.decode(by, type=Owner)
            except (msgspec.MsgspecError, ValueError):
                continue  # it is damaged, and that run can be taken up by nobody
            if not is_gone(owner, heard, self._clock()):
                raise RunBusyError(
                    f"an older executionkit wrote the journal {self._path}, and its run {name!r} is under "
                    f"way in {owner}; wait for it, or take another file",
                    metadata={"owner": str(owner)},
                )

    def _begin_log(self) -> None:
        """Write to a write-ahead log from now on; while another process begins it, SQLite does not wait."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._database.execute("PRAGMA journal_mode=WAL").fetchall()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_FOR_LOG)
            else:
                return

    def open_run(self, name: str, owner: Owner) -> Opened:
        """Take up a run, or begin it; see `Store`."""
        with self._telling("written"):
            return self._transact(lambda: self._take_up(name, owner))

    def _take_up(self, name: str, owner: Owner) -> Opened:
        self._check_is_there()
        now, token = self._clock(), os.urandom(8).hex()
        self._database.execute(
            "INSERT OR IGNORE INTO run (name, nonce, began, changed) VALUES (?, ?, ?, ?)",
            (name, os.urandom(16).hex(), now, now),
        )
        found = self._database.execute(_SELECT_OWNED, (name,)).fetchone()
        had, by, heard = found[0], found[1], found[2]
        if had is not None and had not in _given_up:
            other = msgspec.json.decode(by, type=Owner)
            if not is_gone(other, heard, now):
                raise RunBusyError(
                    f"the run {name!r} is under way in {other}; wait for it, or take another name",
                    metadata={"owner": str(other)},
                )
        self._database.execute(
            "UPDATE run SET token = ?, owner = ?, heard = ?, changed = ?, lives = lives + 1, "
            "ended = 'running' WHERE name = ?",
            (token, msgspec.json.encode(owner).decode(), now, now, name),
        )
        info = _info(found[3:])
        self._ends.pop(info.number, None)  # another owner may have written since
        return Opened(info, token)

    def begin_life(
        self, run: int, token: str, pipeline: str, plan: bytes, given: bytes, generation: int
    ) -> None:
        """Note which pipeline runs from now on; see `Store`."""
        with self._telling("written"):
            self._note_again(run, token)
            updated = self._database.execute(
                "UPDATE run SET pipeline = ?, plan = ?, input = ?, generation = ? "
                "WHERE number = ? AND token = ?",
                (pipeline, plan, given, generation, run, token),
            )
            if not updated.rowcount:
                raise _taken_over()

    def _note_again(self, run: int, token: str) -> None:
        """Note the rows of a run anew, behind its last note, and remove the notes before.

        What counts no more goes with them: any row may be noted again by this life, at another place, and the
        file is not to grow with each change of the pipeline. It is done part by part, so that other processes
        can write in between, and can be broken off after any part.
        """
        noted = self._noted(run)
        last = {row.seq: number for number, _, rows in noted for row in rows}
        if self._older is not None:
            older = [row for row in self._older_of(run) if row.seq not in last]
            self._transact(partial(self._replace, run, token, older, partial(self._older.remove, run)))
        for part in _in_parts(noted):
            counting = {row.seq: row for number, _, rows in part for row in rows if last[row.seq] == number}
            remove = partial(self._database.execute, _DELETE_NOTES, (part[0][0], part[-1][0]))
            self._transact(partial(self._replace, run, token, counting.values(), remove))
            self.tidy()

    def _replace(self, run: int, token: str, rows: Iterable[Row], remove: Callable[[], object]) -> None:
        """Note rows behind the last note of their run, in place of what `remove` removes."""
        if not self._database.execute(_SELECT_OWN, (run, token)).fetchall():
            raise _taken_over()
        self._ends[run] = self._end(run)  # before it is removed: notes are numbered without a gap
        remove()
        for each in _in_notes(map(packed, rows)):
            self._add(run, token, each)

    def rows(self, run: int) -> Iterable[Row]:
        """Return the rows of a run; see `Store`."""
        with self._telling("read"):
            return self._rows(run)

    def _rows(self, run: int) -> list[Row]:
        rows = {row.seq: row for row in self._older_of(run)}
        for _, _, noted in self._noted(run):
            rows.update((row.seq, row) for row in noted)
        return [rows[seq] for seq in sorted(rows)]

    def _noted(self, run: int) -> list[_Noted]:
        found = self._database.execute(_SELECT_NOTES, _numbers(run)).fetchall()
        try:
            if found and found[-1][0] - found[0][0] != len(found) - 1:
                raise BadRowError(f"the run {run} lacks rows")
            return [(number, len(note), unpacked(note, _salt(number))) for number, note in found]
        except (BadRowError, TypeError) as error:
            raise damaged(self._path, error) from error

    def _older_of(self, run: int) -> list[Row]:
        try:
            return [] if self._older is None else [*self._older.of(run)]
        except BadRowError as error:
            raise damaged(self._path, error) from error

    def write(self, rows: Sequence[Write]) -> None:
        """Store rows; see `Store`."""
        with self._telling("written"):
            self._write(_notes(rows))

    def write_at_once(self, rows: Sequence[Write]) -> bool:
        """Store rows if that takes no longer than some microseconds; see `Store`."""
        began = time.monotonic()
        if self._power or began < self._slow_until or sum([len(row) for _, _, row in rows]) > _LONG:
            return False
        try:  # `_telling` would take as long as all else but the file
            if self._patience or self._database.in_transaction:  # not so where the last note was written here
                self._begin_anew(patience=0.0)
            self._write(_notes(rows))
        except _FAILURES as error:
            if isinstance(error, sqlite3.OperationalError) and _is_busy(error):
                return False
            raise self._told("written", error) from error
        took = time.monotonic() - began
        if took > _SLOW:
            self._slow_until = began + _PAUSE * took
        return True

    def _write(self, notes: Sequence[_Note]) -> None:
        self._check_is_there()
        if len(notes) == 1:
            self._add(*notes[0])
        else:
            self._transact(lambda: self._add_all(notes))

    def _add_all(self, notes: Sequence[_Note]) -> None:
        for each in notes:
            self._add(*each)

    def _add(self, run: int, token: str, rows: Sequence[bytes]) -> None:
        number = self._end(run)
        self._ends.pop(run, None)  # until it is known that it is written: an interrupt may come in between
        note = sealed(rows, _salt(number))
        if not self._cursor.execute(_INSERT_OWNED, (number, note, run, token)).rowcount:
            raise _taken_over()
        self._ends[run] = number + 1
        self._unmoved += _NOTE_BYTES + len(note)

    def _end(self, run: int) -> int:
        """Return the number of a run's next note."""
        number = self._ends.get(run)
        if number is None:
            (last,) = self._database.execute(_SELECT_LAST, _numbers(run)).fetchone()
            number = _number(run, 0) if last is None else last + 1
        return number

    def _check_is_there(self) -> None:
        """Check that the file is the one that was opened: in one that was deleted nobody finds a note again.

        Raises:
            OSError: It is not.
        """
        if _identity(self._place) != self._file:
            raise OSError("the file was deleted, moved or replaced while it was open")

    def tidy(self) -> None:
        """Bring a long write-ahead log into the file; see `Store`."""
        if self._unmoved > _LOG_BYTES:
            self._unmoved = 0
            with self._telling("written"):
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def renew(self, tokens: Sequence[str]) -> None:
        """Say that the owners of these runs still live; see `Store`."""
        now = self._clock()
        with self._telling("written"):
            self._database.executemany(
                "UPDATE run SET heard = ? WHERE token = ?", [(now, each) for each in tokens]
            )

    def close_run(self, run: int, token: str, ended: Ended, error: str, asks_again: bool) -> None:
        """Give a run up; see `Store`."""
        self._ends.pop(run, None)
        _given_up.add(token)  # until that is noted, which may fail
        with self._telling("written"):
            self._database.execute(
                "UPDATE run SET token = NULL, owner = NULL, ended = ?, error = ?, asks_again = ?, "
                "changed = ? WHERE number = ? AND token = ?",
                (ended, error, asks_again, self._clock(), run, token),
            )
        _given_up.discard(token)

    def runs(self, name: str | None = None) -> Sequence[RunInfo]:
        """Return all runs, or the one of a name; see `Store`."""
        with self._telling("read"):
            return [_info(each) for each in self._database.execute(_SELECT_RUNS, (name, name))]

    def look_up(self, key: bytes) -> bytes | None:
        """Return what the cache has under a key; see `Store`."""
        with self._telling("read"):
            found = self._database.execute("SELECT value FROM cache WHERE key = ?", (key,)).fetchone()
        return None if found is None else cast("bytes", found[0])

    def keep(self, key: bytes, value: bytes) -> None:
        """Put something into the cache; see `Store`."""
        with self._telling("written"):
            self._database.execute("INSERT OR REPLACE INTO cache VALUES (?, ?)", (key, value))
        self._unmoved += _NOTE_BYTES + len(value)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _transact(self, work: Callable[[], T]) -> T:
        """Do something as a whole or not at all.

        No context manager of a generator: a `KeyboardInterrupt` may leave one behind, which would roll back
        whatever is under way when it is collected.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            result = work()
            self._database.execute("COMMIT")
        except BaseException:
            self._ends.clear()
            self._roll_back()
            raise
        return result

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._ends.clear()
            self._database.execute("ROLLBACK")

    @contextmanager
    def _telling(self, what: _What) -> Generator[None, None, None]:
        """Say of a failure what it means for the user: what the file could not be."""
        try:
            if what != "opened":
                self._begin_anew(patience=_PATIENCE)
            yield
        except _FAILURES as error:
            raise self._told(what, error) from error

    def _told(self, what: _What, error: Exception) -> JournalError:
        if "no such table" in str(error):  # it may be of a newer version since it was opened
            with suppress(sqlite3.Error):
                self._check_version()
        return JournalError(f"the journal {self._path} could not be {what}: {_why(error)}")

    def _begin_anew(self, *, patience: float) -> None:
        """End a transaction that an interrupt has left, and set how long to wait for another process."""
        self._roll_back()
        self._set_patience(patience)

    def _set_patience(self, seconds: float) -> None:
        if seconds != self._patience:
            self._patience = _UNKNOWN  # until it is set: an interrupt may come in between
            self._database.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")
            self._patience = seconds


def _make_private(path: Path) -> None:
    """Make the file, for its owner alone, where there is none; SQLite's own files beside it follow it."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _why(error: Exception) -> str:
    """Return what happened, and what to do about it where that is known."""
    text = str(error)
    advice = {
        "make its folder first": isinstance(error, FileNotFoundError | NotADirectoryError),
        "name a file, which is made where there is none": isinstance(error, IsADirectoryError),
        "may this user write the file and its folder?": isinstance(error, PermissionError)
        or "readonly" in text
        or "Read-only" in text,
        "is there room on the disk?": "full" in text or "disk I/O" in text,
        "another process keeps it from being written": "locked" in text,
        DAMAGED: isinstance(error, msgspec.MsgspecError | UnicodeDecodeError | OverflowError)
        or any(
            told in text
            for told in (
                "malformed",
                "not a database",
                "no such",
                "decode to UTF-8",
                "constraint",
                "error in",
            )
        ),
    }
    fitting = next((each for each, fits in advice.items() if fits), None)
    return text if fitting is None else f"{text} ({fitting})"


def _info(fields: Sequence[Any]) -> RunInfo:
    return msgspec.convert(dict(zip(RunInfo.__struct_fields__, fields, strict=True)), RunInfo, strict=False)


def _number(run: int, at: int) -> int:
    """Return what a note is found by.

    >>> _number(1, 2)
    4294967298
    """
    return (run << _NUMBER_BITS) + at


def _numbers(run: int) -> tuple[int, int]:
    """Return the first and the last number that a run's notes may have."""
    return _number(run, 0), _number(run + 1, -1)


def _salt(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _notes(writes: Iterable[Write]) -> list[_Note]:
    """Put the rows of one run together."""
    runs: dict[tuple[int, str], list[bytes]] = {}
    for run, token, row in writes:
        runs.setdefault((run, token), []).append(row)
    return [(run, token, each) for (run, token), rows in runs.items() for each in _in_notes(rows)]


def _in_notes(rows: Iterable[bytes]) -> list[list[bytes]]:
    """Return the rows of one note after the other; each ends with the row that makes it long enough."""
    notes: list[list[bytes]] = []
    left = 0
    for row in rows:
        if left <= 0:
            notes.append([])
            left = _SHORT
        notes[-1].append(row)
        left -= len(row)
    return notes


def _in_parts(noted: Iterable[_Noted]) -> Iterator[list[_Noted]]:
    """Yield notes in lists that take about as long to write."""
    part: list[_Noted] = []
    length = 0
    for each in noted:
        part.append(each)
        length += _NOTE_BYTES + each[1]
        if length > _PART:
            yield part
            part, length = [], 0
    if part:
        yield part


def _taken_over() -> RunBusyError:
    return RunBusyError("another process has taken the run over", metadata={"owner": "unknown"})


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Tell whether another process has the file; the rest of its code says what with."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
