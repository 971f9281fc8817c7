"""Checks of settings: each returns nothing or says what was wrong."""

import math
from decimal import Decimal
from inspect import isasyncgenfunction, iscoroutinefunction
from numbers import Real

from executionkit.core.foreign import function_name, is_kind

__all__ = [
    "as_float",
    "check_completion",
    "check_count",
    "check_flag",
    "check_function",
    "check_number",
    "is_finite",
]


def is_finite(number: float) -> bool:
    """Tell whether a number is finite, as a float too: a whole number may be too large for one.

    >>> is_finite(1e308), is_finite(10**309), is_finite(math.nan)
    (True, False, False)
    """
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def check_count(name: str, count: object, least: int = 1) -> None:
    """Check a whole number.

    Raises:
        TypeError: It is not an `int`.
        ValueError: It is below `least`.

    >>> check_count("n", 0)
    Traceback (most recent call last):
    ValueError: n must be at least 1, not 0
    """
    if type(count) is not int:
        raise TypeError(f"{name} must be a whole number, not {type(count).__name__}")
    if count < least:
        raise ValueError(f"{name} must be at least {least}, not {count}")


def check_number(name: str, number: object, least: float, most: float = math.inf) -> None:
    """Check a finite number.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not finite, or out of range.

    >>> check_number("target_score", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: target_score must be from 0 to 1, not 1.5
    """
    if type(number) not in {int, float} or not isinstance(number, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(number).__name__}")
    if not (is_finite(number) and least <= number <= most):
        bounds = f"finite and at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {number}")


def as_float(name: str, number: object) -> float:
    """Return a number of any kind as a float.

    Raises:
        TypeError: It is not a number.
        ValueError: It is too large.

    >>> as_float("risk", Decimal("0.01"))
    0.01
    """
    if isinstance(number, bool) or not isinstance(number, (Real, Decimal)):
        raise TypeError(f"{name} must be a number, not {type(number).__name__}")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} must not be larger than a float can be") from None


def check_flag(name: str, flag: object) -> None:
    """Check a switch.

    Raises:
        TypeError: It is not True or False.
    """
    if type(flag) is not bool:
        raise TypeError(f"{name} must be True or False, not {flag!r}")


def check_function(name: str, function: object) -> None:
    """Check a plain function: what an async one returns would have to be awaited.

    Raises:
        TypeError: It cannot be called, or it is async.

    >>> async def load(text): ...
    >>> check_function("map", load)
    Traceback (most recent call last):
    TypeError: map takes a plain function, and load is async; make it a stage with step(...), joined by >>
    """
    if not callable(function):
        raise TypeError(f"{name} takes a function, not {type(function).__name__}")
    if is_kind(function, iscoroutinefunction, isasyncgenfunction):
        who = function_name(function)
        raise TypeError(
            f"{name} takes a plain function, and {who} is async; make it a stage with step(...), joined by >>"
        )


def check_completion(temperature: object, max_tokens: object) -> None:
    """Check what every stage says of its completions.

    Raises:
        TypeError: One is not a number.
        ValueError: One is out of range: a temperature is from 0 to 2, `max_tokens` at least 1.
    """
    if temperature is not None:
        check_number("temperature", temperature, 0, 2)
    check_count("max_tokens", max_tokens)
