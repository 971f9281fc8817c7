"""Token usage adds and subtracts, budgets are checked, reported figures are read or refused."""

import copy
import pickle
from decimal import Decimal, localcontext
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from executionkit.core.usage import (
    NO_USAGE,
    Reading,
    Shown,
    TokenUsage,
    checked_budget,
    least_output,
    plausible,
    read_usage,
    sane_usage,
)
from executionkit.provider import LLMResponse

COUNTS = st.integers()
USAGES = st.builds(
    TokenUsage,
    *(COUNTS, COUNTS, COUNTS),
    cache_read_tokens=COUNTS,
    cache_write_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    usd=st.decimals("-1000", "1000", places=6),
)


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
    assert checked_budget(TokenUsage(usd=Decimal(0))) is None
    assert checked_budget(TokenUsage(llm_calls=1, usd=Decimal(0))) == TokenUsage(llm_calls=1)
    assert checked_budget(TokenUsage(llm_calls=1)) == TokenUsage(llm_calls=1)


def test_a_limit_in_money_is_kept_in_whole_picodollars() -> None:
    assert checked_budget(TokenUsage(usd=Decimal("0.50"))) == TokenUsage(usd=Decimal("0.5"))
    assert checked_budget(TokenUsage(usd=Decimal("0.0000000000019"))) == TokenUsage(usd=Decimal("1e-12"))


@pytest.mark.parametrize(
    ("budget", "kind", "words"),
    [
        (5, TypeError, r"as TokenUsage\(llm_calls=9\), not 5"),
        ({"llm_calls": 5}, TypeError, "not {'llm_calls': 5}"),
        (TokenUsage(input_tokens=-1), ValueError, "input_tokens must be 0 .* not -1"),
        (TokenUsage(output_tokens=-5), ValueError, "output_tokens"),
        (TokenUsage(llm_calls=-1), ValueError, "llm_calls"),
        (TokenUsage(llm_calls=True), TypeError, "llm_calls must be an int, not bool"),
        (TokenUsage(llm_calls=1, reasoning_tokens=5), ValueError, "not reasoning_tokens; leave that at 0"),
        (TokenUsage(cache_read_tokens=-1), ValueError, "not cache_read_tokens"),
        (TokenUsage(usd=Decimal("-0.5")), ValueError, r"usd must be 0 .* not -0\.5"),
        (TokenUsage(usd=Decimal("NaN")), ValueError, "not NaN"),
        (TokenUsage(usd=Decimal("1e-13")), ValueError, "at least 1E-12 where it is a limit"),
        (TokenUsage(usd="0.05"), TypeError, r"not str: write Decimal\('0.05'\)$"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        (TokenUsage(usd=[1]), TypeError, "usd must be a Decimal or None, not list$"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        (TokenUsage(usd=0.5), TypeError, r"Decimal or None, not float: write Decimal\('0.5'\)$"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
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
            st.sampled_from(
                [
                    *("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "x", "cost"),
                    *(
                        "prompt_tokens_details",
                        "completion_tokens_details",
                        "cached_tokens",
                        "reasoning_tokens",
                    ),
                    *("cache_read_input_tokens", "cache_creation_input_tokens", "total_tokens"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=8,
)


@given(JUNK)
def test_reading_usage_is_total_and_sane(usage: object) -> None:
    reading = read_usage(usage)
    for count in (reading.input_tokens, reading.output_tokens):
        assert count is None or (type(count) is int and 0 <= count <= 10**9)
    cost = reading.or_else(0, 0)
    assert sane_usage(cost) is cost
    assert cost.cache_read_tokens + cost.cache_write_tokens <= cost.input_tokens
    assert cost.reasoning_tokens <= cost.output_tokens


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
    assert read_usage(usage) == Reading(*read)


OPENAI = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 80},
    "completion_tokens_details": {"reasoning_tokens": 30},
}


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (OPENAI, TokenUsage(100, 50, 1, cache_read_tokens=80, reasoning_tokens=30)),
        (
            {
                "input_tokens": 10,
                "cache_read_input_tokens": 70,
                "cache_creation_input_tokens": 20,
                "output_tokens": 5,
            },
            TokenUsage(100, 5, 1, cache_read_tokens=70, cache_write_tokens=20),
        ),
        (
            {"input_tokens": 0, "cache_read_input_tokens": 70, "output_tokens": 5},
            TokenUsage(70, 5, 1, cache_read_tokens=70),
        ),
        (  # LiteLLM adds Anthropic's names to OpenAI's, whose sum holds them already
            {"prompt_tokens": 100, "cache_read_input_tokens": 70, "completion_tokens": 5},
            TokenUsage(100, 5, 1, cache_read_tokens=70),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_cache_hit_tokens": 8,
                "prompt_cache_miss_tokens": 1,
            },
            TokenUsage(9, 2, 1, cache_read_tokens=8),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "cost": 0.00014, "cost_details": None},
            TokenUsage(9, 2, 1, usd=Decimal("0.00014")),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 2, "cost": 0}, TokenUsage(9, 2, 1, usd=Decimal(0))),
        (
            {"input_tokens": 9, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 8}},
            TokenUsage(9, 7, 1, cache_read_tokens=8),
        ),
        (  # thoughts beside the output, as the total shows
            {**OPENAI, "prompt_tokens_details": None, "total_tokens": 180},
            TokenUsage(100, 80, 1, reasoning_tokens=30),
        ),
        (
            {"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 99}},
            TokenUsage(4, 2, 1, cache_read_tokens=4),
        ),
        (
            {
                "prompt_tokens": 4,
                "completion_tokens": 2,
                "completion_tokens_details": {"reasoning_tokens": -1},
            },
            TokenUsage(4, 2, 1),
        ),
        (
            {"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": [1], "cost": "dear"},
            TokenUsage(4, 2, 1),
        ),
        ({"prompt_tokens": 4, "completion_tokens": 2, "cost": float("nan")}, TokenUsage(4, 2, 1)),
        ({"prompt_tokens": 4, "completion_tokens": 2, "cost": -0.5}, TokenUsage(4, 2, 1)),
        ({"prompt_tokens": 4, "completion_tokens": 2, "cost": True}, TokenUsage(4, 2, 1)),
        (
            TokenUsage(3, 4, 5, reasoning_tokens=2, usd=Decimal(1)),
            TokenUsage(3, 4, 1, reasoning_tokens=2, usd=Decimal(1)),
        ),
    ],
)
def test_the_parts_are_read_as_each_server_spells_them(usage: object, cost: TokenUsage) -> None:
    assert read_usage(usage).or_else(0, 0) == cost


class Hostile(dict[str, object]):
    def keys(self) -> Any:
        raise RuntimeError

    @override
    def get(self, *args: Any) -> Any:
        raise KeyError(args)


def test_a_mapping_that_raises_is_no_usage() -> None:
    assert read_usage(Hostile(prompt_tokens=1)) == Reading()


def test_all_fields_add_and_subtract() -> None:
    one = TokenUsage(
        10, 5, 1, cache_read_tokens=4, cache_write_tokens=3, reasoning_tokens=2, usd=Decimal("0.1")
    )
    two = TokenUsage(
        1, 1, 1, cache_read_tokens=1, cache_write_tokens=1, reasoning_tokens=1, usd=Decimal("0.2")
    )
    both = TokenUsage(
        11, 6, 2, cache_read_tokens=5, cache_write_tokens=4, reasoning_tokens=3, usd=Decimal("0.3")
    )
    assert one + two == both
    assert both - two == one
    assert (one + NO_USAGE, NO_USAGE + one, one - NO_USAGE) == (one, one, one)
    assert (NO_USAGE - one).usd == Decimal("-0.1")
    assert (NO_USAGE + NO_USAGE).usd is None


def test_sums_of_money_are_exact_whatever_the_context() -> None:
    with localcontext(prec=2):
        total = sum((TokenUsage(usd=Decimal("0.000123456")) for _ in range(1000)), NO_USAGE)
    assert total.usd == Decimal("0.123456")


def test_a_usage_shows_what_is_not_the_default() -> None:
    assert repr(TokenUsage()) == "TokenUsage(input_tokens=0, output_tokens=0, llm_calls=0)"
    assert repr(TokenUsage(1, 2, 3, reasoning_tokens=1, usd=Decimal(0))) == (
        "TokenUsage(input_tokens=1, output_tokens=2, llm_calls=3, reasoning_tokens=1, usd=Decimal('0'))"
    )
    with pytest.raises(TypeError):
        TokenUsage(1, 2, 3, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_a_usage_goes_to_json_and_back() -> None:
    usage = TokenUsage(1, 2, 3, cache_write_tokens=1, usd=Decimal("0.10"))
    assert msgspec.json.decode(msgspec.json.encode(usage), type=TokenUsage) == usage
    assert msgspec.json.decode(b'{"input_tokens":1}', type=TokenUsage) == TokenUsage(1)


@pytest.mark.parametrize(
    ("reading", "least", "left"),
    [
        (Reading(0, 0), 1, Reading()),
        (Reading(0, 0), 0, Reading(0, 0)),
        (Reading(7, 0), 1, Reading(7)),
        (Reading(7, 8), 32, Reading(7)),
        (Reading(7, 32), 32, Reading(7, 32)),
        (Reading(0, 5), 1, Reading(0, 5)),
        (Reading(7), 1, Reading(7)),
        (Reading(7, 0, cache_read_tokens=3), 1, Reading(7, cache_read_tokens=3)),
    ],
)
def test_a_figure_below_what_the_answers_prove_is_none(reading: Reading, least: int, left: Reading) -> None:
    assert plausible(reading, least) == left


CUT, WHOLE, NONE = Shown(True, True), Shown(True, False), Shown(False, False)


@pytest.mark.parametrize(
    ("answers", "max_tokens", "least"),
    [
        ([], 8, 0),
        ([NONE], 8, 0),
        ([WHOLE], 8, 1),
        ([CUT], 8, 1),
        ([Shown(False, True)], 8, 1),
        ([CUT, CUT, CUT, CUT], 8, 32),
        ([CUT, CUT, WHOLE, NONE], 8, 17),
        ([CUT, CUT], None, 2),
    ],
)
def test_what_answers_prove(answers: list[Shown], max_tokens: int | None, least: int) -> None:
    assert least_output(answers, max_tokens) == least


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
