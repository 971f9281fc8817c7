"""JSON from strangers: typed decoding that answers with a value, whatever the bytes are."""

from collections.abc import Collection
from typing import Final, cast

import msgspec

__all__ = ["MAX_DEPTH", "Unreadable", "decode_json", "is_deeper_than"]

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
        return Unreadable(str(error) if body.strip() else "it is empty")
    return Unreadable(_TOO_DEEP) if _is_too_deep(body, value) else value


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
    for _ in range(levels + 1):
        layer = [child for item in layer for child in _children(item)]
        if not layer:
            return False
    return True


def _children(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, (list, tuple)) else ()
