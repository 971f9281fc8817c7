"""JSON from strangers: typed decoding that answers with a value, whatever the bytes are."""

import json
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Final, cast

import msgspec

__all__ = ["MAX_DEPTH", "Unreadable", "decode_json", "decode_piece", "is_deeper_than", "whole_text"]

MAX_DEPTH: Final = 100
"""Levels of nesting that are still read."""


class Unreadable(msgspec.Struct, frozen=True):
    """Why bytes are not the JSON that was expected.

    Args:
        reason: One clause, fit to stand after a colon.
    """

    reason: str


def decode_json(body: bytes | str) -> object | Unreadable:
    """Decode UTF-8 JSON, a byte order mark allowed; total, and never nested deeper than `MAX_DEPTH`.

    A surrogate that is escaped without its other half becomes U+FFFD.

    >>> decode_json(b'{"a": 1}')
    {'a': 1}
    >>> decode_json(b"<html>")
    Unreadable(reason='JSON is malformed: invalid character (byte 0)')
    >>> decode_json(b"[" * 200 + b"]" * 200)
    Unreadable(reason='it is nested more than 100 levels deep')
    """
    try:
        value: object = msgspec.json.decode(_without_mark(body))
    except RecursionError:
        return Unreadable(_TOO_DEEP)
    except UnicodeError:
        return Unreadable("it is not UTF-8")
    except msgspec.DecodeError as error:
        repaired = _without_lone_surrogates(body)
        if repaired is not None:
            return decode_json(repaired)
        return Unreadable(str(error) if body.strip() else "it is empty")
    return Unreadable(_TOO_DEEP) if _is_too_deep(body, value) else value


_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _without_lone_surrogates(body: bytes | str) -> str | None:
    """Replace escaped surrogates without their other half; None where there are none."""
    try:
        text = body if isinstance(body, str) else body.decode()
    except UnicodeDecodeError:
        return None
    if not _SURROGATE.search(text):
        return None
    repaired = _ESCAPE.sub(lambda found: "\\ufffd" if found[1] else found[0], text)
    return None if repaired == text else repaired


def decode_piece(data: str) -> object | Unreadable:
    """Decode JSON as `decode_json` does, but keep half a surrogate pair for the next piece."""
    if _SURROGATE.search(data):
        with suppress(ValueError, RecursionError):
            value: object = json.loads(data, parse_constant=_refuse)
            return Unreadable(_TOO_DEEP) if _is_too_deep(data, value) else value
    return decode_json(data)


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def whole_text(text: str) -> str:
    r"""Join the halves of surrogate pairs; one that is alone becomes U+FFFD.

    >>> whole_text("\ud83d\ude00, \ud83d!")
    '😀, �!'
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_TOO_DEEP: Final = f"it is nested more than {MAX_DEPTH} levels deep"


def _is_too_deep(body: bytes | str, value: object) -> bool:
    """Walk only what could be too deep: most bodies have fewer brackets than that altogether."""
    brackets = (
        body.count("[") + body.count("{") if isinstance(body, str) else body.count(b"[") + body.count(b"{")
    )
    return brackets > MAX_DEPTH and is_deeper_than(value, MAX_DEPTH)


def _without_mark(body: bytes | str) -> bytes | str:
    return body.removeprefix(b"\xef\xbb\xbf") if isinstance(body, bytes) else body.removeprefix("\ufeff")


def is_deeper_than(value: object, levels: int) -> bool:
    """Whether something lies deeper than `levels` lists and dicts; level by level, so that nothing recurses.

    >>> is_deeper_than([[1], {"a": [2]}], 3), is_deeper_than([[1], {"a": [2]}], 2)
    (False, True)
    """
    layer = [value]
    for _ in range(levels):
        layer = [child for item in layer for child in _children(item) if type(child) not in _ATOMS]
        if not layer:
            return False
    return any(map(_children, layer))


_ATOMS: Final = frozenset({str, int, float, bool, type(None)})


def _children(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, (list, tuple)) else ()
