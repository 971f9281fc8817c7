"""Chat completions as JSON: a request to bytes, an answer's bytes to an `LLMResponse`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Any, Final, TypeAlias, TypeVar, cast

import msgspec

from executionkit.core.content import read_content, read_reasoning, split_thoughts
from executionkit.core.encoding import json_text
from executionkit.core.endings import is_failed
from executionkit.core.json import Unreadable, decode_json
from executionkit.core.usage import TokenUsage, read_usage
from executionkit.errors import PermanentError
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.chat.complaints import complaint_in_answer
from executionkit.providers.chat.redaction import Redactor

__all__ = [
    "CALL_FIELDS",
    "MESSAGE_FIELDS",
    "ONE_CALL",
    "READ_OF_MESSAGE",
    "Content",
    "Unusable",
    "broken_off",
    "decode_completion",
    "encode_request",
    "error_object",
    "mapping",
    "read_arguments",
    "reported_usage",
    "sent_calls",
    "text_in",
    "unique_calls",
    "unknown_fields",
    "usage_in",
    "with_refusal",
]

T = TypeVar("T")


def encode_request(payload: Mapping[str, object]) -> bytes:
    """Encode a request.

    Raises:
        PermanentError: A part of it has no JSON form.
    """
    try:
        return _encoder.encode(payload)
    except UnicodeEncodeError:
        problem = "a text holds a lone surrogate; repair it with text.encode(errors='replace').decode()"
    except RecursionError:
        problem = "a part of it is nested too deep, or inside itself"
    except (TypeError, ValueError, OverflowError) as error:
        problem = str(error)
    raise PermanentError(f"the request cannot be written as JSON: {problem}")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    if isinstance(value, AbstractSet):
        return sorted(cast("AbstractSet[str]", value))
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")


_encoder: Final = msgspec.json.Encoder(enc_hook=_plain)


ONE_CALL: Final = TokenUsage(llm_calls=1)
"""What an attempt costs of which nothing is known but that it was made."""


class Unusable(msgspec.Struct, frozen=True):
    """Why a body is not a completion.

    Args:
        reason: What is wrong with it, a clause.
        usage: What the server reported to have charged for it all the same.
        error: The error object in it, where it has one.
        begins: How it begins, where it is not JSON.
    """

    reason: str
    usage: TokenUsage = ONE_CALL
    error: Mapping[str, object] | None = None
    begins: str = ""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    id: str | int | None = None
    function: _Function | None = None


Content: TypeAlias = str | list[dict[str, Any] | str] | None
"""A message's content, as it may come."""


class _Message(msgspec.Struct):
    content: Content = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None


MESSAGE_FIELDS: Final = frozenset({"role", "content", "tool_calls"})
CALL_FIELDS: Final = frozenset({"id", "type", "function", "index"})
_ARGUMENTS: Final = ("arguments", "input", "parameters", "args")
"""Where servers have the arguments of a call."""
READ_OF_MESSAGE: Final = MESSAGE_FIELDS | {"function_call"}
_READ_OF_CALL: Final = CALL_FIELDS | {"name", *_ARGUMENTS}


def decode_completion(body: bytes, redactor: Redactor) -> LLMResponse | Unusable:
    """Read a completion; total: whatever the bytes are, the answer says what became of them."""
    raw: object = decode_json(body)
    if isinstance(raw, Unreadable):
        begins = body[:_BEGINNING].decode("utf-8", "replace").strip()
        return Unusable(f"the answer is not JSON: {raw.reason}", begins=begins)
    if isinstance(raw, list):  # some have their errors in a list
        listed = cast("list[object]", raw)
        raw = next((each for each in map(mapping, listed) if each.get("error")), listed)
    if not isinstance(raw, dict):
        begins = raw if isinstance(raw, str) else ""
        return Unusable(f"the answer is not a JSON object but a {type(raw).__name__}", begins=begins)
    if redactor.may_touch(body):
        raw = redactor.tree(cast("object", raw))
    return _read_completion(cast("dict[str, Any]", raw), redactor)


_BEGINNING: Final = 16_384
"""Bytes of what is not JSON that are kept to show how it begins; a page has its words behind its styles."""


def _read_completion(raw: dict[str, Any], redactor: Redactor) -> LLMResponse | Unusable:
    stated_usage = usage_in(raw)
    usage = reported_usage(stated_usage)
    complaint = complaint_in_answer(raw)
    if complaint is not None:
        return Unusable("the server answered with an error", usage, complaint)
    try:
        completion = msgspec.convert(raw, _Completion)
    except (msgspec.ValidationError, RecursionError) as error:
        return Unusable(f"the answer is not a completion: {error}", usage)
    if not completion.choices:
        return Unusable("the answer has no choices", usage)
    choice = completion.choices[0]
    if is_failed(choice.finish_reason):
        return broken_off(choice.finish_reason, usage)
    if choice.message is None:
        return Unusable("the answer's first choice has no message", usage)
    message = raw["choices"][0]["message"]
    sent = sent_calls(message)
    asked = choice.message.tool_calls or [_Call()] * len(sent)
    calls = unique_calls(_read_calls(asked, sent, redactor))
    said = read_content(choice.message.content)
    thoughts, text = split_thoughts(said.text)
    return LLMResponse(
        content=text,
        tool_calls=calls,
        finish_reason=choice.finish_reason or ("tool_calls" if calls else "stop"),
        usage=mapping(stated_usage),
        raw=raw,
        extra=with_refusal(unknown_fields(message, READ_OF_MESSAGE), said.refusal),
        reasoning=read_reasoning(message) or said.reasoning or thoughts,
        id=text_in(raw, "id"),
        model=text_in(raw, "model"),
    )


def sent_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of a message, or of a piece of one, as they were sent."""
    calls: list[dict[str, Any]] = message.get("tool_calls") or []
    legacy = mapping(message.get("function_call"))  # as it was before `tool_calls`
    return calls or ([{"function": legacy}] if legacy else [])


def text_in(raw: Mapping[str, Any], name: str) -> str:
    """Return a field that is text; `""` where it is missing, or anything else."""
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def broken_off(finish_reason: object, usage: TokenUsage) -> Unusable:
    """Return why an answer is none that ends with an error: what there is of it is a fragment."""
    return Unusable(f"the server broke off with an error (finish reason {finish_reason!r})", usage)


def with_refusal(extra: dict[str, Any], refusal: str) -> dict[str, Any]:
    """Return the fields with the refusal that stood among the parts of the content, if one did."""
    return {"refusal": refusal, **extra} if refusal else extra


def usage_in(raw: Mapping[str, Any]) -> object:
    """Return the usage, wherever it stands: Groq sends it in `x_groq`, Moonshot in the last choice."""
    choices = raw.get("choices")
    first = mapping(cast("list[object]", choices)[0]) if isinstance(choices, list) and choices else {}
    return raw.get("usage") or mapping(raw.get("x_groq")).get("usage") or first.get("usage")


def reported_usage(usage: object) -> TokenUsage:
    """Return reported tokens as a cost of one call; figures that are missing or absurd count 0."""
    return read_usage(usage).or_else(0, 0)


def error_object(error: object) -> Mapping[str, object]:
    """Return the error object of an answer; a text stands for an object with that message."""
    return mapping(cast("object", error)) if isinstance(error, dict) else {"message": str(error)}


def mapping(value: object) -> dict[str, Any]:
    """Return what is a dict, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def unknown_fields(given: Mapping[str, Any], known: AbstractSet[str]) -> dict[str, Any]:
    """Return what a server sent beside the fields that this package reads."""
    return {name: value for name, value in given.items() if name not in known and value is not None}


def _read_calls(
    calls: Iterable[_Call], sent: Iterable[Mapping[str, Any]], redactor: Redactor
) -> Iterator[ToolCall]:
    for call, raw in zip(calls, sent, strict=True):
        function = call.function or _Function()
        if function.arguments is None:
            function = _function_in(raw)
        yield ToolCall(
            "" if call.id is None else str(call.id),
            function.name or "",
            redactor.answer(read_arguments(function.arguments)),
            unknown_fields(raw, _READ_OF_CALL),
        )


def _function_in(call: Mapping[str, Any]) -> _Function:
    """Return what a call names, wherever that stands: some servers leave out `function`, or rename within."""
    within = mapping(call.get("function")) or call
    name = within.get("name")
    found = next((within[name] for name in _ARGUMENTS if within.get(name) is not None), None)
    return _Function(name if isinstance(name, str) else None, cast("object", found))


def read_arguments(given: object) -> dict[str, Any] | str:
    """Return the arguments; as the text that came where they are no JSON object, for the model to see."""
    if isinstance(given, dict):
        return mapping(cast("object", given))
    arguments = given if isinstance(given, str) else "" if given is None else json_text(given)
    if not arguments.strip():
        return {}
    decoded = decode_json(arguments)
    if decoded is None:  # "null": none
        return {}
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else arguments


def unique_calls(calls: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """Give a fresh id to each call that has none, or one that an earlier call has."""
    given = list(calls)
    if not given:
        return ()
    taken, seen = {call.id for call in given}, {""}
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
    unique: list[ToolCall] = []
    for call in given:
        identity = call.id if call.id not in seen else _fresh_id(call.id or "call", numbers[call.id], taken)
        taken.add(identity)
        seen.add(identity)
        unique.append(call if identity == call.id else msgspec.structs.replace(call, id=identity))
    return tuple(unique)


def _fresh_id(like: str, numbers: Iterator[int], taken: set[str]) -> str:
    return next(identity for number in numbers if (identity := f"{like}_{number}") not in taken)
