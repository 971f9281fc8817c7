"""Money in whole numbers: what a model costs, what a call comes to, and what it may come to at most.

Outside, money is `Decimal` US dollars. Inside it is whole picodollars (10**-12 USD), so that sums are exact
and quick.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from functools import cached_property
from operator import itemgetter
from typing import Final, Literal, Self, TypeAlias, cast, get_args

import msgspec
from msgspec.structs import force_setattr

__all__ = [
    "Dollars",
    "Matched",
    "Price",
    "Rate",
    "Rates",
    "Tier",
    "dollars",
    "money_text",
    "picodollars",
    "picodollars_below",
    "picodollars_of",
    "tokens_for",
]

Dollars: TypeAlias = Decimal | str | int
"""US dollars. A float is none: 0.1 is no tenth there."""

Matched: TypeAlias = Literal["name", "prefix", "other server"]
"""How a price was found: by the model's whole name at its server, by the beginning of its name, or by its
name in the list of another server."""

_PICO: Final = 10**12
_ATTO: Final = 10**18
_MOST_DECIMALS: Final = 18
_LARGEST: Final = 10**9
_CONTEXT: Final = Context(prec=90, traps=[])
"""Nothing depends on the caller's decimal context."""


def picodollars(usd: Decimal) -> int:
    """Return US dollars as picodollars; what is less than one counts as one.

    >>> picodollars(Decimal("0.25"))
    250000000000
    """
    return int(_CONTEXT.multiply(usd, Decimal(_PICO)).to_integral_value(ROUND_CEILING, _CONTEXT))


def picodollars_below(usd: Decimal) -> int:
    """Return US dollars as picodollars; what is less than one counts as none."""
    return int(_CONTEXT.multiply(usd, Decimal(_PICO)).to_integral_value(ROUND_FLOOR, _CONTEXT))


def dollars(picodollars: int) -> Decimal:
    """Return picodollars as US dollars, without trailing zeros.

    >>> dollars(250_000_000_000), dollars(0), dollars(100 * 10**12)
    (Decimal('0.25'), Decimal('0'), Decimal('100'))
    """
    if not picodollars % _PICO:
        return Decimal(picodollars // _PICO)  # 100, not 1E+2
    return Decimal(picodollars).scaleb(-12, _CONTEXT).normalize(_CONTEXT)


def money_text(usd: Decimal) -> str:
    """Return US dollars as a person reads them: cents, or two digits of what is less than that.

    >>> [money_text(Decimal(usd)) for usd in ("0.5", "0.0123", "1234.5", "0.0000345", "0")]
    ['$0.50', '$0.012', '$1,234.50', '$0.000034', '$0.00']
    """
    decimals = max(2, 1 - usd.adjusted()) if usd else 2
    return f"${usd:,.{decimals}f}"


class _PerToken(msgspec.Struct, frozen=True):
    input: Dollars
    output: Dollars


class _Above(msgspec.Struct, frozen=True):
    above: int
    input: Dollars
    output: Dollars


class Tier(_Above, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What a call costs whose input is longer than a limit: all of its tokens.

    Args:
        above: Input tokens above which it holds.
        input: USD a million input tokens.
        output: USD a million output tokens.
        cache_read: USD a million input tokens that came out of a cache; None for those of `input`.
        cache_write: USD a million input tokens that were written to a cache; None for those of `input`.

    Raises:
        TypeError: An amount is not a `Decimal`, a `str` or an `int`.
        ValueError: An amount is negative, not finite or has more than 18 decimals.
    """

    cache_read: Dollars | None = None
    cache_write: Dollars | None = None

    def __post_init__(self) -> None:
        above: object = self.above
        if type(above) is not int:
            raise TypeError(f"a tier begins above a number of tokens, not {type(above).__name__}")
        if above < 0:
            raise ValueError(f"a tier begins above 0 tokens or more, not {above}")
        _set_amounts(self, _KINDS)


class Rate(msgspec.Struct, frozen=True):
    """What a token of each kind costs."""

    input: int
    output: int
    cache_read: int
    cache_write: int


class Rates(msgspec.Struct, frozen=True):
    """A price as whole numbers.

    Args:
        base: What tokens cost.
        tiers: What they cost above so many input tokens, the lowest limit first.
        per_call: Picodollars a call.
        scale: How many units of the rates make a picodollar. It is 1 for prices with up to six decimals: then
            the numbers are small, and small ones are quick.
    """

    base: Rate
    tiers: tuple[tuple[int, Rate], ...] = ()
    per_call: int = 0
    scale: int = 1

    def cost(self, input_tokens: int, output_tokens: int, cache_read: int = 0, cache_write: int = 0) -> int:
        """Return the picodollars of a call; what was cached is a part of its input."""
        rate = self.base
        if self.tiers:
            for above, tier in self.tiers:
                if input_tokens > above:
                    rate = tier
        total = input_tokens * rate.input + output_tokens * rate.output
        if cache_read or cache_write:
            total += cache_read * (rate.cache_read - rate.input)
            total += cache_write * (rate.cache_write - rate.input)
        return self.per_call + (total if self.scale == 1 else -(-total // self.scale))

    def worst(self, input_tokens: int) -> tuple[int, int]:
        """Return what a call may come to at most: the picodollars of its input, and the rate of its output.

        Counted at the dearest kind of input, and over all tiers that so much input may reach. The rate is
        attodollars (10**-18 USD) a million tokens.
        """
        reached = [self.base, *(rate for above, rate in self.tiers if input_tokens > above)]
        dearest = max([max(rate.input, rate.cache_read, rate.cache_write) for rate in reached])
        output = max([rate.output for rate in reached])
        return self.per_call - (-input_tokens * dearest // self.scale), output * (_PICO // self.scale)


def picodollars_of(tokens: int, rate: int) -> int:
    """Return what tokens come to at a rate in attodollars a million, in picodollars, rounded up."""
    return -(-tokens * rate // _PICO)


def tokens_for(picodollars: int, rate: int) -> int:
    """Return how many tokens picodollars buy at a rate above 0, in attodollars a million."""
    return picodollars * _PICO // rate


class Price(_PerToken, frozen=True, kw_only=True, dict=True, repr_omit_defaults=True):
    """What a model costs, in US dollars a million tokens.

    Amounts are `Decimal`, `str` or `int`, and exact: `Price("0.25", "2", cache_read="0.025")`. A float is
    refused.

    Args:
        input: A million input tokens.
        output: A million output tokens, those of reasoning included.
        cache_read: A million input tokens that came out of the provider's cache; None for those of `input`.
        cache_write: A million input tokens that were written to the cache; None for those of `input`.
        tiers: What calls cost whose input is longer than a limit, each a `Tier`.
        per_call: A call, whatever its tokens: in US dollars, not for a million.
        matched_by: How a list found it: `"name"` by the whole name of the model, `"prefix"` by its
            beginning, `"other server"` by its name in another server's list. A result says in its metadata
            where it was not the first.

    Raises:
        TypeError: An amount is not a `Decimal`, a `str` or an `int`, or a tier is not a `Tier`.
        ValueError: An amount is negative, not finite or has more than 18 decimals, or two tiers begin alike.

    >>> Price("0.25", 2)
    Price(input=Decimal('0.25'), output=Decimal('2'), per_call=Decimal('0'))
    """

    cache_read: Dollars | None = None
    cache_write: Dollars | None = None
    tiers: tuple[Tier, ...] = ()
    per_call: Dollars = Decimal(0)
    matched_by: Matched = "name"

    def __post_init__(self) -> None:
        _set_amounts(self, (*_KINDS, "per_call"))
        _check_tiers(self.tiers)
        if self.matched_by not in get_args(Matched):
            raise ValueError(f"matched_by must be one of {get_args(Matched)}, not {self.matched_by!r}")

    @classmethod
    def free(cls) -> Self:
        """Return the price of a model that costs nothing, such as one on a machine of one's own.

        >>> Price.free() == Price(0, 0)
        True
        """
        return cls(0, 0)

    @cached_property
    def rates(self) -> Rates:
        """This price as whole numbers."""
        attos = [_attos(self), *map(_attos, self.tiers)]
        spare = min([_trailing_zeros(atto) for rate in attos for atto in rate])
        base, *tiers = [Rate(*(atto // 10**spare for atto in rate)) for rate in attos]
        above = [tier.above for tier in self.tiers]
        per_call = picodollars(_decimal("per_call", self.per_call))
        ordered = tuple(sorted(zip(above, tiers, strict=True), key=itemgetter(0)))
        return Rates(base, ordered, per_call, _PICO // 10**spare)


_KINDS: Final = ("input", "output", "cache_read", "cache_write")


def _attos(of: Price | Tier) -> list[int]:
    """Return the amounts of each kind in attodollars."""
    given = [getattr(of, name) for name in _KINDS]
    amounts = [_decimal("an amount", of.input if amount is None else amount) for amount in given]
    return [int(_CONTEXT.multiply(amount, Decimal(_ATTO))) for amount in amounts]


def _trailing_zeros(atto: int) -> int:
    """Return by how many powers of ten attodollars a million tokens can be shortened, to picodollars each."""
    return next((count for count in range(12) if atto % 10 ** (count + 1)), 12)


def _set_amounts(of: Price | Tier, names: tuple[str, ...]) -> None:
    for name in names:
        amount = getattr(of, name)
        if amount is not None or not name.startswith("cache_"):
            force_setattr(of, name, _decimal(name, amount))


def _decimal(name: str, amount: object) -> Decimal:
    """Return an amount as a `Decimal`.

    Raises:
        TypeError: It is of another type.
        ValueError: It is no amount of money.
    """
    if isinstance(amount, bool) or not isinstance(amount, Decimal | str | int):
        hint = "; write it as text, for a float is not exact" if isinstance(amount, float) else ""
        raise TypeError(f"{name} must be a Decimal, str or int, not {type(amount).__name__}{hint}")
    try:
        figure = Decimal(amount)
    except InvalidOperation:
        raise ValueError(f"{name} must be a number of US dollars, not {amount!r:.40}") from None
    if not figure.is_finite() or not 0 <= figure <= _LARGEST:
        raise ValueError(f"{name} must be 0 or more, and at most {_LARGEST:,} US dollars, not {amount!s:.40}")
    exponent = figure.normalize(_CONTEXT).as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _MOST_DECIMALS:
        raise ValueError(f"{name} must have at most {_MOST_DECIMALS} decimals, not {amount!s:.40}")
    return figure or Decimal(0)


def _check_tiers(tiers: object) -> None:
    if not isinstance(tiers, tuple):
        raise TypeError(f"tiers must be a tuple, not {type(tiers).__name__}")
    limits: set[int] = set()
    for tier in cast("tuple[object, ...]", tiers):
        if not isinstance(tier, Tier):
            raise TypeError(f"a tier must be a Tier, not {type(tier).__name__}")
        if tier.above in limits:
            raise ValueError(f"two tiers begin above {tier.above} tokens")
        limits.add(tier.above)
