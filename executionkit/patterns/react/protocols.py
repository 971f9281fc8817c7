"""How a tool loop speaks with a model: by the provider's tool calls, or in JSON where it has none."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from executionkit.core.dialect import JsonForm
from executionkit.core.encoding import json_text
from executionkit.core.observation import delimited
from executionkit.patterns.react.text_protocol import (
    TextCall,
    instructions,
    read_reply,
    reply_schema,
    result_message,
    retold,
)
from executionkit.provider import LLMResponse, Message, ToolCall
from executionkit.runtime.context import Context
from executionkit.tools import Tool

__all__ = ["Dialect", "Manner", "Turn", "dialect_of"]


class Manner(msgspec.Struct, frozen=True):
    """How every completion of a loop is asked for.

    Args:
        temperature: Sampling temperature.
        max_tokens: Output tokens at most.
        delimit: Whether results stand between tags where they have a role of their own.
        answer: The JSON Schema of the final answer, for a model that is told in JSON.
    """

    temperature: float | None
    max_tokens: int
    delimit: bool
    answer: Mapping[str, Any]


class Turn(msgspec.Struct, frozen=True):
    """What the model said.

    Args:
        message: The message as it goes back to the model, fields we do not know included.
        text: Its answer, where it calls no tool.
        calls: The tools it calls.
        was_truncated: Whether it was cut at the token limit.
        refusal: What the model or its content filter says in place of an answer; None where it answers.
    """

    message: Message
    text: str
    calls: tuple[ToolCall, ...]
    was_truncated: bool
    refusal: str | None = None


class Dialect(Protocol):
    """One way of speaking."""

    head: list[Message]
    """Messages that open every request."""

    async def ask(self, context: Context, messages: list[Message], *, with_tools: bool = True) -> Turn:
        """Ask the model to go on."""
        ...

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
        """Return the messages that bring the results."""
        ...

    def earlier(self, messages: list[Message]) -> list[Message]:
        """Return a round of a given transcript as this dialect has it."""
        ...


def dialect_of(context: Context, tools: Sequence[Tool], manner: Manner) -> Dialect:
    """Return the way to speak with the provider of `context`."""
    if context.provider.supports_tools:
        return _ByToolCalls(tools, manner)
    return _InJson(tools, manner)


class _ByToolCalls:
    def __init__(self, tools: Sequence[Tool], manner: Manner) -> None:
        self.head: list[Message] = []
        self._specs = [tool.spec for tool in tools]
        self._delimit = manner.delimit
        self._manner = manner

    async def ask(self, context: Context, messages: list[Message], *, with_tools: bool = True) -> Turn:
        response = await context.complete(
            messages,
            temperature=self._manner.temperature,
            max_tokens=self._manner.max_tokens,
            tools=self._specs if with_tools and self._specs else None,
        )
        calls = response.tool_calls if with_tools else ()
        message = _as_message(response, calls)
        return Turn(message, response.content, calls, response.was_truncated, response.refusal)

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": delimited(text) if self._delimit else text}
            for call, text in zip(calls, texts, strict=True)
        ]

    def earlier(self, messages: list[Message]) -> list[Message]:
        return messages


def _as_message(response: LLMResponse, calls: Sequence[ToolCall]) -> Message:
    message = {**response.extra, "role": "assistant", "content": response.content}
    if calls:
        message["tool_calls"] = [_as_request(call) for call in calls]
    return message


def _as_request(call: ToolCall) -> Message:
    arguments = call.arguments if isinstance(call.arguments, str) else json_text(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {**call.extra, "id": call.id, "type": "function", "function": function}


class _InJson:
    def __init__(self, tools: Sequence[Tool], manner: Manner) -> None:
        specs = [tool.spec for tool in tools]
        self.head: list[Message] = [{"role": "system", "content": instructions(specs, manner.answer)}]
        self._manner = manner
        self._form = JsonForm("reply", reply_schema(specs, manner.answer))
        self._last_form = JsonForm("reply", reply_schema([], manner.answer))
        self._calls = 0

    async def ask(self, context: Context, messages: list[Message], *, with_tools: bool = True) -> Turn:
        response = await context.complete(
            messages,
            temperature=self._manner.temperature,
            max_tokens=self._manner.max_tokens,
            form=self._form if with_tools else self._last_form,
        )
        message = {**response.extra, "role": "assistant", "content": response.content}
        reply = read_reply(response.content)
        if isinstance(reply, str):
            return Turn(message, reply, (), response.was_truncated, response.refusal)
        calls = (self._call(reply),) if with_tools else ()
        return Turn(message, "", calls, response.was_truncated, response.refusal)

    def _call(self, reply: TextCall) -> ToolCall:
        self._calls += 1
        return ToolCall(f"call_{self._calls}", reply.name, reply.arguments)

    def results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> list[Message]:
        return [result_message(call.name, text) for call, text in zip(calls, texts, strict=True)]

    def earlier(self, messages: list[Message]) -> list[Message]:
        return retold(messages)
