"""The ReAct loop: the model calls tools and sees what comes of it, until it answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from typing_extensions import override

from executionkit.context import Context
from executionkit.core.checks import check_completion, check_count, check_number
from executionkit.core.encoding import json_text
from executionkit.core.history import trim_rounds
from executionkit.core.observation import failed, shortened
from executionkit.core.schema import Rejected, parse_arguments
from executionkit.errors import MaxIterationsError
from executionkit.events import ToolFinished, ToolStarted
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMResponse, Message, ToolCall, opening
from executionkit.stage import Stage
from executionkit.tool import Tool, ToolError

__all__ = ["React", "react"]

_MOST_CALLS_AT_ONCE = 16


class React(Stage[str, str], frozen=True):
    """A tool loop; see `react`."""

    tools: tuple[Tool, ...]
    max_rounds: int = 8
    max_observation_chars: int = 12_000
    tool_timeout: float | None = None
    temperature: float | None = 0.3
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_history_messages: int | None = None

    def __post_init__(self) -> None:
        _check_tools(self.tools)
        check_count("max_rounds", self.max_rounds)
        check_count("max_observation_chars", self.max_observation_chars)
        check_completion(self.temperature, self.max_tokens)
        if self.tool_timeout is not None:
            check_number("tool_timeout", self.tool_timeout, 0)
        if self.max_history_messages is not None:
            check_count("max_history_messages", self.max_history_messages)

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        loop = _Loop(self, opening(value))
        context.report(loop.counts)
        for _ in range(self.max_rounds):
            response = await context.complete(
                loop.messages(),
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                tools=loop.specs,
            )
            loop.rounds += 1
            loop.truncated_responses += response.was_truncated
            if not response.tool_calls:
                return PatternResult(response.content, metadata=loop.counts())
            await loop.observe(response, context)
        raise MaxIterationsError(
            f"no answer after {self.max_rounds} rounds; raise max_rounds or give the model better tools"
        )


class _Loop:
    """The state of one run of the loop."""

    def __init__(self, settings: React, prompt: list[Message]) -> None:
        self.settings = settings
        self.prompt = prompt
        self.specs = [tool.spec for tool in settings.tools]
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in settings.tools}
        self.history: list[list[Message]] = []
        self.rounds = 0
        self.tool_calls_made = 0
        self.truncated_responses = 0
        self.truncated_observations = 0
        self.messages_trimmed = 0

    def counts(self) -> dict[str, object]:
        return {
            "rounds": self.rounds,
            "tool_calls_made": self.tool_calls_made,
            "truncated_responses": self.truncated_responses,
            "truncated_observations": self.truncated_observations,
            "messages_trimmed": self.messages_trimmed,
        }

    def messages(self) -> list[Message]:
        most = self.settings.max_history_messages
        if most is not None:
            dropped = trim_rounds(self.history, most - len(self.prompt))
            self.messages_trimmed += sum(map(len, self.history[:dropped]))
            del self.history[:dropped]
        return [*self.prompt, *(message for messages in self.history for message in messages)]

    async def observe(self, response: LLMResponse, context: Context) -> None:
        calls = response.tool_calls
        texts = await context.gather(
            lambda index: self.call(calls[index], context), len(calls), _MOST_CALLS_AT_ONCE
        )
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": self.cut(text)}
            for call, text in zip(calls, texts, strict=True)
        ]
        self.history.append([_request(response), *results])

    def cut(self, text: str) -> str:
        most = self.settings.max_observation_chars
        self.truncated_observations += len(text) > most
        return shortened(text, most)

    async def call(self, call: ToolCall, context: Context) -> str:
        self.tool_calls_made += 1
        span = context.span()
        if span is None:
            return (await self.result(call))[0]
        arguments = json_text(call.arguments) if span.content else None
        span.send(ToolStarted, tool=call.name, arguments=arguments)
        text, error = await self.result(call)
        span.send(
            ToolFinished,
            tool=call.name,
            duration=span.duration,
            error=error,
            text=text if span.content else None,
        )
        return text

    async def result(self, call: ToolCall) -> tuple[str, str | None]:
        """Return what the model gets to see, and the name of the error where there was one."""
        tool = self.tools.get(call.name)
        if tool is None:
            hint = f"there is no tool named {call.name!r}; use one of {', '.join(self.tools)}"
            return failed("UnknownTool", hint), "UnknownTool"
        arguments: Mapping[str, Any] | Rejected = parse_arguments(call.arguments)
        if not isinstance(arguments, Rejected):
            arguments = tool.prepare(arguments)
        if isinstance(arguments, Rejected):
            return failed("InvalidArguments", str(arguments)), "InvalidArguments"
        return await _execute(tool, arguments, self.settings.tool_timeout or tool.timeout)


async def _execute(tool: Tool, arguments: Mapping[str, Any], timeout: float) -> tuple[str, str | None]:
    with anyio.CancelScope(deadline=anyio.current_time() + timeout):
        try:
            result: object = await tool.execute(**arguments)
        except ToolError as error:
            return failed("ToolError", str(error)), "ToolError"
        except Exception as error:
            return failed(type(error).__name__), type(error).__name__
        return result if isinstance(result, str) else json_text(result), None
    return failed("TimeoutError"), "TimeoutError"


def react(
    tools: Sequence[Tool],
    *,
    max_rounds: int = 8,
    max_observation_chars: int = 12_000,
    tool_timeout: float | None = None,
    temperature: float | None = 0.3,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_history_messages: int | None = None,
) -> React:
    """Let the model call tools until it answers (Yao et al. 2022, "ReAct", section 2).

    The value is the final text, the score None. The calls of one round run at once. What goes wrong in a
    call, be it an unknown tool, arguments that do not fit the schema, a time-out or an exception, is told to
    the model by its class, and the loop goes on.

    Args:
        tools: What the model may call; names must differ.
        max_rounds: Completions at most.
        max_observation_chars: Characters of a result that the model gets to see.
        tool_timeout: Seconds a call may take, in place of each tool's own.
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, a completion.
        max_history_messages: Messages to send at most; the oldest rounds are dropped whole, the prompt and
            the last round stay. None sends all.

    Metadata (also on an error):
        rounds (int): Completions.
        tool_calls_made (int): Calls asked for, failed ones included.
        truncated_responses (int): Completions cut at `max_tokens`.
        truncated_observations (int): Results cut at `max_observation_chars`.
        messages_trimmed (int): Messages dropped from the conversation.

    Returns (on `run`):
        MaxIterationsError: No answer after `max_rounds`.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range, or two tools share a name.
    """
    return React(
        tuple(tools),
        max_rounds,
        max_observation_chars,
        tool_timeout,
        temperature,
        max_tokens,
        max_history_messages,
    )


def _request(response: LLMResponse) -> Message:
    """Return the assistant's message as it goes back to the model, with fields we do not know."""
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments if isinstance(call.arguments, str) else json_text(call.arguments),
            },
        }
        for call in response.tool_calls
    ]
    return {**response.extra, "role": "assistant", "content": response.content, "tool_calls": calls}


def _check_tools(tools: tuple[object, ...]) -> None:
    names: set[str] = set()
    for tool in tools:
        if not isinstance(tool, Tool):
            raise TypeError(f"a tool must be a Tool, not {type(tool).__name__}")
        if tool.name in names:
            raise ValueError(f"two tools are named {tool.name!r}; names must differ")
        names.add(tool.name)
