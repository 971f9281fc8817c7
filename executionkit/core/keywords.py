"""Which keywords a function takes."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

__all__ = ["bound_keywords", "function_name", "names", "takes"]


def takes(function: Callable[..., object], keyword: str) -> bool:
    """Tell whether a function can be given a keyword, by name or through its `**kwargs`.

    >>> takes(lambda prompt, *, n: n, "n"), takes(lambda **rest: rest, "n"), takes(lambda prompt: prompt, "n")
    (True, True, False)
    """
    return names(function, keyword) or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(function).values()
    )


def names(function: Callable[..., object], keyword: str) -> bool:
    """Tell whether a function names a keyword among its parameters.

    >>> names(lambda **rest: rest, "n")
    False
    """
    parameter = _parameters(function).get(keyword)
    return parameter is not None and parameter.kind in {
        parameter.KEYWORD_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
    }


def bound_keywords(function: Callable[..., object]) -> Mapping[str, object]:
    """Return the keywords that a `functools.partial` binds already.

    >>> bound_keywords(partial(print, sep="-"))
    {'sep': '-'}
    """
    return function.keywords if isinstance(function, partial) else {}


def function_name(function: Callable[..., object]) -> str:
    """Return what to call a function; a partial goes by the name of what it wraps.

    >>> function_name(partial(print, sep="-"))
    'print'
    """
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__name__", type(inner).__name__))


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}
