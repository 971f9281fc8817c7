"""Typed answers: decoded, repaired, asked for in the form that the server takes."""

import dataclasses
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

from executionkit.core.schema.answer import Decoded, answer_type
from executionkit.core.schema.validation import Rejected
from executionkit.core.usage import TokenUsage
from executionkit.errors import BudgetExhaustedError, InvalidOutputError, PermanentError
from executionkit.patterns.consensus import consensus
from executionkit.patterns.structured import structured
from tests.doubles import error_of
from tests.talking import Talking, filtered, refuses, says

pytestmark = pytest.mark.anyio


class Item(msgspec.Struct):
    name: str
    price: float


class Invoice(msgspec.Struct):
    number: str
    items: list[Item] = []


@dataclasses.dataclass
class Point:
    x: int


class Movie(TypedDict):
    title: str


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: int


KINDS: list[Any] = [
    (Invoice, '{"number": "7", "items": [{"name": "tea", "price": 2}]}', Invoice("7", [Item("tea", 2.0)])),
    (Point, '{"x": 3}', Point(3)),
    (Movie, '{"title": "M"}', {"title": "M"}),
    (Cat | Dog, '{"answer": {"type": "Dog", "tricks": 2}}', Dog(2)),
    (Cat | Dog, '{"type": "Dog", "tricks": 2}', Dog(2)),
    (list[int], '{"answer": [1, 2]}', [1, 2]),
    (list[int], "The numbers: [1, 2].", [1, 2]),
    (Literal["yes", "no"], '{"answer": "no"}', "no"),
    (int, "42", 42),
    (int | None, '{"answer": null}', None),
    (str, '{"answer": "{}"}', "{}"),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (tuple[int, str], '{"answer": [1, "a"]}', (1, "a")),
]


@pytest.mark.parametrize(("kind", "text", "value"), KINDS)
async def test_any_type_is_decoded(kind: Any, text: str, value: object) -> None:
    outcome = await structured(kind).run(Talking(text), "go")
    assert outcome.unwrap().value == value
    assert outcome.unwrap().metadata == {"attempts": 1, "reasons": (), "response_format": "json_schema"}


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 3}',
        ' \n{"x": 3}\n',
        '```json\n{"x": 3}\n```',
        'Sure!\n```\n{"x": 3}\n```\nAnything else?',
        'It is {"x": 3}, I think.',
        'Not {"y": 1} but {"x": 3}.',
        '<think>{"x": 9}? no</think>{"x": 3}',
        'braces { and [ brackets, then {"x": 3}',
    ],
)
async def test_json_is_found(text: str) -> None:
    assert (await structured(Point).run(Talking(text), "go")).unwrap().value == Point(3)


async def test_a_wrong_answer_is_repaired_by_path_and_reason() -> None:
    provider = Talking('{"number": 7}', '{"number": "7", "items": [{"name": "tea"}]}', '{"number": "7"}')
    result = (await structured(Invoice).run(provider, "go")).unwrap()
    assert result.value == Invoice("7")
    assert result.cost == TokenUsage(30, 6, 3)
    assert "Expected `str`, got `int` - at `$.number`" in provider.asked[1][-1]["content"]
    assert "missing required field `price` - at `$.items[0]`" in provider.asked[2][-1]["content"]
    assert [message["role"] for message in provider.asked[2]] == ["user", "assistant", "user"]
    assert result.metadata["attempts"] == 3
    assert len(result.metadata["reasons"]) == 2


async def test_it_fails_with_cost_last_text_and_reasons() -> None:
    outcome = await structured(Point, output_retries=1).run(Talking("no", "nor {'x': 1}"), "go")
    match outcome:
        case Failure(InvalidOutputError() as error):
            assert error.cost == TokenUsage(20, 4, 2)
            assert error.metadata["last_text"] == "nor {'x': 1}"
            assert len(error.metadata["reasons"]) == 2
            assert error.metadata["attempts"] == 2
        case _:
            pytest.fail(str(outcome))


def refused(status: int) -> PermanentError:
    return PermanentError("no such response_format", metadata={"status": status})


async def test_a_refused_form_is_remembered() -> None:
    provider = Talking(refused(400), refused(422), '{"x": 1}', '{"x": 2}')
    result = (await structured(Point).run(provider, "go")).unwrap()
    assert (result.value, result.metadata["response_format"]) == (Point(1), "prompt")
    assert result.cost.llm_calls == 3
    again = (await structured(Point).run(provider, "go")).unwrap()
    assert (again.value, again.cost.llm_calls) == (Point(2), 1)
    assert [options.get("response_format", {}).get("type") for options in provider.options] == [
        "json_schema",
        "json_object",
        None,
        None,
    ]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_other_refusals_are_failures(status: int) -> None:
    provider = Talking(refused(status))
    match await structured(Point).run(provider, "go"):
        case Failure(PermanentError() as error):
            assert error.cost.llm_calls == 1
        case other:
            pytest.fail(str(other))


async def test_a_provider_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Talking('{"x": 1}')
    monkeypatch.setattr(provider, "response_formats", ("json_object",), raising=False)
    await structured(Point).run(provider, "go")
    assert provider.options == [{"response_format": {"type": "json_object"}}]


async def test_the_budget_holds() -> None:
    provider = Talking("no", '{"x": 1}')
    outcome = await structured(Point).run(provider, "go", max_cost=TokenUsage(llm_calls=1))
    match outcome:
        case Failure(BudgetExhaustedError() as error):
            assert error.cost.llm_calls == 1
            assert error.metadata["last_text"] == "no"
        case _:
            pytest.fail(str(outcome))


def test_strict_is_said_where_it_holds() -> None:
    assert answer_type(Point).is_strict
    assert not answer_type(Invoice).is_strict
    assert not answer_type(dict[str, int]).is_strict


def test_stages_are_values() -> None:
    assert structured(Invoice) == structured(Invoice)
    assert hash(structured(list[int])) == hash(structured(list[int]))
    bad: Any
    for bad in (complex, lambda: 0, "Invoice"):
        with pytest.raises(TypeError):
            structured(bad)
    with pytest.raises(ValueError, match="output_retries"):
        structured(Point, output_retries=-1)


@given(st.text() | st.from_regex(r"[\[\]{}\":, \n`a-z0-9]*", fullmatch=True))
def test_no_text_breaks_reading(text: str) -> None:
    for kind in (Invoice, Cat | Dog, list[int], str):
        assert isinstance(answer_type(kind).read(text), (Decoded, Rejected))


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 100_000, '["' * 300_000, "```\n" * 50_000, "<think>" * 100_000, "1" * 900_000],
)
def test_no_text_takes_long(text: str) -> None:
    assert isinstance(answer_type(Invoice).read(text), Rejected)


async def test_success_is_a_result() -> None:
    assert isinstance(await structured(int).run(Talking("1"), "go"), Success)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text() | st.from_regex(r"[\[\]{}\":, \n`a-z0-9]*", fullmatch=True), min_size=4, max_size=4)
)
async def test_no_text_breaks_the_stage_or_its_cost(texts: list[str]) -> None:
    provider = Talking(*texts)
    outcome = await structured(Invoice, output_retries=3).run(provider, "go")
    made = len(provider.asked)
    match outcome:
        case Success(result):
            assert result.cost == TokenUsage(10 * made, 2 * made, made)
        case Failure(error):
            assert isinstance(error, InvalidOutputError)
            assert (error.cost.llm_calls, len(error.metadata["reasons"])) == (4, 4)


async def test_a_refusal_is_named_to_the_model_and_in_the_error() -> None:
    provider = Talking(refuses("I cannot."), refuses("I still cannot."))
    error = error_of(await structured(Point, output_retries=1).run(provider, "go"))
    assert isinstance(error, InvalidOutputError)
    assert "'I still cannot.'" in str(error)
    assert (error.metadata["refusal"], error.metadata["last_text"]) == ("I still cannot.", "")
    assert "'I cannot.'" in error.metadata["reasons"][0]
    assert "'I cannot.'" in provider.asked[1][-1]["content"]
    assert error.cost.llm_calls == 2


async def test_a_filtered_answer_is_no_value() -> None:
    provider = Talking(filtered('{"x": 1}'), '{"x": 2}')
    result = (await structured(Point).run(provider, "go")).unwrap()
    assert (result.value, result.metadata["attempts"]) == (Point(2), 2)
    assert "content filter" in result.metadata["reasons"][0]
    assert "refusal" not in result.metadata


async def test_a_filtered_answer_at_the_end_is_told_in_the_error() -> None:
    error = error_of(await structured(Point, output_retries=0).run(Talking(filtered('{"x": 1}')), "go"))
    assert isinstance(error, InvalidOutputError)
    assert error.metadata["refusal"] == "content_filter"
    assert error.metadata["last_text"] == '{"x": 1}'


async def test_only_the_last_answer_is_told_as_a_refusal() -> None:
    error = error_of(await structured(Point, output_retries=1).run(Talking(refuses(), "no"), "go"))
    assert "refusal" not in error.metadata
    limit = TokenUsage(llm_calls=1)
    error = error_of(await structured(Point).run(Talking(refuses("No.")), "go", max_cost=limit))
    assert isinstance(error, BudgetExhaustedError)
    assert error.metadata["refusal"] == "No."


# Only what is whole


class Tree(msgspec.Struct):
    name: str
    children: "list[Tree]" = []


class User(msgspec.Struct):
    id: int


PARTS: list[tuple[Any, str]] = [
    (Tree, '{"name":"root","children":[{"name":"kid"},{"na'),
    (dict, '{"user":{"id":1},"ok":true,}'),
    (User, '```json\n{"user":{"id":1},"ok"'),
    (User, 'Here: {"user": {"id": 1}, "ok": tru'),
    (list[User], '[{"id": 1}], {"id'),
]


@pytest.mark.parametrize(("kind", "part"), PARTS)
@pytest.mark.parametrize("finish_reason", ["length", "stop"])
async def test_a_fragment_is_no_answer(kind: Any, part: str, finish_reason: str) -> None:
    provider = Talking(says(part, finish_reason=finish_reason))
    error = error_of(await structured(kind, output_retries=0).run(provider, "go"))
    assert isinstance(error, InvalidOutputError)
    assert error.metadata["last_text"] == part


async def test_a_fragment_is_sent_back_and_repaired() -> None:
    provider = Talking(
        says('{"name":"root","children":[{"name":"kid"},{"na', finish_reason="length"), '{"name": "root"}'
    )
    result = (await structured(Tree).run(provider, "go")).unwrap()
    assert result.value == Tree("root")
    assert "be shorter" in provider.asked[1][-1]["content"]


async def test_the_last_value_of_the_type_wins() -> None:
    text = 'First {"x": 1}, then {"y": 2}, and in the end {"x": 3}, see [1].'
    assert (await structured(Point).run(Talking(text), "go")).unwrap().value == Point(3)


class Checked(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        assert self.x != 1, "sk-secret"
        if self.x == 2:
            raise ValueError("2 is taken")
        if self.x == 3:
            raise KeyError("sk-secret")


async def test_whatever_a_types_own_check_raises_is_repaired() -> None:
    provider = Talking('{"x": 1}', '{"x": 2}', '{"x": 3}', '{"x": 4}')
    result = (await structured(Checked, output_retries=3).run(provider, "go")).unwrap()
    assert result.value == Checked(4)
    first, second, third = result.metadata["reasons"]
    assert ("AssertionError" in first, "2 is taken" in second, "KeyError" in third) == (True, True, True)
    assert "secret" not in str(provider.asked)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Point, '{"x": 3.0}', Point(3)),
        (list[int], '{"answer": [1.0, 2]}', [1, 2]),
        (list[int], "[1e2]", [100]),
        (Literal[1, 2], '{"answer": 2.0}', 2),
        (int, "7.0", 7),
        (Item, '{"name": "tea", "price": 2.0}', Item("tea", 2.0)),
    ],
)
async def test_a_whole_number_may_be_written_as_a_float(kind: Any, text: str, value: object) -> None:
    result = (await structured(kind, output_retries=0).run(Talking(text), "go")).unwrap()
    assert (result.value, type(result.value)) == (value, type(value))


@pytest.mark.parametrize("text", ['{"x": 3.5}', '{"x": "3"}', '{"x": true}', '{"x": 1e400}'])
async def test_what_is_no_whole_number_is_none(text: str) -> None:
    assert isinstance(
        error_of(await structured(Point, output_retries=0).run(Talking(text), "go")), InvalidOutputError
    )


class Queue(Enum):
    BILLING = "billing"
    DELIVERY = "delivery"

    @classmethod
    def _missing_(cls, value: object) -> "Queue | None":
        raise KeyError(value)


@pytest.mark.parametrize("text", ["billing", " billing\n", "<think>delivery?</think>billing", '"billing"'])
def test_a_choice_may_be_the_bare_word(text: str) -> None:
    assert answer_type(Queue).read(text) == Decoded(Queue.BILLING)
    assert answer_type(Literal["billing", "delivery"]).read(text) == Decoded("billing")
    either: Any = Queue | None
    assert answer_type(either).read(text) == Decoded(Queue.BILLING)


WORDS = ["billing.", "Billing", "it is billing", "billing delivery", "", '{"answer": "billing"', "kitchen"]


@pytest.mark.parametrize("text", WORDS)
def test_a_choice_in_other_words_is_none(text: str) -> None:
    assert isinstance(answer_type(Queue).read(text), Rejected)


def test_a_word_that_was_cut_off_or_refused_is_no_choice() -> None:
    assert isinstance(answer_type(Queue).read("billing", was_cut=True), Rejected)
    assert isinstance(answer_type(Queue).read("billing", "content_filter"), Rejected)
    assert isinstance(answer_type(str).read("billing"), Rejected)


def test_a_schema_that_is_handed_out_is_a_copy() -> None:
    answer_type(Point).schema["properties"].clear()
    assert answer_type(Point).schema["properties"] == {"x": {"type": "integer"}}


untyped: Callable[..., object] = consensus
BUILDS: list[Callable[..., object]] = [structured, partial(untyped, 5), partial(untyped, by_field=True)]


@pytest.mark.parametrize("build", BUILDS)
def test_the_name_of_a_class_is_not_the_class(build: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="pass the class itself, not 'Invoice'"):
        build(output_type="Invoice")
