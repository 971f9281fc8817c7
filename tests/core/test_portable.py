"""Values as JSON's shapes and back."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.portable import from_plain, to_plain
from executionkit.core.transcript import Transcript
from executionkit.core.usage import TokenUsage

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(),
    st.floats(allow_nan=False),
    st.binary(),
    st.decimals(allow_nan=False),
    st.builds(TokenUsage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)
KEYS = st.one_of(st.text(), st.just("$"), st.integers(), st.tuples(st.text(), st.integers()))
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.frozensets(st.text()),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_a_value_comes_back_through_json(value: Any) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(value)))) == value


def test_what_json_has_no_number_for() -> None:
    back: Any = from_plain(json.loads(json.dumps(to_plain([math.inf, -math.inf, math.nan]), allow_nan=False)))
    assert back[:2] == (math.inf, -math.inf)
    assert math.isnan(back[2])


def test_a_conversation_comes_back() -> None:
    talk = Transcript([{"role": "user", "content": "hello"}])
    assert from_plain(to_plain({"transcript": talk})) == {"transcript": talk}


def test_what_nobody_knows_is_plain_data() -> None:
    assert to_plain({"path": complex(1, 2)}) == {"path": "(1+2j)"}


@pytest.mark.parametrize(
    "data",
    [
        {"$": "rocket", "value": 1},
        {"$": "usage", "value": {"llm_calls": "many"}},
        {"$": "usage"},
        {"$": "decimal", "value": "x"},
        {"$": "map", "value": 3},
        {"$": "float", "value": None},
        {"$": None, "value": None},
        [{"$": "transcript", "value": 3}],
    ],
    ids=repr,
)
def test_what_was_not_written_so_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="kind|form|spent|transcript"):
        from_plain(data)
