"""Rows in files: JSON lines, CSV and Parquet, read as a type and written whole or not at all."""

import csv
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast, overload

import msgspec
from returns.result import Failure
from typing_extensions import TypeForm

from executionkit.batch import Row
from executionkit.core.encoding import json_text
from executionkit.core.portable import plain_value
from executionkit.core.schema.models import read_model, with_models
from executionkit.core.schema.reading import JsonDecoder, as_kind

__all__ = [
    "FilePath",
    "Record",
    "format_of",
    "read_rows",
    "record_of",
    "whole",
    "write_records",
    "write_rows",
]

T = TypeVar("T")

FilePath: TypeAlias = str | os.PathLike[str]

Record: TypeAlias = Mapping[str, Any]
"""A row of a file: what stands in its columns, by name."""

_FORMATS: Final = {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}
_CHUNK: Final = 1000
"""Rows of a Parquet file that are held in memory at once."""


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
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: The file cannot be read.
    """
    reader = {"json": _json_lines, "csv": _csv_rows, "parquet": _parquet_rows}[format_of(path)]
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    return reader(Path(path), row_type)


def write_rows(path: FilePath, rows: Iterable[object]) -> int:
    """Write rows to a file and return how many; the file is there once all are written, or not at all.

    The rows of a batch have the columns `key`, `value` (text as it is, else JSON), `score`, `error`,
    `llm_calls`, `input_tokens`, `output_tokens` and `usd`. Other rows (structs, dataclasses, mappings) have
    the fields of the first as columns; lists and structs in them are JSON in CSV.

    Args:
        path: A file that ends in `.jsonl`, `.ndjson`, `.csv` or `.parquet`; the last needs the extra `arrow`.
            What is there is replaced.
        rows: The rows; they are not held in memory.

    Raises:
        ValueError: The name of the file has none of these endings, or a row has other columns than the first.
        TypeError: A row is no struct and no mapping, or a value has no form in the file.
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: The file cannot be written.
    """
    return write_records(path, (_record(row) for row in rows))


def write_records(path: FilePath, records: Iterable[Record]) -> int:
    """Write rows that are columns by name; see `write_rows`."""
    writer = {"json": _write_json, "csv": _write_csv, "parquet": _write_parquet}[format_of(path)]
    with whole(Path(path)) as part:
        return writer(part, records)


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
    """Give a file beside `path` to write to, which takes its place at the end of the block."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _refused(path: Path, place: str, error: Exception) -> ValueError:
    return ValueError(f"{path}, {place}: {error}")


def _json_lines(path: Path, row_type: Any) -> Iterator[Any]:
    decoder = JsonDecoder(row_type)
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield decoder.decode(line)
                except (msgspec.MsgspecError, ValueError, TypeError) as error:
                    raise _refused(path, f"line {number}", error) from error


class _Column(msgspec.Struct, frozen=True):
    """What the cells of a column may stand for."""

    takes_text: bool = True
    takes_none: bool = False
    is_json: bool = False

    def put(self, row: dict[str, object], name: str, cell: str) -> None:
        """Put what a cell says into a row; nothing where it says nothing."""
        if cell or (self.takes_text and not self.takes_none):
            row[name] = msgspec.json.decode(cell) if self.is_json else cell
        elif self.takes_none:
            row[name] = None


def _csv_rows(path: Path, row_type: Any) -> Iterator[Any]:
    kind, columns, plain = with_models(row_type), _columns(row_type), _Column()
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey="")
        for cells in reader:
            try:
                if "" in cells:
                    raise ValueError("it has more cells than there are columns")
                row: dict[str, object] = {}
                for name, cell in cells.items():
                    if cell is not None:
                        columns.get(name, plain).put(row, name, cell)
                yield msgspec.convert(row, kind, strict=False, str_keys=True, dec_hook=read_model)
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                raise _refused(path, f"line {reader.line_num}", error) from error


def _columns(row_type: Any) -> dict[str, _Column]:
    """Return what the fields of a type take, by name; none where it has no fields."""
    with suppress(TypeError):  # a type that msgspec reads by a hook
        fields: tuple[msgspec.inspect.Field, ...] = getattr(msgspec.inspect.type_info(row_type), "fields", ())
        return {field.encode_name: _column(field.type) for field in fields}
    return {}


def _column(kind: msgspec.inspect.Type) -> _Column:
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    takes_text = any(isinstance(each, msgspec.inspect.StrType | msgspec.inspect.AnyType) for each in kinds)
    takes_none = any(isinstance(each, msgspec.inspect.NoneType) for each in kinds)
    is_json = not takes_text and any(isinstance(each, _COMPOSITE) for each in kinds)
    return _Column(takes_text, takes_none, is_json)


_COMPOSITE: Final = (
    msgspec.inspect.CollectionType,
    msgspec.inspect.TupleType,
    msgspec.inspect.DictType,
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.TypedDictType,
    msgspec.inspect.NamedTupleType,
)


def _arrow(module: str) -> Any:
    """Return a module of pyarrow's; its types are its own.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Parquet needs pyarrow; run: pip install "./executionkit[arrow]"', name="pyarrow"
        ) from error


def _parquet_rows(path: Path, row_type: Any) -> Iterator[Any]:
    parquet = _arrow("pyarrow.parquet")
    number = 0
    with parquet.ParquetFile(path) as file:
        for chunk in file.iter_batches(batch_size=_CHUNK):
            for row in chunk.to_pylist():
                try:
                    yield as_kind(row, row_type)
                except (msgspec.MsgspecError, ValueError, TypeError) as error:
                    raise _refused(path, f"row {number} (from 0)", error) from error
                number += 1


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
        record["value"] = value if isinstance(value, str) else json_text(value)
        record["score"], cost = result.score, result.cost
    return {
        **record,
        "llm_calls": cost.llm_calls,
        "input_tokens": cost.input_tokens,
        "output_tokens": cost.output_tokens,
        "usd": None if cost.usd is None else float(cost.usd),
    }


def _write_json(path: Path, records: Iterable[Record]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(f"{json_text(record)}\n")
            count += 1
    return count


def _write_csv(path: Path, records: Iterable[Record]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for record in _with_same_columns(records):
            if writer is None:
                writer = csv.DictWriter(file, [*record])
                writer.writeheader()
            writer.writerow({name: _cell(value) for name, value in record.items()})
            count += 1
    return count


def _with_same_columns(records: Iterable[Record]) -> Iterator[Record]:
    """Yield records as long as they have the columns of the first.

    Raises:
        ValueError: One has others.
    """
    names: list[str] | None = None
    for number, record in enumerate(records):
        names = names or [*record]
        if [*record] != names:
            raise ValueError(f"row {number} (from 0) has other columns than the first: {', '.join(record)}")
        yield record


def _cell(value: object) -> object:
    return json_text(cast("object", value)) if isinstance(value, dict | list) else value


def _write_parquet(path: Path, records: Iterable[Record]) -> int:
    arrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    count, left = 0, _with_same_columns(records)
    first = [*islice(left, _CHUNK)]
    schema = _schema(arrow, first)
    with parquet.ParquetWriter(path, schema) as writer:
        for chunk in chain([first], iter(lambda: [*islice(left, _CHUNK)], [])):
            count += len(chunk)
            try:
                writer.write_table(arrow.Table.from_pylist(chunk, schema=schema))
            except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
                raise ValueError(
                    f"rows before row {count} are not of the types of the first: {error}"
                ) from error
    return count


def _schema(arrow: Any, first: list[Record]) -> Any:
    """Return the types of the columns by the first rows; those that are known beforehand stay as they are."""
    names = [*first[0]] if first else []
    inferred = arrow.Table.from_pylist(first, schema=None) if first else arrow.table({})
    known = {
        "value": arrow.string(),
        "score": arrow.float64(),
        "error": arrow.string(),
        "usd": arrow.float64(),
    }
    is_batch = set(names) >= {"key", *known}
    fields: list[Any] = []
    for name in names:
        kind = known[name] if is_batch and name in known else inferred.schema.field(name).type
        fields.append(arrow.field(name, arrow.string() if arrow.types.is_null(kind) else kind))
    return arrow.schema(fields)
