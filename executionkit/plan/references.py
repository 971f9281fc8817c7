"""Names of functions and types in a document, and what they may stand for."""

import datetime as dt
import sys
import typing
from collections import abc
from collections.abc import Collection, Iterator
from decimal import Decimal
from importlib import import_module
from pkgutil import walk_packages
from types import MethodType, ModuleType, NoneType
from typing import Any, Final
from uuid import UUID

import msgspec
from typing_extensions import is_protocol

import executionkit
from executionkit import errors, patterns, stage, voting
from executionkit.core.canonical import path_of
from executionkit.core.foreign import attribute
from executionkit.core.transcript import Transcript
from executionkit.core.usage import TokenUsage
from executionkit.core.voting.ballots import FieldBallot, TextBallot, ValueBallot
from executionkit.patterns.consensus.sampling import Sampling
from executionkit.stage import Stage
from executionkit.tools import Tool, ToolFunction
from executionkit.voting import boxed, casefolded, fold, json_value

__all__ = ["ATOMS", "KNOWN", "TYPING", "has_a_name", "reference_to", "resolved"]

ATOMS: Final = frozenset({dt.date, dt.datetime, dt.time, dt.timedelta, Decimal, UUID})
"""Classes of values that are written as text."""


def _stages() -> Iterator[type]:
    """Every stage of this package, so that one that is added needs no line here."""
    for package in (stage, patterns):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    found: list[type] = [Stage]
    for kind in found:
        found += kind.__subclasses__()
    for kind in found[1:]:
        is_ours = kind.__module__.partition(".")[0] == executionkit.__name__
        if is_ours and not kind.__name__.startswith("_"):
            yield kind


def _classes_of(module: ModuleType) -> Iterator[type]:
    """Every class that a module publishes and that has instances."""
    published: Iterator[object] = (getattr(module, name) for name in module.__all__)
    yield from [each for each in published if isinstance(each, type) and not is_protocol(each)]


_OWN: Final[tuple[Any, ...]] = (
    *_stages(),
    *(Sampling, TextBallot, ValueBallot, FieldBallot, TokenUsage, Transcript, Tool, ToolFunction),
    *(boxed, casefolded, fold, json_value),
    *_classes_of(voting),
    *_classes_of(errors),
)
_STANDARD: Final[tuple[Any, ...]] = (
    *(bool, bytes, dict, float, frozenset, int, list, object, set, str, tuple, NoneType, Any),
    *(abs, len, max, min, repr, round, sorted, sum),
    *[method for name, method in vars(str).items() if callable(method) and not name.startswith("_")],
    *ATOMS,
    *(abc.Sequence, abc.Mapping, abc.Set, abc.Iterable, abc.Collection, abc.MutableSequence),
    *(abc.MutableMapping, abc.MutableSet),
    msgspec.Meta,
)
KNOWN: Final[dict[str, Any]] = {path_of(each): each for each in (*_OWN, *_STANDARD)}
"""What every document may name: nothing here does anything but return a value."""

TYPING: Final[dict[str, Any]] = {
    name: getattr(typing, name)
    for name in ("List", "Dict", "Tuple", "Set", "FrozenSet", "Sequence", "Mapping", "Iterable", "Type")
}
"""Older names of generic types, which are not equal to the newer ones."""


def reference_to(named: Any) -> str:
    """Return the name by which a function or class is found again.

    Raises:
        ValueError: It is not found by its name; the message says why, and what to do.
    """
    name = path_of(named)
    if KNOWN.get(name) is named:
        return name
    if "<" in name:
        what = "a lambda" if "<lambda>" in name else f"{name.partition(':')[2]}, which is within a function,"
        raise ValueError(f"{what} has no name to be found by: make it a function of a module")
    module, _, rest = name.partition(":")
    found = _within(sys.modules.get(module), rest)
    if not _is_same(found, named):
        raise ValueError(f"{name} is not where its name says: give it that name in its module")
    return name


def resolved(name: object, allow: Collection[str]) -> Any:
    """Return what a name stands for. Only modules that are allowed are imported.

    Raises:
        ValueError: It stands for nothing, or for what is not allowed.
    """
    if not isinstance(name, str):
        raise ValueError(f"a name must be text, not {type(name).__name__}")
    if name in KNOWN:
        return KNOWN[name]
    module, _, rest = name.partition(":")
    parts = [*module.split("."), *rest.split(".")]
    if not all(part.isidentifier() and not part.startswith("__") for part in parts if part != "__main__"):
        raise ValueError(f"not the name of a function or class: {name!r:.80}")
    if not any(module == each or module.startswith(f"{each}.") for each in allow):
        raise ValueError(f"{name!r:.80} is not allowed: loads(..., allow=[{module!r:.80}]) would allow it")
    try:
        found = _within(import_module(module), rest)
    except Exception as error:
        raise ValueError(f"{name!r:.80} cannot be imported: {type(error).__name__}") from error
    if isinstance(found, Tool) and isinstance(found.execute, ToolFunction):
        found = found.execute.function  # `@tool` took the function's name
    if not has_a_name(found) or path_of(found) != name:
        raise ValueError(f"{name!r:.80} is no function or class of that module")
    return found


def has_a_name(value: object) -> bool:
    """Tell whether a value is a function, a class or an alias of a type."""
    is_alias = type(value).__name__ == "TypeAliasType"
    return is_alias or (callable(value) and isinstance(attribute(value, "__qualname__"), str))


def _within(owner: object, path: str) -> Any:
    """Return what a path of names leads to, through classes only."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
        if owner is None:
            return None
        if not isinstance(owner, type) and name != path.rpartition(".")[2]:
            return None
    return owner


def _is_same(found: object, named: object) -> bool:
    if isinstance(found, Tool) and isinstance(found.execute, ToolFunction):
        return found.execute.function is named
    if isinstance(named, MethodType):  # of a class: another object each time
        return isinstance(named.__self__, type) and found == named
    return found is named
