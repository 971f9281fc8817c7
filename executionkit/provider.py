"""What a provider is: one coroutine that takes messages and returns an `LLMResponse`. No effects here."""

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, cast, runtime_checkable

import msgspec

from executionkit.core.content import split_thoughts
from executionkit.core.endings import is_cut, is_failed
from executionkit.core.failover import Cooldown
from executionkit.core.foreign import attribute, method
from executionkit.core.frozen import FrozenDict, frozen_json
from executionkit.core.json import MAX_DEPTH, is_deeper_than
from executionkit.core.prompt import prompt_problem
from executionkit.core.refusals import refusal_in, why_refused
from executionkit.core.usage import Shown, TokenUsage, read_usage
from executionkit.errors import InvalidPromptError, ProviderError

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "CallPiece",
    "Cooldown",
    "LLMProvider",
    "LLMResponse",
    "Message",
    "Piece",
    "Pieces",
    "StreamingProvider",
    "ToolCall",
    "ToolCallingProvider",
    "ToolSpec",
    "checked_provider",
    "checked_response",
    "finish_reasons_in",
    "opening",
    "shown_in",
    "supports_tools",
    "user",
]

DEFAULT_MAX_TOKENS = 4096
"""Output tokens a single completion may take unless a stage says otherwise."""

Message: TypeAlias = dict[str, Any]
"""One chat message in OpenAI's format: `{"role": "user", "content": "..."}`."""

_EMPTY: Final = FrozenDict[Any]()

ToolSpec: TypeAlias = dict[str, Any]
"""One tool in OpenAI's format: `{"type": "function", "function": {"name": ..., "parameters": ...}}`."""


def user(text: str) -> Message:
    """Return a user message.

    >>> user("hello")
    {'role': 'user', 'content': 'hello'}
    """
    return {"role": "user", "content": text}


def opening(prompt: str) -> list[Message]:
    """Return the conversation that a prompt opens.

    Raises:
        InvalidPromptError: The prompt is empty, or not text.
    """
    problem = prompt_problem(prompt)
    if problem is not None:
        raise InvalidPromptError(problem)
    return [user(prompt)]


class ToolCall(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """A model's request to call a tool.

    Args:
        id: What the result must refer to.
        name: The tool's name.
        arguments: The arguments by name, read-only; the text as it came where it was not a JSON object.
        extra: Fields of the call that ExecutionKit does not know (`extra_content`, ...); they are sent back
            with it.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | str
    extra: Mapping[str, Any] = _EMPTY

    def __post_init__(self) -> None:
        _freeze(self, "arguments", self.arguments)
        _freeze(self, "extra", self.extra)

    def __hash__(self) -> int:
        return hash((self.id, self.name, self.arguments))


def _freeze(owner: msgspec.Struct, name: str, value: object) -> None:
    """Let a value keep a read-only copy of its own; what is no mapping is told of where it is checked."""
    kind = type(value)
    if kind is dict:
        msgspec.structs.force_setattr(owner, name, frozen_json(value) if value else _EMPTY)
    elif kind is not FrozenDict and isinstance(value, Mapping):
        with suppress(Exception):  # a mapping of somebody else's may raise whatever it likes
            msgspec.structs.force_setattr(owner, name, frozen_json(cast("object", value)))


class LLMResponse(msgspec.Struct, frozen=True):
    """One completion.

    Args:
        content: The text; empty where the model only calls tools. Reasoning that it began with (`<think>`) is
            moved to `reasoning` once a run or a `Provider` has read it.
        tool_calls: Calls the model asks for.
        finish_reason: Why it stopped: `"stop"`, `"length"`, `"tool_calls"`, `"content_filter"`, ...
        usage: The token counts as reported, in the OpenAI or the Anthropic key dialect; a read-only copy.
        raw: The provider's own answer, whatever its type.
        extra: Fields of the assistant's message that ExecutionKit does not know (`reasoning_content`, ...);
            they are sent back with the message where the conversation goes on.
        reasoning: The model's reasoning, where the server tells it: it does not vote, and is read neither as
            JSON nor as a score.
        id: What the server calls the answer; empty where it does not say.
        model: The model that answered, as the server names it; empty where it does not say.
        request_id: What the server calls the request, as its headers say; empty where they do not.
        status: The HTTP status that it came with; None where it came in another way.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Mapping[str, Any] = _EMPTY
    raw: object = None
    extra: Mapping[str, Any] = _EMPTY
    reasoning: str = ""
    id: str = ""
    model: str = ""
    request_id: str = ""
    status: int | None = None

    def __post_init__(self) -> None:
        _freeze(self, "usage", self.usage)
        _freeze(self, "extra", self.extra)

    def __hash__(self) -> int:
        return hash((self.content, self.tool_calls, self.finish_reason, self.reasoning))

    @property
    def input_tokens(self) -> int:
        """Reported prompt tokens; 0 where missing or absurd."""
        return self._reported.input_tokens

    @property
    def output_tokens(self) -> int:
        """Reported completion tokens; 0 where missing or absurd."""
        return self._reported.output_tokens

    @property
    def total_tokens(self) -> int:
        """Reported tokens, both ways."""
        return self._reported.total_tokens

    @property
    def cache_read_tokens(self) -> int:
        """Reported prompt tokens that came out of the provider's cache; a part of `input_tokens`."""
        return self._reported.cache_read_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Reported prompt tokens that were written to the provider's cache; a part of `input_tokens`."""
        return self._reported.cache_write_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Reported tokens of reasoning; a part of `output_tokens`."""
        return self._reported.reasoning_tokens

    @property
    def usd(self) -> Decimal | None:
        """The server's own figure of what the call cost, in US dollars; None where it gives none."""
        return self._reported.usd

    @property
    def _reported(self) -> TokenUsage:
        return read_usage(self.usage).or_else(0, 0)

    @property
    def has_tool_calls(self) -> bool:
        """Whether the model asks for at least one tool."""
        return bool(self.tool_calls)

    @property
    def was_truncated(self) -> bool:
        """Whether the text was cut at the token limit."""
        return is_cut(self.finish_reason)

    @property
    def was_refused(self) -> bool:
        """Whether the model refused, or a content filter cut in; what it says then is no answer."""
        return self.refusal is not None

    @property
    def refusal(self) -> str | None:
        """The text of the model's refusal, or `"content_filter"`; None where this is an answer."""
        return refusal_in(self.finish_reason, (self.extra or {}).get("refusal"))

    @property
    def is_empty(self) -> bool:
        """Whether it has neither a text nor a call; then it is no answer, and `why_empty` says why."""
        return not (self.tool_calls or self.content.strip())

    @property
    def why_empty(self) -> str | None:
        """Why there is no answer in it, a clause; None where there is a text or a call."""
        if not self.is_empty:
            return None
        if self.refusal is not None:
            return why_refused(self.refusal)
        if is_failed(self.finish_reason):
            return f"the server broke it off ({self.finish_reason})"
        if self.was_truncated:
            return "it was cut at the limit of its length before it said anything"
        return "it holds reasoning only" if self.reasoning.strip() else "it is empty"


@runtime_checkable
class LLMProvider(Protocol):
    """Anything that completes a chat. No inheritance is needed, only this shape."""

    def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> Awaitable[LLMResponse]:
        """Return the model's answer to `messages`.

        Args:
            messages: The conversation in OpenAI's format.
            temperature: Sampling temperature; None leaves it to the provider.
            max_tokens: Output tokens at most; None leaves it to the provider.
            tools: Tools the model may call, in OpenAI's format.
            **kwargs: Further request fields, passed on as they are.

        Raises:
            LLMError: The model could not be asked, or did not answer. Anything else that is raised
                is wrapped in a `ProviderError`.
        """
        ...


@runtime_checkable
class ToolCallingProvider(LLMProvider, Protocol):
    """A provider whose models can call tools."""

    @property
    def supports_tools(self) -> Literal[True]:
        """True; an attribute, a class variable or a property."""
        ...


class CallPiece(msgspec.Struct, frozen=True):
    """A piece of a tool call under way.

    Args:
        name: The tool's name, as far as it is known.
        arguments: What it adds to the arguments, JSON text.
        index: Which call of the answer it is, from 0.
    """

    name: str
    arguments: str
    index: int = 0


class Piece(Protocol):
    """A piece of a streamed answer.

    It may have `reasoning` (str), what it adds to the model's reasoning, and `calls` (tuple of `CallPiece`),
    what it adds to tool calls; those are looked for, and need not be there.
    """

    @property
    def text(self) -> str:
        """What it adds to the text."""
        ...


class Pieces(Protocol):
    """A streamed answer, as it comes in: an async context manager to iterate over.

    It may have `is_cost_final` (bool), whether `cost` is the server's own figure for the whole; where it is
    not there, the cost of a stream that is broken off counts as an estimate.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    @property
    def cost(self) -> TokenUsage:
        """What it has cost so far."""
        ...

    @property
    def response(self) -> LLMResponse:
        """The whole, once all pieces are there."""
        ...


@runtime_checkable
class StreamingProvider(Protocol):
    """A provider that can answer piece by piece; one that streams has `complete` as well.

    `complete(stream=True)` asks such a provider in pieces, any other in one piece.
    """

    def stream(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> Pieces:
        """Start an answer; the errors are those of `LLMProvider.complete`, raised by the iteration."""
        ...


def shown_in(response: LLMResponse) -> tuple[Shown, ...]:
    """Return what each answer of a completion shows of its length; of the first, what was read out of it."""
    says_something = bool(response.content or response.tool_calls or response.reasoning)
    first, raw = Shown(says_something, response.was_truncated), response.raw
    return (first, *_shown_beside(cast("dict[str, object]", raw))) if isinstance(raw, dict) else (first,)


def finish_reasons_in(response: LLMResponse) -> tuple[str, ...]:
    """Return why the model stopped, for each answer of a completion."""
    raw: object = response.raw
    choices = cast("dict[str, object]", raw).get("choices") if isinstance(raw, dict) else None
    reasons: list[str] = [response.finish_reason]
    for choice in cast("list[object]", choices)[1:] if isinstance(choices, list) else ():
        given = cast("dict[str, object]", choice) if isinstance(choice, dict) else {}
        reasons.append(str(given.get("finish_reason") or "unknown"))
    return tuple(reasons)


def _shown_beside(raw: Mapping[str, object]) -> Iterator[Shown]:
    """Yield what the further answers of a completion in OpenAI's format show."""
    choices = raw.get("choices")
    for choice in cast("list[object]", choices)[1:] if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            given = cast("dict[str, object]", choice)
            message = given.get("message")
            said = cast("dict[str, object]", message) if isinstance(message, dict) else {}
            yield Shown(
                bool(said.get("content") or said.get("tool_calls")), is_cut(given.get("finish_reason"))
            )


def supports_tools(provider: object) -> bool:
    """Tell whether a provider says that its models can call tools."""
    return attribute(provider, "supports_tools") is True


def checked_provider(provider: LLMProvider) -> LLMProvider:
    """Return the provider, if it has the shape of one.

    Raises:
        TypeError: It has no `complete` to call.
    """
    if isinstance(provider, type):
        raise TypeError(f"a provider is wanted, not its class; call {provider.__name__}(...)")
    if method(provider, "complete") is None:
        raise TypeError(
            f"a provider needs `async complete(messages, ...) -> LLMResponse`; "
            f"{type(provider).__name__} has no such method"
        )
    return provider


def checked_response(response: object) -> LLMResponse:
    """Return what a provider answered, if it is an answer; None stands for no text and for no calls.

    Raises:
        ProviderError: It is not; not worth a retry.
    """
    if not isinstance(response, LLMResponse):
        raise ProviderError(
            f"the provider returned {type(response).__name__} instead of an LLMResponse", retryable=False
        )
    if response.extra and not _is_sound(response.extra):
        raise _unusable(response, f"extra fields that are no dict, or more than {MAX_DEPTH} levels deep")
    if is_failed(response.finish_reason):
        raise ProviderError(
            f"the provider broke off its answer (finish reason {response.finish_reason!r})",
            cost=read_usage(response.usage).or_else(0, 0),
        )
    if response.tool_calls == () and _is_a(response.content, str) and _is_a(response.finish_reason, str):
        return _without_thoughts(response)
    content, calls = response.content or "", response.tool_calls or ()
    reason = "stop" if _is_a(response.finish_reason, type(None)) else response.finish_reason
    if not (_is_a(content, str) and _is_a(reason, str) and _are_calls(calls)):
        raise _unusable(response, "content, tool calls or a finish reason of the wrong type")
    return _without_thoughts(
        msgspec.structs.replace(response, content=content, tool_calls=tuple(calls), finish_reason=reason)
    )


def _without_thoughts(response: LLMResponse) -> LLMResponse:
    thoughts, text = split_thoughts(response.content)
    if text == response.content:
        return response
    known = response.reasoning if _is_a(response.reasoning, str) else ""
    return msgspec.structs.replace(response, content=text, reasoning=known or thoughts)


def _unusable(response: LLMResponse, what: str) -> ProviderError:
    cost = read_usage(response.usage).or_else(0, 0)
    return ProviderError(f"the provider returned {what}", cost=cost, retryable=False)


def _is_sound(extra: object) -> bool:
    return isinstance(extra, Mapping) and not is_deeper_than({**cast("Mapping[str, Any]", extra)}, MAX_DEPTH)


def _are_calls(calls: object) -> bool:
    return isinstance(calls, (tuple, list)) and all(
        isinstance(call, ToolCall)
        and _is_a(call.id, str)
        and _is_a(call.name, str)
        and (not call.extra or _is_sound(call.extra))
        for call in cast("tuple[object, ...]", calls)
    )


def _is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind)
