"""How a tool loop speaks with a model: by the provider's tool calls, or in JSON where it has none."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, Protocol, cast

import msgspec

from executionkit.core.dialect import JsonForm
from executionkit.core.encoding import json_text
from executionkit.core.endings import is_filtered
from executionkit.core.json import decode_json
from executionkit.core.json_text import whole_json, without_thoughts
from executionkit.core.observation import delimited
from executionkit.core.schema.validation import Rejected, parse_arguments
from executionkit.patterns.react.text_protocol import (
    CALL_MARKS,
    TextCall,
    WrongForm,
    instructions,
    read_reply,
    reply_schema,
    result_message,
    retold,
)
from executionkit.provider import LLMResponse, Message, ToolCall
from executionkit.runtime.context import Context
from executionkit.tools import Tool

__all__ = ["NativeTools", "Reply", "ReplySettings", "TextTools", "ToolProtocol", "choose_protocol"]

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME: Final = 64
_CALL_AS_TEXT: Final = re.compile(
    rf"\s*(?:<[|/]?(?:tool_call|function_call)s?\|?>|<function=|{CALL_MARKS})",
    re.IGNORECASE,
)
"""How models write a call that their server was to read and did not: no answer."""
_CALLS_IN_JSON: Final = re.compile(r'"(?:arguments|parameters)"\s*:')
_PARTS_OF_CALL: Final = frozenset({"type", "id", "name", "arguments", "parameters"})


class ReplySettings(msgspec.Struct, frozen=True):
    """How every completion of a loop is asked for.

    Args:
        temperature: Sampling temperature.
        max_tokens: Output tokens at most.
        delimit_results: Whether results stand between tags where they have a role of their own.
        answer: The JSON Schema of the final answer, for a model that is told in JSON.
        is_typed: Whether the final answer is of a type, not text.
        ids: Ids of the tool calls that the conversation begins with.
    """

    temperature: float | None
    max_tokens: int
    delimit_results: bool
    answer: Mapping[str, Any]
    is_typed: bool = False
    ids: frozenset[str] = frozenset()


class Reply(msgspec.Struct, frozen=True):
    """What the model said.

    Args:
        message: The message as it goes back to the model, fields we do not know included.
        text: Its answer, where it calls no tool.
        calls: The tools it calls.
        was_truncated: Whether it was cut at the token limit.
        refusal: What the model or its content filter says in place of an answer; None where it answers.
        complaint: What to tell the model of a reply that is neither a call nor an answer; None of another.
        has_open_end: Whether the last call, or the text, may have gone on: a limit or a filter cut it.
    """

    message: Message
    text: str
    calls: tuple[ToolCall, ...]
    was_truncated: bool
    refusal: str | None = None
    complaint: str | None = None
    has_open_end: bool = False


class ToolProtocol(Protocol):
    """One way of calling tools."""

    head: list[Message]
    """Messages that open every request."""

    async def ask(self, context: Context, messages: list[Message], *, with_tools: bool = True) -> Reply:
        """Ask the model to go on."""
        ...

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
        """Return the messages that bring the results."""
        ...

    def earlier(self, messages: list[Message]) -> list[Message]:
        """Return a round of a given transcript as this protocol has it."""
        ...


def choose_protocol(context: Context, tools: Sequence[Tool], settings: ReplySettings) -> ToolProtocol:
    """Return the way to call tools that the provider of `context` knows."""
    if context.provider.supports_tools:
        return NativeTools(tools, settings)
    return TextTools(tools, settings)


class NativeTools:
    """Tool calls as the provider has them.

    What goes back to the server is legal whatever the model made of it: names as servers take them, arguments
    that are a JSON object, ids that no other call of the conversation has.
    """

    def __init__(self, tools: Sequence[Tool], settings: ReplySettings) -> None:
        self.head: list[Message] = []
        self._specs = [tool.spec for tool in tools]
        self._settings = settings
        self._ids = _Ids(settings.ids)

    async def ask(self, context: Context, messages: list[Message], *, with_tools: bool = True) -> Reply:
        """Ask the model to go on."""
        response = await context.complete(
            messages,
            temperature=self._settings.temperature,
            max_tokens=self._settings.max_tokens,
            tools=self._specs if with_tools and self._specs else None,
            is_answer=True,
        )
        calls = tuple(self._ids.renamed(response.tool_calls)) if with_tools else ()
        message = _as_message(response)
        if calls:
            message["tool_calls"] = list(map(_as_request, calls))
        complaint = None
        says_something = calls or response.refusal or without_thoughts(response.content).strip()
        if response.was_truncated and not says_something:
            complaint = "Your reply was cut off at the token limit before it said anything. Be shorter."
        elif self._specs and not calls and self._is_call_as_text(response.content):
            complaint = (
                "Nothing was done: your reply is a tool call written as text. Call the tool, or answer."
            )
        return Reply(
            message,
            response.content,
            calls,
            response.was_truncated,
            response.refusal,
            complaint,
            has_open_end=response.was_truncated or is_filtered(response.finish_reason),
        )

    def _is_call_as_text(self, text: str) -> bool:
        """Tell whether a text is a call that the server was to read: it has the mark, or names a tool."""
        if _CALL_AS_TEXT.match(text):
            return True
        whole = whole_json(text) if _CALLS_IN_JSON.search(text) else None
        found = None if whole is None else decode_json(whole)
        calls = cast("list[object]", found if isinstance(found, list) else [found])
        names = [spec["function"]["name"] for spec in self._specs]
        return bool(calls) and all(_is_call_of(call, names) for call in calls)

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
        """Return the messages that bring the results."""
        shown = map(delimited, texts) if self._settings.delimit_results else texts
        return [
            {"role": "tool", "tool_call_id": call.id, "content": text}
            for call, text in zip(calls, shown, strict=True)
        ]

    def earlier(self, messages: list[Message]) -> list[Message]:
        """Return a round of a given transcript, its calls made legal."""
        first, *rest = messages
        if not first.get("tool_calls"):
            return messages
        return [{**first, "tool_calls": [_made_legal(call) for call in first["tool_calls"]]}, *rest]


def _is_call_of(call: object, names: list[str]) -> bool:
    if not isinstance(call, dict):
        return False
    said = cast("dict[str, object]", call)
    has_arguments = "arguments" in said or "parameters" in said
    return said.get("name") in names and has_arguments and said.keys() <= _PARTS_OF_CALL


class _Ids:
    """The ids of the calls of a conversation: a call that has none, or one that is taken, gets a new one."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._numbers: Iterator[int] = count(1)

    def renamed(self, calls: Iterable[ToolCall]) -> Iterator[ToolCall]:
        for call in calls:
            identity = call.id
            while not identity or identity in self._taken:
                identity = f"call_{next(self._numbers)}"
            self._taken.add(identity)
            yield call if identity == call.id else msgspec.structs.replace(call, id=identity)


_OF_CALLS: Final = frozenset({"tool_calls", "tool_call_id"})


def _as_message(response: LLMResponse) -> Message:
    """Return a completion as a message of the conversation; fields that say nothing stay out of it.

    So do calls: those that are made stand in `tool_calls`, and a provider that hands on the whole message of
    its server has them among the other fields as well.
    """
    extra = {
        name: value
        for name, value in response.extra.items()
        if name not in _OF_CALLS and value not in (None, [], {}, "")
    }
    return {**extra, "role": "assistant", "content": response.content}


def _as_request(call: ToolCall) -> Message:
    function = {"name": _legal_name(call.name), "arguments": _legal_arguments(call.arguments)}
    return {**call.extra, "id": call.id, "type": "function", "function": function}


def _made_legal(call: Message) -> Message:
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    given = cast("Message", function)
    legal = {
        "name": _legal_name(str(given.get("name") or "")),
        "arguments": _legal_arguments(given.get("arguments") or ""),
    }
    return {"type": "function", **call, "function": {**given, **legal}}


def _legal_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:_LONGEST_NAME] or "unnamed"


def _legal_arguments(arguments: Mapping[str, Any] | str) -> str:
    """Return arguments as the JSON text of an object: some servers read it, and refuse anything else."""
    if isinstance(parse_arguments(arguments), Rejected):
        return "{}"
    text = arguments if isinstance(arguments, str) else json_text(arguments)
    return text if text.strip() else "{}"


class TextTools:
    """Tool calls as JSON in the text, for providers without any."""

    def __init__(self, tools: Sequence[Tool], settings: ReplySettings) -> None:
        specs = [tool.spec for tool in tools]
        self.head: list[Message] = [{"role": "system", "content": instructions(specs, settings.answer)}]
        self._settings = settings
        self._form = msgspec.json.encode(reply_schema(specs, settings.answer))
        self._last_form = msgspec.json.encode(reply_schema([], settings.answer))
        self._ids = _Ids(settings.ids)

    async def ask(self, context: Context, messages: list[Message], *, with_tools: bool = True) -> Reply:
        """Ask the model to go on."""
        response = await context.complete(
            messages,
            temperature=self._settings.temperature,
            max_tokens=self._settings.max_tokens,
            form=JsonForm("reply", msgspec.json.decode(self._form if with_tools else self._last_form)),
        )
        message, text = _as_message(response), response.content
        calls: tuple[ToolCall, ...] = ()
        complaint = None
        reply = read_reply(
            text,
            was_cut=response.was_truncated,
            is_typed=self._settings.is_typed,
            has_more=bool(response.reasoning.strip() or response.tool_calls),
        )
        match reply:
            case str():
                text = reply
            case _ if response.refusal is not None:
                pass  # whatever it holds, its end may be missing
            case TextCall(name, arguments):
                text = ""
                calls = tuple(self._ids.renamed([ToolCall("", name, arguments)])) if with_tools else ()
            case WrongForm():
                complaint = str(reply)
        return Reply(message, text, calls, response.was_truncated, response.refusal, complaint)

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
        """Return the messages that bring the results."""
        return [result_message(call.name, text) for call, text in zip(calls, texts, strict=True)]

    def earlier(self, messages: list[Message]) -> list[Message]:
        """Return a round of a given transcript, its calls told in JSON."""
        return retold(messages)
