"""Rows in CSV: cells are texts, read as what their fields take."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Final, cast

import msgspec

from executionkit.core.encoding import json_text
from executionkit.core.schema.completion import complete, is_left_incomplete
from executionkit.core.schema.models import read_kept, schema_of, with_models
from executionkit.datasets.lines import Record, check_names, lines_of, refused, with_same_columns

__all__ = ["csv_rows", "write_csv"]


class _Column(msgspec.Struct, frozen=True):
    """What the cells of a column may stand for."""

    takes_text: bool = True
    takes_none: bool = False
    is_json: bool = False

    def put(self, row: dict[str, object], name: str, cell: str) -> None:
        """Put what a cell says into a row; nothing where it says nothing."""
        if cell or (self.takes_text and not self.takes_none):
            row[name] = msgspec.json.decode(cell) if self.is_json and not self.takes_text else cell
        elif self.takes_none:
            row[name] = None

    def or_else(self, other: "_Column") -> "_Column":
        """Return what takes all that either takes."""
        return _Column(
            self.takes_text or other.takes_text,
            self.takes_none or other.takes_none,
            self.is_json or other.is_json,
        )


def csv_rows(path: Path, row_type: Any) -> Iterator[Any]:
    """Yield the rows of a file, each as a type.

    Raises:
        ValueError: A row is not of the type, or the file is not whole.
        OSError: It cannot be read.
    """
    kind, columns = with_models(row_type), _columns(row_type)
    is_incomplete, is_whole = is_left_incomplete(row_type), True

    def lines() -> Iterator[str]:
        nonlocal is_whole
        yield from lines_of(path, newline="")
        is_whole = False  # unless the next row was to begin

    reader = csv.reader(lines())
    names: list[str] = []
    while True:
        try:
            cells = _next_cells(reader)
        except csv.Error as error:
            raise refused(path, f"line {reader.line_num}", error) from error
        if cells is None:
            return
        try:
            if not is_whole:
                raise ValueError("the file ends within a cell whose quotes were not closed")
            if not names:
                check_names(cells)
                names = cells
            elif cells:
                row = _by_name(names, cells, columns)
                found = msgspec.convert(row, kind, strict=False, str_keys=True, dec_hook=read_kept)
                if is_incomplete:
                    complete(found)
                yield found
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise refused(path, f"line {reader.line_num}", error) from error


_PLAIN: Final = _Column()


def _by_name(names: list[str], cells: list[str], columns: Mapping[str, _Column]) -> dict[str, object]:
    """Return what the cells of a row say, by the names of their columns.

    Raises:
        ValueError: There are more than columns, or one that should hold JSON does not.
    """
    if len(cells) > len(names):
        raise ValueError("it has more cells than there are columns")
    row: dict[str, object] = {}
    for name, cell in zip(names, cells, strict=False):
        columns.get(name, _PLAIN).put(row, name, cell)
    return row


_CELLS: Final = Lock()
_LONGEST: Final = 2**31 - 1


def _next_cells(reader: Iterator[list[str]]) -> list[str] | None:
    """Return the cells of the next row, of any length; None where there is none.

    How long a cell may be is one setting for the whole process (131,072 characters), which stays as it was.
    """
    with _CELLS:
        before = csv.field_size_limit(_LONGEST)
        try:
            return next(reader, None)
        finally:
            csv.field_size_limit(before)


def _columns(row_type: Any) -> dict[str, _Column]:
    """Return what the fields of a type take, by name; none where it has no fields."""
    columns: dict[str, _Column] = {}
    for kind in _alternatives(msgspec.inspect.type_info(with_models(row_type))):
        if isinstance(kind, msgspec.inspect.CustomType):  # a model, or several
            schema = schema_of(row_type)
            return {name: _told(part, schema) for name, part in _properties(schema, schema)}
        fields: tuple[msgspec.inspect.Field, ...] = getattr(kind, "fields", ())
        for field in fields:
            column = _column(field.type)
            columns[field.encode_name] = columns.get(field.encode_name, column).or_else(column)
    return columns


def _alternatives(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Yield what a value may be, annotations taken off."""
    if isinstance(kind, msgspec.inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    else:
        yield kind


def _column(kind: msgspec.inspect.Type) -> _Column:
    column: _Column | None = None
    for each in _alternatives(kind):
        if isinstance(each, msgspec.inspect.CustomType):
            schema = schema_of(each.cls)
            one = _told(schema, schema)
        else:
            one = _Column(
                isinstance(each, _TEXTS) or (isinstance(each, _CHOICES) and "" in _values(each)),
                isinstance(each, msgspec.inspect.NoneType),
                isinstance(each, _COMPOSITE),
            )
        column = one if column is None else column.or_else(one)
    return column or _Column()


def _values(kind: msgspec.inspect.Type) -> Iterable[object]:
    if isinstance(kind, msgspec.inspect.EnumType):
        return [member.value for member in kind.cls]
    return kind.values if isinstance(kind, msgspec.inspect.LiteralType) else ()


def _properties(part: Mapping[str, Any], whole_schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the properties of an object, or of several that it may be, as a JSON Schema has them."""
    for each in _told_alternatives(part, whole_schema):
        yield from each.get("properties", {}).items()


def _told_alternatives(
    part: Mapping[str, Any], whole_schema: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    name = str(part.get("$ref", "")).removeprefix("#/$defs/")
    if name:
        yield from _told_alternatives(whole_schema.get("$defs", {}).get(name, {}), whole_schema)
    several = [*part.get("anyOf", ()), *part.get("oneOf", ())]
    for each in several:
        yield from _told_alternatives(each, whole_schema)
    if not (name or several):
        yield part


def _told(part: Mapping[str, Any], whole_schema: Mapping[str, Any]) -> _Column:
    """Return what a column takes whose type is known by its JSON Schema only."""
    takes_text = takes_none = is_json = False
    for each in _told_alternatives(part, whole_schema):
        kind = each.get("type")
        choices = each.get("enum", [each["const"]] if "const" in each else None)
        if choices is not None:
            takes_text |= "" in choices
        else:
            takes_text |= kind is None or (kind == "string" and "format" not in each)
        takes_none |= kind == "null"
        is_json |= kind in {"object", "array"}
    return _Column(takes_text, takes_none, is_json)


_TEXTS: Final = (
    msgspec.inspect.StrType,
    msgspec.inspect.AnyType,
    msgspec.inspect.BytesType,
    msgspec.inspect.ByteArrayType,
    msgspec.inspect.MemoryViewType,
)
"""What an empty text may be."""
_CHOICES: Final = (msgspec.inspect.EnumType, msgspec.inspect.LiteralType)
_COMPOSITE: Final = (
    msgspec.inspect.CollectionType,
    msgspec.inspect.TupleType,
    msgspec.inspect.DictType,
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.TypedDictType,
    msgspec.inspect.NamedTupleType,
)


def write_csv(path: Path, records: Iterable[Record]) -> int:
    """Write rows and return how many.

    Raises:
        ValueError: A row has other columns than the first.
        OSError: The file cannot be written.
    """
    count = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for record in with_same_columns(records):
            if writer is None:
                writer = csv.DictWriter(file, [*record])
                writer.writeheader()
            writer.writerow({name: _cell(value) for name, value in record.items()})
            count += 1
    return count


def _cell(value: object) -> object:
    return json_text(cast("object", value)) if isinstance(value, dict | list | tuple) else value
