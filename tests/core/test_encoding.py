"""Whatever a value is, there is JSON text for it."""

import json
from collections import ChainMap, deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

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
    holds_itself = deque[Any]()
    holds_itself.append(holds_itself)
    assert json.loads(json_text(holds_itself)) == "<class 'collections.deque'>"
    assert json.loads(json_text({"a": ["\ud800", holds_itself]})) == "<class 'dict'>"
    while deep:  # its deallocation must not recurse either
        deep = deep.pop()


class Broken(Mapping[str, int]):
    """A mapping that cannot be read."""

    @override
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("no items")

    @override
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no items")

    @override
    def __len__(self) -> int:
        return 1

    @override
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (MappingProxyType({"a": deque([1])}), '{"a":[1]}'),
        (ChainMap({"a": {"b": 1}.keys()}), '{"a":["b"]}'),
        ([{"a": 1}.values(), {"a": 1}.items()], '[[1],[["a",1]]]'),
        (["\ud800", MappingProxyType({"a": 1})], '["\\ud800", {"a": 1}]'),
        ({"a": Broken()}, '{"a":"<Broken>"}'),
    ],
)
def test_containers_that_msgspec_does_not_know_are_json(value: object, text: str) -> None:
    assert json_text(value) == text
