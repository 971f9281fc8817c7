"""Rows of files of older versions: they stay in the tables that they are in, and are read from there."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from executionkit.core.journal import BadRowError, Kind, Row, State, from_bytes

__all__ = ["OlderRows"]

_TABLES: Final = ("call", "flight")
"""Where rows were; those of calls under way come last, for they are newer."""
_SEQ: Final = (1 << 32) - 1
_OF_A_RUN: Final = f"number BETWEEN :run << 32 AND :run << 32 | {_SEQ}"
_RUNS: Final = {1: "run = :run", 2: _OF_A_RUN, 3: _OF_A_RUN}
"""Which rows are a run's, of each version."""
_OWN: Final = f"number & {_SEQ}"
_NUMBERS: Final = {
    1: {"call": "seq", "flight": "seq"},
    2: {"call": _OWN, "flight": _OWN},
    3: {"call": f"coalesce(seq, {_OWN})", "flight": _OWN},
}
"""A row's number in its run, of each version."""
_FIELDS: Final = "generation, kind, path, ordinal, state, fingerprint, body, prompt"


class OlderRows:
    """The rows of a file that was of an older version. Nothing is added to them.

    A file may have many, and some may be damaged: no run waits, or fails, for those of another one.

    Args:
        database: The file.
        version: The older version.
    """

    def __init__(self, database: sqlite3.Connection, version: int) -> None:
        self._database = database
        self._version = version

    @classmethod
    def found(cls, database: sqlite3.Connection) -> "OlderRows | None":
        """Return those of a file; None where it has none."""
        for version in _NUMBERS:
            if database.execute(f"PRAGMA table_info({_named('call', version)})").fetchall():
                return cls(database, version)
        return None

    def take_over(self) -> None:
        """Give the tables other names: a process that knows only the older version writes to them no more."""
        for table in _TABLES:
            self._database.execute(f"ALTER TABLE {table} RENAME TO {_named(table, self._version)}")

    def of(self, run: int) -> Iterator[Row]:
        """Yield the rows of a run; of one that is there twice the last one counts.

        Raises:
            BadRowError: One is not as it was written.
        """
        version = self._version
        for table in _TABLES:
            name, number = _named(table, version), _NUMBERS[version][table]
            found = self._database.execute(
                f"SELECT {number}, {_FIELDS} FROM {name} WHERE {_RUNS[version]}",  # noqa: S608 - our own words
                {"run": run},
            )
            for fields in found.fetchall():
                try:
                    row = _row(run, fields)
                except (ValueError, TypeError, AttributeError) as error:
                    raise BadRowError(str(error)) from error
                yield row

    def remove(self, run: int) -> None:
        """Remove the rows of a run."""
        for table in _TABLES:
            name = _named(table, self._version)
            self._database.execute(f"DELETE FROM {name} WHERE {_RUNS[self._version]}", {"run": run})  # noqa: S608


def _named(table: str, version: int) -> str:
    return f"{table}_of_version_{version}"


def _row(run: int, fields: Sequence[Any]) -> Row:
    seq, generation, kind, path, ordinal, state, fingerprint, body, prompt = fields
    # What a row is, as JSON, which its checksum covers too.
    names = f'"{kind}", {json.dumps(path)}, {ordinal}, "{state}", "{fingerprint.hex()}"'
    salt = f"[{run}, {seq}, {generation}, {names}]".encode()
    return Row(
        seq,
        generation,
        cast("Kind", kind),
        tuple(json.loads(path)),
        ordinal,
        cast("State", state),
        fingerprint,
        from_bytes(body, salt),
        prompt,
    )
