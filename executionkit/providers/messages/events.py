"""A streamed answer of the Messages API, put together event by event."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from executionkit.core.json import MAX_DEPTH, Unreadable, decode_json, is_deeper_than
from executionkit.provider import CallPiece, LLMResponse
from executionkit.providers.chat.deltas import Channel, StreamChunk
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.wire import (
    ONE_CALL,
    Unusable,
    error_object,
    mapping,
    reported_usage,
    text_in,
)
from executionkit.providers.messages.wire import Block, message_of, reason_of

__all__ = ["MessageAssembly"]


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_details: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: dict[str, Any] | None = None
    content_block: dict[str, Any] | None = None
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


class MessageAssembly:
    """What has arrived of a streamed answer; of the same shape as `chat.deltas.Assembly`.

    Args:
        redactor: Keeps the key out of the text, also where it comes in pieces.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._text = Channel(redactor)
        self._reasoning = Channel(redactor)
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, list[str]] = {}
        self._shown: dict[int, Channel] = {}
        self._stop_reason: str | None = None
        self._details: object = None
        self._message: dict[str, Any] = {}
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

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped; None while it has not."""
        return reason_of(self._stop_reason)

    def take(self, data: str, kind: str = "message") -> StreamChunk | Unusable:  # noqa: ARG002 - data says it too
        """Take the data of one event; total: whatever it is, the answer says what became of it."""
        raw = decode_json(data)
        if isinstance(raw, Unreadable):
            return Unusable(f"a piece of the answer is not JSON: {raw.reason}")
        if not isinstance(raw, dict):
            return Unusable(f"a piece of the answer is not a JSON object but a {type(raw).__name__}")
        try:
            return self._read(msgspec.convert(cast("dict[str, object]", raw), _Event))
        except (msgspec.ValidationError, RecursionError) as problem:
            return Unusable(f"a piece of the answer is not a part of a message: {problem}", ONE_CALL)

    def _read(self, event: _Event) -> StreamChunk | Unusable:
        if event.error:
            reported = reported_usage(self.usage)
            return Unusable("the server broke off with an error", reported, error_object(event.error))
        match event.type:
            case "message_start":
                self._message = mapping(event.message)
                return self._charged(mapping(event.message).get("usage"))
            case "content_block_start":
                return self._begin(event.index, event.content_block or {})
            case "content_block_delta":
                return self._add(event.index, event.delta or _Delta())
            case "message_delta":
                delta = event.delta or _Delta()
                self._stop_reason = self._redactor.answer(delta.stop_reason) or self._stop_reason
                self._details = delta.stop_details or self._details
                return StreamChunk(finish_reason=self.finish_reason, usage=self._charged(event.usage).usage)
            case _:  # `ping`, the ends of blocks and of the message, and what is to come
                return StreamChunk()

    def _charged(self, reported: object) -> StreamChunk:
        """Take in counts: the input's come at the beginning, the output's are totals and grow."""
        counts = {name: count for name, count in mapping(reported).items() if count is not None}
        self.usage = {**self.usage, **self._redactor.answer(counts)}
        return StreamChunk(usage=self.usage if counts else {})

    def _begin(self, index: int, block: dict[str, Any]) -> StreamChunk:
        msgspec.convert(block, Block)  # what it is not is told now, not at the end
        self._blocks[index] = {**block}
        text = block.get("text")
        return StreamChunk(self._text.released(text)) if isinstance(text, str) else StreamChunk()

    def _add(self, index: int, delta: _Delta) -> StreamChunk:
        block = self._blocks.setdefault(index, {"type": _TYPES.get(delta.type, delta.type)})
        self.pieces += 1
        match delta.type:
            case "text_delta":
                block["text"] = str(block.get("text") or "") + delta.text
                return StreamChunk(self._text.released(delta.text))
            case "thinking_delta":
                block["thinking"] = str(block.get("thinking") or "") + delta.thinking
                return StreamChunk(reasoning=self._reasoning.released(delta.thinking))
            case "signature_delta":
                block["signature"] = str(block.get("signature") or "") + delta.signature
            case "input_json_delta":
                self._inputs.setdefault(index, []).append(delta.partial_json)
                return StreamChunk(calls=(self._shown_call(index, delta.partial_json),))
            case _:
                self.pieces -= 1
        return StreamChunk()

    def _shown_call(self, index: int, text: str) -> CallPiece:
        """Return what can be handed out of the arguments of a call."""
        shown = self._shown.setdefault(index, Channel(self._redactor))
        return CallPiece(self._name_of(index), shown.released(text), sorted(self._inputs).index(index))

    def flush(self, *, is_sound: bool) -> str:
        """Return the text that is held back, once nothing more comes; what is most of a key stays hidden.

        What is held back of it joins `reasoning`.

        Args:
            is_sound: Whether the text has come to its end; that of one that was cut is more likely a key's.
        """
        self._reasoning.flush(is_sound=is_sound)
        return self._text.flush(is_sound=is_sound)

    def flush_calls(self, *, is_sound: bool) -> tuple[CallPiece, ...]:
        """Return what is held back of tool calls, once nothing more comes."""
        pieces: list[CallPiece] = []
        for place, index in enumerate(sorted(self._shown)):
            held = self._shown[index].flush(is_sound=is_sound)
            if held:
                pieces.append(CallPiece(self._name_of(index), held, place))
        return tuple(pieces)

    def _name_of(self, index: int) -> str:
        name: str = self._redactor.answer(str(self._blocks[index].get("name") or ""))
        return name

    def finished(self) -> LLMResponse:
        """Return the whole answer."""
        for index, parts in self._inputs.items():
            self._blocks[index]["input"] = _input_of("".join(parts))
        blocks = self._redactor.answer([block for _, block in sorted(self._blocks.items())])
        answer = message_of(blocks, self._stop_reason, self.usage, self._details)
        told = self._redactor.answer({name: text_in(self._message, name) for name in ("id", "model")})
        return msgspec.structs.replace(answer, content=self.text, **told)


_TYPES: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "tool_use"}
"""The type of a block whose beginning was not sent."""


_AROUND: Final = 3
"""Levels that a call's arguments lie within what is kept of the answer."""


def _input_of(text: str) -> Mapping[str, Any] | str:
    """Return the arguments of a call; the text as it came where it is not a JSON object."""
    if not text.strip():
        return {}
    decoded = decode_json(text)
    sound = isinstance(decoded, dict) and not is_deeper_than(cast("object", decoded), MAX_DEPTH - _AROUND)
    return cast("dict[str, Any]", decoded) if sound else text
