"""What the checkers must infer of streams, and that `match` over their events is exhaustive."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, assert_never, assert_type

from executionkit import LLMProvider, Outcome, Stage, TokenUsage, complete, consensus, structured
from executionkit.events import (
    Answered,
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    DeltaKind,
    Element,
    Evaluated,
    Event,
    ItemFinished,
    ItemStarted,
    PartialValue,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    TextVoided,
    ToolFinished,
    ToolStarted,
    VoidReason,
    WaitFinished,
    WaitStarted,
)
from executionkit.streaming import Streaming, SyncStreaming
from tests.typing.stages import City, Count


async def streams(provider: LLMProvider) -> None:
    """The value's type goes from the pipeline into the stream, its outcome and its last event."""
    assert_type(complete().stream(provider, "a"), Streaming[str])
    assert_type((complete() >> Count()).stream(provider, "a", ahead=3), Streaming[int])
    assert_type(consensus(output_type=Literal["a", "b"]).stream(provider, "a"), Streaming[Literal["a", "b"]])
    async with Count().stream(provider, "a") as run:
        assert_type(run, Streaming[int])
        async for event in run:
            assert_type(event, Event | Answered[int])
        assert_type(run.text(), AsyncIterator[str])
    assert_type(run.outcome, Outcome[int])
    assert_type(run.cost, TokenUsage)
    async with structured(list[City]).stream(provider, "a") as cities:
        assert_type(cities.elements(), AsyncIterator[City])
        async for city in cities.elements():
            assert_type(city, City)


def scripts(provider: LLMProvider) -> None:
    """The same without `await`."""
    with Count().stream_sync(provider, "a") as run:
        assert_type(run, SyncStreaming[int])
        for event in run:
            assert_type(event, Event | Answered[int])
        assert_type(run.text(), Iterator[str])
    assert_type(run.outcome, Outcome[int])
    with structured(list[City]).stream_sync(provider, "a") as cities:
        assert_type(cities.elements(), Iterator[City])


def beforehand(stage: Stage[str, str]) -> None:
    """What a stage says of its text."""
    assert_type(stage.streams_text, bool)
    assert_type(stage.text_is_final, bool)


def shown(event: Event | Answered[int]) -> str:
    """Every event there is; one that is left out is an error."""
    match event:
        case TextDelta(text=text, call=call, kind=kind, is_answer=True):
            assert_type(text, str)
            assert_type(call, int)
            assert_type(kind, DeltaKind)
            return text
        case TextDelta():
            return ""
        case TextVoided(call=call, reason=reason):
            assert_type(call, int)
            assert_type(reason, VoidReason)
            return ""
        case PartialValue(value=value) | Element(value=value):
            assert_type(value, Any)
            return str(value)
        case Answered(outcome):
            assert_type(outcome, Outcome[int])
            return str(outcome)
        case RunStarted() | RunFinished() | StageStarted() | StageFinished() | ItemStarted() | ItemFinished():
            return ""
        case CallStarted() | CallFinished() | AttemptStarted() | AttemptFinished():
            return ""
        case WaitStarted() | WaitFinished() | ToolStarted() | ToolFinished() | Evaluated():
            return ""
        case _:
            assert_never(event)
