"""The ReAct loop: the model calls tools and sees what comes of it, until it answers."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, cast, overload

import msgspec
from typing_extensions import TypeForm, Unpack, override

from executionkit.approval import Approval
from executionkit.core.bounds import Given, Reach, of_calls, unbounded
from executionkit.core.checks import check_completion, check_count
from executionkit.core.combined_bounds import in_turn
from executionkit.core.dialect import REASONING_FIELDS
from executionkit.core.facade import makes_stage
from executionkit.core.history import trim_rounds
from executionkit.core.schema.answer import answer_type
from executionkit.core.transcript import Transcript, parted, transcript_of
from executionkit.errors import MaxIterationsError
from executionkit.outcome import PatternResult
from executionkit.patterns.react.conversation import Conversation
from executionkit.provider import DEFAULT_MAX_TOKENS, Message, opening, user
from executionkit.runtime.context import Context
from executionkit.runtime.rules import Rule, check_rule
from executionkit.stage import Stage
from executionkit.system import System, check_system
from executionkit.tools import Tool, check_timeout

__all__ = ["OnLimit", "React", "ReactOptions", "react"]

T = TypeVar("T")

OnLimit: TypeAlias = Literal["fail", "answer"]
"""What a loop does at `max_rounds`, or when the budget has room for one more call only."""


class React(Stage[str, T], Generic[T], frozen=True):
    """A tool loop; see `react`."""

    tools: tuple[Tool, ...]
    max_rounds: int = 8
    max_observation_chars: int = 12_000
    tool_timeout: float | None = None
    temperature: float | None = 0.3
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_history_messages: int | None = None
    output_type: Any = None
    output_retries: int = 2
    on_limit: OnLimit = "fail"
    approve: Approval | None = None
    max_concurrency: int = 16
    max_tool_calls: int | None = None
    summarise: Stage[str, str] | None = None
    transcript: Transcript = Transcript()
    delimit_results: bool = False
    check: Rule[T] | None = None
    system: System[str] | None = None

    def __post_init__(self) -> None:
        _check_tools(self.tools)
        check_count("max_rounds", self.max_rounds)
        check_count("max_observation_chars", self.max_observation_chars)
        check_count("max_concurrency", self.max_concurrency)
        check_count("output_retries", self.output_retries, 0)
        check_completion(self.temperature, self.max_tokens)
        if self.tool_timeout is not None:
            check_timeout("tool_timeout", self.tool_timeout)
        if self.max_history_messages is not None:
            check_count("max_history_messages", self.max_history_messages)
        if self.max_tool_calls is not None:
            check_count("max_tool_calls", self.max_tool_calls, 0)
        if self.output_type is not None:
            answer_type(self.output_type)
        _check_choices(self.on_limit, self.approve, self.summarise)
        check_rule(self.check)
        check_system(self.system)

    @property
    @override
    def figures(self) -> tuple[str, ...]:
        return (
            "rounds",
            "tool_calls_made",
            "truncated_responses",
            "truncated_observations",
            "messages_trimmed",
        )

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[T]:
        conversation = Conversation(self, opening(value)[0]["content"], context)
        context.report(conversation.metadata)
        for _ in range(self.max_rounds):
            reply = await conversation.next_reply()
            if reply is None:
                return await conversation.conclude("budget")
            if reply.calls:
                context.void("tools")
                await conversation.observe(reply)
            elif reply.complaint is not None:
                context.void("repair")
                conversation.add([user(reply.complaint)])
            elif (answer := await conversation.read(reply)) is not None:
                return PatternResult(cast("T", answer.value), metadata=conversation.metadata())
        if self.on_limit == "answer":
            return await conversation.conclude("rounds")
        raise MaxIterationsError(
            f"no answer after {self.max_rounds} rounds; raise max_rounds or give the model better tools"
        )

    @property
    @override
    def streams_text(self) -> bool:
        return True

    @override
    def reach(self, given: Given) -> Reach:
        opened, why = self._opening(given), f"what the tools of {self.name} return"
        calls = self.max_rounds
        if self.on_limit == "answer":
            # Where a budget has no room for all of it, again without the oldest. A reply that is neither a
            # call nor an answer, and what it was told, are dropped one by one.
            calls += 2 * self.max_rounds + opened.rounds if given.is_limited else 1
        has_calls = given.has_tools is not False  # in text they are calls no more
        # Last words come after two messages at the least: where there is less room, no reply is with them.
        is_last_blind = self.on_limit == "answer" and not given.is_limited and opened.room < 3
        seeing = calls - 1 - is_last_blind
        reaches = [
            unbounded(f"what the tool {tool.name} asks the model") for tool in self.tools if tool.may_ask
        ]
        if self.summarise is not None and self.max_history_messages is not None:
            summary = self.summarise.reach(msgspec.structs.replace(given, value=math.inf, why_value=why))
            later = summary.if_at_all
            reaches += [summary if opened.is_trimmed else later] * opened.may_be_trimmed
            reaches += [later] * max(0, calls - 2)
            # The second call comes after one reply, which stays with its results; apart from what it was told
            # it has to go where there is no room for two. Then nobody can refuse its reasoning, nor its ids
            # where no other call has any.
            may_be_last_words = self.on_limit == "answer" and (given.is_limited or self.max_rounds == 1)
            if calls > 1 and (opened.kept or opened.room < 2 or may_be_last_words):
                refusals = given.changes_of_mind + (has_calls and calls == 2)
                if seeing and not opened.kept and summary.calls < refusals:
                    later = msgspec.structs.replace(later, calls=0, depth=0)
                elif seeing and not opened.kept:
                    seeing -= 1
                reaches.append(later)
        ask = partial(
            of_calls,
            given,
            math.inf,
            self.max_tokens,
            has_form=given.has_tools is not True,
            has_systems=opened.has_several_systems,
            why_prompt=why,
        )
        has_kept_calls = has_calls and any(message.get("tool_calls") for message in opened.kept)
        has_kept_thoughts = any(name in message for message in opened.kept for name in REASONING_FIELDS)
        whole = in_turn(
            [
                *reaches,
                ask(has_thoughts=has_kept_thoughts or has_kept_calls, has_calls=has_kept_calls),
                ask(least=0, most=seeing, has_thoughts=True, has_calls=has_calls),
                ask(least=0, most=calls - 1 - seeing),
            ]
        ).answering(says_something=self.output_type is not None)
        if self.output_type is None:
            return whole
        return msgspec.structs.replace(whole, value=math.inf, why_value=f"the value of {self.name} as text")

    def _opening(self, given: Given) -> "_Opening":
        """Return what is known of the first call's messages; what is said as `system` may be nothing."""
        system, earlier = parted(self.transcript)
        most_said = len(system) if self.system is None else 1
        said = 0 if callable(self.system) else most_said
        room, least_room = [
            sys.maxsize
            if self.max_history_messages is None
            else self.max_history_messages - head - 1 - (self.summarise is not None)
            for head in (said + (given.has_tools is False), most_said + (given.has_tools is not True))
        ]
        dropped = trim_rounds(earlier, room, 0)
        kept = list(chain(*earlier[dropped:]))
        told = ["system"] * (given.has_tools is not True)
        opens = [message["role"] for message in system] if self.system is None else ["system"]
        roles = [*told, *opens, *[message["role"] for message in kept]]
        return _Opening(
            len(earlier),
            room,
            kept,
            dropped > 0,
            trim_rounds(earlier, least_room, 0) > 0,
            "system" in roles[1:],
        )


class _Opening(msgspec.Struct, frozen=True):
    """What is known of the messages of a loop before it is run.

    Args:
        rounds: Rounds of the transcript that it goes on from.
        room: Messages at the most beside those that always stay.
        kept: The messages of the transcript that the first call may have.
        is_trimmed: Whether some of the transcript is dropped before the first call.
        may_be_trimmed: Whether some of it may be.
        has_several_systems: Whether a request may have a system message that is not its first message.
    """

    rounds: int
    room: int
    kept: list[Message]
    is_trimmed: bool
    may_be_trimmed: bool
    has_several_systems: bool


def _check_tools(tools: tuple[object, ...]) -> None:
    names: set[str] = set()
    for tool in tools:
        if not isinstance(tool, Tool):
            raise TypeError(
                f"a tool must be a Tool, not {type(tool).__name__}; @tool makes one of a function"
            )
        if tool.name in names:
            raise ValueError(f"two tools are named {tool.name!r}; names must differ")
        names.add(tool.name)


def _check_choices(on_limit: object, approve: object, summarise: object) -> None:
    if on_limit not in {"fail", "answer"}:
        raise ValueError(f'on_limit must be "fail" or "answer", not {on_limit!r}')
    if approve is not None and not callable(approve):
        raise TypeError(f"approve must be an async function, not {type(approve).__name__}")
    if summarise is not None and not isinstance(summarise, Stage):
        raise TypeError(f"summarise must be a Stage, not {type(summarise).__name__}")


class ReactOptions(TypedDict, total=False):
    """The keywords of `react` that have a default in `React`; what they mean stands at `react`."""

    max_rounds: int
    max_observation_chars: int
    tool_timeout: float | None
    temperature: float | None
    max_tokens: int
    max_history_messages: int | None
    output_retries: int
    on_limit: OnLimit
    approve: Approval | None
    max_concurrency: int
    max_tool_calls: int | None
    summarise: Stage[str, str] | None
    delimit_results: bool
    system: System[str] | None


@overload
def react(
    tools: Sequence[Tool],
    *,
    output_type: None = None,
    transcript: Sequence[Mapping[str, Any]] = (),
    check: Rule[str] | None = None,
    **options: Unpack[ReactOptions],
) -> React[str]: ...
@overload
def react(
    tools: Sequence[Tool],
    *,
    output_type: type[T],
    transcript: Sequence[Mapping[str, Any]] = (),
    check: Rule[T] | None = None,
    **options: Unpack[ReactOptions],
) -> React[T]: ...
@overload
def react(
    tools: Sequence[Tool],
    *,
    output_type: TypeForm[T],
    transcript: Sequence[Mapping[str, Any]] = (),
    check: Rule[T] | None = None,
    **options: Unpack[ReactOptions],
) -> React[T]: ...
@makes_stage
def react(
    tools: Sequence[Tool],
    *,
    output_type: object = None,
    transcript: Sequence[Mapping[str, Any]] = (),
    check: Rule[Any] | None = None,
    **options: Unpack[ReactOptions],
) -> React[Any]:
    """Let the model call tools until it answers (Yao et al. 2022, "ReAct", section 2).

    The value is the final text, or a value of the type `output_type`; the score is None. The calls of one
    round run at once, their results stand in the order of the requests. What goes wrong in a call, be it an
    unknown tool, arguments that do not fit the schema, a time-out or an exception, is told to the model, and
    the loop goes on; of an exception only the class, unless it is a `ToolError`. A model whose provider has
    no tool calls (`supports_tools` is not True) is told in JSON, under one schema of calls and answer; there
    a call counts only where the whole reply is one, and what is neither a call nor an answer is sent back.

    Args:
        tools: What the model may call; names must differ.
        output_type: The type of the final answer, any that msgspec decodes; None for text.
        max_rounds: Completions at most (default 8).
        max_observation_chars: Characters of a result that the model gets to see, the note that more was cut
            included (default 12000).
        tool_timeout: Seconds a call may take, in place of each tool's own (default None: each tool's own).
        temperature: Sampling temperature, 0 to 2 (default 0.3); None leaves it to the provider.
        max_tokens: Output tokens at most, a completion (default 4096).
        max_history_messages: Messages of the conversation to send at most; the oldest rounds are dropped
            whole, the prompt, leading system messages and the last round stay. None (the default) sends all.
        output_retries: Answers that do not decode to `output_type`, or were cut at `max_tokens`, and are sent
            back with the reason (default 2).
        on_limit: `"answer"` makes one last call without tools at `max_rounds`, or when the budget has hardly
            room for more than one; where it has no room for all results either, the oldest rounds are left
            out. `"fail"` (the default) does not.
        approve: Async hook asked before each call, one after the other: `Approve`, `Deny`, `Edit` or `Stop`.
            If it raises or answers anything else the call is denied.
        max_concurrency: Calls of one round under way at once (default 16).
        max_tool_calls: Calls of the whole loop (default None: any number); a tool's own ceiling is
            `max_calls`.
        summarise: Stage that makes a summary of what `max_history_messages` drops, on the same budget.
        transcript: Messages to go on from, such as `metadata["transcript"]` of another loop. A model without
            tool calls is told those in it in JSON.
        delimit_results: Put each result between `<tool_result>` tags, of which it can hold none itself
            (default False). Without tool calls they always are.
        check: Looks at the answer, plain or async, and returns None, or the reason why it will not do: the
            reason goes back to the model, within the same retries as answers that do not decode.
        system: What the model is told before all else, in every round: text, or a function of the input. It
            takes the place of the system messages that `transcript` begins with.

    Metadata (also on an error):
        rounds (int): Completions.
        tool_calls_made (int): Calls asked for, failed ones included.
        truncated_responses (int): Completions cut at `max_tokens`. A text that was cut is no answer, and a
            call that was is not made: the model is told.
        truncated_observations (int): Results cut at `max_observation_chars`.
        messages_trimmed (int): Messages dropped from the conversation.
        transcript (Transcript): The whole conversation, to go on from. A call that had not ended when the run
            did has a result that says so.
        reasons (tuple of str): Why answers did not decode, were cut, refused or filtered, or broke the rule,
            where any did.
        limit (str): `"rounds"` or `"budget"`, where `on_limit` made the last call.
        refusal (str): Where the model refused in its last completion, or a content filter cut in: the text of
            the refusal, or `"content_filter"`. A final text is then no answer.

    Returns (on `run`):
        MaxIterationsError: No answer after `max_rounds`.
        InvalidOutputError: No whole answer, of the type `output_type` and past `check` where those are given;
            `last_text` (str) in the metadata.
        EvaluationError: `check` raised, or returned neither None nor text.
        StoppedError: `approve` answered `Stop`.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range, two tools share a name, or a transcript is one that no server
            could be sent (see `executionkit.core.transcript`).
    """
    if not isinstance(cast("object", tools), Iterable):
        raise TypeError(f"tools must be a sequence of tools, as [weather], not {type(tools).__name__}")
    stage: React[Any] = React(
        tuple(tools), output_type=output_type, transcript=transcript_of(transcript), check=check, **options
    )
    return stage
