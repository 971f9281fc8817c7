"""Checks of settings: each returns nothing or says what was wrong."""

import math
from decimal import Decimal
from numbers import Real

__all__ = ["as_float", "check_completion", "check_count", "check_flag", "check_number"]


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
    if not (least <= number <= most and number < math.inf):
        bounds = f"finite and at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {number}")


def as_float(name: str, number: object) -> float:
    """Return a number of any kind as a float.

    Raises:
        TypeError: It is not a number.

    >>> as_float("risk", Decimal("0.01"))
    0.01
    """
    if isinstance(number, bool) or not isinstance(number, (Real, Decimal)):
        raise TypeError(f"{name} must be a number, not {type(number).__name__}")
    return float(number)


def check_flag(name: str, flag: object) -> None:
    """Check a switch.

    Raises:
        TypeError: It is not True or False.
    """
    if type(flag) is not bool:
        raise TypeError(f"{name} must be True or False, not {flag!r}")


def check_completion(temperature: object, max_tokens: object) -> None:
    """Check what every stage says of its completions.

    Raises:
        TypeError: One is not a number.
        ValueError: One is out of range: a temperature is from 0 to 2, `max_tokens` at least 1.
    """
    if temperature is not None:
        check_number("temperature", temperature, 0, 2)
    check_count("max_tokens", max_tokens)
