"""A request in OpenAI's words as Anthropic's Messages API takes it."""

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final, TypeAlias, cast

from executionkit.core.json import Unreadable, decode_json
from executionkit.providers.messages.schema import expressible

__all__ = ["CONTENT", "messages_request"]

Block: TypeAlias = dict[str, Any]

CONTENT: Final = "anthropic_content"
"""The field of an assistant's message that keeps its blocks: signed reasoning goes back as it came."""

_CACHED: Final = {"cache_control": {"type": "ephemeral"}}
_OURS_ALONE: Final = frozenset({"n", "logprobs", "top_logprobs", "stream_options"})
"""Fields of OpenAI's that say nothing here; a vote draws its samples one by one."""
_CHOICES: Final = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_IMAGE_DATA: Final = "data:"
_TAKEN_AS_ID: Final = re.compile("[a-zA-Z0-9_-]+")


def messages_request(
    model: str,
    messages: Iterable[Mapping[str, Any]],
    temperature: float | None,
    max_tokens: int,
    tools: Iterable[Mapping[str, Any]] | None,
    options: Mapping[str, Any],
    *,
    cache: bool,
) -> dict[str, Any]:
    """Return the body of `POST /messages`.

    System messages move to `system`, in order; what the user and the tools say in a row becomes one message;
    the reasoning of an earlier answer goes back as it came. A temperature above 1 becomes 1, and is left out
    where the model is told to think.

    Args:
        model: The model's name.
        messages: The conversation in OpenAI's format.
        temperature: Sampling temperature; None leaves it out.
        max_tokens: Output tokens at most, which this API wants to be told.
        tools: Tools in OpenAI's format.
        options: Further fields, in OpenAI's words (`tool_choice`, `response_format`, `stop`,
            `max_completion_tokens`, `parallel_tool_calls`) or in Anthropic's own, which are sent as they are.
        cache: Whether to mark what the next requests are likely to begin with: the tools, the system prompt,
            the first message, and the last one of a conversation.

    >>> messages_request("m", [{"role": "user", "content": "Hi"}], None, 9, None, {}, cache=False)
    {'model': 'm', 'max_tokens': 9, 'messages': [{'role': 'user', 'content': [{'type': 'text', 'text':
    'Hi'}]}]}
    """
    given = list(messages)
    system = [block for message in given if _is_system(message) for block in _blocks(message.get("content"))]
    turns = _turns(message for message in given if not _is_system(message))
    specs, choice = _tools(tools, turns, options)
    if cache:
        _mark(specs, system, turns)
    request: dict[str, Any] = {"model": model, "max_tokens": options.get("max_completion_tokens", max_tokens)}
    if system:
        request["system"] = system
    request["messages"] = turns
    if temperature is not None and not _thinks(options):
        request["temperature"] = min(temperature, 1.0)
    if specs:
        request["tools"] = specs
    if choice:
        request["tool_choice"] = choice
    return {**request, **_others(options)}


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in {"system", "developer"}


def _thinks(options: Mapping[str, Any]) -> bool:
    thinking: object = options.get("thinking")
    return isinstance(thinking, Mapping) and cast("Mapping[str, object]", thinking).get("type") != "disabled"


def _others(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the other fields, those that have another name here under it."""
    known = _OURS_ALONE | {
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "stop",
        "max_completion_tokens",
    }
    others = {name: value for name, value in options.items() if name not in known}
    if stop := options.get("stop"):
        others["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    schema = _schema_of(options.get("response_format"))
    if schema is not None:
        others["output_config"] = {
            **others.get("output_config", {}),
            "format": {"type": "json_schema", "schema": schema},
        }
    return others


def _schema_of(response_format: object) -> dict[str, Any] | None:
    """Return the schema that the server can hold an answer to; None where the prompt alone has to."""
    if not isinstance(response_format, Mapping):
        return None
    named: object = cast("Mapping[str, object]", response_format).get("json_schema")
    schema = cast("Mapping[str, object]", named).get("schema") if isinstance(named, Mapping) else None
    return expressible(cast("Mapping[str, Any]", schema)) if isinstance(schema, Mapping) else None


def _turns(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation as turns of the two roles; empty ones would be refused."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.get("role") == "assistant" else "user"
        content = _said(message) if role == "assistant" else _heard(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(content)
        elif content:
            turns.append({"role": role, "content": content})
    return turns


def _heard(message: Mapping[str, Any]) -> list[Block]:
    """Return what the user or a tool says."""
    if message.get("role") != "tool":
        return _blocks(message.get("content"))
    content = _blocks(message.get("content"))
    result: Block = {"type": "tool_result", "tool_use_id": _identity(message.get("tool_call_id"))}
    return [{**result, "content": content} if content else result]


def _said(message: Mapping[str, Any]) -> list[Block]:
    """Return what the assistant said: its blocks as they came, or made anew from its text and its calls."""
    calls = [_use_of(call) for call in message.get("tool_calls") or ()]
    kept: object = message.get(CONTENT)
    if isinstance(kept, (list, tuple)):
        blocks = [dict(block) for block in cast("list[Block]", kept)]
        uses = [place for place, block in enumerate(blocks) if block.get("type") == "tool_use"]
        if len(uses) == len(calls):  # else somebody has changed the message
            for place, call in zip(uses, calls, strict=True):
                blocks[place] = call
            return blocks
    return [*_blocks(message.get("content")), *calls]


def _use_of(call: Mapping[str, Any]) -> Block:
    function = cast("Mapping[str, Any]", call.get("function") or {})
    return {
        "type": "tool_use",
        "id": _identity(call.get("id")),
        "name": function.get("name"),
        "input": _input_of(function.get("arguments")),
    }


def _identity(given: object) -> str:
    """Return the id of a call; one with characters that are refused there is replaced by one of its own."""
    text = str(given)
    if _TAKEN_AS_ID.fullmatch(text):
        return text
    return f"call_{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}"


def _input_of(arguments: object) -> Mapping[str, Any]:
    decoded = decode_json(arguments) if isinstance(arguments, str) else arguments
    if isinstance(decoded, Mapping):
        return cast("Mapping[str, Any]", decoded)
    return {} if decoded is None or isinstance(decoded, Unreadable) else {"value": decoded}


def _blocks(content: object) -> list[Block]:
    """Return a message's content as blocks; empty texts are refused there, so they are left out."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    if not isinstance(content, (list, tuple)):
        return []
    blocks = map(_block, cast("list[Block]", content))
    return [block for block in blocks if block.get("type") != "text" or str(block.get("text")).strip()]


def _block(part: Mapping[str, Any]) -> Block:
    match part.get("type"):
        case "image_url":
            return {"type": "image", "source": _source(part["image_url"]["url"])}
        case "input_text" | "output_text":
            return {"type": "text", "text": part.get("text")}
        case _:
            return dict(part)


def _source(url: str) -> dict[str, str]:
    if not url.startswith(_IMAGE_DATA):
        return {"type": "url", "url": url}
    kind, _, data = url.removeprefix(_IMAGE_DATA).partition(",")
    return {"type": "base64", "media_type": kind.partition(";")[0], "data": data}


def _tools(
    tools: Iterable[Mapping[str, Any]] | None, turns: list[dict[str, Any]], options: Mapping[str, Any]
) -> tuple[list[Block], Block | None]:
    """Return the tools and what is said of calling them.

    A conversation that has tool calls in it is refused without tools: where a last answer is asked for
    without them, those that were called stand there and may not be called.
    """
    specs = [_spec(tool["function"]) for tool in tools or ()]
    if not specs and (called := _called(turns)):
        return [{"name": name, "input_schema": {"type": "object"}} for name in called], {"type": "none"}
    choice = _choice(options.get("tool_choice")) if specs else None
    if specs and options.get("parallel_tool_calls") is False:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return specs, choice


def _called(turns: list[dict[str, Any]]) -> list[str]:
    blocks = (block for turn in turns for block in turn["content"])
    return sorted({str(block["name"]) for block in blocks if block.get("type") == "tool_use"})


def _spec(function: Mapping[str, Any]) -> Block:
    described = {"description": function["description"]} if function.get("description") else {}
    schema = function.get("parameters") or {"type": "object"}
    return {"name": function["name"], **described, "input_schema": dict(schema)}


def _choice(choice: object) -> Block | None:
    if isinstance(choice, str):
        return dict(_CHOICES.get(choice, {"type": choice}))
    if not isinstance(choice, Mapping):
        return None
    given = cast("Mapping[str, Any]", choice)
    function: object = given.get("function")
    if isinstance(function, Mapping):
        return {"type": "tool", "name": cast("Mapping[str, Any]", function).get("name")}
    return dict(given)


def _mark(specs: list[Block], system: list[Block], turns: list[dict[str, Any]]) -> None:
    """Mark the ends of what the next request is likely to begin with; the server takes four marks at most."""
    ends = [specs[-1:], system[-1:], turns[0]["content"][-1:] if turns else []]
    if len(turns) > 1 and turns[-1]["role"] == "user":
        ends.append(turns[-1]["content"][-1:])
    for end in ends:
        for block in end:
            if block.get("type") not in {"thinking", "redacted_thinking"}:
                block.update(_CACHED)
