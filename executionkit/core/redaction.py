"""Keeping a secret out of text that somebody else wrote, by the secret's value."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar, cast
from urllib.parse import quote, quote_plus

__all__ = ["MASK", "NOTHING_SECRET", "SHORTEST_STUMP", "Redactor"]

T = TypeVar("T")

MASK: Final = "***"
"""What stands in the place of a secret."""

_FLAGS: Final = re.IGNORECASE | re.ASCII
_SHORTEST_IN_ANSWERS: Final = 8
SHORTEST_STUMP: Final = 4
"""Characters of a secret's beginning that are worth hiding."""


class Redactor:
    """Replaces a secret by `***` wherever it stands: raw, URL-encoded, base64, or escaped for JSON or HTML.

    Args:
        secret: What must not show; an empty one replaces nothing.

    >>> redact = Redactor("sk-secret/1")
    >>> redact.text("Incorrect key: sk-secret/1 (sk-secret%2F1)")
    'Incorrect key: *** (***)'
    >>> redact
    Redactor(***)
    """

    __slots__ = ("_begins", "_in_answers", "_longest", "_pattern", "_spellings")

    def __init__(self, secret: str) -> None:
        spellings = sorted(set(_spellings(secret)), key=len, reverse=True) if secret else []
        self._spellings = tuple({_folded(spelling): None for spelling in spellings})
        self._pattern = re.compile("|".join(map(re.escape, spellings)), _FLAGS) if spellings else None
        self._begins = re.compile(b"|".join(_beginnings(self._spellings)))
        self._longest = max(map(len, self._spellings), default=0)
        self._in_answers = len(secret) >= _SHORTEST_IN_ANSWERS

    def text(self, text: str, *, was_cut: bool = False) -> str:
        """Return `text` with every spelling of the secret replaced.

        Args:
            text: What a server or a library wrote.
            was_cut: Whether the end is missing: then the beginning of a secret at the very end goes too.
        """
        if self._pattern is None:
            return text
        cleaned = self._pattern.sub(MASK, text)
        return self._without_stump(cleaned) if was_cut else cleaned

    def may_touch(self, body: bytes) -> bool:
        """Whether an answer may hold the secret: it has a spelling of it, or escapes that could hide one.

        A placeholder of fewer than 8 characters (`"none"`, `"ollama"`) is no secret: it is kept out of
        errors, but an answer is not changed for it.
        """
        if not self._in_answers:
            return False
        folded = body.lower()
        return b"\\u" in folded or any(spelling in folded for spelling in self._spellings)

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

    def released(self, text: str) -> tuple[str, str]:
        """Split a stream's text into what may be handed out, clean, and what may be the secret's beginning.

        >>> Redactor("sk-secret").released("the key is sk-sec")
        ('the key is ', 'sk-sec')
        """
        if not self._in_answers or not self._begins.search(_folded(text)):
            return text, ""
        cleaned = self.text(text)
        end = len(cleaned) - self._stump(cleaned, 1)
        return cleaned[:end], cleaned[end:]

    def _stump(self, text: str, shortest: int) -> int:
        """Return the length of the longest beginning of a spelling that the text ends in."""
        end = _folded(text[-self._longest :])
        start, last = 0, len(end) - shortest
        while (found := self._begins.search(end, start)) and found.start() <= last:
            stump = end[found.start() :]
            if any(spelling.startswith(stump) for spelling in self._spellings):
                return len(stump)
            start = found.start() + 1
        return 0

    def _without_stump(self, text: str) -> str:
        length = self._stump(text, SHORTEST_STUMP)
        return text[:-length] + MASK if length else text

    def __repr__(self) -> str:
        return "Redactor(***)"


def _folded(text: str) -> bytes:
    """Return one lower-case byte for each character; `?` for those that are in no secret."""
    return text.encode("ascii", "replace").lower()


def _beginnings(spellings: Iterable[bytes]) -> Iterator[bytes]:
    """Yield patterns for where one of the spellings may begin, be it cut by the end of the text."""
    for spelling in spellings:
        yield re.escape(spelling[:SHORTEST_STUMP])
        for length in range(1, SHORTEST_STUMP):
            yield re.escape(spelling[:length]) + rb"\Z"


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield html.escape(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret)[1:-1].replace("/", "\\/")
    yield "".join(f"%{byte:02X}" for byte in secret.encode())
    yield from _base64_spellings(secret.encode())


def _base64_spellings(secret: bytes) -> Iterator[str]:
    """Yield the secret in base64, alone and at each of the three places it can have inside more."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(secret).decode().rstrip("=")
        for before in range(3):
            # Characters that also encode a neighbour's bits are left out: they are not the secret's own.
            inside = encode(b"\0" * before + secret).decode().rstrip("=")
            first = (before * 8 + 5) // 6
            last = (before + len(secret)) * 8 // 6
            if last - first >= _SHORTEST_IN_ANSWERS:
                yield inside[first:last]


NOTHING_SECRET: Final = Redactor("")
