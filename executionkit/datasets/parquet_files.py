"""Rows in Parquet, through `pyarrow`."""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, cast

import msgspec

from executionkit.core.schema.models import read_kept
from executionkit.core.schema.reading import as_kind
from executionkit.datasets.lines import Record, check_names, refused, with_same_columns

__all__ = ["check_arrow", "parquet_rows", "write_parquet"]

_CHUNK: Final = 1000
"""Rows of a Parquet file that are held in memory at once."""


def check_arrow() -> None:
    """Check that `pyarrow` is installed.

    Raises:
        ModuleNotFoundError: It is not.
    """
    _arrow("pyarrow.parquet")


def _arrow(module: str) -> Any:
    """Return a module of pyarrow's; its types are its own.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Parquet needs pyarrow; in the clone, run: pip install ".[arrow]"', name="pyarrow"
        ) from error


def parquet_rows(path: Path, row_type: Any) -> Iterator[Any]:
    """Yield the rows of a file, each as a type.

    Raises:
        ValueError: A row is not of the type, or the file is no Parquet.
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: The file cannot be read.
    """
    arrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path)
            for chunk in file.iter_batches(batch_size=_CHUNK):
                for row in _plain_rows(chunk, path, number):
                    try:
                        value = as_kind(row, row_type, read_kept)
                    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
                        raise refused(path, f"row {number} (from 0)", error) from error
                    yield value
                    number += 1
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; one of pyarrow's own, of data that is damaged, has no number
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def _check_schema(schema: Any, path: Path) -> None:
    """Check that no column hides another.

    Raises:
        ValueError: Two have the same name.
    """
    try:
        check_names(schema.names)
    except ValueError as error:
        raise refused(path, "its schema", error) from error


def _plain_rows(chunk: Any, path: Path, first: int) -> list[Record]:
    """Return rows of Arrow as Python's values; a map is a dict.

    Raises:
        ValueError: Python has no such values: times to the nanosecond, a map that has a key twice.
    """
    try:
        rows: list[Record] = chunk.to_pylist(maps_as_pydicts="strict")
    except (ValueError, KeyError) as error:
        place = f"one of the rows from {first} (from 0) on"
        raise refused(path, place, ValueError(str(error))) from error
    return rows


def write_parquet(path: Path, records: Iterable[Record]) -> int:
    """Write rows and return how many.

    Raises:
        ValueError: A row has other columns than the first, or values of a column are of no common type.
        TypeError: A value has no form in the file.
        ModuleNotFoundError: `pyarrow` is not installed.
        OSError: The file cannot be written.
    """
    count, left = 0, with_same_columns(records)
    with _Sheet(path) as sheet:
        for chunk in iter(lambda: [*islice(left, _CHUNK)], []):
            sheet.add(chunk, count)
            count += len(chunk)
    return count


_OF_A_BATCH: Final = frozenset(
    {"key", "value", "score", "error", "llm_calls", "input_tokens", "output_tokens", "usd"}
)


class _Sheet:
    """A Parquet file under way. Where rows come that its columns do not fit, it is made anew with wider ones.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrow, self._parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
        self._kinds: Any = None
        """The type of each column, that of one which has held nothing yet among them."""
        self._schema: Any = self._arrow.schema([])
        self._writer: Any = None
        self._has_text_keys = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, self._schema)
        self._writer.close()

    def add(self, chunk: list[Record], first: int) -> None:
        """Write rows.

        Args:
            chunk: The rows, at least one.
            first: The number of the first of them.

        Raises:
            ValueError: They have no type in common with those before them.
            TypeError: A value has no form in Parquet.
        """
        try:
            try:
                self._add(chunk)
            except UnicodeEncodeError:
                self._add([{name: _escaped(value) for name, value in record.items()} for record in chunk])
        except self._arrow.ArrowNotImplementedError as error:
            raise TypeError(f"{self._place(chunk, first)} has no form in Parquet: {error}") from error
        except (self._arrow.ArrowInvalid, self._arrow.ArrowTypeError, OverflowError) as error:
            raise ValueError(
                f"{self._place(chunk, first)} does not fit into one type; write it as text: {error}"
            ) from error

    def _place(self, chunk: list[Record], first: int) -> str:
        """Say which rows, and which of their columns by itself."""
        rows = f"rows {first} to {first + len(chunk) - 1} (from 0)"
        for name in chunk[0]:
            try:
                self._arrow.array([record[name] for record in chunk])
            except (self._arrow.ArrowException, OverflowError):
                return f"column {name!r} of {rows}"
        return f"a column of {rows}"

    def _add(self, chunk: list[Record]) -> None:
        kinds = self._before(chunk)
        if self._has_text_keys:
            chunk = [_with_text_key(record) for record in chunk]
        found = self._arrow.Table.from_pylist(chunk).schema
        if kinds is not None:
            found = self._arrow.unify_schemas([kinds, found], promote_options="permissive")
        schema = self._arrow.schema(
            [
                field.with_type(self._arrow.string()) if self._arrow.types.is_null(field.type) else field
                for field in found
            ]
        )
        table = self._arrow.Table.from_pylist(chunk, schema=schema)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, schema)
        elif schema != self._schema:
            self._widen(schema)
        self._kinds, self._schema = found, schema
        self._writer.write_table(table)

    def _before(self, chunk: list[Record]) -> Any:
        """Return the types of the columns so far; None where there are none. Those of a batch are known."""
        if not set(chunk[0]) >= _OF_A_BATCH:
            return self._kinds
        text, number = self._arrow.string(), self._arrow.float64()
        known = {"value": text, "score": number, "error": text, "usd": number}
        self._has_text_keys |= not all(_is_small(record["key"]) for record in chunk)
        if self._has_text_keys:
            known["key"] = text
        before = self._kinds or self._arrow.schema(
            [self._arrow.field(name, known.get(name, self._arrow.null())) for name in chunk[0]]
        )
        return self._arrow.schema(
            [field.with_type(known[field.name]) if field.name in known else field for field in before]
        )

    def _widen(self, schema: Any) -> None:
        """Write what is there once more, as another type."""
        self._writer.close()
        narrow = self._path.with_name(f"{self._path.name}.narrow")
        self._path.replace(narrow)
        try:
            self._writer = self._parquet.ParquetWriter(self._path, schema)
            with self._parquet.ParquetFile(narrow) as file:
                for batch in file.iter_batches(batch_size=_CHUNK):
                    rows: list[Record] = batch.to_pylist()
                    if self._has_text_keys:
                        rows = [_with_text_key(row) for row in rows]
                    self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=schema))
        finally:
            narrow.unlink()


def _is_small(key: object) -> bool:
    return isinstance(key, int) and -(2**63) <= key < 2**63


def _with_text_key(record: Record) -> Record:
    return {**record, "key": str(record["key"])}


def _escaped(value: object) -> object:
    """Return a value whose texts UTF-8 has."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        given = cast("Mapping[object, object]", value)
        return {_escaped(key): _escaped(item) for key, item in given.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in cast("list[object]", value)]
    return value
