"""Conversations in the form that OpenTelemetry's conventions give them: messages made of parts."""

from contextlib import suppress
from typing import Any, cast

import msgspec

from executionkit.core.encoding import json_text

__all__ = ["definitions_of", "input_messages", "output_messages"]


def input_messages(prompt: str) -> str:
    """Return messages in OpenAI's format as the conventions have them; JSON in and out.

    >>> input_messages('[{"role":"user","content":"Capital of France?"}]')
    '[{"role":"user","parts":[{"type":"text","content":"Capital of France?"}]}]'
    """
    messages = cast("list[dict[str, Any]]", msgspec.json.decode(prompt))
    return json_text([{"role": str(each.get("role", "user")), "parts": _parts(each)} for each in messages])


def output_messages(text: str, tool_calls: str | None, reason: str) -> str:
    """Return an answer as the conventions have it.

    >>> output_messages("Paris", None, "stop")
    '[{"role":"assistant","parts":[{"type":"text","content":"Paris"}],"finish_reason":"stop"}]'
    """
    parts: list[dict[str, Any]] = [{"type": "text", "content": text}] if text else []
    calls: list[dict[str, Any]] = msgspec.json.decode(tool_calls) if tool_calls else []
    parts += [_call(call.get("id"), call.get("name"), call.get("arguments")) for call in calls]
    return json_text([{"role": "assistant", "parts": parts, "finish_reason": reason}])


def definitions_of(tools: str) -> str:
    """Return tools in OpenAI's format as the conventions have them.

    >>> definitions_of('[{"type":"function","function":{"name":"add","parameters":{}}}]')
    '[{"type":"function","name":"add","parameters":{}}]'
    """
    given = cast("list[dict[str, Any]]", msgspec.json.decode(tools))
    return json_text(
        [{"type": str(each.get("type", "function")), **_object(each, "function")} for each in given]
    )


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content: object = message.get("content")
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    parts: list[dict[str, Any]] = []
    if isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    elif isinstance(content, list):
        parts += [_part(each) for each in cast("list[object]", content)]
    for call in cast("list[dict[str, Any]]", message.get("tool_calls") or []):
        function = _object(call, "function")
        parts.append(_call(call.get("id"), function.get("name"), function.get("arguments")))
    return parts


def _part(given: object) -> dict[str, Any]:
    """Return a part of a message; of a type that the conventions do not know as it is."""
    part = cast("dict[str, Any]", given) if isinstance(given, dict) else {"type": "text", "text": str(given)}
    if part.get("type") == "text":
        return {"type": "text", "content": str(part.get("text", ""))}
    return {"type": "unknown", **part}


def _call(identity: object, name: object, arguments: object) -> dict[str, Any]:
    if isinstance(arguments, str):
        with suppress(msgspec.DecodeError):  # else as the model wrote it
            arguments = msgspec.json.decode(arguments)
    return {"type": "tool_call", "id": identity, "name": name, "arguments": arguments}


def _object(owner: dict[str, Any], name: str) -> dict[str, Any]:
    held: object = owner.get(name)
    return cast("dict[str, Any]", held) if isinstance(held, dict) else {}
