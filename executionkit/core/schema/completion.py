"""Objects that hold all their fields, in order: msgspec leaves a default to the class, and so writes none.

A dataclass that was read of `{"a": 1}` then equals one that was read of `{"a": 1, "b": 0}`, and is written
otherwise: two votes, two sets of columns.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any, Final, cast

import msgspec

from executionkit.core.schema.models import options_of, with_models

__all__ = ["complete", "is_left_incomplete"]

_ABSENT: Final = object()


def is_left_incomplete(kind: Any) -> bool:
    """Tell whether values of a type hold objects that msgspec makes without their defaults, or in any order.

    >>> is_left_incomplete(dict[str, int])
    False
    """
    try:
        return _remembered(kind)
    except TypeError:  # it does not hash, or is no type
        return _looked_up(kind)


@lru_cache(maxsize=256)
def _remembered(kind: Any) -> bool:
    return _looked_up(kind)


def _looked_up(kind: Any) -> bool:
    try:
        return any(map(_has_dict, _classes(msgspec.inspect.type_info(with_models(kind)), set())))
    except TypeError:
        return False


def _classes(part: object, seen: set[int]) -> Iterator[type]:
    """Yield the classes that a type is made of."""
    if isinstance(part, (tuple, list)):
        for item in cast("tuple[object, ...]", part):
            yield from _classes(item, seen)
    elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
        seen.add(id(part))
        if isinstance(part, msgspec.inspect.DataclassType):
            yield part.cls
        elif isinstance(part, msgspec.inspect.CustomType):
            for option in options_of(part.cls):
                yield from _classes(msgspec.inspect.type_info(option), seen)
        for field in part.__struct_fields__:
            if field != "default":
                yield from _classes(getattr(part, field), seen)


def _has_dict(kind: type) -> bool:
    return bool(kind.__dictoffset__)


def complete(value: object) -> None:
    """Give all objects in a value that was read all their fields, in order."""
    if isinstance(value, Mapping):
        for item in cast("Mapping[object, object]", value).values():
            complete(item)
    elif isinstance(value, list | tuple | AbstractSet):
        for item in cast("list[object]", value):
            complete(item)
    else:
        names = _fields(cast("Any", type(value)))
        if names and _has_dict(type(value)) and not isinstance(value, msgspec.Struct):
            _put_in_order(value, names)
        for name in names:
            complete(getattr(value, name, None))


def _put_in_order(value: object, names: tuple[str, ...]) -> None:
    own = value.__dict__
    found = {name: getattr(value, name, _ABSENT) for name in names}
    whole = {name: item for name, item in found.items() if item is not _ABSENT}
    rest = {name: item for name, item in own.items() if name not in whole}
    own.clear()
    own.update(whole)
    own.update(rest)


@lru_cache(maxsize=256)
def _fields(kind: Any) -> tuple[str, ...]:
    """Return the names of what objects of a class hold, as msgspec reads and writes them."""
    if issubclass(kind, msgspec.Struct):
        names: tuple[str, ...] = kind.__struct_fields__
        return names
    if attributes := getattr(kind, "__attrs_attrs__", ()):
        return tuple([each.name for each in attributes])
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return tuple([each.name for each in fields(kind)])
    return ()
