"""Values as JSON's shapes, and back: what leaves the process in a file, a queue or a log.

Texts, numbers, lists and mappings stand as they are. What JSON has no form for is an object whose key `"$"`
says what it is. A value of a type that nobody here knows is written as plain data, and stays that.
"""

import base64
import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from decimal import Decimal
from types import UnionType
from typing import Any, Final, TypeAlias, TypeVar, Union, cast, get_args, get_origin

import msgspec

from executionkit.core.encoding import json_text
from executionkit.core.frozen import thaw
from executionkit.core.schema.models import kept_model, read_kept
from executionkit.core.schema.reading import as_kind
from executionkit.core.transcript import Transcript
from executionkit.core.usage import TokenUsage

__all__ = ["from_plain", "know", "plain_usage", "plain_value", "read_value", "to_plain", "usage_from"]

T = TypeVar("T")

_TAG: Final = "$"
_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""What stands as it is."""


def know(name: str, kind: type[T], write: Callable[[T], object], read: Callable[[Any], object]) -> None:
    """Make a kind of value known, for a module above that has one.

    Args:
        name: What to call it under `"$"`.
        kind: Its class.
        write: Returns its form, JSON's shapes.
        read: Returns the value of such a form.
    """
    _WRITERS[name] = (kind, write)
    _READERS[name] = read


def to_plain(value: object) -> Any:
    """Return a value as JSON's shapes.

    >>> to_plain({"votes": ("a", "b"), "cost": TokenUsage(3, 2, 1)})
    {'votes': ['a', 'b'], 'cost': {'$': 'usage', 'value': {'input_tokens': 3, ...}}}
    """
    match value:
        case dict():
            return _mapping(cast("dict[object, object]", value))
        case None | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else _tagged("float", str(value))
        case tuple() | list():
            return [to_plain(item) for item in cast("list[object]", value)]
        case Mapping():
            return _mapping(cast("Mapping[object, object]", value))
        case _:
            return _other(value)


def _tagged(kind: str, form: object) -> dict[str, object]:
    return {_TAG: kind, "value": form}


def _mapping(given: Mapping[object, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for key, item in given.items():
        if not isinstance(key, str) or key == _TAG:
            return _tagged("map", [[to_plain(key), to_plain(item)] for key, item in given.items()])
        plain[str(key)] = item if type(item) in _PLAIN else to_plain(item)
    return plain


def _other(value: object) -> Any:
    known = _known(value)
    return msgspec.json.decode(json_text(value)) if known is None else known


def _known(value: object) -> dict[str, object] | None:
    """Return the form of a value of a known kind."""
    for name, (kind, write) in _WRITERS.items():
        if isinstance(value, kind):
            return _tagged(name, write(value))
    return None


def from_plain(data: object) -> object:
    """Return the value of a form that `to_plain` made; a list is a tuple.

    Raises:
        ValueError: A tagged object is of no known kind, or not of its form.

    >>> from_plain(to_plain({"votes": ("a", "b"), "cost": TokenUsage(3, 2, 1)}))
    {'votes': ('a', 'b'), 'cost': TokenUsage(input_tokens=3, output_tokens=2, llm_calls=1)}
    """
    if isinstance(data, (list, tuple)):
        return tuple([from_plain(item) for item in cast("list[object]", data)])
    if not isinstance(data, Mapping):
        return data
    given = cast("Mapping[str, Any]", data)
    if _TAG not in given:
        return {key: from_plain(item) for key, item in given.items()}
    try:
        return _READERS[str(given[_TAG])](given["value"])
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not of the form that was written: {data!s:.80}") from error


def plain_usage(usage: TokenUsage) -> dict[str, Any]:
    """Return what was spent as JSON's shapes."""
    return cast("dict[str, Any]", msgspec.to_builtins(usage))


def usage_from(data: object) -> TokenUsage:
    """Return what was spent, of the form that `plain_usage` made.

    Raises:
        ValueError: It is not of that form.
    """
    try:
        return msgspec.convert(data, TokenUsage)
    except msgspec.ValidationError as error:
        raise ValueError(f"not what was spent: {error}") from error


def plain_value(value: object) -> Any:
    """Return a typed value as JSON's shapes: it is read back by its type, so that most of it needs no tags.

    Raises:
        TypeError: It has no form in JSON.
    """
    return msgspec.to_builtins(value, enc_hook=_as_plain, str_keys=True)


def _as_plain(part: object) -> Any:
    known = _known(part)
    if known is not None:
        return known
    if isinstance(part, Mapping):
        return dict(cast("Mapping[object, object]", part))
    with suppress(NotImplementedError):
        return kept_model(part)
    raise TypeError(f"a value of type {type(part).__name__} has no form in JSON")


OutcomeReader: TypeAlias = Callable[[Mapping[str, Any], tuple[object, ...]], object]
"""Returns a success or a failure of its form, given the two types that it may be of."""


def read_value(data: object, kind: object, read_outcome: OutcomeReader) -> object:
    """Return the value of a type that `plain_value` wrote; a tuple of outcomes is one too.

    Raises:
        ValueError: It is not of that type.
    """
    arguments = get_args(kind)
    if isinstance(data, Mapping) and _TAG in data and get_origin(kind) in {Union, UnionType}:
        return read_outcome(cast("Mapping[str, Any]", data), arguments)
    if get_origin(kind) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        if not isinstance(data, list | tuple):
            raise ValueError(f"not a list of values: {data!s:.80}")
        return tuple([read_value(item, arguments[0], read_outcome) for item in cast("list[object]", data)])
    try:
        return as_kind(data, kind, read_kept)  # pyright: ignore[reportUnknownArgumentType] - whatever it holds
    except msgspec.ValidationError as error:
        raise ValueError(f"not a value of the type that is asked for: {error}") from None
    except NotImplementedError:
        raise ValueError(f"no value can be read as {kind!r:.80}: a part of it has no form in JSON") from None


def _written_set(value: AbstractSet[object]) -> list[Any]:
    return [to_plain(item) for item in value]


def _read_set(form: Any) -> object:
    return frozenset(from_plain(item) for item in form)


def _read_map(form: Any) -> object:
    return {from_plain(key): from_plain(item) for key, item in form}


def _written_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _messages(value: Transcript) -> list[Any]:
    return [thaw(message) for message in value]


_WRITERS: Final[dict[str, tuple[type[Any], Callable[[Any], object]]]] = {
    "usage": (TokenUsage, plain_usage),
    "transcript": (Transcript, _messages),
    "decimal": (Decimal, str),
    "bytes": (bytes, _written_bytes),
    "set": (AbstractSet, _written_set),
}
_READERS: Final[dict[str, Callable[[Any], object]]] = {
    "float": float,
    "map": _read_map,
    "usage": usage_from,
    "transcript": Transcript,
    "decimal": Decimal,
    "bytes": base64.b64decode,
    "set": _read_set,
}
