"""Results, errors and events leave the process as JSON, and come back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from returns.result import Failure, Success

from executionkit.core.usage import TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    ConsensusFailedError,
    ExecutionKitError,
    LLMError,
    PermanentError,
    RateLimitError,
)
from executionkit.events import AttemptStarted, CallStarted, Event, TextDelta, event_from_dict, with_content
from executionkit.outcome import Outcome, PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.provider import LLMProvider, LLMResponse, ToolCall
from executionkit.providers.scripted import ScriptedProvider
from executionkit.tools import tool
from tests.doubles import Buy, Model, each, error_of, reply, result_of


class Invoice(msgspec.Struct):
    number: str
    due: date


@dataclass
class Point:
    x: int
    y: float = 0.5


class Ticket(TypedDict):
    queue: Literal["billing", "sales"]


VALUES: list[tuple[Any, Any]] = [
    ("text", str),
    (3, int),
    (None, None),
    (Invoice("7", date(2026, 1, 2)), Invoice),
    ([Invoice("7", date(2026, 1, 2))], list[Invoice]),
    (Point(1), Point),
    ({"queue": "sales"}, Ticket),
    ("a", Literal["a", "b"]),
    (3, int | str),
    ((1, "a"), tuple[int, str]),
    ((1, 2), tuple[int, ...]),
    ({1: "a"}, dict[int, str]),
    (Decimal("1.50"), Decimal),
    ({"$": "float", "value": "x"}, dict[str, str]),
]


def over_json(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize(("value", "kind"), VALUES)
def test_a_result_comes_back_with_its_type(value: Any, kind: Any) -> None:
    usage = TokenUsage(3, 2, 1, usd=Decimal("0.01"))
    result = PatternResult(value, 0.5, usage, {"votes": ["a"], "costs": (usage,), "nested": {"x": None}})
    assert PatternResult.from_dict(over_json(result.to_dict()), kind) == result


@pytest.mark.anyio
async def test_results_of_all_patterns_come_back() -> None:
    @tool
    def add(left: int) -> int:
        """Add one."""
        return left + 1

    script = each(LLMResponse("", (ToolCall("1", "add", {"left": 1}),), "tool_calls"), reply("ok"))
    for result in (
        result_of(await (consensus(3) >> refine(lambda text: 0.95)).run(Model(), "x")),
        result_of(await react([add]).run(Model(script), "x")),
        result_of(await (Buy("a", 1, "no") | complete()).run(Model(), "x")),
    ):
        assert PatternResult.from_dict(over_json(result.to_dict()), str) == result


@pytest.mark.anyio
async def test_outcomes_of_many_inputs_come_back() -> None:
    model = Model(lambda asked: PermanentError("no") if asked.prompt == "b" else reply("ok"))
    result = result_of(await complete().each().run(model, ["a", "b", "c"]))
    back = PatternResult.from_dict(over_json(result.to_dict()), tuple[Outcome[str], ...])
    assert back == result
    match back.value[1]:
        case Failure(error):
            assert isinstance(error, PermanentError)
        case Success(_):
            raise AssertionError
    failed = error_of(await complete().each(on_error="fail", max_concurrency=1).run(model, ["a", "b"]))
    assert ExecutionKitError.from_dict(over_json(failed.to_dict())) == failed


def all_errors(root: type[ExecutionKitError] = ExecutionKitError) -> list[type[ExecutionKitError]]:
    return [root, *[found for kind in root.__subclasses__() for found in all_errors(kind)]]


OURS = [kind for kind in all_errors() if kind.__module__ == "executionkit.errors"]


@pytest.mark.parametrize("kind", OURS)
def test_an_error_comes_back_with_its_class(kind: type[ExecutionKitError]) -> None:
    error = kind("what <went> wrong", cost=TokenUsage(1, 2, 3), metadata={"votes": ["a"], "inner": {"n": 1}})
    back = ExecutionKitError.from_dict(over_json(error.to_dict()))
    assert (type(back), back) == (kind, error)


def test_what_an_error_says_of_another_attempt_comes_back() -> None:
    error = RateLimitError("slowly", retry_after=3.5, retryable=False)
    back = LLMError.from_dict(over_json(error.to_dict()))
    assert isinstance(back, RateLimitError)
    assert (back.retry_after, back.retryable) == (3.5, False)


def test_a_class_that_is_not_known_here_is_its_nearest_relative() -> None:
    data = BudgetExhaustedError("no").to_dict() | {"error": "Theirs", "kinds": ["Theirs", "PatternError"]}
    back = ExecutionKitError.from_dict(data)
    assert type(back).__name__ == "PatternError"


@pytest.mark.anyio
async def test_errors_of_runs_come_back() -> None:
    for outcome in (
        await consensus(3).run(Model(), "x", max_cost=TokenUsage(llm_calls=2)),
        await (Buy("a", 1, "1") | consensus(2, strategy="unanimous")).run(
            Model(lambda asked: reply(str(asked.number))), "x"
        ),
        await refine().run(Model(), "x"),
    ):
        error = error_of(outcome)
        assert ExecutionKitError.from_dict(over_json(error.to_dict())) == error
        assert issubclass(type(error), ExecutionKitError)
    assert ConsensusFailedError("x") != BudgetExhaustedError("x")


BROKEN: Sequence[Any] = [
    {},
    {"value": 1},
    None,
    [],
    "text",
    {"error": "PermanentError"},
    {"kinds": ["Theirs"]},
]


@pytest.mark.parametrize("data", BROKEN, ids=repr)
def test_what_was_not_written_so_is_a_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match="form|type"):
        PatternResult.from_dict(data, str)
    with pytest.raises(ValueError, match="form"):
        ExecutionKitError.from_dict(data)
    with pytest.raises(ValueError, match="form"):
        event_from_dict(data)


def test_a_value_of_another_type_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Expected `int`"):
        PatternResult.from_dict(PatternResult("x").to_dict(), int)
    with pytest.raises(TypeError, match="no form in JSON"):
        PatternResult(object()).to_dict()


@pytest.mark.anyio
async def test_every_event_comes_back() -> None:
    @tool
    def add(left: int) -> int:
        """Add one."""
        return left + 1

    events: list[Event] = []
    script = each(LLMResponse("", (ToolCall("1", "add", {"left": 1}),), "tool_calls"), reply("ok"))
    trace = with_content(events.append)
    await react([add]).run(Model(script), "x", trace=trace, max_cost=TokenUsage(llm_calls=9), deadline=60)
    await complete(stream=True).each().run(ScriptedProvider("some words"), ["a", "b"], trace=trace)
    assert [event_from_dict(over_json(event.to_dict())) for event in events] == events
    assert {event.to_dict()["event"] for event in events} >= {
        "RunStarted",
        "ToolStarted",
        "ItemFinished",
        "TextDelta",
    }
    assert msgspec.json.decode(msgspec.json.encode(events[0]))["event"] == "RunStarted"


@pytest.mark.anyio
async def test_events_name_the_class_of_the_provider_asked() -> None:
    async def judge(text: str, provider: LLMProvider) -> float:
        return float((await complete().run(provider, text)).unwrap().value == "ok")

    events: list[Event] = []
    await refine(judge).run(Model(), "x", trace=events.append)
    assert {e.provider for e in events if isinstance(e, CallStarted | AttemptStarted)} == {"Model"}


@pytest.mark.anyio
async def test_a_provider_that_cannot_stream_sends_all_at_once_and_says_so() -> None:
    events: list[Event] = []
    await complete(stream=True).run(Model(), "x", trace=with_content(events.append))
    assert [(e.text, e.whole) for e in events if isinstance(e, TextDelta)] == [("ok", True)]
    events.clear()
    await complete(stream=True).run(ScriptedProvider("two words"), "x", trace=with_content(events.append))
    assert [(e.text, e.whole) for e in events if isinstance(e, TextDelta)] == [
        ("two ", False),
        ("words", False),
    ]


def html_of(result: PatternResult[str]) -> str:
    return str(getattr(result, "_repr_html_")())  # noqa: B009 - by its name, as a notebook does


@pytest.mark.anyio
async def test_a_result_shows_well_in_a_notebook() -> None:
    result = result_of(await consensus(3).run(Model(lambda asked: reply("<b>yes</b>")), "x"))
    shown = html_of(result)
    assert "&lt;b&gt;yes&lt;/b&gt;: 3" in shown
    assert "<b>" not in shown
    assert "3 calls, 9 + 6 tokens" in shown
    assert "1.00" in shown
    assert "score" not in html_of(PatternResult("x"))
