"""Telling whoever calls what makes a stage with a provider where the function is that takes one."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final, TypeVar, cast

__all__ = ["makes_stage"]

F = TypeVar("F", bound=Callable[..., object])

_FACADE: Final = {
    "consensus": "consensus",
    "react": "react_loop",
    "refine": "refine_loop",
    "structured": "structured",
}
_OURS: Final = frozenset({"provider", "prompt", "num_samples"})
"""Keywords that only a function of the facade has."""


def makes_stage(function: F) -> F:
    """Have a function that makes a stage refuse a provider, and say where the function is that takes one.

    Raises (on a call):
        TypeError: It was called with a provider, or with a keyword of the facade.
    """

    @wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> object:
        if keywords.keys() & _OURS or (arguments and _is_provider(arguments[0], alone=len(arguments) == 1)):
            renamed = "; what it calls num_samples is n in a stage" if "num_samples" in keywords else ""
            raise TypeError(_direction(function.__name__) + renamed)
        return function(*arguments, **keywords)

    return cast("F", checked)


def _is_provider(value: object, *, alone: bool) -> bool:
    """Tell whether a value has the shape of a provider; one that can be called may be an evaluator."""
    with suppress(Exception):  # what a foreign object's attributes raise is not ours to report here
        if not isinstance(value, type) and not (alone and callable(value)):
            return callable(getattr(value, "complete", None))
    return False


def _direction(name: str) -> str:
    run = f"{name}(...) makes a stage, to be run by `await {name}(...).run(provider, prompt)`"
    if name not in _FACADE:
        return run
    return f"{run}; what takes (provider, prompt, ...) is executionkit.compat.{_FACADE[name]}"
