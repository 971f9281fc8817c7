"""Token usage adds and subtracts, budgets are checked, reported figures are read or refused."""

import copy
import pickle
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget, read_usage, sane_usage
from executionkit.provider import LLMResponse

USAGES = st.builds(TokenUsage, st.integers(), st.integers(), st.integers())


@given(USAGES, USAGES, USAGES)
def test_usages_form_a_commutative_group(a: TokenUsage, b: TokenUsage, c: TokenUsage) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + NO_USAGE == a
    assert a + b - b == a
    assert (a + b).total_tokens == a.total_tokens + b.total_tokens


@given(USAGES)
def test_a_usage_is_a_value(usage: TokenUsage) -> None:
    for twin in (copy.copy(usage), copy.deepcopy(usage), pickle.loads(pickle.dumps(usage))):
        assert twin == usage
        assert hash(twin) == hash(usage)
    with pytest.raises(AttributeError):
        usage.input_tokens = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_no_limit_at_all_is_no_budget() -> None:
    assert checked_budget(None) is None
    assert checked_budget(TokenUsage()) is None
    assert checked_budget(TokenUsage(llm_calls=1)) == TokenUsage(llm_calls=1)


@pytest.mark.parametrize(
    ("budget", "kind", "words"),
    [
        (5, TypeError, "a budget must be a TokenUsage, not int"),
        ({"llm_calls": 5}, TypeError, "not dict"),
        (TokenUsage(input_tokens=-1), ValueError, "input_tokens must be 0 .* not -1"),
        (TokenUsage(output_tokens=-5), ValueError, "output_tokens"),
        (TokenUsage(llm_calls=-1), ValueError, "llm_calls"),
        (TokenUsage(llm_calls=True), TypeError, "llm_calls must be an int, not bool"),
        (TokenUsage(llm_calls=2.0), TypeError, "llm_calls must be an int, not float"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_wrong_budget_is_refused(budget: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        checked_budget(budget)


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JUNK)
def test_reading_usage_is_total_and_sane(usage: object) -> None:
    for count in read_usage(usage):
        assert count is None or (type(count) is int and 0 <= count <= 10**9)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2}, (1, 2)),
        ({"input_tokens": 1, "output_tokens": 2}, (1, 2)),
        ({"prompt_tokens": None, "input_tokens": 1}, (1, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 10**9 + 1}, (None, None)),
        ({"prompt_tokens": 10**9, "completion_tokens": 1}, (10**9, 1)),
        (MappingProxyType({"prompt_tokens": 1, "completion_tokens": 2}), (1, 2)),
        ({"prompt_tokens": True, "completion_tokens": "2"}, (None, None)),
        ({"prompt_tokens": 1.0, "completion_tokens": float("nan")}, (None, None)),
        (None, (None, None)),
        ("many", (None, None)),
    ],
)
def test_usage_is_read_in_both_dialects(usage: object, read: tuple[int | None, int | None]) -> None:
    assert read_usage(usage) == read


def test_a_response_reads_its_usage_as_zero_where_it_is_absurd() -> None:
    response = LLMResponse("x", usage={"prompt_tokens": 7, "completion_tokens": -2})
    assert (response.input_tokens, response.output_tokens, response.total_tokens) == (7, 0, 7)


@pytest.mark.parametrize("field", range(3))
@pytest.mark.parametrize(
    ("count", "is_sane"),
    [(0, True), (1, True), (10**9, True), (10**9 + 1, False), (-1, False), (True, False), (1.0, False)],
)
def test_a_usage_is_sane_where_every_figure_is(field: int, count: Any, is_sane: bool) -> None:
    usage = TokenUsage(*(count if index == field else 1 for index in range(3)))
    assert sane_usage(usage) is (usage if is_sane else None)
    assert sane_usage((1, 1, 1)) is None
    assert sane_usage(None) is None
