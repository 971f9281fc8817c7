"""JSON text of plain data, whatever is in it."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import cast

import msgspec

from executionkit.core.foreign import text_of
from executionkit.core.schema.models import plain_model

__all__ = ["json_text", "plain_or_text"]


def json_text(value: object) -> str:
    """Encode a value as JSON text; what JSON has no form for appears as its `str`.

    >>> json_text({"city": "Zürich", "at": 3})
    '{"city":"Zürich","at":3}'
    """
    try:
        return msgspec.json.encode(value, enc_hook=plain_or_text).decode()
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return _lenient_text(value)


def plain_or_text(value: object, text: Callable[[object], str] = text_of) -> object:
    """Return a model's value or a container's as plain data, anything else as text; an `enc_hook` of msgspec.

    >>> plain_or_text(deque([1, 2])), plain_or_text(3j)
    ([1, 2], '3j')
    """
    with suppress(Exception):  # no model, or one of somebody else that cannot be written
        return plain_model(value)
    try:
        return _plain_container(value)
    except RecursionError:  # it holds itself
        raise
    except Exception:  # noqa: BLE001 - no container, or one of somebody else that cannot be read
        return text(value)


def _plain_container(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, AbstractSet | ValuesView | deque):
        return list(cast("Iterable[object]", value))
    raise NotImplementedError


def _lenient_text(value: object) -> str:
    """Encode what msgspec refuses: lone surrogates, keys that are not text, cycles."""
    import json

    try:
        return json.dumps(value, default=plain_or_text, skipkeys=True)
    except (ValueError, RecursionError):
        return json.dumps(str(type(value)))
