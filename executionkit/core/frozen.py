"""Read-only copies of plain data."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from executionkit.core.usage import TokenUsage

__all__ = ["EMPTY", "Metadata", "freeze", "freeze_mapping", "hash_frozen", "thaw"]

Metadata: TypeAlias = MappingProxyType[str, Any]

EMPTY: Metadata = MappingProxyType({})

_ATOMS = frozenset({str, int, float, bool, type(None), bytes, TokenUsage})


def freeze(value: object) -> object:
    """Return `value` with every nested mapping, list and set replaced by a read-only copy.

    Lists become tuples, sets become frozensets, mappings become `MappingProxyType`; anything else is
    kept as it is.
    """
    if type(value) in _ATOMS:
        return value
    if isinstance(value, list) or type(value) is tuple:
        items = cast("list[object]", value)
        return tuple([item if type(item) in _ATOMS else freeze(item) for item in items])
    if isinstance(value, Mapping):
        return freeze_mapping(cast("Mapping[str, object]", value))
    if isinstance(value, set):
        return frozenset(cast("set[object]", value))
    return value


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
    return value


def hash_frozen(value: object) -> int:
    """Hash a frozen value, its mappings included; `TypeError` where a part does not hash."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return hash(frozenset((key, hash_frozen(item)) for key, item in items))
    if type(value) is tuple:
        return hash(tuple([hash_frozen(item) for item in cast("tuple[object, ...]", value)]))
    return hash(value)
