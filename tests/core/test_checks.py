"""Settings out of range are refused with a ValueError, of the wrong type with a TypeError; nothing else."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.checks import check_completion, check_count, check_function, check_number
from executionkit.patterns.complete import complete

JUNK: st.SearchStrategy[Any] = st.none() | st.text() | st.booleans() | st.complex_numbers() | st.binary()
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400)])


@given(st.integers(), st.integers(0, 3))
def test_counts(count: int, least: int) -> None:
    if count >= least:
        check_count("n", count, least)
    else:
        with pytest.raises(ValueError, match=f"n must be at least {least}, not {count}"):
            check_count("n", count, least)


@given(NUMBERS)
def test_numbers(number: float) -> None:
    if not 0 <= number <= 2:
        with pytest.raises(ValueError, match="must be from 0 to 2"):
            check_number("t", number, 0, 2)
    else:
        check_number("t", number, 0, 2)


@given(NUMBERS)
def test_open_ended_numbers_are_finite(number: float) -> None:
    if 0 <= number < 2**1024 - 2**970:  # from here on a float would be infinite
        check_number("t", number, 0)
    else:
        with pytest.raises(ValueError, match="must be finite and at least 0"):
            check_number("t", number, 0)


@given(JUNK)
def test_what_is_no_number_is_a_type_error(junk: Any) -> None:
    with pytest.raises(TypeError, match="must be a whole number"):
        check_count("n", junk)
    with pytest.raises(TypeError, match="must be a number"):
        check_number("t", junk, 0)


def test_completions() -> None:
    check_completion(None, 1)
    check_completion(2, 4096)
    with pytest.raises(ValueError, match="temperature"):
        check_completion(2.1, 1)
    with pytest.raises(ValueError, match="max_tokens"):
        check_completion(None, 0)
    with pytest.raises(TypeError, match="max_tokens"):
        check_completion(None, 100.0)


async def _loads(text: str) -> str:
    return text


async def _streams(text: str) -> AsyncIterator[str]:
    yield text


class _Loader:
    async def __call__(self, text: str) -> str:
        return text


@pytest.mark.parametrize(
    "function", [_loads, _streams, _Loader(), partial(_loads), partial(partial(_Loader()))]
)
def test_an_async_function_is_refused_where_nobody_awaits(function: Any) -> None:
    with pytest.raises(TypeError, match="is async; make it a stage"):
        check_function("map", function)
    with pytest.raises(TypeError, match="is async"):
        complete().map(function)


PLAIN_FUNCTIONS: list[Any] = [str.upper, len, partial(int, base=2), (lambda: 1), _Loader]


@pytest.mark.parametrize("function", PLAIN_FUNCTIONS)
def test_a_plain_function_is_taken(function: Any) -> None:
    check_function("map", function)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="map takes a function, not int"):
        check_function("map", 3)
