"""Money in whole numbers: exact, whatever the caller's decimal context is."""

import copy
import decimal
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.money import (
    Price,
    Tier,
    dollars,
    money_text,
    picodollars,
    picodollars_below,
    picodollars_of,
    tokens_for,
)
from executionkit.core.usage import TokenUsage
from tests.spending import bill

AMOUNTS = st.decimals(0, 500, places=6)
COUNTS = st.integers(0, 2_000_000)


@given(st.integers(-(10**24), 10**24))
def test_picodollars_and_dollars_are_the_same(amount: int) -> None:
    assert picodollars(dollars(amount)) == picodollars_below(dollars(amount)) == amount


def test_less_than_a_picodollar_is_one_spent_and_none_allowed() -> None:
    assert picodollars(Decimal("1e-15")) == 1
    assert picodollars_below(Decimal("1e-15")) == 0


@given(price=st.builds(Price, AMOUNTS, AMOUNTS, cache_read=AMOUNTS, cache_write=AMOUNTS), data=st.data())
def test_a_call_costs_what_its_price_says_and_never_more_than_the_worst(
    price: Price, data: st.DataObject
) -> None:
    above = data.draw(st.integers(0, 1_000_000))
    price = Price(
        price.input,
        price.output,
        cache_read=price.cache_read,
        cache_write=price.cache_write,
        tiers=(Tier(above, data.draw(AMOUNTS), data.draw(AMOUNTS)),),
        per_call="0.000001",
    )
    taken, output = data.draw(COUNTS), data.draw(COUNTS)
    read = data.draw(st.integers(0, taken))
    write = data.draw(st.integers(0, taken - read))
    usage = TokenUsage(taken, output, 1, cache_read_tokens=read, cache_write_tokens=write)
    cost = price.rates.cost(taken, output, read, write)
    assert Fraction(cost, 10**12) == bill(price, usage)  # six decimals a million tokens are whole picodollars
    for bound in (taken, taken + data.draw(COUNTS)):
        most, rate = price.rates.worst(bound)
        assert cost <= most + picodollars_of(output, rate)


@given(budget=st.integers(0, 10**15), rate=st.integers(1, 10**21))
def test_the_tokens_that_money_buys_are_the_most_it_does(budget: int, rate: int) -> None:
    tokens = tokens_for(budget, rate)
    assert picodollars_of(tokens, rate) <= budget < picodollars_of(tokens + 1, rate)


def test_nothing_depends_on_the_decimal_context_of_the_caller() -> None:
    price = Price("0.123456", "2.5")
    with decimal.localcontext(prec=2):
        other = Price("0.123456", "2.5")
        assert other.rates == price.rates
        assert dollars(123_456_789_012) == Decimal("0.123456789012")
        assert picodollars(Decimal("0.123456789012")) == 123_456_789_012


@pytest.mark.parametrize(
    ("amount", "kind", "words"),
    [
        (0.1, TypeError, "input must be a Decimal, str or int, not float; write it as text"),
        (True, TypeError, "not bool"),
        (None, TypeError, "not NoneType"),
        ("a lot", ValueError, "a number of US dollars, not 'a lot'"),
        (-1, ValueError, "0 or more"),
        ("NaN", ValueError, "0 or more"),
        ("Infinity", ValueError, "0 or more"),
        ("1e-19", ValueError, "at most 18 decimals"),
    ],
)
def test_what_is_no_amount_is_refused(amount: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Price(amount, 1)
    with pytest.raises(kind, match=words):
        Tier(5, amount, 1)


def test_a_price_is_a_value() -> None:
    price = Price("0.25", 2, cache_read="0.025", tiers=(Tier(200, 1, 2),))
    assert price == Price(Decimal("0.250"), "2.0", cache_read="0.025", tiers=(Tier(200, "1", 2),))
    assert hash(price) == hash(Price(Decimal("0.250"), "2.0", cache_read="0.025", tiers=(Tier(200, "1", 2),)))
    assert price.rates == pickle.loads(pickle.dumps(price)).rates
    assert copy.deepcopy(price) == price
    assert Price.free() == Price(0, 0)
    with pytest.raises(ValueError, match="two tiers begin above 5 tokens"):
        Price(1, 1, tiers=(Tier(5, 1, 1), Tier(5, 2, 2)))
    with pytest.raises(TypeError, match="a tier must be a Tier, not int"):
        Price(1, 1, tiers=(5,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="above 0 tokens or more"):
        Tier(-1, 1, 1)
    with pytest.raises(ValueError, match="matched_by"):
        Price(1, 1, matched_by="guess")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@given(st.decimals(0, 10**6, allow_nan=False))
def test_no_sum_is_shown_as_nothing(usd: Decimal) -> None:
    shown = money_text(usd)
    assert shown.startswith("$")
    assert (Decimal(shown[1:].replace(",", "")) == 0) == (usd == 0)
