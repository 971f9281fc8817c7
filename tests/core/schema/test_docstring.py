"""Descriptions of arguments, in three forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.schema.docstring import Docstring, parse_docstring

GOOGLE = """Add things.

    In detail.

    Args:
        left (int, optional): The left: one
            of two.
        right: The right.
        **more: Others.

    Returns:
        left: no argument.
    """
NUMPY = """Add things.

    In detail.

    Parameters
    ----------
    left : int, optional
        The left: one
        of two.
    right
        The right.
    **more
        Others.

    Returns
    -------
    left : int
        No argument.
    """
SPHINX = """Add things.

    In detail.

    :param int left: The left: one
        of two.
    :param right: The right.
    :type right: int
    :keyword more: Others.
    :returns: nothing
    :raises ValueError: never
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX])
def test_three_forms_say_the_same(text: str) -> None:
    arguments = {"left": "The left: one of two.", "right": "The right.", "more": "Others."}
    assert parse_docstring(text) == Docstring("Add things.\n\nIn detail.", arguments)


@pytest.mark.parametrize("text", [None, "", "Only text: with a colon."])
def test_without_sections(text: str | None) -> None:
    assert parse_docstring(text) == Docstring(text or "", {})


@given(st.text() | st.from_regex(r"(Args:|Parameters|---|:param x:|    \w+:|\n| )*", fullmatch=True))
def test_nothing_raises(text: str) -> None:
    assert isinstance(parse_docstring(text), Docstring)
