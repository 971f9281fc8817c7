"""A streamed completion, put together piece by piece."""

import json
from collections.abc import Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

import msgspec

from executionkit.core.content import Said, ThoughtFilter, read_content, read_reasoning
from executionkit.core.endings import is_failed
from executionkit.core.json import MAX_DEPTH, Unreadable, decode_json, decode_piece, whole_text
from executionkit.core.usage import TokenUsage
from executionkit.provider import CallPiece, LLMResponse, ToolCall
from executionkit.providers.chat.complaints import complaint_in_answer
from executionkit.providers.chat.redaction import MASK, SHORTEST_STUMP, Redactor
from executionkit.providers.chat.wire import (
    CALL_FIELDS,
    ONE_CALL,
    READ_OF_MESSAGE,
    Content,
    Unusable,
    broken_off,
    mapping,
    read_arguments,
    reported_usage,
    sent_calls,
    unique_calls,
    unknown_fields,
    with_refusal,
)

__all__ = ["Assembly", "Channel", "StreamChunk"]

T = TypeVar("T")

_PLAIN: Final = frozenset({"role", "content"})
"""The fields of a piece that adds text and nothing else."""

_COINCIDENCE: Final = 12
"""Characters of the key's beginning that a sound text ends in by no chance; keys share their first ones."""


class StreamChunk(msgspec.Struct, frozen=True):
    """A piece of a streamed answer.

    Args:
        text: What it adds to the text; `""` where it adds none.
        finish_reason: Why the model stopped, in the piece that says so.
        usage: Token counts as reported, in the piece that has them; usually the last one.
        reasoning: What it adds to the model's reasoning, which is no part of the text.
        calls: What it adds to tool calls.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = {}
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | int | None = None
    function: _Function | None = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None
    index: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None
    id: Any = None
    model: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether it is a piece of an answer, and no complaint."""
        choices = self.choices or ()
        if self.error or self.x_groq or not (choices or self.usage):
            return False
        return not any(choice.error for choice in choices)


_decoder: Final = msgspec.json.Decoder(_Event)


class _Call:
    """A tool call under way.

    Args:
        place: Where it stands among the calls of the answer, as the server counts.
        number: What tells its pieces from those of the others: some servers count all calls as the first.
        redactor: Keeps the key out of the arguments that are handed out before their end.
    """

    def __init__(self, place: int, number: int, redactor: Redactor) -> None:
        self.place = place
        self.number = number
        self._shown = Channel(redactor)
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
        return not (begins and self.name) or (begins == self.name and not self._is_whole)

    @property
    def _is_whole(self) -> bool:
        """Whether its arguments are all there, so that its name said again begins another call."""
        return self._whole is not None or isinstance(decode_json("".join(self._arguments)), dict)

    def add(self, delta: _CallDelta, sent: dict[str, Any], redactor: Redactor) -> CallPiece:
        """Take in a piece of it, and the same as it was sent; return what can be handed out of it."""
        function = delta.function or _Function()
        self.id = self.id or ("" if delta.id is None else str(delta.id))
        if function.name and function.name != self.name:  # some servers name it in every piece
            self.name += function.name
        given: object = function.arguments
        if isinstance(given, dict):
            self._whole, text = mapping(cast("object", given)), json.dumps(given)
        else:
            text = given if isinstance(given, str) else "" if given is None else json.dumps(given)
            self._arguments.append(text)
        self._extra.update(unknown_fields(sent, CALL_FIELDS))
        return CallPiece(whole_text(redactor.answer(self.name)), self._shown.released(text), self.number)

    def flush(self, redactor: Redactor, *, is_sound: bool) -> CallPiece:
        """Return what is held back of the arguments."""
        return CallPiece(redactor.answer(self.name), self._shown.flush(is_sound=is_sound), self.number)

    def finished(self, redactor: Redactor) -> ToolCall:
        """Return the whole of it."""
        given = whole_text("".join(self._arguments)) if self._whole is None else _repaired(self._whole)
        answer = redactor.answer
        return ToolCall(
            whole_text(answer(self.id)),
            whole_text(answer(self.name)),
            answer(read_arguments(given)),
            answer(_repaired(self._extra)),
        )


class Assembly:
    """What has arrived of a streamed completion.

    Args:
        redactor: Keeps the key out of the text, also where it comes in pieces.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._thoughts = ThoughtFilter()
        self._text = Channel(redactor)
        self._reasoning = Channel(redactor)
        self._refusals: list[str] = []
        self._index: object = None
        self._calls: list[_Call] = []
        self._calls_by_index: dict[int, _Call] = {}
        self._extra: dict[str, list[Any]] = {}
        self._names: tuple[Any, Any] = (None, None)
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.pieces: int = 0

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.so_far

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return self._reasoning.so_far

    def take(self, data: str, kind: str = "message") -> StreamChunk | Unusable:
        """Take the data of one event; total: whatever it is, the answer says what became of it.

        Args:
            data: The event's data.
            kind: The event's type; one of type `"error"` is one, whatever its data is.
        """
        event = _parsed(data)
        if isinstance(event, Unusable):
            return _error_event(data, ONE_CALL) if kind == "error" else event
        if not self._names[0]:
            self._names = event.id, event.model
        plain = self._plain_text(event) if kind != "error" else None
        if plain is not None:  # nearly all pieces
            return self._handed_out(plain)
        usage = self._usage_of(event)
        if kind == "error" or not event.is_plain:
            error = complaint_in_answer(mapping(decode_json(data)))
            if error is not None:
                return Unusable("the server broke off with an error", reported_usage(usage), error)
            if kind == "error":
                return _error_event(data, reported_usage(usage))
        return self._read(event, usage)

    def _plain_text(self, event: _Event) -> str | None:
        """Return the text of a piece of the answer's middle, that has nothing else to tell."""
        choices = event.choices
        if not choices or len(choices) > 1 or event.usage or event.error or event.x_groq:
            return None
        choice = choices[0]
        delta = choice.delta
        if not delta or choice.finish_reason or choice.usage or choice.error or not delta.keys() <= _PLAIN:
            return None
        content = delta.get("content")
        return content if isinstance(content, str) and self._is_followed(choice) else None

    def _handed_out(self, content: str) -> StreamChunk:
        self.pieces += bool(content)
        thoughts, text = self._thoughts.feed(content)
        shown = self._reasoning.released(thoughts) if thoughts else ""
        return StreamChunk(self._text.released(text), reasoning=shown)

    def _usage_of(self, event: _Event) -> dict[str, Any]:
        """Return the usage that a piece holds, in one piece out of many."""
        stated = event.usage or mapping(event.x_groq).get("usage")
        if not stated and event.choices:
            stated = event.choices[0].usage
        if not stated:
            return {}
        usage = _repaired(self._redactor.answer(mapping(stated)))
        self.usage = usage or self.usage
        return usage

    def _read(self, event: _Event, usage: dict[str, Any]) -> StreamChunk | Unusable:
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
        if not delta and not self.pieces:  # a whole answer in one piece
            delta = mapping(choice.message)
        if is_failed(choice.finish_reason):
            return broken_off(choice.finish_reason, reported_usage(usage))
        try:
            said, calls = _said_in(delta), _calls_in(delta)
        except (msgspec.ValidationError, RecursionError) as problem:
            return Unusable(f"a piece of the answer is not a completion: {problem}", ONE_CALL)
        sent = zip(calls, sent_calls(delta), strict=True)
        parts = tuple([self._call_of(call).add(call, raw, self._redactor) for call, raw in sent])
        has_more = not delta.keys() <= READ_OF_MESSAGE and self._add_extra(delta)
        self.pieces += bool(said.text or said.reasoning or said.refusal or calls or has_more)
        if said.refusal:
            self._refusals.append(said.refusal)
        thoughts, text = self._thoughts.feed(said.text)
        text, thoughts = self._text.released(text), self._reasoning.released(said.reasoning + thoughts)
        if choice.finish_reason:
            self.finish_reason = whole_text(self._redactor.answer(choice.finish_reason))
            return StreamChunk(text, self.finish_reason, usage, thoughts, parts)
        return StreamChunk(text, None, usage, thoughts, parts)

    def _call_of(self, delta: _CallDelta) -> _Call:
        """Return the call that a piece belongs to: that of its index, else the last, unless it begins one."""
        last = self._calls[-1] if self._calls else None
        known = last if delta.index is None else self._calls_by_index.get(delta.index)
        if known is None or not known.is_continued_by(delta):
            place = len(self._calls) if delta.index is None else delta.index
            taken = [call.number for call in self._calls]
            number = max(taken) + 1 if place in taken else place
            known = _Call(place, number, self._redactor)
            self._calls.append(known)
            self._calls_by_index[known.place] = known
        return known

    def flush(self, *, is_sound: bool) -> str:
        """Return the text that is held back, once nothing more comes; what is most of a key stays hidden.

        What is held back of it joins `reasoning`.

        Args:
            is_sound: Whether the text has come to its end; that of one that was cut is more likely a key's.
        """
        thoughts, text = self._thoughts.flush()
        self._reasoning.released(thoughts)
        self._reasoning.flush(is_sound=is_sound)
        return self._text.released(text) + self._text.flush(is_sound=is_sound)

    def flush_calls(self, *, is_sound: bool) -> tuple[CallPiece, ...]:
        """Return what is held back of tool calls, once nothing more comes."""
        held = [call.flush(self._redactor, is_sound=is_sound) for call in self._calls]
        return tuple([piece for piece in held if piece.arguments])

    def _add_extra(self, delta: dict[str, Any]) -> bool:
        """Take in the fields that this package does not know, and say whether they hold anything."""
        more = unknown_fields(delta, READ_OF_MESSAGE)
        for name, value in more.items():
            parts = self._extra.setdefault(name, [])
            if not (
                parts and isinstance(value, str | list) and type(parts[0]) is type(cast("object", value))
            ):
                parts.clear()
            parts.append(value)
        return any(more.values())

    def _joined_extra(self) -> dict[str, Any]:
        joined = {name: _joined(parts) for name, parts in self._extra.items()}
        return _repaired(self._redactor.answer(with_refusal(joined, "".join(self._refusals))))

    def finished(self) -> LLMResponse:
        """Return the whole completion."""
        in_order = sorted(self._calls, key=attrgetter("place"))
        calls = unique_calls(call.finished(self._redactor) for call in in_order)
        reason = self.finish_reason or "stop"
        extra, thoughts = self._joined_extra(), self.reasoning
        identity, model = [
            whole_text(self._redactor.answer(name)) if isinstance(name, str) else "" for name in self._names
        ]
        return LLMResponse(
            self.text, calls, reason, self.usage, extra=extra, reasoning=thoughts, id=identity, model=model
        )


class Channel:
    """A text that comes in pieces, handed out as far as no key can begin in it.

    Args:
        redactor: Keeps the key out.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._half = ""
        self._texts: list[str] = []

    @property
    def so_far(self) -> str:
        """What was handed out."""
        return "".join(self._texts)

    def released(self, text: str) -> str:
        """Take a piece and return what can be handed out: not what may be the beginning of the key."""
        if not text:
            return ""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1] <= "\udbff":  # half a pair, whose other half may follow
            text, self._half = text[:-1], text[-1]
        released, self._held = self._redactor.released(self._held + whole_text(text))
        self._texts.append(released)
        return released

    def flush(self, *, is_sound: bool) -> str:
        """Return what is held back, once nothing more comes."""
        held, self._held = self._held, ""
        text = held if len(held) < (_COINCIDENCE if is_sound else SHORTEST_STUMP) else MASK
        text += whole_text(self._half)
        self._half = ""
        self._texts.append(text)
        return text


def _parsed(data: str) -> _Event | Unusable:
    """Decode at once what is as it should be, and look closer at the rest."""
    if data.count("{") + data.count("[") <= MAX_DEPTH:
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError:
            pass
    raw = decode_piece(data)
    if isinstance(raw, Unreadable):
        return Unusable(f"a piece of the answer is not JSON: {raw.reason}")
    if not isinstance(raw, dict):
        begins = raw if isinstance(raw, str) else ""
        return Unusable(
            f"a piece of the answer is not a JSON object but a {type(raw).__name__}",
            begins=whole_text(begins),
        )
    try:
        return _as_event(cast("dict[str, object]", raw))
    except (msgspec.ValidationError, RecursionError) as problem:
        return Unusable(f"a piece of the answer is not a completion: {problem}", ONE_CALL)


def _as_event(raw: dict[str, object]) -> _Event:
    try:
        return msgspec.convert(raw, _Event)
    except UnicodeEncodeError:  # half a surrogate pair where no text belongs
        return msgspec.convert(_repaired(raw), _Event)


def _error_event(data: str, usage: TokenUsage) -> Unusable:
    """Return what an event says that is an error by its type."""
    decoded = decode_json(data)
    error = mapping(decoded) or {"message": data if isinstance(decoded, Unreadable) else str(decoded)}
    return Unusable("the server broke off with an error", usage, error)


def _said_in(delta: dict[str, Any]) -> Said:
    content = delta.get("content")
    said = read_content(content if isinstance(content, str) else msgspec.convert(_repaired(content), Content))
    return msgspec.structs.replace(said, reasoning=read_reasoning(delta) or said.reasoning)


def _repaired(value: T) -> T:
    """Return a part of an answer without halves of surrogate pairs."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(value)
        return cast("T", decode_json(text))
    return value


def _calls_in(delta: dict[str, Any]) -> list[_CallDelta]:
    calls = sent_calls(delta)
    if not calls:
        return []
    try:
        return msgspec.convert(calls, list[_CallDelta])
    except UnicodeEncodeError:  # half a surrogate pair where no text belongs
        return msgspec.convert(_repaired(calls), list[_CallDelta])


def _joined(parts: list[Any]) -> object:
    """Join texts and lists; of anything else there is one."""
    match parts[0]:
        case str():
            return whole_text("".join(parts))
        case list():
            return [*chain.from_iterable(parts)]
        case value:
            return value
