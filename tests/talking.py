"""A provider that says what it is told to, for tests of patterns."""

from collections.abc import Callable
from typing import Any

from executionkit.provider import LLMResponse, Message, ToolCall, ToolSpec

Line = LLMResponse | str | Exception | Callable[[list[Message]], "LLMResponse | str"]


class Talking:
    """Answers one line after the other and notes what it was asked."""

    def __init__(self, *lines: Line, supports_tools: bool = True) -> None:
        self.supports_tools = supports_tools
        self.lines = list(lines)
        self.asked: list[list[Message]] = []
        self.tools: list[list[ToolSpec] | None] = []
        self.options: list[dict[str, Any]] = []

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        self.asked.append(messages)
        self.tools.append(tools)
        self.options.append(kwargs)
        line = self.lines.pop(0)
        if isinstance(line, Exception):
            raise line
        said = line if isinstance(line, (LLMResponse, str)) else line(messages)
        return said if isinstance(said, LLMResponse) else says(said)


def says(text: str, **fields: Any) -> LLMResponse:
    """A completion of ten input and two output tokens."""
    return LLMResponse(text, usage={"prompt_tokens": 10, "completion_tokens": 2}, **fields)


def refuses(text: str = "I cannot help with that.") -> LLMResponse:
    """A completion in which the model says no, the way OpenAI's does."""
    return says("", extra={"refusal": text})


def cut(text: str) -> LLMResponse:
    """A completion that ended at the limit of its length."""
    return says(text, finish_reason="length")


def filtered(text: str) -> LLMResponse:
    """A completion that a content filter cut off."""
    return says(text, finish_reason="content_filter")


def calls(*wanted: tuple[str, Any], **fields: Any) -> LLMResponse:
    """A completion that calls tools."""
    made = tuple([ToolCall(f"id{index}", name, given) for index, (name, given) in enumerate(wanted)])
    return says("", tool_calls=made, finish_reason="tool_calls", **fields)


def results(messages: list[Message]) -> list[str]:
    """The tool results among messages, in order."""
    return [message["content"] for message in messages if message["role"] == "tool"]
