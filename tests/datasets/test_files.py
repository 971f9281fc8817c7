"""Files of rows: three formats, read as a type, written whole or not at all."""

import csv
import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

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


class Mood(Enum):
    """An enum one of whose values is an empty text."""

    NONE = ""
    GOOD = "good"


class Letters(StrEnum):
    """An enum whose values are texts themselves."""

    A = "a"


@pytest.mark.parametrize(
    ("value", "told", "value_type"),
    [
        (Mood.GOOD, "good", Mood),
        (Letters.A, "a", Letters),
        (dt.date(2026, 12, 1), "2026-12-01", dt.date),
        ('"quoted"', '"quoted"', str),
        ("billing", "billing", Literal["billing", "delivery"]),
        (3, "3", str),
        ([Mood.GOOD], '["good"]', str),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_value_that_json_has_as_a_text_is_read_back_as_its_type(
    tmp_path: Path, kind: str, value: object, told: str, value_type: Any
) -> None:
    path = tmp_path / f"out.{kind}"
    write_rows(path, [Row("a", "x", Success(PatternResult(value)))])
    as_text: Any = msgspec.defstruct("Out", [("value", str)])
    as_typed: Any = msgspec.defstruct("Out", [("value", value_type)])
    assert [row.value for row in read_rows(path, as_text)] == [told]
    assert [row.value for row in read_rows(path, as_typed)] == [told if value_type is str else value]


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


class Measured(msgspec.Struct):
    """Values that not every format can tell apart."""

    weight: float | None
    note: str | None
    text: str
    count: int = 5


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_format_cannot_tell_apart(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    write_rows(path, [Measured(math.nan, "", ""), Measured(-math.inf, None, "x")])
    one, other = read_rows(path, Measured)
    assert (one.text, other.note) == ("", None)
    assert one.note == (None if kind == "csv" else "")
    is_json = kind == "jsonl"
    assert (one.weight is None, other.weight) == (is_json, None if is_json else -math.inf)


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
        ("rows.jsonl", '{"x": 1}\n' + "[" * 100_000 + "]" * 100_000, r"line 2: "),
        ("rows.csv", "x,y,x\n1,2,3\n", r"line 1: two columns are called 'x'"),
        ("rows.csv", 'x,y\n1,2\n3,"4\n5,6\n', r"line 4: .* quotes were not closed"),
    ],
)
def test_a_row_of_another_type_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        list(read_rows(path, Point))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'"x"\n1\n"caf\xe9"\n' * 999, "line 3: it is not UTF-8: there is a byte 0xe9"),
        ('"x"\n1\n'.encode("utf-16"), "line 1: it is not UTF-8: there is a byte 0xff"),
    ],
)
def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}, {told}"):
        list(read_rows(path, Any if name == "rows.jsonl" else dict[str, str]))


def test_columns_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n,x,y\n0,1,2\n\n1,3,\n", encoding="utf-8")  # as pandas writes its index
    assert list(read_rows(path, Point)) == [Point(1, 2), Point(3)]
    path.write_text("x,y,,\n1,2,,\n", encoding="utf-8")
    assert list(read_rows(path, dict[str, str])) == [{"x": "1", "y": "2", "": ""}]


def test_cells_of_any_length(tmp_path: Path) -> None:
    path, limit = tmp_path / "rows.csv", csv.field_size_limit()
    ticket = Ticket(1, "x" * 300_000)
    write_rows(path, [ticket])
    assert list(read_rows(path, Ticket)) == [ticket]
    assert csv.field_size_limit() == limit


class Odd(msgspec.Struct):
    """Fields whose types say more than what they are, and whose cells may be empty."""

    text: Annotated[str, msgspec.Meta(description="any text")]
    count: Annotated[int | None, msgspec.Meta(description="how many")]
    parts: Annotated[list[int], msgspec.Meta(description="of it")]
    data: bytes
    mood: Mood
    answer: Literal["", "yes"]
    pair: tuple[int, str]
    by_number: dict[int, str]


class Cat(msgspec.Struct, tag=True):
    """One of two kinds of rows."""

    lives: int | None
    names: list[str]


class Dog(msgspec.Struct, tag=True):
    """The other one."""

    bones: int | None
    names: list[str]


@pytest.mark.parametrize(
    ("row_type", "rows"),
    [
        (
            Odd,
            [
                Odd("", None, [], b"", Mood.NONE, "", (1, "a,b"), {}),
                Odd("x", 1, [2], b"\xff", Mood.GOOD, "yes", (2, ""), {1: ""}),
            ],
        ),
        (Cat | Dog, [Cat(None, ["a"]), Cat(7, [])]),
        (Cat | Dog, [Dog(None, ["a"]), Dog(7, [])]),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_types_of_fields_are_known_whatever_stands_around_them(
    tmp_path: Path, kind: str, row_type: Any, rows: list[object]
) -> None:
    path = tmp_path / f"rows.{kind}"
    write_rows(path, rows)
    assert list(read_rows(path, row_type)) == rows


@needs("pydantic")
@pytest.mark.parametrize("kind", FORMATS)
def test_rows_may_be_models(tmp_path: Path, kind: str) -> None:
    import pydantic

    class Place(pydantic.BaseModel):
        city: str

    class Visit(pydantic.BaseModel, extra="forbid"):
        note: str
        days: int | None = None
        day: dt.date | None = None
        place: Place
        other: Place | None = None
        tags: list[str] = []
        mood: Mood = Mood.GOOD

        @pydantic.computed_field  # type: ignore[prop-decorator]  # of mypy's, for all decorated properties
        @property
        def length(self) -> int:
            return len(self.note)

    class Trip(msgspec.Struct):
        first: Visit
        second: Visit | None

    place = Place(city="Rome")
    visits = [
        Visit(note="", place=place),
        Visit(
            note="null", days=3, day=dt.date(2026, 1, 1), place=place, other=place, tags=["a"], mood=Mood.NONE
        ),
    ]
    path = tmp_path / f"rows.{kind}"
    write_rows(path, visits)
    assert list(read_rows(path, Visit)) == visits
    trips = [Trip(visits[0], visits[1]), Trip(visits[1], None)]
    write_rows(path, trips)
    assert list(read_rows(path, Trip)) == trips


@pytest.mark.parametrize("kind", FORMATS)
def test_half_a_character_keeps_no_row_from_being_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    write_rows(path, [{"x": "a\udcff", "y": ["é\ud83d"]}, {"x": "b", "y": []}])
    first, second = read_rows(path, dict[str, Any])
    assert first["x"] == ("a\udcff" if kind == "jsonl" else "a\\udcff")
    assert second["x"] == "b"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    there, link = tmp_path / "elsewhere" / "rows.csv", tmp_path / "rows.csv"
    link.symlink_to(there)
    write_rows(link, TICKETS)
    assert link.is_symlink()
    assert list(read_rows(there, Ticket)) == TICKETS


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 250}.csv"
    write_rows(path, TICKETS)
    assert list(read_rows(path, Ticket)) == TICKETS


def test_two_that_write_one_file_at_once_leave_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def written() -> Iterator[dict[str, str]]:
        yield {"by": "outer"}
        write_rows(path, [{"by": "inner"}])
        assert list(read_rows(path, dict[str, str])) == [{"by": "inner"}]
        yield {"by": "outer"}

    write_rows(path, written())
    assert list(read_rows(path, dict[str, str])) == [{"by": "outer"}] * 2


@needs("pyarrow")
def test_a_row_of_another_type_is_named_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"x": "a"}])
    with pytest.raises(ValueError, match=r"row 0 \(from 0\): Expected `int`"):
        list(read_rows(path, Point))
    with pytest.raises(ValueError, match=r"column 'x' of rows 0 to 1 \(from 0\) does not fit into one type"):
        write_rows(path, [{"x": 1}, {"x": "a"}])
    with pytest.raises(ValueError, match=r"rows 1000 to 1000 \(from 0\) does not fit into one type"):
        write_rows(path, [*({"x": n} for n in range(1000)), {"x": "a"}])
    with pytest.raises(ValueError, match=r"column 'x' .* does not fit into one type; write it as text"):
        write_rows(path, [{"x": 2**70}])
    with pytest.raises(TypeError, match=r"has no form in Parquet"):
        write_rows(path, [{"x": {}}])
    path.write_text("x,y")
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read as Parquet"):
        list(read_rows(path, Point))


@needs("pyarrow")
@pytest.mark.parametrize(
    ("early", "late", "early_read"),
    [
        (1, 1.5, 1.0),
        (None, 7, None),
        (None, {"a": [1]}, None),
        ([], ["x"], []),
        ([None], [2], [None]),
        ({"a": 1}, {"a": 1, "b": "x"}, {"a": 1, "b": None}),
        ({"a": None}, {"a": 2.5}, {"a": None}),
        ("x", None, "x"),
        (2.5, 3, 2.5),
    ],
)
def test_a_column_of_parquet_fits_all_its_values(
    tmp_path: Path, early: object, late: object, early_read: object
) -> None:
    path = tmp_path / "rows.parquet"
    assert write_rows(path, [{"n": n, "x": late if n == 2100 else early} for n in range(2500)]) == 2500
    rows = list(read_rows(path, dict[str, Any]))
    assert [row["n"] for row in rows] == [*range(2500)]
    assert rows[2100]["x"] == late
    assert repr([row["x"] for row in rows if row["n"] != 2100]) == repr([early_read] * 2499)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@needs("pyarrow")
@pytest.mark.parametrize("late", ["row 2100", 2**70])
@pytest.mark.parametrize("size", [1, 2101])
def test_keys_that_are_not_all_whole_numbers_are_texts_in_parquet(
    tmp_path: Path, late: int | str, size: int
) -> None:
    path = tmp_path / "rows.parquet"
    keys = [*range(size), late, 3_000]
    write_rows(path, [Row(key, None, Success(PatternResult("x"))) for key in keys])
    assert [row["key"] for row in read_rows(path, dict[str, Any])] == [*map(str, keys)]


@needs("pyarrow")
def test_a_column_of_parquet_hides_no_other(tmp_path: Path) -> None:
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(arrow.table([[1], [2]], names=["x", "x"]), path)
    with pytest.raises(ValueError, match=r"rows\.parquet, its schema: two columns are called 'x'"):
        list(read_rows(path, dict[str, int]))


@needs("pyarrow")
def test_parquet_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"x": "text" * 20} for _ in range(100)])
    whole, told = path.read_bytes(), list[str]()
    for at in range(4, 60):  # in the first column
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            list(read_rows(path, dict[str, Any]))
        except ValueError as error:
            told.append(str(error))
    assert any("snappy" in each for each in told)
    assert [each for each in told if str(path) not in each] == []


@needs("pyarrow")
def test_a_map_of_arrow_is_a_dict(tmp_path: Path) -> None:
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    path, kind = tmp_path / "rows.parquet", arrow.map_(arrow.string(), arrow.int64())
    parquet.write_table(arrow.table({"x": arrow.array([[("a", 1)]], kind)}), path)
    assert list(read_rows(path, dict[str, dict[str, int]])) == [{"x": {"a": 1}}]
    parquet.write_table(arrow.table({"x": arrow.array([[("a", 1), ("a", 2)]], kind)}), path)
    with pytest.raises(ValueError, match=r"rows\.parquet, one of the rows from 0 \(from 0\) on: "):
        list(read_rows(path, dict[str, dict[str, int]]))


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.jsonl, \.ndjson, \.csv, \.parquet"):
        read_rows(tmp_path / "rows.txt", Point)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_rows(tmp_path / "rows.csv", Point)
    for kind in ("csv", "jsonl"):
        (tmp_path / f"some.{kind}").touch()
        with pytest.raises(TypeError, match="Path has no form in JSON"):
            read_rows(tmp_path / f"some.{kind}", dict[str, Path])
        (tmp_path / f"some.{kind}").unlink()
    with pytest.raises(ValueError, match=r"row 1 \(from 0\) has other columns than the first: z"):
        write_rows(tmp_path / "rows.csv", [{"x": 1}, {"z": 1}])
    with pytest.raises(TypeError, match="a row must be a struct or a mapping, not int"):
        write_rows(tmp_path / "rows.jsonl", [3])
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[arrow\]"'):
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
