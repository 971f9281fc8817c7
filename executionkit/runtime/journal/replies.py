"""Answers in the form that a journal or a cache keeps, and back."""

from typing import Any, cast

import msgspec

from executionkit.core.dialect import ResponseFormat
from executionkit.core.encoding import json_text
from executionkit.core.journal import Reply
from executionkit.core.portable import from_plain, to_plain
from executionkit.provider import LLMResponse, ToolCall

__all__ = ["Kept", "as_reply", "as_response", "size_of"]


class Kept(msgspec.Struct, frozen=True):
    """An answer out of a cache.

    Args:
        response: The answer; it cost nothing.
        form: Who was to hold it to its form.
    """

    response: LLMResponse
    form: ResponseFormat


def as_reply(response: LLMResponse, *, raw: bool) -> Reply:
    """Return the form of an answer that is kept.

    Args:
        response: The answer.
        raw: Whether the provider's own answer is read later on, and so kept as well.
    """
    told = (response.id, response.model, response.request_id, response.status)
    return Reply(
        response.content,
        [cast("dict[str, Any]", to_plain(_call_fields(call))) for call in response.tool_calls],
        response.finish_reason,
        to_plain(response.usage),
        to_plain(response.extra) if response.extra else {},
        response.reasoning,
        to_plain(response.raw) if raw else None,
        *told,
    )


def _call_fields(call: ToolCall) -> dict[str, object]:
    fields: dict[str, object] = {"id": call.id, "name": call.name, "arguments": call.arguments}
    return {**fields, "extra": call.extra} if call.extra else fields


def size_of(reply: Reply) -> int:
    """Return what an answer takes, about in bytes."""
    size = len(reply.content) + len(reply.reasoning)
    if not (reply.tool_calls or reply.extra or reply.raw):
        return size
    return size + len(json_text([part for part in (reply.tool_calls, reply.extra, reply.raw) if part]))


def as_response(reply: Reply) -> LLMResponse:
    """Return the answer that `as_reply` made a form of."""
    calls = [cast("dict[str, Any]", from_plain(call)) for call in reply.tool_calls]
    return LLMResponse(
        reply.content,
        tuple([ToolCall(**call) for call in calls]),
        reply.finish_reason,
        cast("dict[str, Any]", from_plain(reply.usage)),
        _listed(from_plain(reply.raw)),
        cast("dict[str, Any]", from_plain(reply.extra)),
        reply.reasoning,
        reply.id,
        reply.model,
        reply.request_id,
        reply.status,
    )


def _listed(value: object) -> Any:
    """Return JSON's shapes as a server sends them: `from_plain` makes tuples of lists."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, tuple):
        return [_listed(item) for item in cast("tuple[object, ...]", value)]
    return value
