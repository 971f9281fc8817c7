"""The admission of a call: never past the limit, patient exactly while it pays, total."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.budget import (
    LEAST_USEFUL_OUTPUT,
    Ask,
    Refused,
    Wait,
    admit,
    estimate_input,
    left_of,
    tighter,
)
from executionkit.core.usage import NO_USAGE, TokenUsage

COUNTS = st.integers(0, 400)
LIMITS = st.builds(TokenUsage, COUNTS, COUNTS, st.integers(0, 5))
SPENT = st.builds(TokenUsage, COUNTS, COUNTS, st.integers(0, 6))
HELD = st.builds(TokenUsage, COUNTS, COUNTS)
ASKS = st.builds(Ask, COUNTS, st.integers(1, 500))


@given(LIMITS, SPENT, HELD, ASKS)
def test_an_admitted_call_fits_in_its_worst_case(
    limit: TokenUsage, spent: TokenUsage, held: TokenUsage, ask: Ask
) -> None:
    granted = admit(limit, spent, held, ask)
    if not isinstance(granted, int):
        return
    assert 1 <= granted <= ask.output_tokens
    assert not limit.llm_calls or spent.llm_calls + 1 <= limit.llm_calls
    assert not limit.input_tokens or (
        spent.input_tokens + held.input_tokens + ask.input_tokens <= limit.input_tokens
    )
    assert not limit.output_tokens or (
        spent.output_tokens + held.output_tokens + granted <= limit.output_tokens
    )


@given(LIMITS, SPENT, HELD, ASKS)
def test_output_is_lowered_only_to_something_useful(
    limit: TokenUsage, spent: TokenUsage, held: TokenUsage, ask: Ask
) -> None:
    granted = admit(limit, spent, held, ask)
    if isinstance(granted, int):
        assert granted >= min(ask.output_tokens, limit.output_tokens or 500, LEAST_USEFUL_OUTPUT)


@given(LIMITS, SPENT, HELD, ASKS)
def test_a_call_waits_just_where_one_in_flight_may_make_room(
    limit: TokenUsage, spent: TokenUsage, held: TokenUsage, ask: Ask
) -> None:
    now = admit(limit, spent, held, ask)
    at_best = admit(limit, spent, NO_USAGE, ask)  # those in flight settle at nothing
    assert not isinstance(at_best, Wait)
    if isinstance(now, Wait):
        assert held != NO_USAGE
        assert isinstance(at_best, int)
    if isinstance(now, Refused):
        assert isinstance(at_best, Refused)
        assert now.reason


@given(SPENT, HELD, ASKS)
def test_without_a_limit_everything_is_granted(spent: TokenUsage, held: TokenUsage, ask: Ask) -> None:
    assert admit(NO_USAGE, spent, held, ask) == ask.output_tokens


@given(LIMITS, LIMITS)
def test_the_tighter_budget_holds_both(one: TokenUsage, other: TokenUsage) -> None:
    both = tighter(one, other)
    assert both == tighter(other, one)
    assert tighter(both, one) == both
    assert tighter(one, NO_USAGE) == one
    for spent in (TokenUsage(a, b, c) for a in (1, 200) for b in (1, 200) for c in (1, 3)):
        fits = [_holds(limit, spent) for limit in (one, other)]
        assert _holds(both, spent) == all(fits)


def _holds(limit: TokenUsage, spent: TokenUsage) -> bool:
    return all(
        not most or count <= most
        for most, count in (
            (limit.input_tokens, spent.input_tokens),
            (limit.output_tokens, spent.output_tokens),
            (limit.llm_calls, spent.llm_calls),
        )
    )


@given(LIMITS, SPENT)
def test_what_is_left_never_turns_into_no_limit(limit: TokenUsage, spent: TokenUsage) -> None:
    left = left_of(limit, spent)
    if left is None:
        assert not isinstance(admit(limit, spent, NO_USAGE, Ask(1, 1)), int)
        return
    for most, rest in (
        (limit.input_tokens, left.input_tokens),
        (limit.output_tokens, left.output_tokens),
        (limit.llm_calls, left.llm_calls),
    ):
        assert bool(most) == bool(rest)
        assert 0 <= rest <= most


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(PLAIN, max_size=4))
def test_the_estimate_is_total_and_counts_messages(messages: list[object]) -> None:
    assert estimate_input(messages) >= 4 * len(messages)


@given(st.text(st.characters(codec=None)))
def test_the_estimate_follows_the_bytes_lone_surrogates_included(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    estimate = estimate_input([{"content": text}])
    assert size / 4 <= estimate - 4 < size / 4 + 1


def test_tools_count_as_input() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 400}}]
    assert estimate_input([], tools) > 100
    assert estimate_input([], None) == 0


@pytest.mark.parametrize(
    ("limit", "spent", "held", "ask", "granted"),
    [
        (TokenUsage(100), TokenUsage(50), TokenUsage(30), Ask(20, 9), 9),
        (TokenUsage(100), TokenUsage(50), TokenUsage(30), Ask(21, 9), Wait.WAIT),
        (TokenUsage(100), TokenUsage(50), TokenUsage(30), Ask(50, 9), Wait.WAIT),
        (
            TokenUsage(100),
            TokenUsage(50),
            TokenUsage(30),
            Ask(51, 9),
            Refused("50 of 100 input tokens are spent and the call needs about 51"),
        ),
        (TokenUsage(0, 100), TokenUsage(0, 50), TokenUsage(0, 30), Ask(0, 20), 20),
        (TokenUsage(0, 100), TokenUsage(0, 50), TokenUsage(0, 30), Ask(0, 21), Wait.WAIT),
        (TokenUsage(0, 100), TokenUsage(0, 50), NO_USAGE, Ask(0, 51), 50),
        (TokenUsage(0, 100), TokenUsage(0, 84), NO_USAGE, Ask(0, 51), 16),
        (
            TokenUsage(0, 100),
            TokenUsage(0, 85),
            NO_USAGE,
            Ask(0, 51),
            Refused("85 of 100 output tokens are spent"),
        ),
        (TokenUsage(0, 100), TokenUsage(0, 93), NO_USAGE, Ask(0, 7), 7),
        (TokenUsage(0, 5), NO_USAGE, NO_USAGE, Ask(0, 51), 5),
        (TokenUsage(0, 5), TokenUsage(0, 1), NO_USAGE, Ask(0, 51), Refused("1 of 5 output tokens are spent")),
        (TokenUsage(0, 0, 2), TokenUsage(0, 0, 1), NO_USAGE, Ask(0, 51), 51),
        (TokenUsage(0, 0, 2), TokenUsage(0, 0, 2), NO_USAGE, Ask(0, 51), Refused("2 of 2 calls are spent")),
    ],
)
def test_admissions_by_hand(
    limit: TokenUsage, spent: TokenUsage, held: TokenUsage, ask: Ask, granted: object
) -> None:
    assert admit(limit, spent, held, ask) == granted


def test_estimates_by_hand() -> None:
    assert estimate_input([{"a": 1, "b": None, "c": True}]) == 2 + 4
    assert estimate_input([{"a": "12345"}, {"a": ("1", ["2"])}]) == 2 + 8
    assert estimate_input("12345", None, ["é"]) == 2 + 0 + (1 + 4)
