"""Freezing copies deeply, and nothing that is frozen can be changed."""

import copy
import json
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.frozen import (
    EMPTY,
    FrozenDict,
    freeze,
    freeze_mapping,
    frozen_json,
    hash_frozen,
    thaw,
)

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "x", b"y"])
)
KEYS = st.sampled_from(["a", "b", "c"])
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, PLAIN)


def tupled(value: object) -> object:
    """Say by hand what a frozen value thaws to: lists stay tuples."""
    if isinstance(value, dict):
        return {key: tupled(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return tuple([tupled(item) for item in cast("list[object]", value)])
    return value


def is_read_only(value: object) -> bool:
    if isinstance(value, MappingProxyType):
        return all(map(is_read_only, cast("MappingProxyType[str, object]", value).values()))
    if isinstance(value, tuple):
        return all(map(is_read_only, cast("tuple[object, ...]", value)))
    return not isinstance(value, (dict, list, set))


@given(MAPPINGS)
def test_what_is_frozen_is_equal_read_only_and_a_copy(given_mapping: dict[str, Any]) -> None:
    frozen = freeze_mapping(given_mapping)
    assert is_read_only(frozen)
    assert thaw(frozen) == tupled(given_mapping)
    before = thaw(frozen)
    given_mapping["more"] = 1
    for value in given_mapping.values():
        if isinstance(value, list):
            cast("list[object]", value).append("more")
    assert thaw(frozen) == before


@given(MAPPINGS)
def test_freezing_again_changes_nothing(given_mapping: dict[str, Any]) -> None:
    once = freeze_mapping(given_mapping)
    assert freeze_mapping(once) == once
    assert freeze_mapping(cast("dict[str, object]", thaw(once))) == once
    assert pickle.loads(pickle.dumps(thaw(once))) == thaw(once)


@given(MAPPINGS)
def test_equal_values_hash_alike(given_mapping: dict[str, Any]) -> None:
    shuffled = dict(reversed(given_mapping.items()))
    assert freeze_mapping(given_mapping) == freeze_mapping(shuffled)
    assert hash_frozen(freeze_mapping(given_mapping)) == hash_frozen(freeze_mapping(shuffled))


def test_sets_and_tuples_freeze_inside() -> None:
    frozen = cast("Any", freeze({"a": ({"b": [1]}, {2, 3})}))
    assert frozen["a"][0]["b"] == (1,)
    assert frozen["a"][1] == frozenset({2, 3})
    with pytest.raises(TypeError):
        frozen["a"][0]["b"] = ()


def test_what_is_not_plain_is_kept_and_the_empty_mapping_shared() -> None:
    thing = object()
    assert freeze(thing) is thing
    assert freeze_mapping({}) is EMPTY
    with pytest.raises(TypeError, match="unhashable"):
        hash_frozen(freeze_mapping({"a": bytearray(b"x")}))


def test_frozen_json_is_json_that_nobody_changes() -> None:
    given = {"a": [1, {"b": (2, [3])}], "c": MappingProxyType({"d": None})}
    frozen: Any = frozen_json(given)
    assert frozen == {"a": [1, {"b": [2, [3]]}], "c": {"d": None}}
    assert json.dumps(frozen) == msgspec.json.encode(frozen).decode().replace(":", ": ").replace(",", ", ")
    assert id(frozen_json(frozen)) == id(frozen)
    assert hash(frozen) == hash(frozen_json(given))
    changes: list[Callable[[], object]] = [
        *(getattr(frozen, name) for name in ("clear", "popitem", "update")),
        *(getattr(frozen["a"], name) for name in ("clear", "pop", "reverse", "sort")),
        lambda: frozen.__ior__({"x": 1}),
        lambda: frozen["a"].__iadd__([1]),
        lambda: frozen["a"].__imul__(2),
        lambda: frozen["a"][1]["b"].append(1),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="read-only"):
            change()
    twins: list[Any] = [copy.copy(frozen), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))]
    for twin in twins:
        assert twin == frozen
        assert (type(twin).__name__, type(twin["a"]).__name__) == ("FrozenDict", "FrozenList")
    thawed: Any = thaw(frozen)
    assert thawed == frozen
    thawed["a"][1]["b"].append(thawed.pop("c"))  # all of it can be changed again


def test_what_is_too_deep_or_inside_itself_stays_as_it_is() -> None:
    inside: list[Any] = []
    inside.append(inside)
    assert isinstance(frozen_json({"x": inside}), FrozenDict)
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    assert frozen_json(deep) is deep


class Pair(NamedTuple):
    names: Any
    figures: Any


class Empty(NamedTuple):
    pass


def test_named_tuples_freeze_inside_and_stay_what_they_are() -> None:
    given_pair = Pair(["a"], {"b": [1]})
    frozen = freeze_mapping({"pair": given_pair, "whole": Pair("a", 1), "none": Empty()})
    given_pair.names.append("more")
    assert frozen["pair"] == Pair(("a",), {"b": (1,)})
    assert type(frozen["pair"]) is Pair
    with pytest.raises(TypeError):
        frozen["pair"].figures["b"] = ()
    assert hash_frozen(frozen) == hash_frozen(freeze_mapping(dict(frozen)))
    assert pickle.loads(pickle.dumps(thaw(frozen))) == thaw(frozen)
    whole = Pair("a", 1)
    assert freeze(whole) is whole
