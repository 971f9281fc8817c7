"""What a trace sees of a run: typed, frozen records. No key ever, and no text unless asked for.

`id` numbers runs, stages, calls and tools within one run; `parent` is the id of what contains them. `at` and
every duration are in seconds, `at` since the start of the run. `error` names an error's class.
"""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = [
    "CallFinished",
    "CallStarted",
    "Event",
    "RetryScheduled",
    "RunFinished",
    "RunStarted",
    "StageFinished",
    "StageStarted",
    "TextDelta",
    "ToolFinished",
    "ToolStarted",
    "Trace",
    "WithContent",
    "with_content",
]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What all records share.

    Args:
        run: Names the run; unique across processes.
        id: What the record is about.
        parent: What contains it; None for a run.
        at: Seconds since the start of the run.
    """

    run: str
    id: int
    parent: int | None = None
    at: float = 0.0


class RunStarted(Event, frozen=True, kw_only=True):
    """A run begins.

    Args:
        stage: The name of the stage that is run.
        max_cost: The run's budget; None where it has none.
        deadline: Seconds the run may take; None for any number.
    """

    stage: str
    max_cost: TokenUsage | None = None
    deadline: float | None = None


class RunFinished(Event, frozen=True, kw_only=True):
    """A run is over.

    Args:
        duration: Seconds it took.
        cost: What it spent.
        error: The class of its error, `"Cancelled"` where it was cancelled, None where it answered.
    """

    duration: float
    cost: TokenUsage = NO_USAGE
    error: str | None = None


class StageStarted(Event, frozen=True, kw_only=True):
    """A stage begins.

    Args:
        stage: Its name.
    """

    stage: str


class StageFinished(Event, frozen=True, kw_only=True):
    """A stage is over.

    Args:
        stage: Its name.
        duration: Seconds it took.
        cost: What it spent, the stages below it included.
        score: The score of its result, where it has one.
        error: The class of its error, None where it answered.
    """

    stage: str
    duration: float
    cost: TokenUsage = NO_USAGE
    score: float | None = None
    error: str | None = None


class CallStarted(Event, frozen=True, kw_only=True):
    """One attempt at a completion is sent.

    Args:
        attempt: Counted from 1; above 1 it is a retry.
        max_tokens: Output tokens granted; None where nobody set a bound.
        prompt: Its messages as JSON, where content was asked for.
    """

    attempt: int
    max_tokens: int | None = None
    prompt: str | None = None


class CallFinished(Event, frozen=True, kw_only=True):
    """One attempt is settled.

    Args:
        attempt: As in its `CallStarted`.
        duration: Seconds it took.
        cost: What it is charged.
        finish_reason: Why the model stopped, where it answered.
        error: The class of its error, None where it answered.
        text: The answer, where content was asked for.
    """

    attempt: int
    duration: float
    cost: TokenUsage = NO_USAGE
    finish_reason: str | None = None
    error: str | None = None
    text: str | None = None


class RetryScheduled(Event, frozen=True, kw_only=True):
    """A failed attempt is followed by another.

    Args:
        attempt: The attempt that failed.
        delay: Seconds until the next one.
        error: The class of its error.
    """

    attempt: int
    delay: float
    error: str


class TextDelta(Event, frozen=True, kw_only=True):
    """A piece of a streamed answer; sent only where content was asked for.

    Args:
        text: The piece.
    """

    text: str


class ToolStarted(Event, frozen=True, kw_only=True):
    """A tool is called.

    Args:
        tool: Its name.
        arguments: Its arguments as JSON, where content was asked for.
    """

    tool: str
    arguments: str | None = None


class ToolFinished(Event, frozen=True, kw_only=True):
    """A tool came back.

    Args:
        tool: Its name.
        duration: Seconds it took.
        error: What became of the call where it gave no result: the class of an exception, `"TimeoutError"`,
            `"InvalidArguments"`, `"UnknownTool"`, ...
        text: What the model gets to see, where content was asked for.
    """

    tool: str
    duration: float
    error: str | None = None
    text: str | None = None


Trace: TypeAlias = Callable[[Event], None]
"""Receives the records of a run, in order. One that raises is logged once and not called again."""


class WithContent(msgspec.Struct, frozen=True):
    """A trace that also wants prompts, answers and arguments.

    Args:
        trace: Receives the records.
    """

    trace: Trace

    def __call__(self, event: Event) -> None:
        """Hand the record over."""
        self.trace(event)


def with_content(trace: Trace) -> WithContent:
    """Ask for the texts as well: prompts, answers, tool arguments and results. Mind where they go."""
    return WithContent(trace)
