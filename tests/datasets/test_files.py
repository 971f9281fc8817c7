"""Files of rows: three formats, read as a type, written whole or not at all."""

import csv
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

from executionkit.core.usage import TokenUsage
from executionkit.datasets import Row, read_rows, write_rows
from executionkit.errors import ProviderError
from executionkit.outcome import PatternResult
from tests.conftest import needs

FORMATS = ["jsonl", "csv", pytest.param("parquet", marks=needs("pyarrow"))]


class Ticket(msgspec.Struct, frozen=True):
    """A row of all the kinds that a cell may hold."""

    id: int
    text: str
    price: float | None = None
    is_open: bool = False
    day: dt.date | None = None
    tags: list[str] = []
    note: str | None = None


TICKETS = [
    Ticket(1, 'He said: "a, b"\nand left', 1.5, True, dt.date(2026, 11, 30), ["a", "b,c"], "x"),
    Ticket(2, "", None, False, None, [], None),
    Ticket(-3, "naïve 日本", 0.1, True, None, ["é"], "y"),
]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    assert write_rows(path, TICKETS) == 3
    assert list(read_rows(path, Ticket)) == TICKETS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_iterator_of_any_length_is_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    assert write_rows(path, (Ticket(n, f"text {n}", n / 7) for n in range(2500))) == 2500
    rows = read_rows(str(path), Ticket)
    assert next(rows) == Ticket(0, "text 0", 0.0)
    assert sum(row.id for row in rows) == sum(range(2500))


@pytest.mark.parametrize("kind", FORMATS)
def test_no_rows_are_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    assert write_rows(path, []) == 0
    assert list(read_rows(path, Ticket)) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_a_batch_have_columns(tmp_path: Path, kind: str) -> None:
    cost = TokenUsage(7, 2, 1)
    rows: list[Row[str, Any]] = [
        Row("a", "x", Failure(ProviderError("down", cost=TokenUsage(llm_calls=2)))),
        Row("b", "y", Success(PatternResult("Paris", 0.5, cost))),
        Row("c", "z", Success(PatternResult(Ticket(1, "t"), None, cost))),
    ]
    path = tmp_path / f"out.{kind}"
    write_rows(path, rows)

    class Out(TypedDict):
        key: str
        value: str | None
        score: float | None
        error: str | None
        llm_calls: int
        input_tokens: int
        output_tokens: int
        usd: float | None

    down, text, ticket = read_rows(path, Out)
    assert down == {
        "key": "a",
        "value": None,
        "score": None,
        "error": "ProviderError: down",
        "llm_calls": 2,
        "input_tokens": 0,
        "output_tokens": 0,
        "usd": None,
    }
    assert (text["value"], text["score"], text["input_tokens"]) == ("Paris", 0.5, 7)
    assert msgspec.json.decode(str(ticket["value"]), type=Ticket) == Ticket(1, "t")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_there_stays_where_writing_fails(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    write_rows(path, TICKETS)

    def broken() -> Iterator[Ticket]:
        yield TICKETS[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_rows(path, broken())
    assert list(read_rows(path, Ticket)) == TICKETS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int = 9


def test_cells_that_are_empty_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffx,y\n1,\n2,3\n4\n", encoding="utf-8")
    assert list(read_rows(path, Point)) == [Point(1), Point(2, 3), Point(4)]
    assert list(read_rows(path, dict[str, str]))[:2] == [{"x": "1", "y": ""}, {"x": "2", "y": "3"}]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("rows.csv", "x,y\n1,2\nfour,5\n", r"rows.csv, line 3: .*int"),
        ("rows.csv", "x,y\n1,2,3\n", r"line 2: .*more cells"),
        ("rows.csv", "y\n1\n", r"line 2: .*required field `x`"),
        ("rows.jsonl", '{"x": 1}\n\n{"x": "four"}\n', r"rows.jsonl, line 3: .*int"),
        ("rows.jsonl", '{"x": 1', r"line 1: "),
    ],
)
def test_a_row_of_another_type_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        list(read_rows(path, Point))


@needs("pyarrow")
def test_a_row_of_another_type_is_named_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"x": "a"}])
    with pytest.raises(ValueError, match=r"row 0 \(from 0\): Expected `int`"):
        list(read_rows(path, Point))
    with pytest.raises(ValueError, match="not of the types of the first"):
        write_rows(path, [*({"x": n} for n in range(1000)), {"x": "a"}])


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.jsonl, \.ndjson, \.csv, \.parquet"):
        read_rows(tmp_path / "rows.txt", Point)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_rows(tmp_path / "rows.csv", Point)
    with pytest.raises(ValueError, match=r"row 1 \(from 0\) has other columns than the first: z"):
        write_rows(tmp_path / "rows.csv", [{"x": 1}, {"z": 1}])
    with pytest.raises(TypeError, match="a row must be a struct or a mapping, not int"):
        write_rows(tmp_path / "rows.jsonl", [3])
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\./executionkit\[arrow\]"'):
        write_rows(tmp_path / "rows.parquet", TICKETS)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.builds(Ticket, st.integers(-(2**62), 2**62), TEXT, tags=st.lists(TEXT, max_size=2))))
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_any_texts_come_back(tmp_path_factory: pytest.TempPathFactory, kind: str, rows: list[Ticket]) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows.{kind}"
    write_rows(path, rows)
    assert list(read_rows(path, Ticket)) == rows


def test_a_csv_file_is_one_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, TICKETS)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [ticket.text for ticket in TICKETS]
    assert rows[0]["tags"] == '["a","b,c"]'
