"""A run that is watched: order, text that stands, back-pressure, leaving early."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

from executionkit import (
    Context,
    LLMProvider,
    LLMResponse,
    Outcome,
    PatternResult,
    ScriptedProvider,
    Stage,
    TokenUsage,
    Tool,
    ToolCall,
    complete,
    consensus,
    prompt,
    react,
    refine,
    step,
    structured,
)
from executionkit.core.schema.answer import answer_type
from executionkit.core.schema.partial import PartialAnswer
from executionkit.errors import DeadlineExceededError, InvalidOutputError, ProviderError, StoppedError
from executionkit.events import (
    Answered,
    CallStarted,
    Element,
    Event,
    PartialValue,
    StageStarted,
    TextDelta,
    TextVoided,
    with_content,
)
from executionkit.provider import CallPiece
from executionkit.providers.scripted import ScriptedPiece, ScriptedRequest
from executionkit.runtime.backlog import Backlog
from executionkit.streaming import Streaming
from tests.conftest import BARE
from tests.doubles import AT_ONCE, either, error_of, joined, paired, result_of, soon

pytestmark = pytest.mark.anyio

WORDS = "one two three four five"


async def read(run: Streaming[Any]) -> list[Any]:
    async with run:
        return [event async for event in run]


def deltas(events: list[Any]) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta)]


def outcome_of(events: list[Any]) -> Outcome[Any]:
    last: Answered[Any] = events[-1]
    return last.outcome


def standing(events: list[Any]) -> str:
    """The text of the answer that nobody took back."""
    said: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextDelta) and event.is_answer and event.kind == "text":
            said[event.call] = said.get(event.call, "") + event.text
        elif isinstance(event, TextVoided):
            said.pop(event.call, None)
    return "".join(said.values())


class Breaking:
    """Streams words one by one, and breaks off after some of them; counts what it was asked for."""

    def __init__(self, breaks_after: float = math.inf, words: int = 5, retryable: bool = True) -> None:
        self.breaks_after = breaks_after
        self.words = words
        self.retryable = retryable
        self.streams: list[Words] = []
        self.closed = 0

    @property
    def pieces(self) -> int:
        return sum(stream.sent for stream in self.streams)

    async def complete(self, messages: list[Any], **options: Any) -> LLMResponse:
        raise ProviderError("not in one piece", retryable=False)

    def stream(self, messages: list[Any], **options: Any) -> "Words":
        self.streams.append(Words(self))
        return self.streams[-1]


class Words:
    def __init__(self, owner: Breaking) -> None:
        self.owner = owner
        self.sent = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.owner.closed += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ScriptedPiece:
        await checkpoint()
        if self.sent >= self.owner.breaks_after:
            raise ProviderError("broke off", cost=self.cost, retryable=self.owner.retryable)
        if self.sent == self.owner.words:
            raise StopAsyncIteration
        self.sent += 1
        return ScriptedPiece(f"{self.sent} ")

    @property
    def cost(self) -> TokenUsage:
        return TokenUsage(10, self.sent, 1)

    @property
    def response(self) -> LLMResponse:
        usage = {"prompt_tokens": 10, "completion_tokens": self.sent}
        return LLMResponse("".join(f"{n} " for n in range(1, self.sent + 1)), usage=usage)


async def test_the_records_are_those_of_a_trace_and_the_outcome_is_the_last() -> None:
    traced: list[Event] = []
    run = complete().stream(ScriptedProvider(WORDS), "x", trace=with_content(traced.append))
    *events, last = await read(run)
    assert events == traced
    assert outcome_of([last]) is run.outcome
    assert result_of(run.outcome).value == WORDS == "".join(delta.text for delta in deltas(events))
    assert run.cost == result_of(run.outcome).cost == TokenUsage(4, 6, 1)


async def test_a_plain_trace_beside_it_gets_no_texts() -> None:
    plain: list[Event] = []
    events = await read(complete().stream(ScriptedProvider(WORDS), "x", trace=plain.append))
    assert [type(event) for event in plain] == [
        type(event) for event in events if not isinstance(event, TextDelta | Answered)
    ]
    (call,) = [event for event in plain if isinstance(event, CallStarted)]
    assert call.prompt is None
    assert any("x" in (event.prompt or "") for event in events if isinstance(event, CallStarted))


async def test_a_trace_that_raises_does_not_end_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise KeyError("trace")

    events = await read(complete().stream(ScriptedProvider(WORDS), "x", trace=broken))
    assert standing(events) == WORDS
    assert "the trace raised" in caplog.text


async def test_nothing_is_sent_before_the_first_pull() -> None:
    provider = ScriptedProvider(WORDS)
    async with complete().stream(provider, "x") as run:
        await checkpoint()
        assert not provider.requests
        with pytest.raises(RuntimeError, match="has not ended"):
            _ = run.outcome
    error = error_of(run.outcome)
    assert (type(error), error.cost, provider.requests) == (StoppedError, TokenUsage(), [])
    assert [event async for event in run] == []


async def test_left_early_it_costs_what_arrived_and_says_that_this_is_an_estimate() -> None:
    provider = Breaking(words=1000)
    seen = 0
    async with complete().stream(provider, "x", ahead=4) as run:
        async for event in run:
            seen += isinstance(event, TextDelta)
            if seen == 10:
                break
    assert provider.closed == 1
    assert 10 <= provider.pieces <= 15  # those read, those waiting, and one that waits for room
    error = error_of(run.outcome)
    assert isinstance(error, StoppedError)
    assert error.cost == run.cost == TokenUsage(10, provider.pieces, 1)
    assert error.metadata["usage_estimated"] == 1
    pieces = provider.pieces
    await checkpoint()
    assert provider.pieces == pieces


async def test_a_run_that_ended_before_it_is_left_keeps_its_answer() -> None:
    async with complete().stream(ScriptedProvider(WORDS), "x") as run:
        await anext(run)
        for _ in range(30):
            await checkpoint()
    assert result_of(run.outcome).value == WORDS


@pytest.mark.parametrize("ahead", [1, 2, 16])
async def test_no_more_is_buffered_than_ahead_says(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most, add = 0, Backlog.add

    def watched(self: Backlog, record: object) -> None:
        nonlocal most
        add(self, record)
        if isinstance(record, TextDelta):
            most = max(most, len(self.records))

    monkeypatch.setattr(Backlog, "add", watched)
    provider = Breaking(words=200)
    pipeline = complete(stream=True) & complete(stream=True)
    async with pipeline.stream(provider, "x", ahead=ahead) as run:
        async for event in run:
            if isinstance(event, TextDelta) and event.text.strip() in {"1", "50"}:
                for _ in range(50):
                    await checkpoint()
    assert most == ahead
    assert provider.pieces == 400


async def test_without_a_bound_the_server_never_waits() -> None:
    provider = Breaking(words=500)
    async with complete().stream(provider, "x", ahead=math.inf) as run:
        await anext(run)
        while provider.closed == 0:
            await checkpoint()
    assert provider.pieces == 500


def upper(text: str) -> str:
    return text.upper()


def half(text: str) -> float:
    return 0.5


async def buys(provider: LLMProvider, text: str) -> PatternResult[str]:
    return (await complete(stream=True).run(provider, text)).unwrap()


SHAPES: dict[str, tuple[Stage[str, Any], bool, bool]] = {
    "complete": (complete(), True, True),
    "within": (complete().within(TokenUsage(llm_calls=9)), True, True),
    "using": (complete().using(ScriptedProvider(WORDS)), True, True),
    "named": (complete().named("a"), True, True),
    "pipeline": (complete(stream=True) >> complete(), True, True),
    "named group": (complete() >> (complete() >> complete()).named("b"), True, True),
    "fallback": (complete() | complete(), True, False),
    "checked": (complete().checked(lambda text: None), True, False),
    "react": (react([]), True, False),
    "map": (complete(stream=True).map(upper), False, False),
    "with input": (complete(stream=True).with_input(), False, False),
    "both": (complete(stream=True) & complete(stream=True), False, False),
    "consensus": (consensus(n=2), False, False),
    "refine": (refine(half, draft=complete(stream=True), max_iterations=1), False, False),
    "refine's own": (refine(half, max_iterations=1), False, False),
    "before a template": (complete(stream=True) >> prompt("{}"), False, False),
    "step": (step(buys), False, False),
    "mixed": (complete(stream=True).map(upper) | complete(), False, False),
}
"""Stages; whether text of the answer comes in pieces, and whether it is sure to stand."""


@pytest.mark.parametrize("name", SHAPES)
async def test_what_is_the_answer_is_decided_by_the_shape(name: str) -> None:
    stage, streams, is_final = SHAPES[name]
    assert (stage.streams_text, stage.text_is_final) == (streams, is_final)
    events = await read(stage.stream(ScriptedProvider(WORDS), "x"))
    outcome = outcome_of(events)
    answers = {delta.call for delta in deltas(events) if delta.is_answer}
    assert len(answers) == streams
    if streams:
        assert standing(events) == result_of(outcome).value == WORDS
        calls = [event.id for event in events if isinstance(event, CallStarted)]
        assert answers == {calls[-1]}
    async with stage.stream(ScriptedProvider(WORDS), "x") as run:
        pieces = [text async for text in run.text()]
    value = result_of(outcome).value
    assert len(pieces) == (5 if is_final else 1)
    assert "".join(pieces) == value or not isinstance(value, str)


def test_what_a_pipeline_says_of_its_text_beforehand() -> None:
    assert structured(int).streams_text
    assert not structured(int).text_is_final
    assert structured(int, output_retries=0).text_is_final
    assert not complete().each().streams_text


async def test_text_of_a_value_is_json() -> None:
    votes = ScriptedProvider('{"answer": 7}')
    async with consensus(n=1, output_type=int).stream(votes, "x") as run:
        assert [text async for text in run.text()] == ["7"]
    assert result_of(run.outcome).value == 7


async def test_the_text_of_an_option_that_fails_is_taken_back() -> None:
    pipeline = complete().using(Breaking(3)) | complete()
    events = await read(pipeline.stream(ScriptedProvider(WORDS), "x"))
    (voided,) = [event for event in events if isinstance(event, TextVoided)]
    assert voided.reason == "failed"
    assert [delta.text for delta in deltas(events) if delta.call == voided.call] == ["1 ", "2 ", "3 "]
    assert standing(events) == WORDS == result_of(outcome_of(events)).value
    async with pipeline.stream(ScriptedProvider(WORDS), "x") as run:
        assert [text async for text in run.text()] == [WORDS]


async def test_the_text_of_a_run_that_fails_is_taken_back() -> None:
    provider = Breaking(3)
    events = await read(complete().stream(provider, "x", retry=AT_ONCE))
    assert [delta.text for delta in deltas(events)] == ["1 ", "2 ", "3 "]
    assert standing(events) == ""
    assert len(provider.streams) == 1  # what was handed out is not asked for again
    error = error_of(outcome_of(events))
    assert (type(error), error.cost) == (ProviderError, TokenUsage(10, 3, 1))


async def test_an_answer_that_is_repaired_takes_the_one_before_back() -> None:
    answers = ['{"answer": "seven"}', '{"answer": 7}']
    events = await read(structured(int).stream(ScriptedProvider(answers), "x"))
    assert [event.reason for event in events if isinstance(event, TextVoided)] == ["repair"]
    assert standing(events) == answers[1]
    refused = await read(structured(int, output_retries=0).stream(ScriptedProvider(answers), "x"))
    assert isinstance(error_of(outcome_of(refused)), InvalidOutputError)
    assert standing(refused) == ""
    checked = complete().checked(lambda text: None if text == "b" else "no")
    events = await read(checked.stream(ScriptedProvider(["a", "b"]), "x"))
    assert [event.reason for event in events if isinstance(event, TextVoided)] == ["repair"]
    assert standing(events) == "b"


async def look_up(city: str) -> str:
    return f"{city} is big"


LOOK_UP = Tool("look_up", "Look up.", {"type": "object", "properties": {"city": {"type": "string"}}}, look_up)


async def test_a_tool_loop_streams_its_calls_and_its_last_answer() -> None:
    asks = LLMResponse(
        "Let me see.",
        (ToolCall("c1", "look_up", {"city": "Paris"}), ToolCall("c2", "look_up", {"city": "Rome"})),
        "tool_calls",
        {"prompt_tokens": 1, "completion_tokens": 1},
        reasoning="Which city?",
    )
    events = await read(react([LOOK_UP]).stream(ScriptedProvider([asks, WORDS]), "x"))
    first, last = [event.id for event in events if isinstance(event, CallStarted)]
    by_kind: dict[str, str] = {}
    for delta in deltas(events):
        if delta.call == first:
            key = f"{delta.kind} {delta.tool} {delta.index}"
            by_kind[key] = by_kind.get(key, "") + delta.text
    assert by_kind == {
        "reasoning None 0": "Which city?",
        "text None 0": "Let me see.",
        "arguments look_up 0": '{"city":"Paris"}',
        "arguments look_up 1": '{"city":"Rome"}',
    }
    voided = [(event.call, event.reason) for event in events if isinstance(event, TextVoided)]
    assert voided == [(first, "tools")]
    assert [delta.text for delta in deltas(events) if delta.call == last and delta.is_answer] == [
        "one ", "two ", "three ", "four ", "five",
    ]  # fmt: skip
    assert standing(events) == WORDS


class Untagged:
    """A model that thinks without saying where that begins: it shows at the end."""

    async def complete(self, messages: list[Any], **options: Any) -> LLMResponse:
        return LLMResponse("hmm\n</think>\nParis", usage={"prompt_tokens": 1, "completion_tokens": 1})

    def stream(self, messages: list[Any], **options: Any) -> Any:
        return ScriptedProvider("hmm\n</think>\nParis").stream(messages)


async def test_thoughts_are_told_apart_whoever_streams_them() -> None:
    events = await read(complete().stream(ScriptedProvider("<think>I see</think>Paris is"), "x"))
    assert [(d.kind, d.text) for d in deltas(events)] == [
        ("reasoning", "I "), ("reasoning", "see"), ("text", "Paris "), ("text", "is"),
    ]  # fmt: skip
    events = await read(complete().stream(Untagged(), "x"))
    assert standing(events) == result_of(outcome_of(events)).value == "Paris"
    assert deltas(events)[-1].whole


async def test_the_deadline_goes_on_while_the_reader_is_slow() -> None:
    provider = Breaking(words=100)
    async with complete().stream(provider, "x", ahead=5, deadline=0.05) as run:
        await anext(run)
        await anyio.sleep(0.1)
        events = [event async for event in run]
    assert isinstance(error_of(outcome_of(events)), DeadlineExceededError)
    assert run.cost == TokenUsage(10, provider.pieces, 1)
    assert provider.pieces < 10


async def test_a_pull_that_is_given_up_loses_nothing() -> None:
    provider = ScriptedProvider(WORDS, delay=0.05)
    async with complete().stream(provider, "x") as run:
        events: list[Any] = []
        given_up = 0
        while not events or not isinstance(events[-1], Answered):
            with anyio.move_on_after(0.01) as scope:
                events.append(await anext(run))
            given_up += scope.cancelled_caught
    assert given_up > 0
    assert standing(events) == WORDS


async def test_a_reader_that_is_cancelled_ends_the_run() -> None:
    provider = Breaking(words=10**6)
    run = complete().stream(provider, "x")
    async with anyio.create_task_group() as group:
        group.start_soon(read, run)
        while provider.pieces < 20:
            await checkpoint()
        group.cancel_scope.cancel()
    assert provider.closed == 1
    assert isinstance(error_of(run.outcome), StoppedError)
    assert run.cost.output_tokens == provider.pieces


async def test_a_failure_of_the_reader_ends_the_run() -> None:
    provider = Breaking(words=10**6)
    run = complete().stream(provider, "x")
    with pytest.raises(KeyError, match="mine"):
        async with run:
            await anext(run)
            raise KeyError("mine")
    assert isinstance(error_of(run.outcome), StoppedError)


async def served(run: Streaming[Any]) -> AsyncIterator[str]:
    """A generator as a web framework iterates over: nobody promises to close it where it was begun."""
    async with run:
        async for event in run:
            if isinstance(event, TextDelta):
                yield event.text


async def test_a_generator_around_it_can_be_closed_by_another_task() -> None:
    provider = Breaking(words=10**6)
    run = complete().stream(provider, "x")
    generator: Any = served(run)

    async def first() -> None:
        with anyio.CancelScope():  # a scope of the framework's, which ends before the generator does
            assert await anext(generator) == "1 "

    async with anyio.create_task_group() as group:
        group.start_soon(first)
    async with anyio.create_task_group() as group:
        group.start_soon(generator.aclose)
    assert provider.closed == 1
    assert isinstance(error_of(run.outcome), StoppedError)


async def test_one_that_is_dropped_ends_its_run_with_a_warning() -> None:
    provider = Breaking(words=10**6)
    run = await complete().stream(provider, "x").__aenter__()
    await anext(run)
    held = [run]
    del run
    with pytest.warns(ResourceWarning, match="use `async with`"):
        held.clear()
    while not provider.closed:
        await checkpoint()


async def test_another_task_may_close_it_while_one_reads() -> None:
    provider = ScriptedProvider(WORDS, delay=60)
    run = complete().stream(provider, "x")
    events: list[Any] = []
    async with run, anyio.create_task_group() as group:

        async def reads() -> None:
            events.extend([event async for event in run])

        group.start_soon(reads)
        while not provider.requests:
            await checkpoint()
        with pytest.raises(RuntimeError, match="another task is reading"):
            while True:
                await anext(run)
        await soon(run.aclose())
    assert isinstance(error_of(run.outcome), StoppedError)
    assert not any(isinstance(event, Answered) for event in events)


async def test_it_is_entered_first_and_once() -> None:
    run = complete().stream(ScriptedProvider(WORDS), "x")
    with pytest.raises(RuntimeError, match="enter the stream first"):
        await anext(run)
    async with run:
        with pytest.raises(RuntimeError, match="entered once"):
            await run.__aenter__()


@pytest.mark.parametrize(
    "wrong",
    [
        {"ahead": 0},
        {"ahead": math.nan},
        {"ahead": "64"},
        {"ahead": True},
        {"deadline": 0},
        {"trace": 3},
        {"retry": 3},
    ],
    ids=str,
)
def test_wrong_arguments_are_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        complete().stream(ScriptedProvider(WORDS), "x", **wrong)
    with pytest.raises(TypeError, match="provider"):
        complete().stream(3, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_stage_can_be_streamed_on_the_ledger_of_another() -> None:
    async def chained(provider: LLMProvider, text: str) -> PatternResult[str]:
        async with complete().stream(provider, text) as run:
            return PatternResult("".join([piece async for piece in run.text()]))

    provider = ScriptedProvider(WORDS)
    result = result_of(await (complete() >> step(chained)).run(provider, "x"))
    assert (result.value, result.cost.llm_calls) == (WORDS, 2)


class Custom(Stage[str, str], frozen=True):
    """A pattern of a user's: its second call is its answer."""

    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        first = await context.run(complete(), value)
        last = await context.run(complete(), first.value, is_answer=True)
        return PatternResult(last.value)


async def test_a_new_pattern_says_what_its_answer_is() -> None:
    events = await read(Custom().stream(ScriptedProvider(["a b", "c d"]), "x"))
    assert [(delta.text, delta.is_answer) for delta in deltas(events)] == [("c ", True), ("d", True)]


# ---- every shape, at random ----


def echo(request: ScriptedRequest) -> str:
    return f"{request.prompt[-12:]} {len(request.prompt) % 7}"


LEAVES: list[Stage[str, str]] = [
    complete(),
    complete(stream=True),
    complete().using(Breaking(2, retryable=False)),
    complete().using(Breaking(0, retryable=False)),
    consensus(n=2),
    refine(half, max_iterations=1),
    react([]),
    complete().map(upper),
    complete().checked(lambda text: "no" if len(text) % 2 else None, output_retries=1),
]


def grouped(a: Stage[str, str], b: Stage[str, str]) -> Stage[str, str]:
    return (a >> b).named("group")


def bounded(a: Stage[str, str], b: Stage[str, str]) -> Stage[str, str]:
    return a.within(TokenUsage(llm_calls=3)) | b


def grown(inner: st.SearchStrategy[Stage[str, str]]) -> st.SearchStrategy[Stage[str, str]]:
    return st.one_of([st.builds(grow, inner, inner) for grow in (joined, either, paired, grouped, bounded)])


PIPELINES: st.SearchStrategy[Stage[str, str]] = st.recursive(st.sampled_from(LEAVES), grown, max_leaves=5)


def shape(event: Event) -> str:
    """What is the same in every run of a pipeline that does not depend on timing."""
    said = [str(getattr(event, name, None)) for name in ("path", "error", "text")]
    return " ".join([type(event).__name__, *said])


@settings(max_examples=60, deadline=None)
@given(pipeline=PIPELINES, ahead=st.sampled_from([1, 3, 64]))
async def test_any_pipeline_streams_what_a_run_would_do(pipeline: Stage[str, str], ahead: int) -> None:
    streamed: list[Event] = []
    events = await read(
        pipeline.stream(
            ScriptedProvider(echo), "query", ahead=ahead, trace=with_content(streamed.append), retry=AT_ONCE
        )
    )
    assert events[:-1] == streamed
    answer = standing(events)
    outcome = outcome_of(events)
    match outcome:
        case Success(result):
            assert answer in {"", result.value}
            assert answer or not pipeline.streams_text or not result.value
        case Failure(_):
            assert answer == ""


@settings(max_examples=25, deadline=None)
@given(pipeline=PIPELINES)
async def test_the_order_is_that_of_a_run(pipeline: Stage[str, str]) -> None:
    events = await read(pipeline.stream(ScriptedProvider(echo), "query", retry=AT_ONCE))
    traced: list[Event] = []
    outcome = await pipeline.run(
        ScriptedProvider(echo), "query", retry=AT_ONCE, trace=with_content(traced.append)
    )
    assert type(outcome) is type(outcome_of(events))
    told, as_traced = (
        [shape(event) for event in records if not isinstance(event, TextDelta | TextVoided | Answered)]
        for records in (events, traced)
    )
    if any(isinstance(event, StageStarted) and event.stage == "Both" for event in traced):
        assume(isinstance(outcome, Success))  # how far one is when the other fails is chance
        told, as_traced = sorted(told), sorted(as_traced)  # two go on at once
    assert told == as_traced


# ---- without await ----


def test_a_script_reads_without_await() -> None:
    provider = ScriptedProvider(WORDS)
    with complete().stream_sync(provider, "x") as run:
        events = list(run)
    assert isinstance(events[-1], Answered)
    assert standing(list(events)) == WORDS == result_of(run.outcome).value
    with complete().stream_sync(provider, "x") as run:
        assert list(run.text()) == ["one ", "two ", "three ", "four ", "five"]
    with consensus(n=2).stream_sync(provider, "x") as run:
        assert list(run.text()) == [WORDS]
    assert run.cost == result_of(run.outcome).cost


def test_a_script_may_leave_early() -> None:
    provider = Breaking(words=10**6)
    with complete().stream_sync(provider, "x", ahead=8) as run:
        for event in run:
            if isinstance(event, TextDelta):
                break
    assert isinstance(error_of(run.outcome), StoppedError)
    assert provider.closed == 1
    assert run.cost == TokenUsage(10, provider.pieces, 1)
    with complete().stream_sync(provider, "x") as run:
        pass
    assert run.cost == TokenUsage()
    assert list(run) == []


def test_a_script_enters_first_and_once() -> None:
    run = complete().stream_sync(ScriptedProvider(WORDS), "x")
    with pytest.raises(RuntimeError, match="enter the stream first"):
        next(run)
    with run, pytest.raises(RuntimeError, match="entered once"):
        run.__enter__()


async def test_no_event_loop_may_run_beside_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        complete().stream_sync(ScriptedProvider(WORDS), "x")


def test_pieces_of_calls_are_values() -> None:
    assert CallPiece("a", "{}") == CallPiece("a", "{}", 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_its_task_may_be_cancelled_by_whoever_ends_the_loop(anyio_backend: str) -> None:
    provider = ScriptedProvider(WORDS, delay=60)
    async with complete().stream(provider, "x") as run:
        events = [await anext(run)]
        while not provider.requests:
            await checkpoint()
        for task in asyncio.all_tasks():
            if "stream of" in task.get_name():
                task.cancel()
        events += [event async for event in run]
    assert "cancelled by somebody else" in str(error_of(run.outcome))


# ---- values of a type ----


class Item(msgspec.Struct):
    name: str
    price: float


ITEMS = '{"answer": [{"name": "a [b], \\"c", "price": 1}, {"name": "d", "price": 2.5}]}'


async def test_an_answer_of_a_type_can_be_read_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.core.schema.partial.INTERVAL", 0.0)
    events = await read(structured(list[Item]).stream(ScriptedProvider(f"Here:\n```json\n{ITEMS}\n```"), "x"))
    value = result_of(outcome_of(events)).value
    elements = [event for event in events if isinstance(event, Element)]
    assert [element.value for element in elements] == value == [Item('a [b], "c', 1.0), Item("d", 2.5)]
    assert [element.index for element in elements] == [0, 1]
    if not BARE:
        partial = [event.value for event in events if isinstance(event, PartialValue)]
        assert [{"name": "a "}] in partial  # a beginning
        assert partial[-1] == msgspec.to_builtins(value)
        assert len(partial) > 4
    assert len({event.id for event in events if isinstance(event, CallStarted | Element | PartialValue)}) == 1


@pytest.mark.skipif(BARE, reason="partial values need an extra")
@pytest.mark.parametrize("before", ["", "Here [1]: ", "Of {all} [of] them: ", "```json\n"])
async def test_the_last_partial_value_is_the_answer_whatever_stands_before_it(before: str) -> None:
    text = f'{before}{{"name": "a", "price": 2.5}}'
    events = await read(structured(Item).stream(ScriptedProvider([text]), "x"))
    values = [event.value for event in events if isinstance(event, PartialValue)]
    assert all(isinstance(value, dict) for value in values)
    assert values[-1] == {"name": "a", "price": 2.5}
    assert result_of(outcome_of(events)).value == Item("a", 2.5)


def has_outcome(run: Streaming[Any]) -> bool:
    try:
        _ = run.outcome
    except RuntimeError:
        return False
    return True


async def test_elements_come_as_they_are_whole_where_they_are_sure_to_stand() -> None:
    provider = ScriptedProvider(ITEMS)
    for retries in (0, 2):
        async with structured(list[Item], output_retries=retries).stream(provider, "x", ahead=1) as run:
            seen = [(item, has_outcome(run)) async for item in run.elements()]
        assert [item for item, _ in seen] == result_of(run.outcome).value
        assert seen[0][1] == (retries > 0)


@pytest.mark.parametrize(
    "text",
    ["[1, 2] no, wait: [3, 4, 5]", 'As in [1]: {"answer": [3, 4, 5]}', "```\n[1]\n```\n```\n[3, 4, 5]\n```"],
)
async def test_elements_of_a_list_that_is_not_the_answer_are_not_mixed_with_those_that_are(text: str) -> None:
    async with structured(list[int], output_retries=0).stream(ScriptedProvider([text]), "x") as run:
        with pytest.raises(InvalidOutputError, match="another list") as raised:
            _ = [element async for element in run.elements()]
    assert raised.value.cost == run.cost
    assert result_of(run.outcome).value == [3, 4, 5]
    async with structured(list[int]).stream(ScriptedProvider([text]), "x") as run:
        assert [element async for element in run.elements()] == [3, 4, 5]


@dataclass(eq=False)
class Incomparable:
    n: int


async def test_elements_that_do_not_compare_stand_all_the_same() -> None:
    provider = ScriptedProvider('{"answer": [{"n": 1}, {"n": 2}]}')
    for retries in (0, 2):
        stage = structured(list[Incomparable], output_retries=retries)
        assert not [
            event for event in await read(stage.stream(provider, "x")) if isinstance(event, TextVoided)
        ]
        async with stage.stream(provider, "x") as run:
            assert [element.n async for element in run.elements()] == [1, 2]


def test_a_script_is_told_of_another_list_too() -> None:
    provider = ScriptedProvider(["[1, 2] no, wait: [3, 4, 5]"])
    with structured(list[int], output_retries=0).stream_sync(provider, "x") as script:
        with pytest.raises(InvalidOutputError, match="another list"):
            list(script.elements())
        assert result_of(script.outcome).value == [3, 4, 5]


def test_a_script_reads_elements() -> None:
    with structured(list[Item], output_retries=0).stream_sync(ScriptedProvider(ITEMS), "x") as script:
        assert [item.name for item in script.elements()] == ['a [b], "c', "d"]


async def test_elements_that_a_repair_supersedes_are_taken_back() -> None:
    provider = ScriptedProvider(['{"answer": [1, 2, "three"]}', '{"answer": [1, 3]}'])
    by_call: dict[int, list[Any]] = {}
    for event in await read(structured(list[int]).stream(provider, "x")):
        if isinstance(event, Element):
            by_call.setdefault(event.call, []).append(event.value)
        elif isinstance(event, TextVoided):
            assert by_call.pop(event.call) == [1, 2]
    assert list(by_call.values()) == [[1, 3]]


@given(
    values=st.lists(
        st.text(max_size=8) | st.integers() | st.lists(st.text(max_size=3), max_size=3), max_size=6
    ),
    cuts=st.lists(st.integers(1, 9), min_size=1),
    is_wrapped=st.booleans(),
)
def test_any_list_is_taken_apart_however_it_is_cut(
    values: list[Any], cuts: list[int], is_wrapped: bool
) -> None:
    text = json.dumps({"answer": values} if is_wrapped else values)
    reader = PartialAnswer(answer_type(list[Any]))
    found: list[Any] = []
    at = 0
    while at < len(text):
        cut = cuts[at % len(cuts)]
        found += [whole.value for whole in reader.elements(text[at : at + cut])]
        at += cut
    assert found == values


async def test_what_is_no_failure_is_raised() -> None:
    class Ended(BaseException):
        """As a test framework ends a test by."""

    async def ends(provider: LLMProvider, text: str) -> PatternResult[str]:
        raise Ended

    with pytest.raises(Ended):
        async with step(ends).stream(ScriptedProvider(["a"]), "q") as run:
            async for _ in run:
                pass
