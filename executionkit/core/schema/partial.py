"""A typed answer as it comes in: what can be read of it so far, and which elements of it are whole."""

import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Final, cast

import msgspec

from executionkit.core.encoding import json_text
from executionkit.core.json_text import find_json
from executionkit.core.schema.answer import AnswerType
from executionkit.core.schema.reading import JsonDecoder

__all__ = ["PartialAnswer", "Whole", "begins_with"]

INTERVAL: Final = 0.05
"""Seconds between two looks at what can be read so far: each reads all of it again."""

_ROOT: Final = re.compile(r"[{\[]")
_OBJECT: Final = re.compile(r"{")
_SIGNIFICANT: Final = re.compile(r'["\\,\[\]{}]')
_ENVELOPE: Final = re.compile(r'\{\s*"answer"\s*:\s*')
_LONGEST_ENVELOPE: Final = 200


class Whole(msgspec.Struct, frozen=True):
    """An element of an answer that is a list.

    Args:
        value: The element, of its type.
        index: Its place, from 0.
    """

    value: Any
    index: int


class PartialAnswer:
    """Reads an answer of a type piece by piece; never raises.

    Values so far are read by `jiter` (extra `stream`); without it there are none. Elements need no extra.

    Args:
        kind: The type.
        clock: The time in seconds.

    >>> from executionkit.core.schema.answer import answer_type
    >>> reader = PartialAnswer(answer_type(list[int]))
    >>> reader.elements('{"answer": [1, 2'), reader.elements("3, 4"), reader.elements("]}")
    ([Whole(value=1, index=0)], [Whole(value=23, index=1)], [Whole(value=4, index=2)])
    """

    def __init__(self, kind: AnswerType[Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._is_wrapped = kind.is_wrapped
        self._clock = clock
        self._texts: list[str] = []
        self._last: object = None
        self._looked_at: float | None = None
        self._scanner = None if kind.element is None else _Elements(kind.element, is_wrapped=kind.is_wrapped)

    def elements(self, piece: str) -> Sequence[Whole]:
        """Take a piece of the text, and return the elements that it completes."""
        self._texts.append(piece)
        return () if self._scanner is None else self._scanner.feed(piece)

    def value(self, *, is_end: bool = False) -> object:
        """Return what can be read of the text so far as plain data; None where that is nothing new.

        Args:
            is_end: Whether nothing more comes; else it looks every `INTERVAL` seconds only.
        """
        read = _jiter()
        now = self._clock()
        if read is None or not (is_end or self._looked_at is None or now - self._looked_at >= INTERVAL):
            return None
        text = self._beginning() if not is_end else self._whole()
        if not text:
            return None
        self._looked_at = now
        try:
            value: object = read(text.encode(), partial_mode="trailing-strings")
        except ValueError:  # it is not JSON after all, or too deep
            return None
        if self._is_wrapped and isinstance(value, dict):
            held = cast("dict[str, object]", value)
            value = held.get("answer") if held.keys() <= {"answer"} else held
        if value == self._last:
            return None
        self._last = value
        return value

    def _beginning(self) -> str:
        """Return what there is of the answer: from the first bracket on that it may begin with."""
        text = "".join(self._texts)
        root = (_ROOT if self._is_wrapped else _OBJECT).search(text)
        return "" if root is None else text[root.start() :]

    def _whole(self) -> str:
        """Return the answer, now that all of it is there: another bracket may have come before."""
        found = find_json("".join(self._texts)).values
        return found[0] if found else self._beginning()


def begins_with(value: Sequence[object], elements: Sequence[object]) -> bool:
    """Tell whether a list begins with elements that were read one by one.

    Objects of a class that does not compare them are the same where they are as JSON.

    >>> begins_with([1, 2, 3], [1, 2]), begins_with([3, 4], [1])
    (True, False)
    """
    beginning, read = [*value[: len(elements)]], [*elements]
    return beginning == read or json_text(beginning) == json_text(read)


class _Elements:
    """Finds the elements of a list in a text that comes in pieces, each looked at once."""

    def __init__(self, element: JsonDecoder, *, is_wrapped: bool) -> None:
        self._element = element
        self._is_wrapped = is_wrapped
        self._text = ""
        self._at = 0
        self._depth = -1  # the list has not begun
        self._in_string = False
        self._is_over = False
        self._count = 0

    def feed(self, piece: str) -> list[Whole]:
        self._text += piece
        if self._depth < 0 and not self._is_over:
            self._begin()
        found: list[Whole] = []
        while self._depth >= 0 and not self._is_over:
            mark = _SIGNIFICANT.search(self._text, self._at)
            if mark is None:
                self._at = max(self._at, len(self._text))
                break
            self._at = mark.end()
            if self._ends_element(mark[0]):
                found += self._taken(mark.start())
        return found

    def _begin(self) -> None:
        """Find the beginning of the list: at the root, or in its envelope."""
        root = _ROOT.search(self._text)
        if root is None:
            self._text = ""
            return
        begin = root.start()
        if root[0] == "{":
            envelope = _ENVELOPE.match(self._text, begin) if self._is_wrapped else None
            if envelope is None or envelope.end() == len(self._text):
                self._is_over = len(self._text) - begin > _LONGEST_ENVELOPE
                return
            begin = envelope.end()
            self._is_over = self._text[begin] != "["
        self._text, self._at, self._depth = self._text[begin + 1 :], 0, 0

    def _ends_element(self, mark: str) -> bool:
        if mark == "\\":
            self._at += self._in_string  # what it escapes, also where that comes with the next piece
        elif mark == '"':
            self._in_string = not self._in_string
        elif self._in_string:
            pass
        elif mark in "[{":
            self._depth += 1
        elif mark == ",":
            return self._depth == 0
        elif self._depth == 0:
            self._is_over = True
            return True
        else:
            self._depth -= 1
        return False

    def _taken(self, end: int) -> list[Whole]:
        text, self._text = self._text[:end].strip(), self._text[self._at :]
        self._at = 0
        if not text:
            self._is_over = True  # the list is empty, or no list
            return []
        try:
            value = self._element.decode(text)
        except Exception:  # noqa: BLE001 - a type's own checks may raise anything; the whole is refused, too
            self._is_over = True
            return []
        self._count += 1
        return [Whole(value, self._count - 1)]


@cache
def _jiter() -> Callable[..., Any] | None:
    """Return the reader of partial JSON, where it is installed."""
    if find_spec("jiter") is None:
        return None
    from jiter import from_json

    return from_json
