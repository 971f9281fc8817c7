"""Keeping a secret out of text that somebody else wrote, by the secret's value."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Concatenate, Final, ParamSpec, TypeVar, cast

from executionkit.providers.chat.spelling import (
    SHORTEST_STUMP,
    base64_spellings,
    begins_with,
    find_beginning,
    find_whole,
    folded,
    mixed,
)

__all__ = ["MASK", "NOTHING_SECRET", "SHORTEST_STUMP", "Redactor"]

T = TypeVar("T")
P = ParamSpec("P")

MASK: Final = "***"
"""What stands in place of a secret."""

_SHORTEST_IN_ANSWERS: Final = 8


def _alone_in_tracebacks(
    method: "Callable[Concatenate[Redactor, P], T]",
) -> "Callable[Concatenate[Redactor, P], T]":
    """Have what interrupts a method leave without the frames below it, whose local names hold the secret."""

    def alone(redactor: "Redactor", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(redactor, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - an interrupt at any instant
            raise error.with_traceback(None) from error.__cause__

    return cast("Callable[Concatenate[Redactor, P], T]", wraps(method)(alone))


class Redactor:
    """Replaces a secret by `***` wherever it stands: raw, base64, URL-encoded or escaped for JSON or HTML.

    Each of its characters may be spelled in its own way, in letters of either case.

    Args:
        secret: Printable ASCII that must not show; if it is empty nothing is replaced.

    >>> redact = Redactor("sk-secret/1")
    >>> redact.text("Incorrect key: sk-secret/1 (sk%2Dsecret&#47;1)")
    'Incorrect key: *** (***)'
    >>> redact
    Redactor(***)
    """

    __slots__ = (
        "_begins",
        "_escapes",
        "_in_answers",
        "_longest",
        "_marks",
        "_plain",
        "_shortest",
        "_spellings",
        "_wholes",
    )

    def __init__(self, secret: str) -> None:
        encoded = [*base64_spellings(secret.encode())] if secret else []
        self._spellings = (mixed(secret), *encoded) if secret else ()
        self._begins = find_beginning(self._spellings)
        self._wholes: re.Pattern[bytes] | None = None
        self._longest = max((sum(len(forms[0]) for forms in each) for each in self._spellings), default=0)
        self._shortest = min(map(len, self._spellings), default=0)
        self._in_answers = len(secret) >= _SHORTEST_IN_ANSWERS
        self._plain = (folded(secret), *(b"".join(forms[-1] for forms in each) for each in encoded))
        characters = set(b"".join(self._plain))
        self._escapes = (b"\\u", *(b"\\%c" % each for each in b'"\\/' if each in characters))
        self._marks = (b"%", b"&", *((b"+",) if b" "[0] in characters else ()))

    @_alone_in_tracebacks
    def text(self, text: str, *, was_cut: bool = False) -> str:
        """Return `text` with every spelling of the secret replaced.

        Args:
            text: What a server or a library wrote.
            was_cut: Whether the end is missing: then the beginning of a secret at the very end goes too.
        """
        if not self._spellings:
            return text
        cleaned = self._cleaned(text)
        return self._without_beginning(cleaned) if was_cut else cleaned

    def _cleaned(self, text: str) -> str:
        pieces, end = list[str](), 0
        for start, after in self._places(folded(text)):
            pieces += text[end:start], MASK
            end = after
        return "".join([*pieces, text[end:]]) if pieces else text

    def _places(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Yield where spellings begin and end."""
        first = self._begins.search(text)
        if first is None or len(text) - first.start() < self._shortest:
            return
        if self._wholes is None:  # takes long to compile, and few texts look so much like the secret
            self._wholes = find_whole(self._spellings)
        for found in self._wholes.finditer(text, first.start()):
            yield found.span()

    @_alone_in_tracebacks
    def may_touch(self, body: bytes) -> bool:
        """Whether an answer may hold the secret: it has a spelling of it, or escapes that could hide one.

        A placeholder of fewer than 8 characters (`"none"`, `"ollama"`) is no secret: it is kept out of
        errors, but an answer is not changed for it.
        """
        if not self._in_answers:
            return False
        lower = body.lower()
        if any(escape in lower for escape in self._escapes) or any(plain in lower for plain in self._plain):
            return True
        return any(mark in lower for mark in self._marks) and any(True for _ in self._places(lower))

    def tree(self, value: object) -> object:
        """Return decoded JSON with the secret replaced in every string and key."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(item) for item in cast("list[object]", value)]
        if isinstance(value, Mapping):
            items = cast("Mapping[str, object]", value).items()
            return {self.text(key): self.tree(item) for key, item in items}
        return value

    def answer(self, value: T) -> T:
        """Return a part of an answer that was decoded or joined only now, with the secret replaced in it."""
        return cast("T", self.tree(value)) if self._in_answers else value

    @_alone_in_tracebacks
    def released(self, text: str) -> tuple[str, str]:
        """Split a stream's text into what may be handed out, clean, and what may be the secret's beginning.

        >>> Redactor("sk-secret").released("the key is sk-sec")
        ('the key is ', 'sk-sec')
        """
        low = folded(text)
        if not self._in_answers or not (first := self._begins.search(low)):
            return text, ""
        if len(low) - first.start() >= self._shortest:
            text = self._cleaned(text)
            low = folded(text)
        end = len(text) - self._beginning(low, 1)
        return text[:end], text[end:]

    def _beginning(self, text: bytes, shortest: int) -> int:
        """Return the length of the longest beginning of a spelling that the text ends in."""
        start, last = max(0, len(text) - self._longest), len(text) - shortest
        while (found := self._begins.search(text, start)) and found.start() <= last:
            beginning = text[found.start() :]
            if any(begins_with(spelling, beginning) for spelling in self._spellings):
                return len(beginning)
            start = found.start() + 1
        return 0

    def _without_beginning(self, text: str) -> str:
        length = self._beginning(folded(text), SHORTEST_STUMP)
        return text[:-length] + MASK if length else text

    def __repr__(self) -> str:
        return "Redactor(***)"


NOTHING_SECRET: Final = Redactor("")
