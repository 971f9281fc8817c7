"""An answer of the Messages API: its bytes to an `LLMResponse`."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from executionkit.core.json import Unreadable, decode_json
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.wire import (
    Unusable,
    error_object,
    mapping,
    reported_usage,
    text_in,
    unique_calls,
)
from executionkit.providers.messages.request import CONTENT

__all__ = ["Block", "decode_message", "message_of", "reason_of"]

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_THOUGHTS: Final = ("thinking", "redacted_thinking")


class _Message(msgspec.Struct):
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: Any = None
    stop_details: Any = None


def decode_message(body: bytes, redactor: Redactor) -> LLMResponse | Unusable:
    """Read an answer; total: whatever the bytes are, what comes back says what became of them."""
    raw = decode_json(body)
    if isinstance(raw, Unreadable):
        return Unusable(f"the answer is not JSON: {raw.reason}")
    if not isinstance(raw, dict):
        return Unusable(f"the answer is not a JSON object but a {type(raw).__name__}")
    if redactor.may_touch(body):
        raw = redactor.tree(cast("object", raw))
    given = cast("dict[str, Any]", raw)
    usage = reported_usage(given.get("usage"))
    if given.get("error"):
        return Unusable("the server answered with an error", usage, error_object(given["error"]))
    try:
        message = msgspec.convert(given, _Message)
        answer = message_of(
            message.content, message.stop_reason, mapping(message.usage), message.stop_details
        )
    except (msgspec.ValidationError, RecursionError) as error:
        return Unusable(f"the answer is not a message: {error}", usage)
    return msgspec.structs.replace(answer, raw=given, id=text_in(given, "id"), model=text_in(given, "model"))


def message_of(
    blocks: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any], details: object = None
) -> LLMResponse:
    """Return blocks as a completion. Where they hold reasoning, all of them are kept to go back as they came.

    Raises:
        msgspec.ValidationError: A block is not what its type says.
    """
    read = [msgspec.convert(block, Block) for block in blocks]
    calls = unique_calls(
        ToolCall(block.id, block.name, _input(block.input)) for block in read if block.type == "tool_use"
    )
    extra: dict[str, Any] = {}
    thoughts = "".join(block.thinking for block in read if block.type == "thinking")
    if any(block.type in _THOUGHTS for block in read):
        extra[CONTENT] = blocks
        extra["reasoning_content"] = thoughts  # for other servers that the conversation may move to
    if stop_reason == "refusal" and (said := mapping(details).get("explanation")):
        extra["refusal"] = said
    return LLMResponse(
        content="".join(block.text for block in read if block.type == "text"),
        tool_calls=calls,
        finish_reason=reason_of(stop_reason) or ("tool_calls" if calls else "stop"),
        usage=usage,
        extra=extra,
        reasoning=thoughts,
    )


def reason_of(stop_reason: str | None) -> str | None:
    """Return why the model stopped, in OpenAI's words where it has one.

    >>> reason_of("end_turn"), reason_of("refusal"), reason_of("pause_turn")
    ('stop', 'content_filter', 'pause_turn')
    """
    return None if stop_reason is None else _REASONS.get(stop_reason, stop_reason)


class Block(msgspec.Struct):
    """What is read of a block, whatever its type."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


def _input(given: object) -> Mapping[str, Any] | str:
    """Return the arguments of a call; what is not an object as the text it came as, for the model to see."""
    if given is None:
        return {}
    if isinstance(given, dict):
        return cast("dict[str, Any]", given)
    return given if isinstance(given, str) else msgspec.json.encode(given).decode()
