"""Read-only copies of plain data."""

import operator
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Never, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec
from typing_extensions import TypeIs

from executionkit.core.usage import TokenUsage

__all__ = [
    "EMPTY",
    "FrozenDict",
    "FrozenList",
    "Metadata",
    "freeze",
    "freeze_mapping",
    "frozen_json",
    "hash_frozen",
    "json_copy",
    "plain_copy",
    "thaw",
]

Metadata: TypeAlias = MappingProxyType[str, Any]

EMPTY: Metadata = MappingProxyType({})

_ATOMS = frozenset({str, int, float, bool, type(None), bytes, TokenUsage})


def freeze(value: object) -> object:
    """Return `value` with every nested mapping, list and set replaced by a read-only copy.

    Lists become tuples, sets become frozensets, mappings become `MappingProxyType`, also in named tuples;
    anything else is kept as it is.
    """
    if type(value) in _ATOMS:
        return value
    if type(value) is MappingProxyType:
        return freeze_mapping(cast("Mapping[str, object]", value))
    if isinstance(value, list) or type(value) is tuple:
        items = cast("list[object]", value)
        return tuple([item if type(item) in _ATOMS else freeze(item) for item in items])
    if isinstance(value, Mapping):
        return freeze_mapping(cast("Mapping[str, object]", value))
    if isinstance(value, set):
        return frozenset(cast("set[object]", value))
    return _remade(value, freeze) if _is_named_tuple(value) else value


def _is_named_tuple(value: object) -> TypeIs[tuple[object, ...]]:
    return isinstance(value, tuple) and hasattr(cast("object", value), "_fields")


def _remade(value: tuple[object, ...], change: Callable[[object], object]) -> object:
    """Return a named tuple of the same type with its items changed; the same one where nothing changes."""
    items = [change(item) for item in value]
    if all(map(operator.is_, items, value)):
        return value
    make: Callable[[list[object]], object] = cast("Any", type(value))._make
    return make(items)


def freeze_mapping(given: Mapping[str, object]) -> Metadata:
    """Copy a mapping, deeply, into a read-only one."""
    if not given:
        return EMPTY
    return MappingProxyType(
        {key: item if type(item) in _ATOMS else freeze(item) for key, item in given.items()}
    )


def thaw(value: object) -> object:
    """Undo `freeze` for mappings, which pickle only as plain dicts."""
    if type(value) in _ATOMS:
        return value
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in cast("Mapping[str, object]", value).items()}
    if type(value) is tuple:
        return tuple([thaw(item) for item in cast("tuple[object, ...]", value)])
    if type(value) is FrozenList:
        return [thaw(item) for item in cast("list[object]", value)]
    return _remade(value, thaw) if _is_named_tuple(value) else value


T = TypeVar("T")

_AS_THEY_ARE: Final = (bytes, bytearray, datetime, date, time, timedelta, UUID, Decimal)
"""What msgspec would write as text."""


def json_copy(value: T) -> T:
    """Copy JSON, all the way down, four times as fast as `plain_copy`; what is no JSON is copied by that.

    A struct, a dataclass or an enumeration in it becomes the JSON that it stands for.
    """
    try:
        return cast("T", msgspec.to_builtins(value, builtin_types=_AS_THEY_ARE))
    except (TypeError, ValueError, OverflowError):
        return cast("T", plain_copy(value))


def plain_copy(value: object) -> object:
    """Copy dicts, lists and tuples, all the way down; anything else is kept as it is."""
    if type(value) in _ATOMS:
        return value
    if isinstance(value, Mapping):
        return {key: plain_copy(item) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [plain_copy(item) for item in cast("list[object]", value)]
    if type(value) is tuple:
        return tuple([plain_copy(item) for item in cast("tuple[object, ...]", value)])
    return value


def hash_frozen(value: object) -> int:
    """Hash a frozen value, its mappings included; `TypeError` where a part does not hash."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return hash(frozenset((key, hash_frozen(item)) for key, item in items))
    if type(value) is tuple or _is_named_tuple(value):
        return hash(tuple([hash_frozen(item) for item in cast("tuple[object, ...]", value)]))
    return hash(value)


def _read_only(*_: object, **__: object) -> Never:
    raise TypeError("it is read-only; take a copy to change")


class FrozenDict(dict[str, T]):
    """A dict that nobody changes. It compares, prints and encodes as a dict, hashes, copies and pickles.

    >>> given = FrozenDict({"city": "Bonn"})
    >>> given == {"city": "Bonn"}, {**given, "at": 3}
    (True, {'city': 'Bonn', 'at': 3})
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # a dict says that it has these; whoever is checked sees a `Mapping`
        __setitem__ = __delitem__ = __ior__ = _read_only
        clear = pop = popitem = setdefault = update = _read_only

        def __hash__(self) -> int:
            return hash_frozen(self)

    def __copy__(self) -> "FrozenDict[T]":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenDict[T]":
        return FrozenDict({key: deepcopy(item, memo) for key, item in self.items()})

    def __reduce__(self) -> tuple[object, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[T]):
    """A list that nobody changes, as `FrozenDict` is a dict."""

    __slots__ = ()

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __iadd__ = __imul__ = _read_only
        append = clear = extend = insert = pop = remove = reverse = sort = _read_only

        def __hash__(self) -> int:
            return hash_frozen(tuple(self))

    def __copy__(self) -> "FrozenList[T]":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenList[T]":
        return FrozenList([deepcopy(item, memo) for item in self])

    def __reduce__(self) -> tuple[object, ...]:
        return FrozenList, ([*self],)


def frozen_json(value: object) -> object:
    """Return a read-only copy of JSON that still is JSON: dicts are `FrozenDict`, lists `FrozenList`.

    What is nested too deep to be copied, or inside itself, stays as it is.
    """
    whole: object = value
    if type(value) is dict:
        given = cast("dict[str, object]", value)
        if all(type(item) in _ATOMS for item in given.values()):  # most have nothing inside
            return FrozenDict(given)
    try:
        return _frozen_json(whole, {})
    except RecursionError:
        return whole


def _frozen_json(value: object, seen: dict[int, object]) -> object:
    if type(value) in _ATOMS or type(value) in _FROZEN:
        return value
    place = id(value)
    if place in seen:
        return seen[place]
    seen[place] = value  # for what is inside itself
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        seen[place] = frozen = FrozenDict({key: _frozen_json(item, seen) for key, item in items})
        return frozen
    if isinstance(value, (list, tuple)):
        listed = FrozenList([_frozen_json(item, seen) for item in cast("list[object]", value)])
        seen[place] = listed
        return listed
    return value


_FROZEN = frozenset({FrozenDict, FrozenList})
