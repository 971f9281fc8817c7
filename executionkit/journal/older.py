"""Files of older versions: the rows that are in them, for the store to note them in today's form."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from executionkit.core.journal import Kind, Row, State, from_bytes

__all__ = ["TABLES", "older_rows"]

TABLES: Final = ("call", "flight")
"""Where rows were, each in columns; those of calls under way come last, for they are newer."""
_SEQ: Final = (1 << 32) - 1
_NUMBERED: Final = f"(number >> 32 << 32) | coalesce(seq, number & {_SEQ})"
_NUMBERS: Final = {
    1: {"call": "(run << 32) | seq", "flight": "(run << 32) | seq"},
    2: {"call": "number", "flight": "number"},
    3: {"call": _NUMBERED, "flight": "number"},
}
"""What a row is found by, of each version: its run's number, and its own in the last 32 bits."""
_FIELDS: Final = "generation, kind, path, ordinal, state, fingerprint, body, prompt"


def older_rows(database: sqlite3.Connection, version: int) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file, each with its run's number; of a row that is there twice the last one counts.

    Raises:
        BadRowError: One is not as it was written.
    """
    for table in TABLES:
        number = _NUMBERS[version][table]
        found = database.execute(f"SELECT {number}, {_FIELDS} FROM {table} ORDER BY 1")  # noqa: S608 - our own words
        for fields in found:
            yield fields[0] >> 32, _row(fields)


def _row(fields: Sequence[Any]) -> Row:
    number, generation, kind, path, ordinal, state, fingerprint, body, prompt = fields
    # What a row is, as JSON, which its checksum covers too.
    names = f'"{kind}", {json.dumps(path)}, {ordinal}, "{state}", "{fingerprint.hex()}"'
    salt = f"[{number >> 32}, {number & _SEQ}, {generation}, {names}]".encode()
    return Row(
        number & _SEQ,
        generation,
        cast("Kind", kind),
        tuple(json.loads(path)),
        ordinal,
        cast("State", state),
        fingerprint,
        from_bytes(body, salt),
        prompt,
    )
