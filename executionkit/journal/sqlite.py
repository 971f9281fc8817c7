"""Runs in one SQLite file: `sqlite3` of the standard library, with a write-ahead log."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec

from executionkit.core.journal import BadRowError, Kind, Row, State, as_bytes, from_bytes
from executionkit.errors import JournalError, RunBusyError
from executionkit.journal.ownership import Owner, is_gone, network_mount
from executionkit.journal.store import Ended, Opened, RunInfo, Write

__all__ = ["SQLiteStore"]

T = TypeVar("T")

_APPLICATION: Final = 0x45_4B_4A_31
"""Marks a file as a journal (`EKJ1`)."""
_VERSION: Final = 3
_PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes."""
_UNKNOWN: Final = -1.0
_LONG: Final = 2**16
"""Bytes from which on rows are not written on an event loop."""
_SLOW: Final = 0.02
"""Seconds from which on a write has held an event loop up; for `_PAUSE` times as long none is made there."""
_PAUSE: Final = 10
_LOG_BYTES: Final = 2**22
"""What is written before the write-ahead log is brought into the file."""
_ROW_BYTES: Final = 2**12
"""What a row takes of the log beside its body: the page that it changes."""
_SEQ_BITS: Final = 32
_SEQ: Final = (1 << _SEQ_BITS) - 1
_DAMAGED: Final = "the file is damaged, or none of ours; take another, or a copy"
_END: Final = -1
"""In place of a row's number: where the next row is put."""
# A row is found by its run's number, and one of its own in the last 32 bits: an index would be one more page
# to write. Calls under way have a table of their own: a row that grows where it lies would leave pages half
# empty. So would rows between others; those of calls that are over lie one behind the other, and have `seq`.
_COLUMNS: Final = """
    generation INTEGER NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL,
    ordinal INTEGER NOT NULL, state TEXT NOT NULL, fingerprint BLOB NOT NULL, body BLOB NOT NULL, prompt TEXT
"""
_SCHEMA: Final = f"""
CREATE TABLE run (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, nonce TEXT NOT NULL,
    pipeline TEXT NOT NULL DEFAULT '', plan BLOB NOT NULL DEFAULT x'', input BLOB NOT NULL DEFAULT x'',
    generation INTEGER NOT NULL DEFAULT -1,
    lives INTEGER NOT NULL DEFAULT 0, ended TEXT NOT NULL DEFAULT 'running', error TEXT NOT NULL DEFAULT '',
    asks_again INTEGER NOT NULL DEFAULT 0, began REAL NOT NULL, changed REAL NOT NULL,
    token TEXT, owner TEXT, heard REAL NOT NULL DEFAULT 0
);
CREATE TABLE flight (number INTEGER PRIMARY KEY, {_COLUMNS});
CREATE TABLE call (number INTEGER PRIMARY KEY, seq INTEGER, {_COLUMNS});
CREATE TABLE cache (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_RUN: Final = ", ".join(RunInfo.__struct_fields__)
_SELECT_OWNED: Final = f"SELECT token, owner, heard, {_RUN} FROM run WHERE name = ?"  # noqa: S608 - our own words
_TABLES: Final = ("call", "flight")
"""In this order: what is under way is newer than what was known before."""
_FIELDS: Final = "generation, kind, path, ordinal, state, fingerprint, body, prompt"
_INSERT_FLIGHT: Final = (
    f"INSERT OR REPLACE INTO flight (number, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
)
_INSERT_CALL: Final = (
    f"INSERT OR REPLACE INTO call (number, seq, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
)
_OWN: Final = f"coalesce(seq, number & {_SEQ})"
"""The number of a row in its run; what came from a file of version 2 has it in its place."""
_LOGICAL: Final = {"flight": "number", "call": f"(number >> {_SEQ_BITS} << {_SEQ_BITS}) | {_OWN}"}
_SELECT_ROWS: Final = {
    table: f"SELECT {number}, {_FIELDS} FROM {table} WHERE number BETWEEN ? AND ?"  # noqa: S608
    for table, number in _LOGICAL.items()
}
_SELECT_PLACES: Final = f"SELECT {_OWN}, number FROM call WHERE number BETWEEN ? AND ?"  # noqa: S608
# In version 1 rows were found by an index over run and number.
_TO_VERSION_2: Final = "".join(
    f"""
ALTER TABLE {table} RENAME TO old_{table};
CREATE TABLE {table} (number INTEGER PRIMARY KEY, {_COLUMNS});
INSERT INTO {table} SELECT run << {_SEQ_BITS} | seq, {_FIELDS} FROM old_{table};
DROP TABLE old_{table};
"""  # noqa: S608
    for table in _TABLES
)
# In version 2 those of calls that are over lay in the order in which they were begun, between others.
_TO_VERSION_3: Final = "ALTER TABLE call ADD COLUMN seq INTEGER"
_CHANGES: Final = {0: _SCHEMA, 1: _TO_VERSION_2 + _TO_VERSION_3, 2: _TO_VERSION_3}
_SELECT_RUNS: Final = f"SELECT {_RUN} FROM run WHERE ? IS NULL OR name = ? ORDER BY number"  # noqa: S608


_Head: TypeAlias = tuple[int, int, str, str, int, str, bytes]
"""A row's columns but for its body: its number, generation, kind, path, ordinal, state and fingerprint."""
_Columns: TypeAlias = tuple[int, int, str, str, int, str, bytes, bytes, str | None]
"""A row's columns: its head, its body and its prompt."""


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
        self._places: dict[int, dict[int, int]] = {}
        """Of each run that was written to, where the rows of calls that are over lie, by `seq`."""
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
        try:
            with self._telling("opened"):
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        database = self._database
        (application,), (version,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and (tables or application):
            raise JournalError(
                f"{self._path} is a database of something else; give the journal a file of its own"
            )
        if version > _VERSION:
            raise JournalError(
                f"{self._path} was written by a newer executionkit (version {version} of the file, this one "
                f"knows {_VERSION}); upgrade, or take another file"
            )
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={'FULL' if self._power else 'NORMAL'}")
        database.execute("PRAGMA wal_autocheckpoint=0")  # it waits for the disk; `tidy` does it
        self._transact(self._make_tables)
        log = self._path.with_name(f"{self._path.name}-wal")
        self._unmoved = log.stat().st_size if log.exists() else 0  # what was left by who was killed

    def _make_tables(self) -> None:
        database = self._database
        (version,) = database.execute("PRAGMA user_version").fetchone()
        missing = _CHANGES.get(version, "")
        for statement in filter(str.strip, missing.split(";")):
            database.execute(statement)
        if missing:
            database.execute(f"PRAGMA application_id={_APPLICATION}")
            database.execute(f"PRAGMA user_version={_VERSION}")

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
        if had is not None:
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
        self._places.pop(info.number, None)  # another owner may have written since
        return Opened(info, token)

    def begin_life(
        self, run: int, token: str, pipeline: str, plan: bytes, given: bytes, generation: int
    ) -> None:
        """Note which pipeline runs from now on; see `Store`."""
        with self._telling("written"):
            self._database.execute(
                "UPDATE run SET pipeline = ?, plan = ?, input = ?, generation = ? "
                "WHERE number = ? AND token = ?",
                (pipeline, plan, given, generation, run, token),
            )

    def rows(self, run: int) -> Iterator[Row]:
        """Return the rows of a run; see `Store`."""
        with self._telling("read"):
            found = {
                each[0]: each
                for table in _TABLES
                for each in self._database.execute(
                    _SELECT_ROWS[table], (_number(run, 0), _number(run + 1, -1))
                ).fetchall()
            }
        for _, each in sorted(found.items()):
            try:
                yield _row(each)
            except (BadRowError, ValueError, TypeError, AttributeError) as error:
                raise JournalError(f"the journal {self._path}: {error} ({_DAMAGED})") from error

    def write(self, rows: Sequence[Write]) -> None:
        """Store rows; see `Store`."""
        with self._telling("written"):
            self._transact(lambda: self._write(rows, [_fields(run, row) for run, _, row in rows]))

    def write_at_once(self, rows: Sequence[Write]) -> bool:
        """Store rows if that takes no longer than some microseconds; see `Store`."""
        began = time.monotonic()
        if self._power or began < self._slow_until:
            return False
        with self._telling("written", patience=0.0):
            columns = [_fields(run, row) for run, _, row in rows]
            if sum(map(_length, columns)) > _LONG:
                return False
            try:
                self._transact(lambda: self._write(rows, columns))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:  # the rest says why it is busy
                    return False
                raise
        took = time.monotonic() - began
        if took > _SLOW:
            self._slow_until = began + _PAUSE * took
        return True

    def _write(self, rows: Sequence[Write], columns: Sequence[_Columns]) -> None:
        self._check_is_there()
        for run, token in {(run, token) for run, token, _ in rows}:
            found = self._database.execute("SELECT token FROM run WHERE number = ?", (run,)).fetchone()
            if found is None or found[0] != token:
                raise RunBusyError("another process has taken the run over", metadata={"owner": "unknown"})
        for (run, _, row), fields in zip(rows, columns, strict=True):
            if row.state == "sent":
                self._database.execute(_INSERT_FLIGHT, fields)
            else:
                self._database.execute("DELETE FROM flight WHERE number = ?", fields[:1])
                self._database.execute(_INSERT_CALL, (self._lies_at(run, row.seq), row.seq, *fields[1:]))
            self._unmoved += _ROW_BYTES + _length(fields)

    def _lies_at(self, run: int, seq: int) -> int:
        """Return where the row of a call that is over lies, or is put: behind all others of its run."""
        places = self._places.get(run)
        if places is None:
            known = self._database.execute(_SELECT_PLACES, (_number(run, 0), _number(run + 1, -1)))
            places = self._places[run] = dict(known.fetchall())
            places[_END] = max(places.values(), default=_number(run, 0) - 1) + 1
        place = places.get(seq)
        if place is None:
            place = places[seq] = places[_END]
            places[_END] += 1
        return place

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
        self._places.pop(run, None)
        with self._telling("written"):
            self._database.execute(
                "UPDATE run SET token = NULL, owner = NULL, ended = ?, error = ?, asks_again = ?, "
                "changed = ? WHERE number = ? AND token = ?",
                (ended, error, asks_again, self._clock(), run, token),
            )

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
        self._unmoved += _ROW_BYTES + len(value)

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
            self._roll_back()
            raise
        return result

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    @contextmanager
    def _telling(
        self, what: Literal["opened", "read", "written"], *, patience: float = _PATIENCE
    ) -> Generator[None, None, None]:
        """Say of a failure what it means for the user.

        Args:
            what: What the file could not be.
            patience: Seconds to wait for another process that writes.
        """
        try:
            if what != "opened":
                self._roll_back()  # where an interrupt came just as a transaction was broken off
                self._set_patience(patience)
            yield
        # A ValueError: names that are no text. The errors of older msgspecs are none.
        except (sqlite3.Error, OSError, ValueError, msgspec.MsgspecError) as error:
            raise JournalError(f"the journal {self._path} could not be {what}: {_why(error)}") from error

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
        _DAMAGED: isinstance(error, msgspec.MsgspecError | UnicodeDecodeError)
        or any(told in text for told in ("malformed", "not a database", "no such", "decode to UTF-8")),
    }
    fitting = next((each for each, fits in advice.items() if fits), None)
    return text if fitting is None else f"{text} ({fitting})"


def _info(fields: Sequence[Any]) -> RunInfo:
    return msgspec.convert(dict(zip(RunInfo.__struct_fields__, fields, strict=True)), RunInfo, strict=False)


def _number(run: int, seq: int) -> int:
    """Return what a row is found by.

    >>> _number(1, 2)
    4294967298
    """
    return (run << _SEQ_BITS) + seq


def _salt(head: _Head) -> bytes:
    """Return what a row is, as JSON, so that its checksum covers that too.

    >>> _salt((4294967298, 0, "call", "[0]", 0, "done", b"k"))
    b'[1, 2, 0, "call", "[0]", 0, "done", "6b"]'
    """
    number, generation, kind, path, ordinal, state, fingerprint = head
    run, seq = number >> _SEQ_BITS, number & _SEQ
    names = f'"{kind}", {json.dumps(path)}, {ordinal}, "{state}", "{fingerprint.hex()}"'
    return f"[{run}, {seq}, {generation}, {names}]".encode()


def _fields(run: int, row: Row) -> _Columns:
    try:
        path = msgspec.json.encode(row.path).decode()
    except (UnicodeEncodeError, OverflowError):  # lone surrogates, large numbers
        path = json.dumps(row.path)
    number = _number(run, row.seq)
    head = (number, row.generation, row.kind, path, row.ordinal, row.state, row.fingerprint)
    return *head, as_bytes(row.body, _salt(head)), row.prompt


def _length(fields: _Columns) -> int:
    """Return what a row's body and prompt take, about in bytes."""
    return len(fields[7]) + len(fields[8] or "")


def _row(fields: Sequence[Any]) -> Row:
    head = cast("_Head", tuple(fields[:7]))
    number, generation, kind, path, ordinal, state, fingerprint = head
    body, prompt = fields[7:]
    return Row(
        number & _SEQ,
        generation,
        cast("Kind", kind),
        tuple(json.loads(path)),
        ordinal,
        cast("State", state),
        fingerprint,
        from_bytes(body, _salt(head)),
        prompt,
    )
