"""Values as canonical data: what a fingerprint is taken of, and what two pipelines are compared by.

The same value gives the same data in every process, whatever the hash seed. What JSON has no form for is an
object whose key `"$"` says what it is. Nothing is read back from it, and no key of a provider is in it.
"""

import copyreg
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from os import PathLike
from types import BuiltinMethodType, CodeType, MethodType, ModuleType, UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import msgspec

from executionkit.core.foreign import function_name
from executionkit.core.schema.models import schema_of
from executionkit.core.transcript import Transcript

__all__ = ["canonical", "canonical_text", "fingerprint_of", "identified", "path_of"]

_SCHEME: Final = "ek1"
"""Goes up with each release that describes the same pipeline in another way."""

_PACKAGE: Final = "executionkit"
_METHODS: Final = (MethodType, BuiltinMethodType)
_MOST_OBJECTS: Final = 40
"""Objects within objects that are looked into: one may make another of itself for ever."""
_OF_THIS_PROCESS: Final = frozenset(
    {"asyncio", "_asyncio", "uvloop", "trio", "anyio", "contextvars", "_contextvars", "concurrent"}
    | {"threading", "_thread", "queue", "_queue", "selectors", "select", "socket", "_socket", "ssl", "_ssl"}
    | {"weakref", "_weakref", "_io", "io", "logging"}
)
"""Modules whose objects are never the same in another process: of them only the class is told."""
_WHO: Final = (
    *("model", "base_url", "default_temperature", "default_max_tokens"),
    *("dialect", "extra_body", "cache", "members", "provider"),
)
"""What of a provider decides about requests and answers; all else may hold a key, or is of this process."""


def canonical(value: object, *, with_names: bool = False) -> Any:
    """Return a value as canonical data.

    Args:
        value: The value: a stage, or anything that a setting may hold.
        with_names: Whether the names of stages count, which change no request and no answer.

    >>> canonical({"b": 1.0, "a": (True, None)})
    {'b': 1, 'a': [True, None]}
    """
    return _Describer(with_names).describe(value)


def fingerprint_of(value: object) -> str:
    """Return 128 bits of a value's canonical data, as text.

    Where the value holds a function that has no name to be found by, its code counts, which is the same in
    one version of Python only: the text then names that version.

    >>> fingerprint_of([1, 2]) == fingerprint_of((1.0, 2.0))
    True
    >>> fingerprint_of(len), fingerprint_of(lambda text: text)
    ('ek1:...', 'ek1-cpython-3...')
    """
    _, fingerprint = identified(value)
    return fingerprint


def identified(value: object) -> tuple[Any, str]:
    """Return a value as canonical data, and its fingerprint."""
    describer = _Describer(with_names=False)
    data = describer.describe(value)
    digest = blake2b(canonical_text(data).encode(), digest_size=16)
    scheme = _SCHEME if describer.is_portable else f"{_SCHEME}-{sys.implementation.cache_tag}"
    return data, f"{scheme}:{digest.hexdigest()}"


def canonical_text(data: object) -> str:
    """Return canonical data as JSON, its keys in order."""
    try:
        return msgspec.json.encode(data, order="deterministic").decode()
    except (OverflowError, UnicodeEncodeError):  # large numbers, and halves of characters
        return json.dumps(data, sort_keys=True, separators=(",", ":"))


class _Describer:
    """Describes one value, and remembers whether another Python would describe it in the same way.

    A level of nesting takes two frames here, and stages may be nested as deep as four for each allow.
    """

    def __init__(self, with_names: bool) -> None:
        self._with_names = with_names
        self._open: dict[int, int] = {}
        self._objects = 0
        self.is_portable = True

    def describe(self, value: object) -> Any:  # noqa: PLR0911 - a line for each way
        kind = type(value)
        if value is None or kind is str or kind is bool or kind is int:
            return value
        if kind is float:
            return _number(cast("float", value))
        place = id(value)
        if place in self._open:
            return {"$": "above", "levels": len(self._open) - self._open[place]}
        self._open[place] = len(self._open)
        try:
            if isinstance(value, msgspec.Struct):
                return self._struct(value)
            if kind is tuple or kind is list:
                return self._items(cast("Iterable[object]", value))
            return self._writer_for(value, kind)(value)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - foreign classes may raise anything where they are read
            return {"$": path_of(kind)}
        finally:
            del self._open[place]

    def _writer_for(self, value: object, kind: type) -> Callable[[Any], Any]:
        """Return what describes a value of a kind that may have others in it."""
        if isinstance(value, type) or get_origin(value) is not None:
            return self._type
        write = next((write for known, write in self._known if isinstance(value, known)), None)
        if write is not None:
            return write
        if kind.__name__ == "TypeAliasType":  # that of `typing`, or that of `typing_extensions`
            return lambda alias: self.describe(alias.__value__)
        return self._callable if callable(value) else self._foreign

    @cached_property
    def _known(self) -> tuple[tuple[type[Any], Callable[[Any], Any]], ...]:
        """What describes a value of each kind that is known."""
        return (
            (Enum, lambda value: {"$": path_of(type(value)), "name": value.name}),
            (Mapping, self._mapping),
            (Transcript, lambda value: {"$": path_of(Transcript), "messages": self._items(value)}),
            (AbstractSet, self._set),
            (bytes, lambda value: {"$": "bytes", "value": value.hex()}),
            (Decimal, lambda value: {"$": "decimal", "value": f"{value.normalize():f}"}),
            (PathLike, lambda value: {"$": "path", "value": str(value)}),
            (CodeType, self._code),
        )

    def _items(self, value: Iterable[object]) -> list[Any]:
        described: list[Any] = []
        for item in value:
            described.append(self.describe(item))  # noqa: PERF401 - a comprehension takes a frame of its own
        return described

    def _struct(self, value: msgspec.Struct) -> Any:
        unnamed: object = getattr(value, "unnamed", None)
        if callable(unnamed) and not self._with_names:
            value = cast("msgspec.Struct", unnamed())
        if _is_provider(value):
            return self._provider(value)
        described: dict[str, Any] = {"$": path_of(type(value))}
        for field in value.__struct_fields__:
            described[field] = self.describe(getattr(value, field))
        return described

    def _mapping(self, value: Mapping[object, object]) -> Any:
        if "$" not in value and all(type(key) is str for key in value):
            described: dict[str, Any] = {}
            for key, item in value.items():
                described[str(key)] = self.describe(item)
            return described
        items = [[self.describe(key), self.describe(item)] for key, item in value.items()]
        return {"$": "map", "items": sorted(items, key=canonical_text)}

    def _set(self, value: AbstractSet[object]) -> Any:
        return {"$": "set", "items": sorted(self._items(value), key=canonical_text)}

    def _type(self, kind: Any) -> Any:
        """Describe a type; with its JSON Schema where it is one of fields, which the model gets to see."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is None:
            schema = _schema_of(kind)
            return {"$": "type", "name": path_of(kind), **({} if schema is None else {"schema": schema})}
        if origin in {Union, UnionType}:
            members = [self.describe(each) for each in arguments]
            return {"$": "union", "of": sorted(members, key=canonical_text)}
        if origin is Literal:
            return {"$": "literal", "of": [self.describe(each) for each in arguments]}
        if origin is Annotated:
            notes = [self.describe(each) for each in kind.__metadata__]
            return {"$": "annotated", "of": self.describe(arguments[0]), "with": notes}
        return {"$": "type", "name": path_of(origin), "of": [self.describe(each) for each in arguments]}

    def _callable(self, value: Callable[..., object]) -> Any:
        """Describe what can be called: by its name, or by its code where it has none to be found by."""
        if isinstance(value, partial):
            bound = cast("partial[object]", value)
            parts = {"of": bound.func, "arguments": bound.args, "keywords": bound.keywords}
            return {"$": "partial", **{part: self.describe(each) for part, each in parts.items()}}
        owner: object = getattr(value, "__self__", None)
        if isinstance(value, _METHODS) and not isinstance(owner, ModuleType | None):
            return {"$": "method", "name": function_name(value), "of": self.describe(owner)}
        name: object = getattr(value, "__qualname__", None)
        if not isinstance(name, str):
            return self._foreign(value)
        code: object = getattr(value, "__code__", None)
        if "<" not in name or not isinstance(code, CodeType):
            return {"$": "function", "name": path_of(value)}
        held = [_content(cell) for cell in getattr(value, "__closure__", None) or ()]
        return {
            **self._code(code),
            "defaults": self.describe(getattr(value, "__defaults__", None)),
            "keyword_defaults": self.describe(getattr(value, "__kwdefaults__", None)),
            "holds": self._items(held),
        }

    def _code(self, code: CodeType) -> dict[str, Any]:
        self.is_portable = False
        return {
            "$": "code",
            "name": code.co_name,
            "parameters": [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags],
            "code": blake2b(code.co_code + code.co_exceptiontable, digest_size=16).hexdigest(),
            "constants": [self.describe(each) for each in code.co_consts],
            "names": [*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars],
        }

    def _provider(self, provider: object) -> Any:
        """Describe whom a stage asks: by what decides about requests and answers, and never by a key."""
        described: dict[str, Any] = {"$": "provider", "class": path_of(type(provider))}
        for name in _WHO:
            held: object = None
            with suppress(Exception):
                held = getattr(provider, name, None)
            if isinstance(held, str) and name == "base_url":
                held = held.partition("?")[0].rpartition("@")[2]
            if held is not None:
                described[name] = self.describe(held)
        return described

    def _foreign(self, value: object) -> Any:
        """Describe an object of any class by what it would be pickled as; by its class where it refuses."""
        if _is_provider(value):
            return self._provider(value)
        described: dict[str, Any] = {"$": path_of(type(value))}
        if type(value).__module__.partition(".")[0] in _OF_THIS_PROCESS:
            return described
        reduced: object = None
        with suppress(Exception):
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return {**described, "name": reduced}
        if not isinstance(reduced, tuple) or self._objects >= _MOST_OBJECTS:
            return described
        self._objects += 1
        try:
            parts = [_listed(part) for part in cast("tuple[object, ...]", reduced) if part is not None]
            described["state"] = self._items(parts)
        finally:
            self._objects -= 1
        return described


def _number(value: float) -> object:
    """Return a number so that equal ones are the same data."""
    if not math.isfinite(value):
        return {"$": "float", "value": str(value)}
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _is_provider(value: object) -> bool:
    return callable(getattr(value, "complete", None)) and not isinstance(value, type)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return ...


def _listed(part: object) -> object:
    """Return the items that an iterator of a pickle's parts has; anything else as it is."""
    return list(cast("Iterator[object]", part)) if isinstance(part, Iterator) else part


def path_of(named: Any) -> str:
    """Return the place of a class or function as `module:qualname`; of this package's own without the module.

    >>> path_of(str.upper), path_of(Transcript)
    ('builtins:str.upper', 'executionkit:Transcript')
    """
    module: object = getattr(named, "__module__", None)
    if not isinstance(module, str):
        module = getattr(getattr(named, "__objclass__", None), "__module__", "")
    name = getattr(named, "__qualname__", None) or getattr(named, "__name__", None) or str(named)
    return f"{_PACKAGE if str(module).partition('.')[0] == _PACKAGE else module}:{name}"


def _schema_of(kind: Any) -> Any:
    return None if kind.__module__ == "builtins" else _cached_schema(kind)


@lru_cache(maxsize=256)
def _cached_schema(kind: Callable[..., object]) -> Any:
    with suppress(Exception):  # not every class can be the type of an answer
        return schema_of(kind)
    return None
