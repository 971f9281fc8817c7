"""A stage as a document: JSON's shapes, from which `reading` makes an equal one."""

import dataclasses
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cached_property, partial
from types import EllipsisType, UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import msgspec

from executionkit.core.canonical import canonical_text, path_of
from executionkit.core.foreign import method
from executionkit.core.transcript import Transcript
from executionkit.patterns.step import Step
from executionkit.plan.references import ATOMS, TYPING, has_a_name, reference_to
from executionkit.provider import LLMProvider
from executionkit.providers.secret import Secret

__all__ = ["Writer"]

_META: Final = (
    *("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length"),
    *("tz", "title", "description", "examples", "extra_json_schema", "extra"),
)
"""What `msgspec.Meta` says of a type."""

_SECRET: Final = re.compile(
    r"(?i)(^|[-_])(api[-_]?key|key|secret|password|authorization|credentials?|token)$"
)
_LARGEST: Final = 2**63


class Writer:
    """Writes one stage.

    Args:
        providers: The providers that it may hold, by name.
    """

    def __init__(self, providers: Mapping[str, LLMProvider]) -> None:
        self._providers = providers
        self._place: list[str] = []

    def written(self, value: object) -> Any:
        """Return the form of a value.

        Raises:
            TypeError: It cannot be written down; the message says which part of it, why, and what to do.
        """
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind in ATOMS:
            return {"$": path_of(kind), "value": msgspec.to_builtins(value)}
        write = self._writers.get(kind) or next(
            (write for known, write in self._kinds if isinstance(value, known)), None
        )
        if write is not None:
            return write(value)
        return self._object(value) if get_origin(value) is None else self._generic(value)

    @cached_property
    def _writers(self) -> dict[type, Callable[[Any], Any]]:
        """What writes values of a class, those of classes below it aside."""
        return {
            str: _text,
            int: _integer,
            float: _number,
            bytes: lambda value: {"$": "bytes", "value": b64encode(value).decode()},
            tuple: self._items,
            list: lambda value: {"$": "list", "items": self._items(value)},
            set: lambda value: {"$": "set", "items": self._sorted(value)},
            frozenset: lambda value: {"$": "frozenset", "items": self._sorted(value)},
        }

    @cached_property
    def _kinds(self) -> tuple[tuple[type[Any], Callable[[Any], Any]], ...]:
        """What writes values of a class, and of classes below it."""
        return (
            (Enum, self._member),
            (Transcript, lambda value: {"$": path_of(Transcript), "messages": self._items(value)}),
            (Mapping, self._mapping),
            (msgspec.Meta, self._meta),
            (partial, self._partial),
            (EllipsisType, lambda _: {"$": "ellipsis"}),
        )

    def _object(self, value: Any) -> Any:
        name = self._name_of(value)
        if name is not None:
            return {"$": "provider", "name": name}
        if isinstance(value, Secret):
            raise self._refused("a key is never written down: read it from the environment where it is used")
        if has_a_name(value):
            return {"$": "ref", "name": self._reference(value)}
        if method(value, "complete") is not None:
            raise self._refused(
                "a provider is written by its name: give dumps and loads providers={name: provider}"
            )
        self._check_names(_keywords(value))
        names = _fields_of(value)
        if names is None:
            raise self._refused(
                f"an object of class {type(value).__name__} cannot be written down: make it a function of a "
                "module, a msgspec struct or a dataclass"
            )
        fields = {name: getattr(value, name) for name in names}
        return {"$": self._reference(cast("object", type(value))), **self._fields(fields)}

    def _name_of(self, value: object) -> str | None:
        """Return the name of a provider."""
        if method(value, "complete") is None:
            return None
        exact = [name for name, each in self._providers.items() if each is value]
        return next(iter([*exact, *[name for name, each in self._providers.items() if each == value]]), None)

    def _fields(self, fields: Mapping[str, object]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for name, value in fields.items():
            self._place.append(name)
            written[name] = self.written(value)
            self._place.pop()
        return written

    def _items(self, items: Iterable[object]) -> list[Any]:
        return [*self._fields({str(index): item for index, item in enumerate(items)}).values()]

    def _mapping(self, value: Mapping[object, object]) -> Any:
        self._check_names(value)
        if "$" not in value and all(type(key) is str and _is_encodable(key) for key in value):
            return self._fields(cast("Mapping[str, object]", value))
        return {"$": "dict", "items": [self._items(pair) for pair in value.items()]}

    def _sorted(self, items: Iterable[object]) -> list[Any]:
        return sorted(self._items(items), key=canonical_text)

    def _member(self, value: Enum) -> Any:
        return {"$": self._reference(type(value)), "name": value.name}

    def _meta(self, value: msgspec.Meta) -> Any:
        held = {name: getattr(value, name) for name in _META}
        told = {name: each for name, each in held.items() if each is not None}
        return {"$": path_of(msgspec.Meta), **self._fields(told)}

    def _partial(self, value: "partial[object]") -> Any:
        self._check_names(value.keywords)
        parts = {"of": value.func, "arguments": value.args, "keywords": value.keywords}
        return {"$": "partial", **self._fields(parts)}

    def _generic(self, kind: Any) -> Any:
        """Write a type that has arguments."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in {Union, UnionType}:
            return {"$": "union", "of": self._items(arguments)}
        if origin is Literal:
            return {"$": "literal", "of": self._items(arguments)}
        if origin is Annotated:
            return {
                "$": "annotated",
                "of": self.written(arguments[0]),
                "with": self._items(kind.__metadata__),
            }
        older: object = getattr(kind, "_name", None)
        if type(kind).__module__ == "typing" and older in TYPING:
            return {"$": "generic", "of": older, "with": self._items(arguments)}
        return {"$": "generic", "of": self.written(origin), "with": self._items(arguments)}

    def _reference(self, named: object) -> str:
        try:
            return reference_to(named)
        except ValueError as error:
            raise self._refused(str(error)) from None

    def _check_names(self, mapping: Mapping[Any, object]) -> None:
        """Refuse what is called a key: a document is copied, mailed and committed."""
        for name, value in mapping.items():
            if isinstance(name, str) and isinstance(value, str) and value and _SECRET.search(name):
                raise self._refused(
                    f"{name!r} looks like a key, which is never written down: "
                    "read it from the environment where it is used"
                )

    def _refused(self, why: str) -> TypeError:
        place = ".".join(self._place) or "the stage"
        return TypeError(f"{place} cannot be written: {why}")


def _keywords(value: object) -> dict[str, object]:
    return dict(value.keywords) if isinstance(value, Step) else {}


def _fields_of(value: object) -> tuple[str, ...] | None:
    """Return the names of what an object is made of; None where it is no struct and no dataclass."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple([field.name for field in dataclasses.fields(value) if field.init])
    return None


def _integer(value: int) -> object:
    return value if -_LARGEST <= value < _LARGEST else {"$": "int", "value": str(value)}


def _number(value: float) -> object:
    return value if math.isfinite(value) else {"$": "float", "value": str(value)}


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: str) -> object:
    if _is_encodable(value):
        return value
    return {"$": "text", "value": b64encode(value.encode("utf-8", "surrogatepass")).decode()}
