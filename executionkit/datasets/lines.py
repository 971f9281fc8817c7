"""What files of rows have in common, whatever their format."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["FilePath", "Record", "check_names", "lines_of", "refused", "with_same_columns"]

FilePath: TypeAlias = str | os.PathLike[str]

Record: TypeAlias = Mapping[str, Any]
"""A row of a file: what stands in its columns, by name."""


def refused(path: Path, place: str, error: Exception) -> ValueError:
    """Return the error of a place in a file."""
    return ValueError(f"{path}, {place}: {error}")


def lines_of(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a text.

    Raises:
        ValueError: One is not UTF-8.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        for number, line in enumerate(lines, 1):
            if not line.isascii():
                try:
                    line.encode()
                except UnicodeEncodeError as error:
                    byte = ord(line[error.start]) - 0xDC00
                    raise ValueError(
                        f"{path}, line {number}: it is not UTF-8: there is a byte 0x{byte:02x}"
                    ) from None
            yield line


def check_names(names: Sequence[str]) -> None:
    """Check the names of columns; some programs write columns without one.

    Raises:
        ValueError: Two have the same.
    """
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(f"two columns are called {name!r:.80}")


def with_same_columns(records: Iterable[Record]) -> Iterator[Record]:
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
