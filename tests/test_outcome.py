"""A result is a frozen value; an outcome is one of two cases."""

import copy
import pickle
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Result, Success

from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.outcome import Outcome, PatternResult, as_outcome, is_failure, is_success

COST = TokenUsage(10, 5, 2)
RESULTS = st.tuples(
    st.integers(),
    st.none() | st.floats(0, 1),
    st.builds(TokenUsage, st.integers(0, 9)),
    st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(), max_size=2), max_size=2),
).map(lambda parts: PatternResult(*parts))


@given(RESULTS)
def test_a_result_is_a_value(result: PatternResult[int]) -> None:
    for twin in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert twin == result
        assert hash(twin) == hash(result)
        assert isinstance(twin.metadata, MappingProxyType)
    assert str(result) == str(result.value)


@given(RESULTS)
def test_map_laws(result: PatternResult[int]) -> None:
    assert result.map(lambda value: value) == result
    assert result.map(str).map(len) == result.map(lambda value: len(str(value)))


def test_metadata_is_copied_and_read_only() -> None:
    given_metadata: dict[str, Any] = {"votes": ["a"], "deep": {"er": [1]}}
    result = PatternResult("x", metadata=given_metadata)
    given_metadata["votes"].append("b")
    given_metadata["deep"]["er"].append(2)
    given_metadata["more"] = 1
    assert result.metadata == {"votes": ("a",), "deep": {"er": (1,)}}
    with pytest.raises(TypeError):
        result.metadata["votes"] = ()  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(AttributeError):
        result.value = "y"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_defaults() -> None:
    result = PatternResult("x")
    assert (result.score, result.cost, dict(result.metadata)) == (None, TokenUsage(), {})
    assert isinstance(result.metadata, MappingProxyType)


def test_a_part_that_does_not_hash_keeps_the_result_from_hashing_only() -> None:
    result = PatternResult(["a"])
    assert result == PatternResult(["a"])
    with pytest.raises(TypeError, match="unhashable"):
        hash(result)


def test_what_a_part_of_the_work_counted_is_replaced_by_the_whole() -> None:
    stamped = PatternResult("x", metadata={"usage_estimated": 1, "own": 2}).stamped(
        COST, {"usage_estimated": 3}
    )
    assert stamped.metadata == {"usage_estimated": 3, "own": 2}
    assert stamped.cost == COST


def test_an_outcome_is_one_of_two_cases() -> None:
    good: Outcome[str] = Success(PatternResult("x"))
    bad: Outcome[str] = Failure(ExecutionKitError("no"))
    assert (is_success(good), is_failure(good)) == (True, False)
    assert (is_success(bad), is_failure(bad)) == (False, True)
    assert good == Success(PatternResult("x"))
    assert bad == Failure(ExecutionKitError("no"))
    for outcome in (good, bad):
        plain: Result[PatternResult[str], ExecutionKitError] = outcome
        assert as_outcome(plain) == outcome
    with pytest.raises(TypeError, match="a Success or a Failure, not str"):
        as_outcome("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
