"""Rows in files: JSON lines, CSV and Parquet, read as a type and written whole or not at all."""

import json
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast, overload

import msgspec
from returns.result import Failure
from typing_extensions import TypeForm

from executionkit.batch import Row
from executionkit.core.encoding import json_text
from executionkit.core.portable import plain_value
from executionkit.core.schema.models import read_kept, schema_of
from executionkit.core.schema.reading import JsonDecoder, as_kind
from executionkit.datasets.csv_files import csv_rows, write_csv
from executionkit.datasets.lines import FilePath, Record, lines_of, refused
from executionkit.datasets.parquet_files import check_arrow, parquet_rows, write_parquet

__all__ = [
    "FilePath",
    "Record",
    "check_target",
    "format_of",
    "read_rows",
    "record_of",
    "whole",
    "write_records",
    "write_rows",
]

T = TypeVar("T")


_FORMATS: Final = {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}


@overload
def read_rows(path: FilePath, row_type: type[T]) -> Iterator[T]: ...
@overload
def read_rows(path: FilePath, row_type: TypeForm[T]) -> Iterator[T]: ...
def read_rows(path: FilePath, row_type: TypeForm[Any]) -> Iterator[Any]:
    """Return the rows of a file, each read as a type when it is asked for. The file may be of any length.

    Args:
        path: A file that ends in `.jsonl`, `.ndjson`, `.csv` or `.parquet`; the last needs the extra `arrow`.
        row_type: A struct, a dataclass, a `TypedDict`, `dict[str, str]`, or whatever msgspec converts to. The
            cells of a CSV file are texts: numbers, dates and the like are read from them, lists and structs
            from JSON. An empty cell is an empty text; where its field takes no text it is None, and where it
            takes no None either, the default of the field.

    Raises:
        ValueError: The name of the file has none of these endings. On reading: a row is not of the type; the
            message says which.
        TypeError: A part of `row_type` is no type that can be read.
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: The file cannot be read.
    """
    reader = {"json": _json_lines, "csv": csv_rows, "parquet": parquet_rows}[format_of(path)]
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    schema_of(row_type)  # says which part of a type cannot be read
    return reader(Path(path), row_type)


def write_rows(path: FilePath, rows: Iterable[object]) -> int:
    """Write rows to a file and return how many; the file is there once all are written, or not at all.

    The rows of a batch have the columns `key`, `value`, `score`, `error`, `llm_calls`, `input_tokens`,
    `output_tokens` and `usd`. `value` is text: a text as it is, what JSON has as a text (an enum of texts, a
    date) without the quotes, anything else as JSON. Other rows (structs, dataclasses, mappings) have
    the fields of the first as columns; lists and structs in them are JSON in CSV. A column of Parquet is of
    the type that all its values are of: of whole and other numbers a float, of structs one with all their
    fields; keys of a batch that are not all whole numbers of 64 bits are texts. Half a character (a lone
    surrogate), which UTF-8 has not, is written as its escape.

    Args:
        path: A file that ends in `.jsonl`, `.ndjson`, `.csv` or `.parquet`; the last needs the extra `arrow`.
            What is there is replaced.
        rows: The rows; they are not held in memory.

    Raises:
        ValueError: The name of the file has none of these endings, a row has other columns than the first, or
            values of a column of Parquet are of no common type.
        TypeError: A row is no struct and no mapping, or a value has no form in the file.
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: The file cannot be written.
    """
    return write_records(path, (_record(row) for row in rows))


def write_records(path: FilePath, records: Iterable[Record]) -> int:
    """Write rows that are columns by name; see `write_rows`."""
    writer = {"json": _write_json, "csv": write_csv, "parquet": write_parquet}[format_of(path)]
    with whole(Path(path)) as part:
        return writer(part, records)


def check_target(path: FilePath) -> None:
    """Check, before any work is done for it, that a file can be written.

    Raises:
        ValueError: Its name has no known ending.
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: There is a folder of its name, or its own folder can be neither made nor written to.
    """
    if format_of(path) == "parquet":
        check_arrow()
    file = Path(os.path.realpath(path))
    if file.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder; a file is to be written")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(f"{os.fspath(path)!r} cannot be written: its folder is read-only")


def format_of(path: FilePath) -> str:
    """Return the format of a file by its name.

    Raises:
        ValueError: It is none of those known.
    """
    ending = Path(path).suffix.lower()
    if ending not in _FORMATS:
        raise ValueError(f"{os.fspath(path)!r} must end in one of {', '.join(_FORMATS)}")
    return _FORMATS[ending]


@contextmanager
def whole(path: Path) -> Generator[Path, None, None]:
    """Give a file beside `path` to write to, which takes its place at the end of the block.

    A link stays one: what it leads to is written. Its own name is short enough wherever that of `path` is.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{os.getpid()}-{os.urandom(8).hex()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _json_lines(path: Path, row_type: Any) -> Iterator[Any]:
    decoder = JsonDecoder(row_type, read_kept)
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            try:
                yield _decoded(decoder, line, row_type)
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
                raise refused(path, f"line {number}", error) from error


def _decoded(decoder: JsonDecoder, line: str, row_type: Any) -> Any:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError:
        if "\\ud" not in line.lower():
            raise
    return as_kind(json.loads(line), row_type, read_kept)  # half a character, which msgspec does not take


def _record(row: object) -> Record:
    """Return a row as columns.

    Raises:
        TypeError: It has none.
    """
    if isinstance(row, Row):
        return record_of(row)  # pyright: ignore[reportUnknownArgumentType] - whatever it holds
    record = plain_value(row)
    if not isinstance(record, dict):
        raise TypeError(f"a row must be a struct or a mapping, not {type(row).__name__}")
    return cast("dict[str, Any]", record)


def record_of(row: Row[Any, Any]) -> dict[str, Any]:
    """Return a row of a batch as the columns that it has in a file."""
    record: dict[str, Any] = {"key": row.key, "value": None, "score": None, "error": None}
    outcome = row.outcome
    if isinstance(outcome, Failure):
        error = outcome.failure()
        record["error"], cost = f"{type(error).__name__}: {error}", error.cost
    else:
        result = outcome.unwrap()
        value: object = result.value
        record["value"] = _as_text(value)
        record["score"], cost = result.score, result.cost
    return {
        **record,
        "llm_calls": cost.llm_calls,
        "input_tokens": cost.input_tokens,
        "output_tokens": cost.output_tokens,
        "usd": None if cost.usd is None else float(cost.usd),
    }


def _as_text(value: object) -> str:
    """Return a value as text: JSON, without the quotes where that is a text itself, as an enum's is."""
    if type(value) is str:
        return value
    text = json_text(value)
    return json.loads(text) if text.startswith('"') else text


def _write_json(path: Path, records: Iterable[Record]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(f"{json_text(record)}\n")
            count += 1
    return count
