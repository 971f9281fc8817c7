"""A streamed completion, put together piece by piece."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from executionkit.core.json import MAX_DEPTH, Unreadable, decode_json
from executionkit.core.redaction import MASK, SHORTEST_STUMP, Redactor
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.wire import (
    ONE_CALL,
    Content,
    Unusable,
    error_object,
    mapping,
    read_arguments,
    reported_usage,
    text_of,
    unique_calls,
)

__all__ = ["Assembly", "StreamChunk"]

_KNOWN_FIELDS: Final = frozenset({"role", "content", "tool_calls"})


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
    id: str | None = None
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
    """A tool call under way."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.whole: dict[str, Any] | None = None

    def add(self, delta: _CallDelta) -> None:
        function = delta.function or _Function()
        self.id = self.id or delta.id or ""
        self.name += function.name or ""
        if isinstance(function.arguments, dict):
            self.whole = function.arguments
        else:
            self.arguments.append(function.arguments or "")

    def finished(self, redactor: Redactor) -> ToolCall:
        arguments = read_arguments("".join(self.arguments) if self.whole is None else self.whole)
        return ToolCall(redactor.answer(self.id), redactor.answer(self.name), redactor.answer(arguments))


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
        self._calls: dict[int, _Call] = {}
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
        for choice in event.choices or ():
            if self._is_followed(choice):
                return self._add(choice, usage)
            self.pieces += 1
        return StreamChunk(usage=usage)

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
        for call in calls:
            index = len(self._calls) if call.index is None else call.index
            self._calls.setdefault(index, _Call()).add(call)
        has_more = not delta.keys() <= _KNOWN_FIELDS and self._add_extra(delta)
        self.pieces += bool(content or calls or has_more)
        if not choice.finish_reason:
            return StreamChunk(self._released(content), None, usage)
        self.finish_reason = self._redactor.answer(choice.finish_reason)
        return StreamChunk(self._released(content) + self._let_go(), self.finish_reason, usage)

    def _released(self, text: str) -> str:
        """Return what can be handed out: not what may be the beginning of the key."""
        released, self._held = self._redactor.released(self._held + text)
        self._texts.append(released)
        return released

    def _let_go(self) -> str:
        held, self._held = self._held, ""
        self._texts.append(held)
        return held

    def flush(self) -> str:
        """Return what is held back once nothing more comes; a longer beginning of the key stays hidden."""
        if len(self._held) >= SHORTEST_STUMP:
            self._held = MASK
        return self._let_go()

    def _add_extra(self, delta: dict[str, Any]) -> bool:
        """Take in the fields that this package does not know, and say whether they hold anything."""
        more = [
            (name, value) for name, value in delta.items() if name not in _KNOWN_FIELDS and value is not None
        ]
        for name, value in more:
            parts = self._extra.setdefault(name, [])
            if not (parts and isinstance(parts[0], str) and isinstance(value, str)):
                parts.clear()
            parts.append(value)
        return any(value for _, value in more)

    def _joined_extra(self) -> dict[str, Any]:
        parts = self._extra.items()
        joined = {
            name: "".join(values) if isinstance(values[0], str) else values[0] for name, values in parts
        }
        return self._redactor.answer(joined)

    def finished(self) -> LLMResponse:
        """Return the whole completion."""
        calls = unique_calls(call.finished(self._redactor) for _, call in sorted(self._calls.items()))
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
