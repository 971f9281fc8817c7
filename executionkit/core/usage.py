"""What a run costs: tokens, calls and money, as one value that adds and subtracts."""

from collections.abc import Collection, Mapping
from decimal import Context, Decimal
from typing import Any, Final, cast

import msgspec

from executionkit.core.money import dollars, picodollars_below

__all__ = [
    "NO_USAGE",
    "Reading",
    "Shown",
    "TokenUsage",
    "checked_budget",
    "least_output",
    "plausible",
    "read_usage",
    "sane_usage",
]

_LARGEST_SANE_COUNT: Final = 1_000_000_000
_PARTS: Final = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_SUMS: Final = Context(prec=60, traps=[])
"""Sums of money do not depend on the caller's decimal context."""


class _Counts(msgspec.Struct, frozen=True, gc=False):
    input_tokens: int = 0
    output_tokens: int = 0
    llm_calls: int = 0


class TokenUsage(_Counts, frozen=True, kw_only=True, gc=False):
    """Tokens, calls and money, spent or allowed.

    As a budget (`max_cost`), 0 or None in a field means no limit there and a positive number is the limit.

    Args:
        input_tokens: Prompt tokens, those read from and written to a cache included.
        output_tokens: Completion tokens, those of reasoning included.
        llm_calls: Requests sent to a model, failed attempts included.
        cache_read_tokens: The part of the input that came out of the provider's cache.
        cache_write_tokens: The part of the input that was written to the provider's cache.
        reasoning_tokens: The part of the output that is reasoning.
        usd: What it cost in US dollars; None where no price is known. None and a number add up to the number.

    >>> TokenUsage(10, 5, 1) + TokenUsage(20, 5, 2)
    TokenUsage(input_tokens=30, output_tokens=10, llm_calls=3)
    >>> TokenUsage(10, 5, 1) - TokenUsage(4, 5, 0)
    TokenUsage(input_tokens=6, output_tokens=0, llm_calls=1)
    >>> TokenUsage(10, 5, 1, cache_read_tokens=8) + TokenUsage(usd=Decimal("0.02"))
    TokenUsage(input_tokens=10, output_tokens=5, llm_calls=1, cache_read_tokens=8, usd=Decimal('0.02'))
    """

    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    usd: Decimal | None = None

    @property
    def has_parts(self) -> bool:
        """Whether it knows parts of its tokens."""
        return bool(self.cache_read_tokens or self.cache_write_tokens or self.reasoning_tokens)

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.llm_calls + other.llm_calls,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            usd=_sum(self.usd, other.usd),
        )

    def __sub__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.llm_calls - other.llm_calls,
            cache_read_tokens=self.cache_read_tokens - other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens - other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens - other.reasoning_tokens,
            usd=_sum(self.usd, None if other.usd is None else other.usd.copy_negate()),
        )

    def if_positive(self) -> "TokenUsage":
        """Return it with 0 in place of what is below that; money below 0 is None.

        >>> TokenUsage(-5, 3, 1, usd=Decimal("-0.1")).if_positive()
        TokenUsage(input_tokens=0, output_tokens=3, llm_calls=1)
        """
        return TokenUsage(
            max(0, self.input_tokens),
            max(0, self.output_tokens),
            max(0, self.llm_calls),
            cache_read_tokens=max(0, self.cache_read_tokens),
            cache_write_tokens=max(0, self.cache_write_tokens),
            reasoning_tokens=max(0, self.reasoning_tokens),
            usd=None if self.usd is None or self.usd <= 0 else self.usd,
        )

    def __repr__(self) -> str:
        return f"TokenUsage({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        fields = msgspec.structs.asdict(self)
        more = [(name, value) for name, value in fields.items() if name in _PARTS and value]
        money = [] if self.usd is None else [("usd", self.usd)]
        return [*((name, fields[name]) for name in _Counts.__struct_fields__), *more, *money]


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    if one is None or other is None:
        return other if one is None else one
    return _SUMS.add(one, other)


NO_USAGE: Final = TokenUsage()


def checked_budget(budget: object) -> TokenUsage | None:
    """Return a usable budget, or None where nothing is limited.

    Raises:
        TypeError: It is not a `TokenUsage`, or a count is not an `int`.
        ValueError: A count is negative, or a field is not 0 that no budget can limit.
    """
    if budget is None:
        return None
    if not isinstance(budget, TokenUsage):
        raise TypeError(f"a budget must be a TokenUsage, as TokenUsage(llm_calls=9), not {budget!r:.60}")
    given = msgspec.structs.asdict(budget)
    for name in (*_Counts.__struct_fields__, *_PARTS):
        count = given[name]
        if type(count) is not int:
            raise TypeError(f"budget {name} must be an int, not {type(count).__name__}")
        if count and name in _PARTS:
            raise ValueError(
                f"a budget limits llm_calls, input_tokens, output_tokens and usd, not {name}; leave that at 0"
            )
        if count < 0:
            raise ValueError(f"budget {name} must be 0 (no limit) or positive, not {count}")
    counts = TokenUsage(
        budget.input_tokens, budget.output_tokens, budget.llm_calls, usd=_checked_money(given["usd"])
    )
    return counts if counts != NO_USAGE else None


def _checked_money(usd: object) -> Decimal | None:
    """Return a limit in US dollars, in whole picodollars; None where there is none.

    Raises:
        TypeError: It is not a `Decimal`.
        ValueError: It is negative, not finite, or above 0 and below a picodollar.
    """
    if not isinstance(usd, Decimal | None):
        remedy = f": write Decimal({str(usd)!r:.40})" if isinstance(usd, str | int | float) else ""
        raise TypeError(f"budget usd must be a Decimal or None, not {type(usd).__name__}{remedy}")
    if not usd:
        return None
    if not usd.is_finite() or usd < 0 or usd > _LARGEST_SANE_COUNT:
        raise ValueError(
            f"budget usd must be 0 or None (no limit) or positive, and at most 10**9, not {usd!s:.40}"
        )
    whole = picodollars_below(usd)
    if not whole:
        raise ValueError(f"budget usd must be at least 1E-12 where it is a limit, not {usd!s:.40}")
    return dollars(whole)


def sane_usage(usage: object) -> TokenUsage | None:
    """Return a usage that can be counted; None where it is none, or a figure is negative or absurd.

    >>> sane_usage(TokenUsage(0, -5, 1)) is None
    True
    """
    if not isinstance(usage, TokenUsage):
        return None
    counts = [getattr(usage, name) for name in (*_Counts.__struct_fields__, *_PARTS)]
    has_sane_money = usage.usd is None or _money(usage.usd) is not None
    return usage if has_sane_money and all(_sane(count) is not None for count in counts) else None


class Reading(msgspec.Struct, frozen=True, repr_omit_defaults=True, gc=False):
    """Reported usage, as far as it can be believed.

    Args:
        input_tokens: Prompt tokens in all; None where the figure is missing or absurd.
        output_tokens: Completion tokens in all; None where the figure is missing or absurd.
        cache_read_tokens: The part of the input that came out of a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        reasoning_tokens: The part of the output that is reasoning.
        usd: The server's own figure of what it cost; None where it gives none.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    usd: Decimal | None = None

    @property
    def is_complete(self) -> bool:
        """Whether both figures are there."""
        return self.input_tokens is not None and self.output_tokens is not None

    def or_else(self, input_tokens: int, output_tokens: int) -> TokenUsage:
        """Return it as the cost of one call, with these figures for missing ones; no part exceeds its whole.

        >>> read_usage({"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 50}}).or_else(0, 64)
        TokenUsage(input_tokens=12, output_tokens=64, llm_calls=1, cache_read_tokens=12)
        """
        given = input_tokens if self.input_tokens is None else self.input_tokens
        taken = output_tokens if self.output_tokens is None else self.output_tokens
        if self.usd is None and not (
            self.cache_read_tokens or self.cache_write_tokens or self.reasoning_tokens
        ):
            return TokenUsage(given, taken, 1)
        cache_read = min(self.cache_read_tokens, given)
        return TokenUsage(
            given,
            taken,
            1,
            cache_read_tokens=cache_read,
            cache_write_tokens=min(self.cache_write_tokens, given - cache_read),
            reasoning_tokens=min(self.reasoning_tokens, taken),
            usd=self.usd,
        )


_NOTHING_READ: Final = Reading()
_PLAIN: Final = frozenset(
    {"prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"}
)
_CACHE_READ: Final = (
    "cache_read_tokens",
    "cached_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
)
_CACHE_WRITE: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_REASONING: Final = ("reasoning_tokens",)


def read_usage(usage: object) -> Reading:
    """Read reported usage as OpenAI, Anthropic, DeepSeek and OpenRouter spell it; total, whatever it is.

    Input and output are None where they are missing or absurd: negative, not a whole number, or above 10**9.
    Anthropic counts what is in its cache beside `input_tokens`, so that the input is the sum; with all others
    it is a part of the input. Reasoning that a server counts beside the output, as its total shows, is added
    to it. A `TokenUsage` is read as well.

    >>> read_usage({"prompt_tokens": 12, "completion_tokens": 3})
    Reading(input_tokens=12, output_tokens=3)
    >>> read_usage({"input_tokens": 12, "cache_read_input_tokens": 100, "output_tokens": -3})
    Reading(input_tokens=112, cache_read_tokens=100)
    """
    try:
        if isinstance(usage, (dict, Mapping)):
            return _read(cast("Mapping[str, object]", usage))
        if isinstance(usage, TokenUsage):
            return _read(msgspec.structs.asdict(usage))
    except Exception:  # noqa: BLE001 - a mapping of somebody else's may raise whatever it likes
        return _NOTHING_READ
    return _NOTHING_READ


def _read(given: Mapping[str, object]) -> Reading:
    taken, made = given.get("prompt_tokens"), given.get("completion_tokens")
    input_tokens = _sane(given.get("input_tokens") if taken is None else taken)
    output_tokens = _sane(given.get("output_tokens") if made is None else made)
    if given.keys() <= _PLAIN:
        return Reading(input_tokens, output_tokens)
    beside_input = _details(given, "prompt_tokens_details", "input_tokens_details")
    beside_output = _details(given, "completion_tokens_details", "output_tokens_details")
    if input_tokens is not None and taken is None:
        cached = sum(_part(given, (name,)) for name in (_CACHE_READ[-1], _CACHE_WRITE[-1]))
        input_tokens = _sane(input_tokens + cached)
    reasoning = _part(given, _REASONING) or _part(beside_output, _REASONING)
    if input_tokens is not None and output_tokens is not None:
        is_beside = given.get("total_tokens") == input_tokens + output_tokens + reasoning
        output_tokens = _sane(output_tokens + reasoning) if is_beside else output_tokens
    return Reading(
        input_tokens,
        output_tokens,
        _part(given, _CACHE_READ) or _part(beside_input, _CACHE_READ),
        _part(given, _CACHE_WRITE) or _part(beside_input, _CACHE_WRITE),
        reasoning,
        _money(given.get("usd", given.get("cost"))),
    )


def _part(given: Mapping[str, object], names: tuple[str, ...]) -> int:
    """Return the largest of the figures that are sane, or 0: some servers send one under two names."""
    return max([_sane(given.get(name)) or 0 for name in names])


def _sane(count: object) -> int | None:
    return count if type(count) is int and 0 <= count <= _LARGEST_SANE_COUNT else None


def _details(given: Mapping[str, object], *names: str) -> Mapping[str, object]:
    for name in names:
        details = given.get(name)
        if isinstance(details, Mapping):
            return cast("Mapping[str, object]", details)
    return {}


def _money(figure: object) -> Decimal | None:
    """Return an amount of US dollars; None where it is none that can be."""
    if type(figure) is float or type(figure) is int:
        figure = Decimal(repr(figure))
    is_sane = isinstance(figure, Decimal) and figure.is_finite() and 0 <= figure <= _LARGEST_SANE_COUNT
    return cast("Decimal", figure) if is_sane else None


class Shown(msgspec.Struct, frozen=True):
    """What one answer of a completion shows of its length.

    Args:
        says_something: Whether it has a text, a call or reasoning.
        was_cut: Whether it ended at the output limit.
    """

    says_something: bool
    was_cut: bool


def least_output(answers: Collection[Shown], max_tokens: int | None) -> int:
    """Return the fewest output tokens that a completion can have taken.

    An answer that says something took one at least. Of several answers, each that was cut took `max_tokens`;
    a single one may have been cut where the context was full.

    >>> least_output([Shown(True, True)] * 4, max_tokens=8)
    32
    >>> least_output([Shown(True, True)], max_tokens=8), least_output([Shown(False, False)], max_tokens=8)
    (1, 0)
    """
    whole = max_tokens if max_tokens is not None and len(answers) > 1 else 1
    return sum(whole if answer.was_cut else answer.says_something for answer in answers)


def plausible(reading: Reading, least_output: int) -> Reading:
    """Return a reading without the figures that cannot be, given the output that is there.

    Less output than there is, is no figure; where nothing at all is said to have been taken, the input is
    none either.

    >>> plausible(Reading(0, 0), least_output=1)
    Reading()
    >>> plausible(Reading(7, 8), least_output=32)
    Reading(input_tokens=7)
    """
    if reading.output_tokens is None or reading.output_tokens >= least_output:
        return reading
    return msgspec.structs.replace(reading, input_tokens=reading.input_tokens or None, output_tokens=None)
