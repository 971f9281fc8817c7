"""What is read holds all its fields, in order, and is written with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from executionkit.core.encoding import json_text
from executionkit.core.schema.completion import is_left_incomplete
from executionkit.core.schema.reading import JsonDecoder, as_kind
from executionkit.datasets import read_rows, write_rows
from executionkit.outcome import PatternResult


@dataclass
class Point:
    x: int
    y: int = 9
    names: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Fixed:
    x: int
    y: int = 9


@dataclass(slots=True)
class Slotted:
    x: int
    point: Point | None = None


@attrs.define(slots=False)
class Attrs:
    x: int
    y: int = 9


class Model(pydantic.BaseModel):
    z: int


@dataclass
class Unset:
    x: int
    y: int = field(init=False, default=3)
    z: "Unset | None" = None


@pytest.mark.parametrize(
    ("kind", "text", "written"),
    [
        (Point, '{"x": 1}', '{"x":1,"y":9,"names":[]}'),
        (Point, '{"names": ["a"], "x": 1.0}', '{"x":1,"y":9,"names":["a"]}'),
        (Fixed, '{"y": 2, "x": 1}', '{"x":1,"y":2}'),
        (Slotted, '{"point": {"x": 1}, "x": 2}', '{"x":2,"point":{"x":1,"y":9,"names":[]}}'),
        (Attrs, '{"y": 2, "x": 1}', '{"x":1,"y":2}'),
        (Unset, '{"x": 1, "z": {"y": 4, "x": 2}}', '{"x":1,"y":3,"z":{"x":2,"y":4,"z":null}}'),
        (dict[str, list[Fixed]], '{"a": [{"x": 1}]}', '{"a":[{"x":1,"y":9}]}'),
        (Fixed | Model | None, '{"x": 1}', '{"x":1,"y":9}'),
        (list[Fixed | Model], '[{"z": 1}, {"x": 1}]', '[{"z":1},{"x":1,"y":9}]'),
    ],
)
def test_what_is_read_is_written_whole(kind: Any, text: str, written: str) -> None:
    assert is_left_incomplete(kind)
    value = JsonDecoder(kind).decode(text)
    assert json_text(value) == written
    assert json_text(as_kind(msgspec.json.decode(text), kind)) == written
    assert msgspec.json.encode(PatternResult(value).to_dict()["value"]).decode() == written


@pytest.mark.parametrize("kind", [int, Model, dict[str, int], list[Model], tuple[int, ...], msgspec.Raw])
def test_other_types_are_left_as_they_are(kind: Any) -> None:
    assert not is_left_incomplete(kind)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_that_are_read_have_the_same_columns(tmp_path: Path, kind: str) -> None:
    texts = {"csv": "y,x\n2,1\n,3\n", "jsonl": '{"x": 1, "y": 2}\n{"x": 3}\n'}
    (tmp_path / f"in.{kind}").write_text(texts[kind])
    rows = list(read_rows(tmp_path / f"in.{kind}", Fixed))
    assert write_rows(tmp_path / "out.csv", rows) == 2
    assert (tmp_path / "out.csv").read_text() == "x,y\n1,2\n3,9\n"
