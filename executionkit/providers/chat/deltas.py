"""A streamed completion, put together piece by piece."""

from collections.abc import Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, Final, cast

import msgspec

from executionkit.core.json import MAX_DEPTH, Unreadable, decode_json
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.chat.redaction import MASK, SHORTEST_STUMP, Redactor
from executionkit.providers.chat.wire import (
    CALL_FIELDS,
    MESSAGE_FIELDS,
    ONE_CALL,
    Content,
    Unusable,
    error_object,
    mapping,
    read_arguments,
    reported_usage,
    text_of,
    unique_calls,
    unknown_fields,
)

__all__ = ["Assembly", "StreamChunk"]

_COINCIDENCE: Final = 12
"""Characters of the key's beginning that a sound text ends in by no chance; keys share their first ones."""


class StreamChunk(msgspec.Struct, frozen=True):
    """A piece of a streamed answer.

    Args:
        text: What it adds to the text; `""` where it adds none.
        finish_reason: Why the model stopped, in the piece that says so.
        usage: Token counts as reported, in the piece that has them; usually the last one.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = {}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | int | None = None
    function: _Function | None = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None
    index: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decoder: Final = msgspec.json.Decoder(_Event)


class _Call:
    """A tool call under way.

    Args:
        place: Where it stands among the calls of the answer.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        self.id = ""
        self.name = ""
        self._arguments: list[str] = []
        self._whole: dict[str, Any] | None = None
        self._extra: dict[str, Any] = {}

    def is_continued_by(self, delta: _CallDelta) -> bool:
        """Whether a piece belongs to it, by its id, or by its lack of what begins another call."""
        if delta.id not in (None, "") and self.id:
            return str(delta.id) == self.id
        begins = delta.index is None and delta.function is not None and delta.function.name
        return not (begins and self.name)

    def add(self, delta: _CallDelta, sent: dict[str, Any]) -> None:
        """Take in a piece of it, and the same as it was sent."""
        function = delta.function or _Function()
        self.id = self.id or ("" if delta.id is None else str(delta.id))
        self.name += function.name or ""
        if isinstance(function.arguments, dict):
            self._whole = function.arguments
        else:
            self._arguments.append(function.arguments or "")
        self._extra.update(unknown_fields(sent, CALL_FIELDS))

    def finished(self, redactor: Redactor) -> ToolCall:
        """Return the whole of it."""
        arguments = read_arguments("".join(self._arguments) if self._whole is None else self._whole)
        answer = redactor.answer
        return ToolCall(answer(self.id), answer(self.name), answer(arguments), answer(self._extra))


class Assembly:
    """What has arrived of a streamed completion.

    Args:
        redactor: Keeps the key out of the text, also where it comes in pieces.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._texts: list[str] = []
        self._index: object = None
        self._calls: list[_Call] = []
        self._calls_by_index: dict[int, _Call] = {}
        self._extra: dict[str, list[Any]] = {}
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.pieces: int = 0

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def take(self, data: str) -> StreamChunk | Unusable:
        """Take the data of one event; total: whatever it is, the answer says what became of it."""
        event = _parsed(data)
        return event if isinstance(event, Unusable) else self._read(event)

    def _read(self, event: _Event) -> StreamChunk | Unusable:
        usage: dict[str, Any] = {}
        if event.usage:  # in one piece out of many
            usage = self._redactor.answer(mapping(event.usage))
            self.usage = usage or self.usage
        if event.error:
            return Unusable(
                "the server broke off with an error", reported_usage(usage), error_object(event.error)
            )
        piece: StreamChunk | Unusable | None = None
        for choice in event.choices or ():
            if piece is None and self._is_followed(choice):
                piece = self._add(choice, usage)
            else:
                self.pieces += bool(choice.delta)
        return StreamChunk(usage=usage) if piece is None else piece

    def _is_followed(self, choice: _Choice) -> bool:
        """Whether it is the choice that came first: the texts of several (`n > 1`) would mix."""
        index = choice.index or 0
        if self._index is None:
            self._index = index
        return index == self._index

    def _add(self, choice: _Choice, usage: dict[str, Any]) -> StreamChunk | Unusable:
        delta = choice.delta or {}
        try:
            content, calls = _text_in(delta), _calls_in(delta)
        except (msgspec.ValidationError, RecursionError) as problem:
            return Unusable(f"a piece of the answer is not a completion: {problem}", ONE_CALL)
        for call, sent in zip(calls, delta.get("tool_calls") or (), strict=True):
            self._call_of(call).add(call, sent)
        has_more = not delta.keys() <= MESSAGE_FIELDS and self._add_extra(delta)
        self.pieces += bool(content or calls or has_more)
        if choice.finish_reason:
            self.finish_reason = self._redactor.answer(choice.finish_reason)
            return StreamChunk(self._released(content), self.finish_reason, usage)
        return StreamChunk(self._released(content), None, usage)

    def _call_of(self, delta: _CallDelta) -> _Call:
        """Return the call that a piece belongs to: that of its index, else the last, unless it begins one."""
        last = self._calls[-1] if self._calls else None
        known = last if delta.index is None else self._calls_by_index.get(delta.index)
        if known is None or not known.is_continued_by(delta):
            known = _Call(len(self._calls) if delta.index is None else delta.index)
            self._calls.append(known)
            self._calls_by_index[known.place] = known
        return known

    def _released(self, text: str) -> str:
        """Return what can be handed out: not what may be the beginning of the key."""
        released, self._held = self._redactor.released(self._held + text)
        self._texts.append(released)
        return released

    def flush(self, *, is_sound: bool) -> str:
        """Return what is held back, once nothing more comes; what is most of a key stays hidden.

        Args:
            is_sound: Whether the text has come to its end; that of one that was cut is more likely a key's.
        """
        held, self._held = self._held, ""
        text = held if len(held) < (_COINCIDENCE if is_sound else SHORTEST_STUMP) else MASK
        self._texts.append(text)
        return text

    def _add_extra(self, delta: dict[str, Any]) -> bool:
        """Take in the fields that this package does not know, and say whether they hold anything."""
        more = unknown_fields(delta, MESSAGE_FIELDS)
        for name, value in more.items():
            parts = self._extra.setdefault(name, [])
            if not (
                parts and isinstance(value, str | list) and type(parts[0]) is type(cast("object", value))
            ):
                parts.clear()
            parts.append(value)
        return any(more.values())

    def _joined_extra(self) -> dict[str, Any]:
        return self._redactor.answer({name: _joined(parts) for name, parts in self._extra.items()})

    def finished(self) -> LLMResponse:
        """Return the whole completion."""
        in_order = sorted(self._calls, key=attrgetter("place"))
        calls = unique_calls(call.finished(self._redactor) for call in in_order)
        reason = self.finish_reason or "stop"
        return LLMResponse(self.text, calls, reason, self.usage, extra=self._joined_extra())


def _parsed(data: str) -> _Event | Unusable:
    """Decode at once what is as it should be, and look closer at the rest."""
    if data.count("{") + data.count("[") <= MAX_DEPTH:
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError:
            pass
    raw = decode_json(data)
    if isinstance(raw, Unreadable):
        return Unusable(f"a piece of the answer is not JSON: {raw.reason}")
    if not isinstance(raw, dict):
        return Unusable(f"a piece of the answer is not a JSON object but a {type(raw).__name__}")
    try:
        return msgspec.convert(cast("dict[str, object]", raw), _Event)
    except (msgspec.ValidationError, RecursionError) as problem:
        return Unusable(f"a piece of the answer is not a completion: {problem}", ONE_CALL)


def _text_in(delta: dict[str, Any]) -> str:
    content = delta.get("content")
    return content if isinstance(content, str) else text_of(msgspec.convert(content, Content))


def _calls_in(delta: dict[str, Any]) -> list[_CallDelta]:
    calls = delta.get("tool_calls")
    return msgspec.convert(calls, list[_CallDelta]) if calls else []


def _joined(parts: list[Any]) -> object:
    """Join texts and lists; of anything else there is one."""
    match parts[0]:
        case str():
            return "".join(parts)
        case list():
            return [*chain.from_iterable(parts)]
        case value:
            return value
