"""Templates: what is a place, what is text, and what may stand in a place."""

import dataclasses
from contextlib import suppress
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.template import Place, filled, parts_of


class Struct(msgspec.Struct):
    name: str
    n: int = 3


@dataclasses.dataclass
class Data:
    name: str

    @property
    def loud(self) -> str:
        return self.name.upper()


@dataclasses.dataclass(slots=True)
class Slim:
    name: str


class Named(NamedTuple):
    name: str


@attrs.define
class Attrs:
    name: str


class Plain:
    def __init__(self, name: str) -> None:
        self.name = name
        self._hidden = 1


def fill(template: str, value: object) -> str:
    return filled(parts_of(template), value, str)


@pytest.mark.parametrize(
    "value",
    [
        Struct("tea"),
        Data("tea"),
        Slim("tea"),
        Named("tea"),
        Attrs("tea"),
        Plain("tea"),
        SimpleNamespace(name="tea"),
        {"name": "tea"},
        MappingProxyType({"name": "tea"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_field_of_whatever_has_fields(value: object) -> None:
    assert fill("<{name}>", value) == "<tea>"


def test_values_and_items() -> None:
    assert fill("{}", "tea") == "tea"
    assert fill("{0}{1}{0}", ("a", "b")) == "aba"
    assert fill("{1}", ["a", "b"]) == "b"
    assert fill("{loud}", Data("tea")) == "TEA"
    assert fill("no place", 7) == "no place"
    assert fill("{{}} {{0}}", 7) == "{} {0}"


@given(st.text())
def test_a_value_is_never_read_as_a_template(text: str) -> None:
    assert fill("<{}>", text) == f"<{text}>"
    assert fill("{0}|{1}", (text, text)) == f"{text}|{text}"
    assert fill("{name}", {"name": text}) == text


@given(st.text())
def test_any_text_can_be_a_template_once_its_braces_are_doubled(text: str) -> None:
    assert fill(text.replace("{", "{{").replace("}", "}}"), "value") == text


@given(st.text(alphabet="{}0a!:. []x"))
def test_a_template_is_taken_or_refused(template: str) -> None:
    with suppress(ValueError):
        assert all(isinstance(part, (str, Place)) for part in parts_of(template))


@pytest.mark.parametrize(
    "template",
    [
        "{",
        "}",
        "a } b",
        "{0.name}",
        "{0[1]}",
        "{name!r}",
        "{:>3}",
        "{0:d}",
        "{-1}",
        "{a b}",
        "{ }",
        '{"a": 1}',
        "{²}",
    ],
)
def test_what_is_no_place_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        parts_of(template)


MISSING: list[tuple[str, Any, str]] = [
    ("{0}", "text", "of type str"),
    ("{0}", Struct("tea"), "of type Struct"),
    ("{2}", ("a", "b"), "has 2"),
    ("{title}", "text", "has none"),
    ("{upper}", "text", "has none"),
    ("{size}", Struct("tea"), "name, n"),
    ("{_hidden}", Plain("tea"), "name"),
    ("{__class__}", Plain("tea"), "name"),
    ("{x}", {"name": 1}, "name"),
    ("{items}", {"name": 1}, "name"),
    ("{real}", 7, "has none"),
]


@pytest.mark.parametrize(("template", "value", "told"), MISSING)
def test_what_is_not_there_is_told(template: str, value: Any, told: str) -> None:
    with pytest.raises(LookupError) as caught:
        fill(template, value)
    assert told in str(caught.value.args[0])
