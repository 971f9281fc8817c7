"""JSON text of plain data, whatever is in it."""

import msgspec

from executionkit.core.foreign import text_of
from executionkit.core.schema.models import plain_model

__all__ = ["json_text"]


def json_text(value: object) -> str:
    """Encode a value as JSON text; what JSON has no form for appears as its `str`.

    >>> json_text({"city": "Zürich", "at": 3})
    '{"city":"Zürich","at":3}'
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain_or_text).decode()
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return _lenient_text(value)


def _plain_or_text(value: object) -> object:
    try:
        return plain_model(value)
    except Exception:  # noqa: BLE001 - no model, or one of somebody else that cannot be written
        return text_of(value)


def _lenient_text(value: object) -> str:
    """Encode what msgspec refuses: lone surrogates, keys that are not text, cycles."""
    import json

    try:
        return json.dumps(value, default=text_of, skipkeys=True)
    except (ValueError, RecursionError):
        return json.dumps(str(type(value)))
