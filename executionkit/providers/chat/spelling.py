r"""The spellings of a text elsewhere: URL-encoded, escaped for JSON or HTML, or in base64.

Each character may be spelled in its own way (`sk\/1%2F2`), so a spelling is not a text but a `Spelling`: for
each character all of its forms. They are bytes in lower case, one for each character of a text (`folded`).
"""

import base64
import re
from collections.abc import Iterable, Iterator
from functools import cache
from html.entities import html5
from itertools import groupby
from typing import Final, TypeAlias

__all__ = [
    "SHORTEST_STUMP",
    "Spelling",
    "base64_spellings",
    "begins_with",
    "find_beginning",
    "find_whole",
    "folded",
    "mixed",
]

Spelling: TypeAlias = tuple[tuple[bytes, ...], ...]
"""The forms of each character, the longest first."""

SHORTEST_STUMP: Final = 4
"""Characters of a secret's beginning that are worth hiding."""

_SHORTEST_INSIDE: Final = 8
_ESCAPED: Final = '"\\/'
_NAMES: Final[dict[str, list[str]]] = {}
for _name, _character in html5.items():
    if _name.endswith(";"):
        _NAMES.setdefault(_character, []).append(_name)


def folded(text: str) -> bytes:
    """Return one lower-case byte for each character; `?` for those that are in no secret."""
    return text.encode("ascii", "replace").lower()


def mixed(text: str) -> Spelling:
    r"""Return the spelling of printable ASCII in any mixture of forms.

    >>> mixed("/")
    ((b'&#x002f;', b'&#047;', b'&#x2f;', b'\\u002f', b'&#47;', b'&sol;', b'%2f', b'\\/', b'/'),)
    """
    return tuple(map(_forms, text))


def base64_spellings(secret: bytes) -> Iterator[Spelling]:
    """Yield the secret in base64, alone and at each of the three places it can have inside more."""
    for text in dict.fromkeys(map(folded, _base64(secret))):
        yield tuple((each.encode(),) if each.isalnum() else _forms(each) for each in text.decode())


def find_whole(spellings: Iterable[Spelling]) -> "re.Pattern[bytes]":
    """Return the pattern of all spellings."""
    return re.compile(b"|".join(map(_whole, spellings)))


def find_beginning(spellings: Iterable[Spelling]) -> "re.Pattern[bytes]":
    """Return a pattern of where a spelling may begin, be it cut by the end: too much, but nothing too little.

    Every alternative of it begins with a byte of its own: it passes over all other bytes in one step.
    """
    return re.compile(b"|".join(dict.fromkeys(each for one in spellings for each in _beginnings(one))))


def begins_with(spelling: Spelling, text: bytes) -> bool:
    """Whether `text` is the beginning of a spelling.

    >>> begins_with(mixed("a/b"), b"a%2"), begins_with(mixed("a/b"), b"a%3")
    (True, False)
    """
    places = {0}
    for forms in spelling:
        after: set[int] = set()
        for place in places:
            for form in forms:
                if text.startswith(form, place):
                    after.add(place + len(form))
                elif form.startswith(text[place : place + len(form)]) and place + len(form) > len(text):
                    return True
        if not after:
            return False
        places = after
    return len(text) in places


@cache
def _forms(character: str) -> tuple[bytes, ...]:
    code = ord(character)
    forms = [
        character,
        f"%{code:02x}",
        f"\\u{code:04x}",
        *(f"&#{number};" for number in (code, f"{code:03}", f"x{code:x}", f"x{code:04x}")),
        *(f"&{name}" for name in _NAMES.get(character, ())),
        *([f"\\{character}"] if character in _ESCAPED else []),
        *(["+"] if character == " " else []),
    ]
    return tuple(sorted({folded(form) for form in forms}, key=lambda form: (-len(form), form)))


def _base64(secret: bytes) -> Iterator[str]:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(secret).decode().rstrip("=")
        for before in range(3):
            # Characters that also encode a neighbour's bits are left out: they are not the secret's own.
            inside = encode(b"\0" * before + secret).decode().rstrip("=")
            first = (before * 8 + 5) // 6
            last = (before + len(secret)) * 8 // 6
            if last - first >= _SHORTEST_INSIDE:
                yield inside[first:last]


def _whole(spelling: Spelling) -> bytes:
    return b"".join(_repeated(forms, len([*run])) for forms, run in groupby(spelling))


def _repeated(forms: tuple[bytes, ...], times: int) -> bytes:
    if b"\\\\" not in forms:
        return _any_of(forms) * times
    # Not one or two for each: the ways to read a long run of backslashes would be too many to try.
    return _any_of(form for form in forms if form != b"\\\\") + b"{%d,%d}" % (times, 2 * times)


def _any_of(forms: Iterable[bytes]) -> bytes:
    return b"(?:%b)" % b"|".join(map(re.escape, forms))


def _beginnings(spelling: Spelling) -> Iterator[bytes]:
    first, *others = spelling[:SHORTEST_STUMP]
    then = b""
    for forms in reversed(others):
        starts = [re.escape(form) + then if len(form) == 1 else re.escape(form[:1]) for form in forms]
        then = b"(?:%b)" % b"|".join(dict.fromkeys([*reversed(starts), rb"\Z"]))
    for form in reversed(first):
        yield re.escape(form[:1]) + (then if len(form) == 1 else _cut(form[1:]))


def _cut(text: bytes) -> bytes:
    """Return the pattern of a text or, at the end, of its beginning."""
    return b"(?:%b)" % b"|".join(
        [re.escape(text), *(re.escape(text[:end]) + rb"\Z" for end in range(len(text)))]
    )
