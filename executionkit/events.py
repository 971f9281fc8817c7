"""What a trace sees of a run: typed, frozen records. No key ever, and no text unless asked for.

A run has stages, a stage has calls and tools, a call has attempts and waits. `id` numbers all of these within
one run; `parent` is the id of what contains them; `path` names a stage by its place in the pipeline, and with
`ordinal` a call, the same in every run. `at` and every duration are in seconds, `at` since the start of the
run. `error` names an error's class.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import msgspec

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.outcome import Outcome

__all__ = [
    "Answered",
    "AttemptFinished",
    "AttemptStarted",
    "CallFinished",
    "CallStarted",
    "DeltaKind",
    "Element",
    "Evaluated",
    "Event",
    "EventBase",
    "ItemFinished",
    "ItemStarted",
    "PartialValue",
    "Path",
    "RunFinished",
    "RunStarted",
    "StageFinished",
    "StageStarted",
    "TextDelta",
    "TextVoided",
    "ToolFinished",
    "ToolStarted",
    "Trace",
    "TracingContext",
    "VoidReason",
    "WaitFinished",
    "WaitReason",
    "WaitStarted",
    "WithContent",
    "event_from_dict",
    "with_content",
    "without_content",
]

T_co = TypeVar("T_co", covariant=True)

Path: TypeAlias = tuple[int | str, ...]
"""Where a stage or a call is in the pipeline: positions, options, branches, samples, rounds."""

WaitReason: TypeAlias = Literal["budget", "rate_limit", "back_off"]
"""Why a call waits: for calls in flight to make room in the budget, for a rate limit, or before a retry."""

DeltaKind: TypeAlias = Literal["text", "reasoning", "arguments"]
"""What a piece is of: the text of an answer, the model's reasoning, or the arguments of a tool call."""

VoidReason: TypeAlias = Literal["failed", "repair", "tools"]
"""Why text is taken back: what said it failed, is asked again, or calls tools before it answers."""


class EventBase(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="event"):
    """What all records share.

    Args:
        run: Names the run; unique across processes.
        id: What the record is about.
        parent: What contains it; None for a run.
        path: The place in the pipeline.
        at: Seconds since the start of the run.
    """

    run: str
    id: int
    parent: int | None = None
    path: Path = ()
    at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return this record as JSON's shapes, its class under `event`; `event_from_dict` reads it back."""
        return cast("dict[str, Any]", msgspec.to_builtins(self))


class RunStarted(EventBase, frozen=True, kw_only=True):
    """A run begins.

    Args:
        stage: The name of the stage that is run.
        max_cost: The run's budget; None where it has none.
        deadline: Seconds the run may take; None for any number.
        started: The wall clock at the start, in seconds since 1970.
        charged_to: The run that also pays for this one: it was begun within that, on its provider. None
            where its cost is its own alone.
    """

    stage: str
    max_cost: TokenUsage | None = None
    deadline: float | None = None
    started: float = 0.0
    charged_to: str | None = None


class RunFinished(EventBase, frozen=True, kw_only=True):
    """A run is over.

    Args:
        duration: Seconds it took.
        cost: What it spent.
        error: The class of its error, `"Cancelled"` where it was cancelled, None where it answered.
        paid_elsewhere: Of the cost, what no call of these records was charged: what earlier lives of the run
            paid, and what a `step` reports to have spent past its provider.
    """

    duration: float
    cost: TokenUsage = NO_USAGE
    error: str | None = None
    paid_elsewhere: TokenUsage = NO_USAGE


class StageStarted(EventBase, frozen=True, kw_only=True):
    """A stage begins.

    Args:
        stage: Its name.
        kind: What it is, whatever it is called: the name of its class.
    """

    stage: str
    kind: str = ""


class StageFinished(EventBase, frozen=True, kw_only=True):
    """A stage is over.

    Args:
        stage: Its name.
        duration: Seconds it took.
        cost: What it spent, the stages below it included.
        score: The score of its result, where it has one.
        error: The class of its error, `"Cancelled"` where it was cancelled, None where it answered.
        figures: The counts and measures of a pattern, by their keys in the metadata: `rounds`,
            `agreement_ratio`, ...; also of a failure, as far as it got.
    """

    stage: str
    duration: float
    cost: TokenUsage = NO_USAGE
    score: float | None = None
    error: str | None = None
    figures: dict[str, float | int | bool] = {}


class ItemStarted(EventBase, frozen=True, kw_only=True):
    """One of many inputs of `each`, or of the rows of `over`, begins; what is done for it follows below it.

    Args:
        index: Its place among the inputs, from 0.
        total: How many inputs there are; None where nobody knows.
        item: Its name, or its number from 1; the key of a row.
        done: How many inputs are over, failed ones included.
    """

    index: int
    total: int | None
    item: str
    done: int = 0


class ItemFinished(EventBase, frozen=True, kw_only=True):
    """One of many inputs of `each`, or of the rows of `over`, is over.

    Inputs that were not begun, since all share a failure, have no record.

    Args:
        index: As in its `ItemStarted`.
        total: As in its `ItemStarted`.
        item: As in its `ItemStarted`.
        done: How many inputs are over, this one included.
        failed: How many of them failed.
        duration: Seconds it took.
        cost: What it spent.
        error: The class of its error, None where it answered.
        resumed: Whether an earlier life of the run has paid for all of it.
    """

    index: int
    total: int | None
    item: str
    done: int
    failed: int
    duration: float
    cost: TokenUsage = NO_USAGE
    error: str | None = None
    resumed: bool = False


class CallStarted(EventBase, frozen=True, kw_only=True):
    """A completion is asked for; its attempts and waits follow below it.

    Args:
        ordinal: How many calls came before it at this path.
        model: The model asked, where the provider names it.
        server: The host asked, where the provider names it.
        port: The port asked, where the provider names its address.
        provider: The class of the provider asked.
        max_tokens: Output tokens asked for; None where nobody set a bound.
        choices: Answers asked for at once.
        temperature: Sampling temperature; None where it is left to the provider.
        settings: Further settings of the request, of those that are numbers or words of an API and no
            content: `top_p`, `seed`, `stop`, `reasoning_effort`, ...
        has_form: Whether the answer is to have a form, as JSON.
        is_streamed: Whether it is asked for in pieces.
        prompt: Its messages as JSON, where content was asked for.
        tools: The tools the model may call, as JSON, where content was asked for.
    """

    ordinal: int
    model: str | None = None
    server: str | None = None
    port: int | None = None
    provider: str | None = None
    max_tokens: int | None = None
    choices: int = 1
    temperature: float | None = None
    settings: dict[str, float | int | str | tuple[str, ...]] = {}
    has_form: bool = False
    is_streamed: bool = False
    prompt: str | None = None
    tools: str | None = None


class CallFinished(EventBase, frozen=True, kw_only=True):
    """A completion is over.

    Args:
        ordinal: As in its `CallStarted`.
        attempts: How many attempts were sent, in this life of the run where it has a journal.
        duration: Seconds it took, waits included.
        cost: What its attempts are charged.
        finish_reason: Why the model stopped, where it answered.
        finish_reasons: The same for each of several answers to one request.
        response_id: What the server calls the answer, where it says so.
        response_model: The model that answered, as the server names it.
        first_piece: Seconds from sending the attempt that answered to the first piece of its text, where it
            came in pieces.
        is_estimated: Whether the tokens of an attempt are those reserved, for the server gave no figure.
        is_replayed: Whether the answer was in a journal or a cache, so that nothing was sent for it.
        error: The class of its error, `"Cancelled"` where it was cancelled, None where it answered.
        text: The answer, where content was asked for.
        tool_calls: The tools that the model calls, as JSON, where content was asked for.
    """

    ordinal: int
    attempts: int
    duration: float
    cost: TokenUsage = NO_USAGE
    finish_reason: str | None = None
    finish_reasons: tuple[str, ...] = ()
    response_id: str | None = None
    response_model: str | None = None
    first_piece: float | None = None
    is_estimated: bool = False
    is_replayed: bool = False
    error: str | None = None
    text: str | None = None
    tool_calls: str | None = None


class AttemptStarted(EventBase, frozen=True, kw_only=True):
    """One attempt at a completion is sent.

    Args:
        attempt: Counted from 1; above 1 it is a retry, or the request said in another way.
        max_tokens: Output tokens granted; None where nobody set a bound.
        model: The model asked, where the provider names it.
        server: The host asked, where the provider names it.
        port: The port asked, where the provider names its address.
        provider: The class of the provider asked.
    """

    attempt: int
    max_tokens: int | None = None
    model: str | None = None
    server: str | None = None
    port: int | None = None
    provider: str | None = None


class AttemptFinished(EventBase, frozen=True, kw_only=True):
    """One attempt is settled.

    Args:
        attempt: As in its `AttemptStarted`.
        duration: Seconds it took.
        cost: What it is charged; nothing where another call carried it.
        finish_reason: Why the model stopped, where it answered.
        error: The class of its error, `"Cancelled"` where it was cancelled, None where it answered.
        status: The HTTP status, where there was one.
        request_id: What the server calls the request, where it says so.
        learned: What its refusal taught of the server: the fields of its dialect that changed.
    """

    attempt: int
    duration: float
    cost: TokenUsage = NO_USAGE
    finish_reason: str | None = None
    error: str | None = None
    status: int | None = None
    request_id: str | None = None
    learned: tuple[str, ...] = ()


class WaitStarted(EventBase, frozen=True, kw_only=True):
    """A call waits.

    Args:
        reason: What for.
        delay: For how many seconds, where that is known beforehand.
        attempt: For a back-off, the attempt that failed.
        error: For a back-off, the class of its error.
    """

    reason: WaitReason
    delay: float | None = None
    attempt: int = 0
    error: str | None = None


class WaitFinished(EventBase, frozen=True, kw_only=True):
    """A wait is over.

    Args:
        reason: As in its `WaitStarted`.
        duration: Seconds it took.
    """

    reason: WaitReason
    duration: float


class TextDelta(EventBase, frozen=True, kw_only=True):
    """A piece of a streamed answer; sent only where content was asked for. Its `id` is that of its call.

    Args:
        text: The piece.
        whole: Whether it is the whole text, from a provider that cannot stream.
        kind: What it is a piece of.
        is_answer: Whether it is text of the run's answer, by the place of its stage in the pipeline. A
            `TextVoided` may take it back.
        tool: For arguments, the name of the tool that is called.
        index: For arguments, which call of the answer they are of, from 0.
    """

    text: str
    whole: bool = False
    kind: DeltaKind = "text"
    is_answer: bool = False
    tool: str | None = None
    index: int = 0

    @property
    def call(self) -> int:
        """The call that says it."""
        return self.id


class TextVoided(EventBase, frozen=True, kw_only=True):
    """Text that a call has said is no part of the answer after all. Its `id` is that of the call.

    Args:
        reason: `"failed"`: the call broke off, or the stage that it answered for failed; `"repair"`: the
            answer would not do, and is asked for again; `"tools"`: the model calls tools before it answers.
    """

    reason: VoidReason

    @property
    def call(self) -> int:
        """The call to forget the text of; its partial values and elements, too."""
        return self.id


class PartialValue(EventBase, frozen=True, kw_only=True):
    """What can be read so far of an answer of a type. Its `id` is that of its call.

    Args:
        value: Plain data (dict, list, str, ...): fields may be missing, and the last text is a beginning.
        is_answer: As in `TextDelta`.
    """

    value: Any
    is_answer: bool = False

    @property
    def call(self) -> int:
        """The call that says it."""
        return self.id


class Element(EventBase, frozen=True, kw_only=True):
    """An element of an answer that is a list: whole, and of its type. Its `id` is that of its call.

    Args:
        value: The element.
        index: Its place, from 0.
        is_answer: As in `TextDelta`.
    """

    value: Any
    index: int
    is_answer: bool = False

    @property
    def call(self) -> int:
        """The call that says it."""
        return self.id


class ToolStarted(EventBase, frozen=True, kw_only=True):
    """A tool is called.

    Args:
        tool: Its name.
        call_id: What the model's request to call it is known by.
        description: What the model is told of it; None where there is no tool of that name.
        arguments: Its arguments as JSON, where content was asked for.
    """

    tool: str
    call_id: str = ""
    description: str | None = None
    arguments: str | None = None


class ToolFinished(EventBase, frozen=True, kw_only=True):
    """A tool came back.

    Args:
        tool: Its name.
        duration: Seconds it took.
        error: What became of the call where it gave no result: the class of an exception, `"TimeoutError"`,
            `"InvalidArguments"`, `"UnknownTool"`, `"Cancelled"` where the run ended before it, ...
        text: What the model gets to see, where content was asked for.
    """

    tool: str
    duration: float
    error: str | None = None
    text: str | None = None


class Evaluated(EventBase, frozen=True, kw_only=True):
    """A draft has a score.

    Args:
        evaluator: Who gave it: `"judge"` for the built-in one, else the name of the function.
        score: From 0 to 1.
        iteration: Which draft it is, from 0.
        critique: What would make the draft better, where content was asked for.
    """

    evaluator: str
    score: float
    iteration: int
    critique: str | None = None


Event: TypeAlias = (
    RunStarted
    | RunFinished
    | StageStarted
    | StageFinished
    | ItemStarted
    | ItemFinished
    | CallStarted
    | CallFinished
    | AttemptStarted
    | AttemptFinished
    | WaitStarted
    | WaitFinished
    | TextDelta
    | TextVoided
    | PartialValue
    | Element
    | ToolStarted
    | ToolFinished
    | Evaluated
)
"""Any record; `match` over it is exhaustive."""


class Answered(msgspec.Struct, Generic[T_co], frozen=True):
    """The end of a run that is streamed, its last event.

    Args:
        outcome: What `run` would have returned.
    """

    outcome: Outcome[T_co]


def event_from_dict(data: Mapping[str, Any]) -> Event:
    """Return the record that `to_dict` of one wrote.

    Raises:
        ValueError: It is not of that form.

    >>> event_from_dict(StageStarted(run="a1", id=2, stage="draft", kind="Refine").to_dict())
    StageStarted(run='a1', id=2, parent=None, path=(), at=0.0, stage='draft', kind='Refine')
    """
    try:
        # msgspec takes a union here, its stubs know classes only
        return cast("Event", msgspec.convert(data, cast("type[Any]", Event)))
    except msgspec.ValidationError as error:
        raise ValueError(f"not the form of an event: {error}") from None


Trace: TypeAlias = Callable[[Event], None]
"""Receives the records of a run, in order. One that raises is logged once and not called again."""


@runtime_checkable
class TracingContext(Protocol):
    """A trace that wants stages, calls, tools and inputs of `each` to run in a context of its own making.

    Three attributes are optional. Where `wants_content` is True it is handed texts, as `with_content` does.
    `is_idle` is asked as a run begins; where it is True, the run is not told to this trace. `waited(run, id,
    seconds)` is called for each piece of a streamed answer after the first, with the call that it is of and
    how long the server took for it.
    """

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        ...

    def enter(self, run: str, id: int) -> Callable[[], None] | None:  # noqa: A002 - as in the records
        """Set context variables for what has just started, and return what sets them back.

        Called in the task that does the work, right after the record of its start; what is returned is called
        in the same task at its end. None where there is nothing to set.
        """
        ...


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


_TEXTS: Final[dict[type[EventBase], dict[str, None]]] = {
    CallStarted: {"prompt": None, "tools": None},
    CallFinished: {"text": None, "tool_calls": None},
    ToolStarted: {"arguments": None},
    ToolFinished: {"text": None},
    Evaluated: {"critique": None},
}


def without_content(event: Event) -> Event | None:
    """Return a record without the texts in it; None where it is nothing but text.

    >>> without_content(ToolStarted(run="a1", id=2, tool="pay", arguments='{"amount":4}')).arguments is None
    True
    """
    if isinstance(event, TextDelta | TextVoided | PartialValue | Element):
        return None
    texts = _TEXTS.get(type(event))
    return event if texts is None else cast("Event", msgspec.structs.replace(event, **texts))
