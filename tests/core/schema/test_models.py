"""Pydantic's models, and whatever has their shape, as answers, votes, arguments and results."""

import json
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from pydantic.dataclasses import dataclass as validated

from executionkit.core.encoding import json_text
from executionkit.core.schema.answer import Decoded, answer_type
from executionkit.core.schema.models import schema_of
from executionkit.core.schema.signature import read_signature
from executionkit.core.schema.validation import Rejected
from executionkit.outcome import PatternResult
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.structured import structured
from executionkit.provider import LLMResponse, ToolCall
from executionkit.tools import tool
from tests.doubles import Model, each, reply, result_of


class Line(pydantic.BaseModel):
    text: str
    amount: float = pydantic.Field(gt=0)


class Invoice(pydantic.BaseModel):
    number: str
    lines: list[Line] = []

    @pydantic.field_validator("number")
    @classmethod
    def is_known(cls, number: str) -> str:
        if number == "secret":
            raise ValueError("the password is hunter2")
        return number


class Cat(pydantic.BaseModel):
    meows: bool


class Node(pydantic.BaseModel):
    name: str
    below: "list[Node]" = []


class Renamed(pydantic.BaseModel):
    full_name: str = pydantic.Field(alias="fullName")


@validated
class Sum:
    euros: float = pydantic.Field(gt=0)


class Paid(pydantic.BaseModel):
    sum: Sum


class Holder(msgspec.Struct):
    invoice: Invoice
    n: int = 1


@dataclass
class Data:
    cats: list[Cat]


@attrs.define
class Attrs:
    cat: Cat | None = None


class Typed(TypedDict):
    cat: Cat


class Shaped:
    """Has the shape, and is of nobody's family."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shaped) and other.n == self.n

    def __hash__(self) -> int:
        return self.n

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    @classmethod
    def model_validate_json(cls, data: bytes) -> "Shaped":
        n = json.loads(data)["n"]
        if not isinstance(n, int):
            raise ValueError("n is no number")
        return cls(n)

    def model_dump_json(self, *, by_alias: bool = False) -> str:
        return json.dumps({"n": self.n})


LINE = {"text": "tea", "amount": 2.5}
INVOICE = Invoice(number="7", lines=[Line(text="tea", amount=2.5)])
KINDS: list[tuple[Any, Any, Any]] = [
    (Invoice, {"number": "7", "lines": [LINE]}, INVOICE),
    (list[Line], [LINE], [Line(text="tea", amount=2.5)]),
    (dict[str, Cat], {"a": {"meows": True}}, {"a": Cat(meows=True)}),
    (Invoice | Cat, {"meows": False}, Cat(meows=False)),
    (Invoice | None, None, None),
    (Invoice | None, {"number": "7", "lines": [LINE]}, INVOICE),
    (list[Invoice | Cat | str], [{"meows": True}, "dog"], [Cat(meows=True), "dog"]),
    (tuple[Cat, int], [{"meows": True}, 3], (Cat(meows=True), 3)),
    (Holder, {"invoice": {"number": "7", "lines": [LINE]}}, Holder(INVOICE)),
    (Data, {"cats": [{"meows": True}]}, Data([Cat(meows=True)])),
    (Attrs, {"cat": {"meows": True}}, Attrs(Cat(meows=True))),
    (Typed, {"cat": {"meows": True}}, {"cat": Cat(meows=True)}),
    (Node, {"name": "a", "below": [{"name": "b"}]}, Node(name="a", below=[Node(name="b")])),
    (list[Node], [{"name": "a"}], [Node(name="a")]),
    (Renamed, {"fullName": "Ada"}, Renamed(fullName="Ada")),
    (Shaped, {"n": 3}, Shaped(3)),
    (Sum, {"euros": 3}, Sum(euros=3)),
    (list[Sum], [{"euros": 3}], [Sum(euros=3)]),
    (Sum | Cat | None, {"meows": True}, Cat(meows=True)),
    (Paid, {"sum": {"euros": 3}}, Paid(sum=Sum(euros=3))),
    (Shaped | Cat, {"meows": True}, Cat(meows=True)),
    (Annotated[Cat, "a cat"], {"meows": True}, Cat(meows=True)),
    (Literal["a", "b"], "a", "a"),
]


def references(schema: object) -> list[str]:
    return re.findall(r'"\$ref":"([^"]*)"', json.dumps(schema, separators=(",", ":")))


@pytest.mark.parametrize(("kind", "data", "value"), KINDS)
def test_an_answer_is_read_under_a_schema_that_holds_together(kind: Any, data: Any, value: Any) -> None:
    known = answer_type(kind)
    assert known.read(json.dumps(data)) == Decoded(value)
    assert known.read(json.dumps({"answer": data})) == Decoded(value) or "answer" not in known.schema.get(
        "properties", {}
    )
    for reference in references(known.schema):
        assert reference.removeprefix("#/$defs/") in known.schema["$defs"]
    for part in known.schema.get("$defs", {}).values():
        assert "$defs" not in part


@pytest.mark.parametrize(("kind", "data", "value"), KINDS)
def test_results_leave_the_process_and_come_back(kind: Any, data: Any, value: Any) -> None:
    result = PatternResult(value)
    assert PatternResult.from_dict(json.loads(json.dumps(result.to_dict())), kind).value == value


def test_what_is_wrong_is_told_on_one_line_with_its_place() -> None:
    found = answer_type(Invoice).read('{"number": 7, "lines": [{"text": "tea", "amount": -1}]}')
    assert isinstance(found, Rejected)
    [reason] = found.reasons
    assert reason == (
        "number: Input should be a valid string; lines.0.amount: Input should be greater than 0"
    )
    nested = answer_type(Holder).read('{"invoice": {"number": 7}}')
    assert isinstance(nested, Rejected)
    assert nested.reasons[0].endswith("- at `$.invoice`")
    either = answer_type(Invoice | Cat).read('{"answer": {"meows": "purr"}}')
    assert isinstance(either, Rejected)
    assert "number: Field required" in either.reasons[0]
    assert "meows: Input should be a valid boolean" in either.reasons[0]


def test_a_validator_speaks_to_who_wrote_an_answer_and_not_to_who_calls_a_tool() -> None:
    found = answer_type(Invoice).read('{"number": "secret"}')
    assert isinstance(found, Rejected)
    assert "hunter2" in found.reasons[0]

    def book(invoice: Invoice) -> str:
        return invoice.number

    refused = read_signature(book).decode({"invoice": {"number": "secret"}})
    assert isinstance(refused, Rejected)
    assert "hunter2" not in refused.reasons[0]
    assert "number" in refused.reasons[0]
    wrong = read_signature(book).decode({"invoice": {"number": 7}})
    assert isinstance(wrong, Rejected)
    assert wrong.reasons[0] == "number: Input should be a valid string - at `$.invoice`"


def test_a_dataclass_with_a_validator_is_read_by_it() -> None:
    found = answer_type(Sum).read('{"euros": -1}')
    assert found == Rejected(("euros: Input should be greater than 0",))

    def pay(sums: list[Sum]) -> str:
        return str(sums)

    refused = read_signature(pay).decode({"sums": [{"euros": -1}]})
    assert refused == Rejected(("euros: Input should be greater than 0 - at `$.sums[0]`",))


def test_a_field_whose_validator_would_be_left_out_is_refused() -> None:
    outer: Any = msgspec.defstruct("Outer", [("amounts", list[Sum])])
    with pytest.raises(TypeError, match="Sum is a dataclass of Pydantic's in a field"):
        answer_type(outer)


def test_two_models_that_define_the_same_name_stay_apart() -> None:
    def made(kind: Any) -> type[pydantic.BaseModel]:
        inner = pydantic.create_model("Inner", value=(kind, ...))
        return pydantic.create_model(f"Outer{kind.__name__}", inner=(inner, ...))

    pair: Any = tuple.__class_getitem__((made(int), made(str)))
    schema = answer_type(pair).schema
    kinds = {
        part["properties"]["value"]["type"]
        for part in schema["$defs"].values()
        if "value" in part["properties"]
    }
    assert kinds == {"integer", "string"}


@pytest.mark.anyio
async def test_patterns_take_models() -> None:
    model = Model(each(reply('{"meows": "purr"}'), reply('{"meows": true}')))
    assert result_of(await structured(Cat).run(model, "x")).value == Cat(meows=True)
    votes = Model(each(reply('{"meows": true}'), reply('{"meows": false}'), reply('{"meows": true}')))
    result = result_of(await consensus(3, output_type=Cat).run(votes, "x"))
    assert result.value == Cat(meows=True)
    assert result.score == pytest.approx(2 / 3)
    fields = Model(
        each(reply('{"fullName": "Ada"}'), reply('{"fullName": "Bob"}'), reply('{"fullName": "Ada"}'))
    )
    assert result_of(
        await consensus(3, output_type=Renamed, by_field=True).run(fields, "x")
    ).value == Renamed(fullName="Ada")
    either = Model(lambda asked: reply('{"answer": {"meows": true}}'))
    assert result_of(await consensus(2, output_type=Cat | Invoice).run(either, "x")).value == Cat(meows=True)
    amounts = Model(lambda asked: reply(f'{{"text": "tea", "amount": {asked.number}}}'))
    refined = refine(lambda line: min(1.0, line.amount / 3), output_type=Line)
    assert result_of(await refined.run(amounts, "x")).value == Line(text="tea", amount=3)


@pytest.mark.anyio
async def test_a_tool_takes_and_gives_models() -> None:
    @tool
    def book(invoice: Invoice, cat: Cat | None = None) -> Line:
        """Book it.

        Args:
            invoice: The invoice.
            cat: Whose it is.
        """
        return Line(text=f"{invoice.number} {cat and cat.meows}", amount=1)

    assert book.parameters["properties"]["invoice"]["properties"]["number"]["type"] == "string"
    arguments = {"invoice": {"number": "7", "lines": [LINE]}, "cat": {"meows": True}}
    script = each(
        LLMResponse("", (ToolCall("1", "book", arguments),), "tool_calls"), reply('{"meows": true}')
    )
    model = Model(script)
    result = result_of(await react([book], output_type=Cat).run(model, "x"))
    assert result.value == Cat(meows=True)
    assert json.loads(model.asked[1].messages[-1]["content"]) == {"text": "7 True", "amount": 1.0}


def test_text_of_a_model_is_its_json() -> None:
    assert json_text([Cat(meows=True)]) == '[{"meows":true}]'
    assert json_text(Renamed(fullName="Ada")) == '{"fullName":"Ada"}'


class ReadOtherwise(pydantic.BaseModel):
    """Read under other names than those it is written under."""

    first: int = pydantic.Field(validation_alias="in", serialization_alias="out")
    second: str = pydantic.Field(validation_alias=pydantic.AliasChoices("a", "b"))


class Computed(pydantic.BaseModel, extra="forbid"):
    """Written with more than it takes."""

    amount: int

    @pydantic.computed_field  # type: ignore[prop-decorator]  # of mypy's, for all decorated properties
    @property
    def twice(self) -> int:
        return 2 * self.amount


class Wrapped(pydantic.BaseModel):
    """Written as another type than it reads."""

    inner: pydantic.Json[list[int]]


@validated
class Named:
    at_home: int = pydantic.Field(alias="atHome")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Renamed, '{"fullName": "Ann"}'),
        (ReadOtherwise, '{"in": 1, "b": "x"}'),
        (Computed, '{"amount": 3}'),
        (Wrapped, '{"inner": "[1, 2]"}'),
        (Named, '{"atHome": 1}'),
        (list[ReadOtherwise | Computed], '[{"in": 1, "a": "x"}, {"amount": 3}]'),
        (dict[str, Wrapped], '{"x": {"inner": "[]"}}'),
    ],
)
def test_a_result_comes_back_whatever_a_model_is_written_as(kind: Any, text: str) -> None:
    found = answer_type(kind).read(text)
    assert isinstance(found, Decoded)
    written = json.dumps(PatternResult(found.value).to_dict())
    assert PatternResult.from_dict(json.loads(written), kind).value == found.value


def test_names_are_those_of_the_schema_where_they_are_read() -> None:
    assert PatternResult(Renamed(fullName="Ann")).to_dict()["value"] == {"fullName": "Ann"}
    assert PatternResult(Computed(amount=3)).to_dict()["value"] == {"amount": 3}


def test_an_answer_is_not_read_under_names_that_its_schema_has_not() -> None:
    assert isinstance(answer_type(ReadOtherwise).read('{"first": 1, "second": "x"}'), Rejected)


def test_a_type_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ValueError, match="a part of it has no form in JSON"):
        PatternResult.from_dict(PatternResult({"path": "/"}).to_dict(), dict[str, Path])


class Pair(msgspec.Struct, frozen=True):
    first: int
    second: int


@pytest.mark.parametrize(
    "key", [tuple[int, int], list[int], frozenset[str], dict[str, int], bool, None, Pair]
)
def test_a_mapping_whose_keys_no_text_can_be_is_refused(key: Any) -> None:
    for kind in (dict[key, int], list[dict[key, int] | None], dict[str, dict[key, int]]):
        with pytest.raises(TypeError, match="the keys of an object in JSON are text"):
            schema_of(kind)


@pytest.mark.parametrize("key", [str, int, float, Decimal, UUID, date, bytes, Literal["a"], str | None, Any])
def test_a_mapping_whose_keys_text_can_be_is_taken(key: Any) -> None:
    assert schema_of(dict[key, int])["type"] == "object"
