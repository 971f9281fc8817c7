"""Conversations in the form that OpenTelemetry's conventions give them: messages made of parts.

Nothing here raises: what is not as OpenAI's format has it is told as it is.
"""

import json
from typing import Any, cast

import msgspec

from executionkit.core.encoding import json_text

__all__ = ["definitions_of", "input_messages", "output_messages"]


def input_messages(prompt: str) -> str:
    """Return messages in OpenAI's format as the conventions have them; JSON in and out.

    >>> input_messages('[{"role":"user","content":"Capital of France?"}]')
    '[{"role":"user","parts":[{"type":"text","content":"Capital of France?"}]}]'
    """
    return json_text([_message(each) for each in _list_in(prompt)])


def output_messages(text: str, tool_calls: str | None, reason: str) -> str:
    """Return an answer as the conventions have it.

    >>> output_messages("Paris", None, "stop")
    '[{"role":"assistant","parts":[{"type":"text","content":"Paris"}],"finish_reason":"stop"}]'
    """
    parts: list[dict[str, Any]] = [{"type": "text", "content": text}] if text else []
    calls = [_as_object(each) for each in _list_in(tool_calls or "[]")]
    parts += [_call(call.get("id"), call.get("name"), call.get("arguments")) for call in calls]
    return json_text([{"role": "assistant", "parts": parts, "finish_reason": reason}])


def definitions_of(tools: str) -> str:
    """Return tools in OpenAI's format as the conventions have them.

    >>> definitions_of('[{"type":"function","function":{"name":"add","parameters":{}}}]')
    '[{"type":"function","name":"add","parameters":{}}]'
    """
    given = [_as_object(each) for each in _list_in(tools)]
    return json_text(
        [{"type": str(each.get("type", "function")), **_as_object(each.get("function"))} for each in given]
    )


def _message(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        return {"role": "user", "parts": [_part(given)]}
    message = cast("dict[str, Any]", given)
    return {"role": str(message.get("role", "user")), "parts": _parts(message)}


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content: object = message.get("content")
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    parts: list[dict[str, Any]] = []
    if isinstance(content, str) and content:
        parts.append({"type": "text", "content": content})
    elif isinstance(content, list):
        parts += [_part(each) for each in cast("list[object]", content)]
    calls: object = message.get("tool_calls")
    for each in cast("list[object]", calls) if isinstance(calls, list) else ():
        call = _as_object(each)
        function = _as_object(call.get("function"))
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
        arguments = _value_in(arguments, arguments)  # else as the model wrote it
    return {"type": "tool_call", "id": identity, "name": name, "arguments": arguments}


def _as_object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list_in(text: str) -> list[object]:
    """Return the list that JSON text holds; what is none as its only element."""
    value = _value_in(text, text)
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _value_in(text: str, otherwise: object) -> object:
    """Return what JSON text says, also where that is half a surrogate pair."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise
