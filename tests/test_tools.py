"""Tools as values, and tools made from functions."""

import copy
import dataclasses
import datetime as dt
import enum
import functools
import importlib
import pickle
import subprocess
import sys
import threading
import time
from collections import ChainMap, deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from executionkit.core.schema.validation import Rejected, compile_schema, schema_text
from executionkit.core.usage import TokenUsage
from executionkit.patterns.react import react
from executionkit.runtime.context import Context
from executionkit.tools import Tool, tool
from tests.talking import Talking, calls, results

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def weather(city: str) -> str:
    """Look up today's weather.

    Args:
        city: Where to look.
    """
    return f"sunny in {city}"


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


def test_a_tool_is_a_value() -> None:
    one = Tool("weather", "Weather.", SCHEMA, weather)
    assert one == Tool("weather", "Weather.", dict(SCHEMA), weather, 30.0)
    assert hash(one) == hash(copy.deepcopy(one)) == hash(pickle.loads(pickle.dumps(one)))
    assert one == copy.deepcopy(one) == pickle.loads(pickle.dumps(one))
    assert one != Tool("weather", "Weather.", SCHEMA, weather, timeout=1)
    with pytest.raises(AttributeError):
        one.name = "x"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_its_schema_is_a_copy() -> None:
    given_schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    one = Tool("t", "", given_schema, weather)
    given_schema["properties"]["a"]["type"] = "string"
    assert one.parameters["properties"]["a"]["type"] == "integer"
    one.spec["function"]["parameters"]["type"] = "array"
    assert one.parameters["type"] == "object"


def test_its_spec_is_openais() -> None:
    assert Tool("weather", "Weather.", SCHEMA, weather).spec == {
        "type": "function",
        "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA},
    }


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "größe", "a\n"])
def test_a_name_openai_refuses_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        Tool(name, "", SCHEMA, weather)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"name": 3}, TypeError),
        ({"description": None}, TypeError),
        ({"parameters": []}, TypeError),
        ({"parameters": {"type": "strin"}}, ValueError),
        ({"parameters": {"$ref": "http://example.com"}}, ValueError),
        ({"parameters": {"a": object()}}, TypeError),
        ({"execute": "f"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"max_calls": 0}, ValueError),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], kind: type[Exception]) -> None:
    right: dict[str, Any] = {"name": "t", "description": "", "parameters": SCHEMA, "execute": weather}
    with pytest.raises(kind):
        Tool(**{**right, **fields})


def test_from_a_function() -> None:
    made = tool(weather)
    assert (made.name, made.description) == ("weather", "Look up today's weather.")
    assert made.parameters == {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Where to look."}},
        "required": ["city"],
        "additionalProperties": False,
    }


def test_settings_beat_the_signature() -> None:
    made = tool(name="w", description="d", timeout=2, max_calls=3)(weather)
    assert (made.name, made.description, made.timeout, made.max_calls) == ("w", "d", 2, 3)


def test_arguments_arrive_as_annotated() -> None:
    def book(
        when: dt.date,
        where: Point,
        colour: Colour,
        count: Annotated[int, msgspec.Meta(ge=1)] = 1,
        kind: Literal["a", "b"] = "a",
        tags: list[str] | None = None,
        note: Annotated[str, "what to remember"] = "",
    ) -> None: ...

    made = tool(book)
    given_arguments = {"when": "2026-01-02", "where": {"x": 1}, "colour": "red"}
    assert made.prepare(given_arguments) == {
        "when": dt.date(2026, 1, 2),
        "where": Point(1),
        "colour": Colour.RED,
    }
    properties = made.parameters["properties"]
    assert properties["count"] == {"type": "integer", "minimum": 1, "default": 1}
    assert properties["note"]["description"] == "what to remember"
    assert made.parameters["required"] == ["when", "where", "colour"]
    refused = made.prepare({**given_arguments, "count": 0})
    assert isinstance(refused, Rejected)
    assert "$.count" in str(refused)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"city": 1}, {"city": None}, {"city": "a", "country": "b"}, {"city": ["a"]}],
)
def test_schema_and_decoder_agree(arguments: dict[str, Any]) -> None:
    made = tool(weather)
    assert isinstance(made.prepare(arguments), Rejected)
    assert compile_schema(schema_text(made.parameters)).check(arguments) is not None


def starred(*values: int) -> None: ...
def keywords(**values: int) -> None: ...
def by_position(value: int, /) -> None: ...
def bare(value: int) -> None: ...
def unknown(value: complex) -> None: ...
def generator(value: int) -> Iterator[int]:
    yield value


async def stream(value: int) -> AsyncIterator[int]:
    yield value


def two_contexts(one: Context, two: Context) -> None: ...
def unresolved(value: int) -> None: ...


del bare.__annotations__["value"]
unresolved.__annotations__["value"] = "Missing"


class Streaming:
    def __call__(self, value: int) -> Iterator[int]:
        yield value


FUNCTIONS: list[Any] = [
    functools.partial(generator),
    Streaming(),
    starred,
    keywords,
    by_position,
    bare,
    unknown,
    generator,
    stream,
    two_contexts,
    unresolved,
    3,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_json_cannot_call_is_refused(function: Any) -> None:
    with pytest.raises(TypeError):
        tool(function)


@pytest.mark.parametrize("default", [object(), Path, {1, "a"}, float("nan"), open])
def test_a_default_that_json_cannot_show_is_still_the_default(default: Any) -> None:
    def look(city: str = default) -> str:
        """Look."""
        return city

    looking = tool(look)
    assert looking.parameters["properties"]["city"]["type"] == "string"
    assert looking.parameters.get("required", []) == []


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        tool(lambda: 1)
    assert tool(lambda: 1, name="one").name == "one"


class Service:
    """A service."""

    def look_up(self, key: str) -> str:
        """Look up."""
        return key

    def __call__(self, key: str) -> str:
        return key


def test_methods_partials_and_callables() -> None:
    assert list(tool(Service().look_up).parameters["properties"]) == ["key"]
    assert list(tool(Service(), name="s").parameters["properties"]) == ["key"]
    made = tool(functools.partial(weather, city="Bonn"))
    assert made.name == "weather"
    assert made.prepare({}) == {}


async def fetch(page: str, token: str = "none", *, client: object = None) -> str:
    """Fetch a page."""
    return f"{page} {token}"


@pytest.mark.anyio
async def test_what_a_partial_binds_is_neither_shown_nor_given() -> None:
    made = tool(functools.partial(fetch, token="sk-secret"))
    assert list(made.parameters["properties"]) == ["page", "client"]
    assert "secret" not in str(made.spec)
    assert isinstance(made.prepare({"page": "a", "token": "mine"}), Rejected)
    assert await call(made, page="a") == "a sk-secret"


def test_what_says_no_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match="wrap it in a function"):
        tool(str)


def test_an_annotated_context_is_injected_and_hidden() -> None:
    def ask(question: str, where: Annotated[Context | None, "the loop"] = None) -> str:
        return question

    assert list(tool(ask).parameters["properties"]) == ["question"]


def test_a_decorated_tool_pickles_by_name() -> None:
    again = pickle.loads(pickle.dumps(double))
    assert again == double
    assert again.prepare({"number": 2}) == {"number": 2}
    assert pickle.loads(pickle.dumps(tool(weather))) == tool(weather)


def test_a_decorated_tool_is_read_where_its_module_was_not_imported_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halving.py").write_text(
        "from executionkit import tool\n\n@tool\ndef halve(n: int) -> int:\n    return n // 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]
    pickled = pickle.dumps(importlib.import_module("halving").halve)
    monkeypatch.delitem(sys.modules, "halving")
    assert pickle.loads(pickled).name == "halve"
    monkeypatch.delitem(sys.modules, "halving")


async def call(made: Tool, **arguments: Any) -> str:
    provider = Talking(calls((made.name, arguments)), "done")
    await react([made]).run(provider, "go")
    return results(provider.asked[1])[0]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("text", "text"),
        (None, "null"),
        (3, "3"),
        ({"a": [1]}, '{"a":[1]}'),
        (Point(1), '{"x":1,"y":0}'),
        (dt.date(2026, 1, 2), '"2026-01-02"'),
        (Colour.RED, '"red"'),
    ],
)
async def test_any_result_is_encoded(returned: object, text: str) -> None:
    async def give() -> object:
        return returned

    assert await call(tool(give)) == text


@pytest.mark.anyio
async def test_a_plain_function_runs_in_a_thread() -> None:
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await call(tool(where)) == "false"
    assert await call(tool(where, in_thread=False)) == "true"


@pytest.mark.anyio
async def test_a_blocking_function_does_not_outlive_its_time() -> None:
    released = threading.Event()

    def block() -> None:
        released.wait(20)

    began = time.monotonic()
    try:
        assert await call(tool(block, timeout=0.02)) == "Error: TimeoutError"
    finally:
        released.set()
    assert time.monotonic() - began < 15


@pytest.mark.anyio
async def test_a_context_is_injected_and_hidden() -> None:
    async def ask(question: str, context: Context | None) -> str:
        """Ask."""
        assert context is not None
        return (await context.complete([{"role": "user", "content": question}])).content

    made = tool(ask)
    assert list(made.parameters["properties"]) == ["question"]
    provider = Talking(calls(("ask", {"question": "why?"})), "because", "done")
    result = (await react([made]).run(provider, "go")).unwrap()
    assert results(provider.asked[2]) == ["because"]
    assert result.cost == TokenUsage(30, 6, 3)


def test_importing_and_tools_from_functions_leave_the_validator_alone() -> None:
    code = (
        "import sys, executionkit; from executionkit.tools import tool\n"
        "@tool\ndef add(a: int) -> int: return a\n"
        "add.prepare({'a': 1}); sys.exit('jsonschema_rs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.dictionaries(st.sampled_from(["number", "x"]), st.none() | st.integers() | st.text() | st.floats()))
def test_no_arguments_raise(arguments: dict[str, Any]) -> None:
    prepared = double.prepare(arguments)
    if isinstance(prepared, Rejected):
        assert prepared.reasons
    else:
        assert set(prepared) == {"number"}


class Amount(msgspec.Struct):
    euros: int

    def __post_init__(self) -> None:
        if self.euros == 1:
            raise ValueError("sk-secret")
        assert self.euros != 2, "sk-secret"


def pay(amount: Amount, times: int = 1) -> int:
    return amount.euros * times


@pytest.mark.parametrize(("euros", "name"), [(1, "ValueError"), (2, "AssertionError")])
def test_of_a_check_of_the_types_only_the_class_is_told(euros: int, name: str) -> None:
    refused = tool(pay).prepare({"amount": {"euros": euros}})
    assert isinstance(refused, Rejected)
    assert name in str(refused)
    assert "secret" not in str(refused)
    assert ("$.amount" in str(refused)) is (name == "ValueError")


def test_a_whole_number_may_come_as_a_float() -> None:
    prepared = tool(pay).prepare({"amount": {"euros": 5.0}, "times": 2.0})
    assert prepared == {"amount": Amount(5), "times": 2}
    assert isinstance(prepared, dict)
    assert type(prepared["times"]) is int
    assert isinstance(tool(pay).prepare({"amount": {"euros": 5.5}}), Rejected)


class Opaque:
    pass


def _none() -> Iterator[int]:
    yield from ()


class Named:
    def __str__(self) -> str:
        return "named"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (Opaque(), "Error: ToolError: the tool's result holds 'Opaque', which has no JSON form"),
        ({"a": [Opaque()]}, "Error: ToolError: the tool's result holds 'Opaque', which has no JSON form"),
        (len, '"<built-in function len>"'),
        (_none(), "Error: ToolError: the tool's result holds 'generator', which has no JSON form"),
        (
            {1: Opaque(), (1, 2): "\ud800"},
            "Error: ToolError: the tool's result holds 'Opaque', which has no JSON form",
        ),
        (Named(), '"named"'),
        ({"a": Future[int]()}, "Error: ToolError: the tool's result holds 'Future', which has no JSON form"),
        (Event(), "Error: ToolError: the tool's result holds 'Event', which has no JSON form"),
        (
            [ValueError("the key is 4711")],
            "Error: ToolError: the tool's result holds 'ValueError', which has no JSON form",
        ),
        (Failure(KeyError("the key is 4711")), "Error: KeyError"),
        ([Failure(KeyError("the key is 4711"))], "Error: KeyError"),
        (Success({"a": 1}), '{"a":1}'),
        ({"a": Success(1)}, '{"a":1}'),
        (Success("a"), "a"),
        (MappingProxyType({"a": [deque([1])]}), '{"a":[[1]]}'),
        ({"a": 1}.values(), "[1]"),
        (ChainMap({"a": {"b": 1}.keys()}), '{"a":["b"]}'),
        (
            MappingProxyType({"a": Opaque()}),
            "Error: ToolError: the tool's result holds 'Opaque', which has no JSON form",
        ),
    ],
)
async def test_a_result_without_a_json_form_is_told_and_no_address_is(returned: object, text: str) -> None:
    async def give() -> object:
        return returned

    assert await call(tool(give)) == text


class Lying(str):
    """A text that does not say how long it is."""

    __slots__ = ()

    def __len__(self) -> int:
        raise ZeroDivisionError


@pytest.mark.anyio
async def test_a_result_of_a_class_derived_from_text_is_its_text() -> None:
    async def give() -> str:
        return Lying("abc")

    assert await call(tool(give)) == "abc"


@pytest.mark.anyio
async def test_a_result_that_holds_itself_has_no_json_form() -> None:
    async def give() -> object:
        found: list[object] = []
        found.append(found)
        return found

    assert await call(tool(give)) == "Error: ToolError: the tool's result, of type list, has no JSON form"


def test_a_spec_is_a_copy_all_the_way_down() -> None:
    double.spec["function"]["parameters"]["properties"].clear()
    assert double.spec["function"]["parameters"]["properties"] == {"number": {"type": "integer"}}
    by_hand = Tool("w", "", SCHEMA, weather)
    by_hand.parameters["properties"].clear()
    assert isinstance(by_hand.prepare({"city": 7}), Rejected)
