"""Keeping a secret out of text that somebody else wrote, by the secret's value."""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar, cast
from urllib.parse import quote, quote_plus

__all__ = ["MASK", "NOTHING_SECRET", "SHORTEST_STUMP", "Redactor"]

T = TypeVar("T")

MASK: Final = "***"
"""What stands in the place of a secret."""

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

    __slots__ = ("_firsts", "_in_answers", "_longest", "_pattern", "_spellings")

    def __init__(self, secret: str) -> None:
        spellings = sorted(set(_spellings(secret)), key=len, reverse=True) if secret else []
        self._spellings = tuple(spelling.encode() for spelling in spellings)
        self._pattern = re.compile("|".join(map(re.escape, spellings)), re.IGNORECASE) if spellings else None
        self._in_answers = len(secret) >= _SHORTEST_IN_ANSWERS
        shown = spellings if self._in_answers else []
        self._firsts = frozenset(spelling[0] for spelling in shown)
        self._longest = max(map(len, shown), default=0)

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
        return b"\\u" in body or any(spelling in body for spelling in self._spellings)

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

    def held_back(self, text: str) -> int:
        """Return how many characters at the end of a stream's text could begin the secret."""
        start = max(0, len(text) - self._longest)
        for index in range(start, len(text)):
            if text[index] in self._firsts and self._may_begin(text[index:]):
                return len(text) - index
        return 0

    def _may_begin(self, end: str) -> bool:
        return any(spelling.startswith(end.encode()) for spelling in self._spellings)

    def _without_stump(self, text: str) -> str:
        for spelling in self._spellings:
            for length in range(min(len(spelling), len(text)), SHORTEST_STUMP - 1, -1):
                if text.endswith(spelling[:length].decode()):
                    return text[:-length] + MASK
        return text

    def __repr__(self) -> str:
        return "Redactor(***)"


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
