"""Which keywords a function takes."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from executionkit.core.foreign import function_name, signature_of

__all__ = ["bound_keywords", "by_name", "names", "takes"]


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


def by_name(function: Callable[..., object], arguments: Sequence[object], *, after: int) -> dict[str, object]:
    """Return positional arguments by the names of the parameters behind the first `after`.

    Raises:
        TypeError: There are fewer parameters that can be given by name.

    >>> by_name(lambda provider, prompt, n=1, *, loud=False: n, [3], after=2)
    {'n': 3}
    """
    parameters = list(_parameters(function).values())[after:]
    taken = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if len(arguments) > len(taken):
        raise TypeError(
            f"{function_name(function)} takes {len(taken)} arguments behind the prompt, not {len(arguments)}"
        )
    return dict(zip(taken, arguments, strict=False))


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return signature_of(function).parameters
    except ValueError:
        return {}
