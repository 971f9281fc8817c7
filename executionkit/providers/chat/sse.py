"""Server-sent events, as the standard says: WHATWG HTML, 9.2.6 "Interpreting an event stream"."""

import codecs
import re
from typing import Final

import msgspec

__all__ = ["EventParser", "ServerEvent"]

_LINE_END: Final = re.compile("\r\n|\n|\r")


class ServerEvent(msgspec.Struct, frozen=True):
    """One event.

    Args:
        data: Its text; the lines of several `data:` fields are joined by line feeds.
        event: Its type; `"message"` where it has none.
        id: The last event id, its own or one that came before.
    """

    data: str
    event: str = "message"
    id: str = ""


class EventParser:
    r"""Turns the bytes of a stream, split anywhere, into events.

    An event ends with a blank line; what follows the last one is not an event. Bytes that are not UTF-8
    become replacement characters.

    >>> parser = EventParser()
    >>> parser.feed(b": a comment\ndata: Hel"), parser.feed(b"lo\r\n\r\n")
    ([], [ServerEvent(data='Hello', event='message', id='')])
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_first = True
        self._rest: list[str] = []
        self._ended_in_cr = False
        self._data: list[str] = []
        self._event = ""
        self._id = ""

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take the next bytes and return the events that they complete."""
        text = self._decoder.decode(data)
        if self._is_whole_event(text):  # nearly all that servers send
            return [ServerEvent(text[6:-2], id=self._id)]
        events: list[ServerEvent] = []
        for line in self._lines(text):
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _is_whole_event(self, text: str) -> bool:
        """Tell whether a text is one event with one line of data, and nothing else is under way."""
        return (
            text.startswith("data: ")
            and text.find("\n") == len(text) - 2
            and text.endswith("\n\n")
            and "\r" not in text
            and not (self._rest or self._data or self._event or self._ended_in_cr or self._is_first)
        )

    def _lines(self, text: str) -> list[str]:
        """Return the lines that `text` completes; a CR at its very end may be the first half of a CRLF."""
        if text and self._is_first:
            self._is_first = False
            text = text.removeprefix("\ufeff")
        if text and self._ended_in_cr:
            text = text.removeprefix("\n")
            self._ended_in_cr = False
        *lines, rest = _LINE_END.split(text) if "\r" in text else text.split("\n")
        if lines:
            lines[0] = "".join([*self._rest, lines[0]])
            self._rest = []
            self._ended_in_cr = text.endswith("\r")
        if rest:
            self._rest.append(rest)
        return lines

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        lines, event = self._data, self._event
        self._data, self._event = [], ""
        return ServerEvent("\n".join(lines), event or "message", self._id) if lines else None
