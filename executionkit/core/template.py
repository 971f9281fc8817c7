"""Templates of prompts: text with places for a value, for an item of a tuple, or for a field."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from string import Formatter
from typing import TypeAlias, cast

import msgspec

__all__ = ["Part", "Place", "filled", "parts_of"]


class Place(msgspec.Struct, frozen=True):
    """A place for something of the value.

    Args:
        key: The index of an item, the name of a field, or None for the value itself.
    """

    key: int | str | None


Part: TypeAlias = str | Place
"""Text as it stands, or a place."""


@lru_cache(maxsize=256)
def parts_of(template: str) -> tuple[Part, ...]:
    """Return the parts of a template.

    Raises:
        ValueError: It has a brace that belongs to no place, or a place that is none.

    >>> parts_of("Ticket: {0}, {{as it is}}")
    ('Ticket: ', Place(key=0), ', {as it is}')
    """
    parts: list[Part] = []
    text = ""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a template: {error}; a brace that is text is written twice") from None
    for literal, name, form, conversion in pieces:
        text += literal
        if name is not None:
            if text:
                parts.append(text)
                text = ""
            parts.append(_place(name, form, conversion))
    return (*parts, text) if text else tuple(parts)


def _place(name: str, form: str | None, conversion: str | None) -> Place:
    if form or conversion or not (not name or name.isidentifier() or (name.isascii() and name.isdecimal())):
        shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
        raise ValueError(
            f"a place in a template is {{}} for the value, {{0}} for an item or {{name}} for a field, not "
            f"{{{shown[:80]}}}; a brace that is text is written twice"
        )
    if not name:
        return Place(None)
    return Place(int(name) if name.isdecimal() else name)


def filled(parts: Iterable[Part], value: object, as_text: Callable[[object], str]) -> str:
    """Return the text of a template with a value in its places. The value itself is never read as a template.

    Args:
        parts: The template.
        value: The value.
        as_text: Writes what stands in a place.

    Raises:
        LookupError: The value has no such item or field.

    >>> filled(parts_of("{0} is {1}"), ("{tea}", 3), str)
    '{tea} is 3'
    """
    return "".join([part if isinstance(part, str) else as_text(_found(part.key, value)) for part in parts])


def _found(key: int | str | None, value: object) -> object:
    if key is None:
        return value
    return _item(key, value) if isinstance(key, int) else _field(key, value)


def _item(index: int, value: object) -> object:
    if not isinstance(value, (tuple, list)):
        raise LookupError(f"{{{index}}} wants an item of a tuple, and the value is of type {_kind(value)}")
    items = cast("tuple[object, ...]", value)
    if index >= len(items):
        raise LookupError(f"{{{index}}} wants an item that is not there: the value has {len(items)}")
    return items[index]


def _field(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        if name in mapping:
            return mapping[name]
        raise _no_field(name, mapping, map(str, mapping))
    names = _fields(value)
    if name in names or isinstance(getattr(type(value), name, None), property):
        return getattr(value, name)
    raise _no_field(name, value, names)


def _no_field(name: str, value: object, names: Iterable[str]) -> LookupError:
    known = ", ".join(names)
    has = f"it has {known:.200}" if known else "it has none"
    return LookupError(f"{{{name}}} wants a field that a value of type {_kind(value)} has not; {has}")


def _fields(value: object) -> tuple[str, ...]:
    """Name the fields of a struct, dataclass, named tuple, attrs class or any object that holds its own."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple([field.name for field in dataclasses.fields(value)])
    declared: object = getattr(kind, "_fields", None) or getattr(kind, "__slots__", ())
    slots = cast("tuple[str, ...]", declared) if isinstance(declared, tuple) else ()
    return tuple([name for name in (*slots, *getattr(value, "__dict__", ())) if not name.startswith("_")])


def _kind(value: object) -> str:
    return type(value).__name__
