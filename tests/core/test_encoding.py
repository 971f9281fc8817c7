"""Whatever a value is, there is JSON text for it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.encoding import json_text

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None))
    | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@given(ANYTHING)
def test_encoding_is_total_and_valid(value: Any) -> None:
    json.loads(json_text(value))


def test_lone_surrogates_cycles_and_depth_are_survived() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert json.loads(json_text("\ud800")) == "\ud800"
    assert json.loads(json_text(cycle)) == "<class 'list'>"
    assert json.loads(json_text(deep)) == "<class 'list'>"
    while deep:  # its deallocation must not recurse either
        deep = deep.pop()
