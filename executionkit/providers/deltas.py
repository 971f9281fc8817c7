"""A streamed completion, put together piece by piece."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from executionkit.core.json import Unreadable, decode_json
from executionkit.core.redaction import MASK, SHORTEST_STUMP, Redactor
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.wire import (
    ONE_CALL,
    Unusable,
    error_object,
    read_arguments,
    reported_usage,
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


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None


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
        self._calls: dict[int, _Call] = {}
        self._extra: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.pieces: int = 0

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def take(self, data: str) -> StreamChunk | Unusable:
        """Take the data of one event; total: whatever it is, the answer says what became of it."""
        raw = decode_json(data)
        if isinstance(raw, Unreadable):
            return Unusable(f"a piece of the answer is not JSON: {raw.reason}")
        if not isinstance(raw, dict):
            return Unusable(f"a piece of the answer is not a JSON object but a {type(raw).__name__}")
        if self._redactor.may_touch(data.encode()):
            raw = self._redactor.tree(cast("object", raw))
        return self._read(cast("dict[str, Any]", raw))

    def _read(self, raw: dict[str, Any]) -> StreamChunk | Unusable:
        usage = cast("dict[str, Any]", raw.get("usage")) if isinstance(raw.get("usage"), dict) else {}
        self.usage = usage or self.usage
        if raw.get("error"):
            error = error_object(raw["error"])
            return Unusable("the server broke off with an error", reported_usage(usage), error)
        try:
            event = msgspec.convert(raw, _Event)
        except (msgspec.ValidationError, RecursionError) as problem:
            return Unusable(f"a piece of the answer is not a completion: {problem}", ONE_CALL)
        if not event.choices:
            return StreamChunk(usage=usage)
        return self._add(event.choices[0], raw["choices"][0].get("delta"), usage)

    def _add(self, choice: _Choice, raw_delta: object, usage: dict[str, Any]) -> StreamChunk:
        delta = choice.delta or _Delta()
        self.pieces += bool(delta.content or delta.tool_calls)
        for call in delta.tool_calls or ():
            index = len(self._calls) if call.index is None else call.index
            self._calls.setdefault(index, _Call()).add(call)
        if isinstance(raw_delta, dict):
            self._add_extra(cast("dict[str, Any]", raw_delta))
        self.finish_reason = choice.finish_reason or self.finish_reason
        text = self._released(delta.content or "", is_last=choice.finish_reason is not None)
        return StreamChunk(text, choice.finish_reason, usage)

    def _released(self, text: str, *, is_last: bool) -> str:
        """Return what can be handed out: not what may be the beginning of the key."""
        text = self._redactor.text(self._held + text) if self._held else text
        held = 0 if is_last else self._redactor.held_back(text)
        self._held = text[len(text) - held :]
        released = text[: len(text) - held]
        if released:
            self._texts.append(released)
        return released

    def flush(self) -> str:
        """Return what is held back once nothing more comes; a longer beginning of the key stays hidden."""
        held, self._held = self._held, ""
        text = held if len(held) < SHORTEST_STUMP else MASK
        self._texts.append(text)
        return text

    def _add_extra(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name in _KNOWN_FIELDS or value is None:
                continue
            before: object = self._extra.get(name)
            is_text = isinstance(before, str) and isinstance(value, str)
            self._extra[name] = f"{before}{value}" if is_text else value

    def finished(self) -> LLMResponse:
        """Return the whole completion."""
        calls = unique_calls(call.finished(self._redactor) for _, call in sorted(self._calls.items()))
        reason = self.finish_reason or "stop"
        return LLMResponse(self.text, calls, reason, self.usage, extra=self._redactor.answer({**self._extra}))
