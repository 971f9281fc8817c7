"""Copies of exceptions of any class, without a call of an `__init__` that may want something else."""

from typing import Any, Final, TypeVar, cast

__all__ = ["bare", "bare_copy"]

_Error = TypeVar("_Error", bound=Exception)

_HEAP_TYPE: Final = 1 << 9
"""The flag of classes that are made by a `class` statement."""


def bare_copy(error: _Error) -> _Error:
    """Return an exception of this one's class and state."""
    copy = bare(type(error), error.args)
    copy.args = error.args  # `OSError` beside us takes them in `__init__` only
    state: object = object.__getstate__(error)
    in_dict, in_slots = cast("tuple[object, object]", state if isinstance(state, tuple) else (state, None))
    copy.__dict__.update(cast("dict[str, object]", in_dict or {}))
    for name, value in cast("dict[str, object]", in_slots or {}).items():
        object.__setattr__(copy, name, value)
    return copy


def bare(cls: type[_Error], args: tuple[object, ...]) -> _Error:
    """Make an exception without a call of its `__init__`, nor of a `__new__` that wants something else."""
    try:
        return cls.__new__(cls, *args)
    except Exception:  # noqa: BLE001 - foreign code
        native: Any = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
        made: _Error = native.__new__(cls, *args)
        return made
