"""From plain JSON data to a type, as JSON Schema reads it, and in words what keeps it from that. Pure."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from executionkit.core.schema.completion import complete, is_left_incomplete
from executionkit.core.schema.models import UnfitError, read_model, with_models

__all__ = ["JsonDecoder", "as_kind", "why_refused_argument", "why_rejected"]

_LARGEST_INTEGER: Final = 2.0**63


class JsonDecoder:
    """Decodes JSON text as a type; `1.0` is an integer where one is wanted, as JSON Schema has it.

    Args:
        kind: The type.
        read: Reads the types that msgspec does not know.

    Raises:
        TypeError: msgspec cannot decode it.

    >>> JsonDecoder(list[int]).decode("[1.0, 2]")
    [1, 2]
    """

    __slots__ = ("_decoder", "_is_left_incomplete", "_kind", "_read")

    def __init__(self, kind: Any, read: Callable[[Any, Any], Any] = read_model) -> None:
        self._kind = with_models(kind)
        self._read = read
        self._is_left_incomplete = is_left_incomplete(kind)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._kind, dec_hook=read)

    def decode(self, text: str) -> Any:
        """Return the value.

        Raises:
            msgspec.DecodeError: The text is not JSON, or of another type.
            Exception: Whatever the type's own checks raise, but for `ValueError` and `TypeError`.
        """
        try:
            value = self._decoder.decode(text)
        except msgspec.ValidationError as error:
            value = _once_more(msgspec.json.decode(text), self._kind, error, self._read)
        if self._is_left_incomplete:
            complete(value)
        return value


def as_kind(value: object, kind: Any, read: Callable[[Any, Any], Any] = read_model) -> Any:
    """Return plain JSON data as a type, by the same rules.

    Args:
        value: The data.
        kind: The type.
        read: Reads the types that msgspec does not know.

    Raises:
        msgspec.ValidationError: It is no such value.
        Exception: Whatever the type's own checks raise, but for `ValueError` and `TypeError`.

    >>> as_kind({"a": 1.0}, dict[str, int])
    {'a': 1}
    """
    taken = with_models(kind)
    try:
        found = msgspec.convert(value, taken, str_keys=True, dec_hook=read)
    except msgspec.ValidationError as error:
        found = _once_more(value, taken, error, read)
    if is_left_incomplete(kind):
        complete(found)
    return found


def _once_more(
    value: object, kind: Any, refused: msgspec.ValidationError, read: Callable[[Any, Any], Any]
) -> Any:
    """Try once more with whole numbers as integers: only then, since a float may be wanted elsewhere."""
    whole = _with_whole_numbers(value)
    if whole is not value:
        with suppress(msgspec.ValidationError):
            return msgspec.convert(whole, kind, str_keys=True, dec_hook=read)
    raise refused


def _with_whole_numbers(value: object) -> object:
    """Return data with `1.0` as `1`; the same object where there is no such number."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _LARGEST_INTEGER else value
    if isinstance(value, Mapping):
        given = cast("Mapping[object, object]", value)
        changed = {key: _with_whole_numbers(item) for key, item in given.items()}
        return changed if any(changed[key] is not item for key, item in given.items()) else given
    if isinstance(value, list):
        items = cast("list[object]", value)
        found = [_with_whole_numbers(item) for item in items]
        return found if any(one is not other for one, other in zip(found, items, strict=True)) else items
    return value


def why_rejected(error: Exception) -> str:
    """Return why a value was refused, for the model that wrote it.

    What a type says itself by `ValueError` or `TypeError` is meant for this; of another exception, such as
    that of an `assert`, only the class is told.
    """
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    if isinstance(error, (msgspec.DecodeError, RecursionError)):
        return f"the JSON is malformed: {error}"
    return f"a check of its type raised {type(error).__name__}"


def why_refused_argument(error: Exception) -> str:
    """Return why a tool's arguments were refused; of a check of the tool's own types the class only.

    Its text may hold a secret, as that of any exception in a tool.
    """
    cause = error.__cause__
    if isinstance(cause, UnfitError):
        return cause.safe + str(error).removeprefix(str(cause))
    if isinstance(error, msgspec.ValidationError) and cause is None:
        return str(error)
    if not isinstance(error, msgspec.ValidationError):
        return f"a check of their types raised {type(error).__name__}"
    where = str(error).removeprefix(str(cause))
    where = where if where.startswith(" - at `") else ""
    return f"a check of their types raised {type(cause).__name__}{where}"
