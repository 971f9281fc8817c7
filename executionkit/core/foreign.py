"""What objects that are handed in are like. They are foreign, and may raise where they are looked at."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import MethodType
from typing import Any, TypeVar, cast

from typing_extensions import TypeForm, TypeIs

__all__ = [
    "attribute",
    "described",
    "fits",
    "function_name",
    "is_kind",
    "method",
    "returned_at_once",
    "signature_of",
    "text_of",
]

T = TypeVar("T")


def attribute(owner: object, name: str) -> Any:
    """Return an attribute of a foreign object; None where it has none, whatever its look-up raises."""
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001 - a look-up must not cost a paid answer
        return None


def method(owner: object, name: str) -> Any:
    """Return a method of a foreign object; None where it has none of that name."""
    found = attribute(owner, name)
    return found if callable(found) else None


def fits(owner: object, protocol: TypeForm[T]) -> TypeIs[T]:
    """Tell whether an object has what a protocol asks for."""
    try:
        return isinstance(owner, cast("type", protocol))
    except Exception:  # noqa: BLE001 - so it has not
        return False


def described(error: BaseException) -> str:
    """Return an exception's class and text, whatever its `__str__` does.

    >>> described(ValueError("no such city"))
    'ValueError: no such city'
    """
    with suppress(Exception):  # foreign code: what matters is that it failed, not that it cannot say how
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def text_of(value: object) -> str:
    """Return the text of an object, whatever its `__str__` does.

    >>> text_of(3.5)
    '3.5'
    """
    with suppress(Exception):
        return str(value)
    return f"<{type(value).__name__}>"


def is_kind(function: object, *kinds: Callable[[object], bool]) -> bool:
    """Tell whether what is called in the end is of one of these kinds, such as a coroutine function.

    >>> async def load(text): ...
    >>> is_kind(partial(load, "x"), inspect.iscoroutinefunction), is_kind(print, inspect.iscoroutinefunction)
    (True, False)
    """
    function = _inner(function)
    for called in (function, getattr(type(function), "__call__", None)):  # noqa: B004
        with suppress(Exception):
            if any(kind(called) for kind in kinds):
                return True
    return False


def returned_at_once(value: T) -> T:
    """Return what a plain function returned, unless it would have to be awaited.

    Raises:
        TypeError: It would; a coroutine is closed, so that nothing complains that it never was.

    >>> async def load(text): ...
    >>> returned_at_once(load("x"))
    Traceback (most recent call last):
    TypeError: it returned a coroutine, which would have to be awaited; give a plain function here
    """
    if not hasattr(type(value), "__await__"):
        return value
    if inspect.iscoroutine(value):
        value.close()
    raise TypeError(
        f"it returned a {type(value).__name__}, which would have to be awaited; give a plain function here"
    )


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    """Return how a function is called.

    Raises:
        ValueError: It does not say.
    """
    try:
        return inspect.signature(function)
    except ValueError:
        raise
    except Exception:  # noqa: BLE001 - an object that raises where it is looked at; its class says the same
        return inspect.signature(MethodType(type(function).__call__, function))


def function_name(function: Callable[..., object]) -> str:
    """Return what to call a function; a partial goes by the name of what it wraps.

    >>> function_name(partial(print, sep="-"))
    'print'
    """
    inner = _inner(function)
    with suppress(Exception):
        return str(cast("Callable[..., object]", inner).__name__)
    return type(inner).__name__


def _inner(function: object) -> object:
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    return function
