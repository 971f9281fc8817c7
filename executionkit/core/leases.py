"""One budget for many workers: what is granted to whom, so that it holds whatever becomes of them. Pure."""

from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from executionkit.core.money import dollars, picodollars
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = ["Grant", "Leases"]

Amounts: TypeAlias = tuple[int, ...]
"""Calls, input tokens, output tokens and picodollars, of those that are limited."""

_FIELDS: Final = ("llm_calls", "input_tokens", "output_tokens", "usd")


class Grant(msgspec.Struct, frozen=True):
    """The answer to a worker that asks for more.

    Args:
        amount: What it may use beside what it has used; nothing in a field that is not limited.
        left: What is left beside all that is granted; nothing in a field that is not limited.
        is_last: Whether nothing more will come: all of the budget is granted or spent. With nothing granted
            that is not the last, others hold what they may give back, and one asks again later.
    """

    amount: TokenUsage = NO_USAGE
    left: TokenUsage = NO_USAGE
    is_last: bool = False


class _Lease:
    """What one worker has.

    Args:
        granted: What counts as spent on its account.
        has_more: Whether it may turn out to be less: some of it is not used, or in flight.
    """

    __slots__ = ("granted", "has_more")

    def __init__(self, granted: Amounts, *, has_more: bool) -> None:
        self.granted = granted
        self.has_more = has_more


class Leases:
    """Who has how much of a budget.

    All that is granted counts as spent until its worker says what it has used. So the sum of what is spent
    never passes the limit, whoever dies; and what is lost by that is what the dead held, until somebody has
    found out what they used. A worker that asks gives back first what it has not used: so the last of a
    budget is never stuck with those who cannot use it.

    Args:
        limit: The budget; 0 or None in a field means no limit there.
        spent: What is spent of it already.
        workers: How many share it.

    >>> leases = Leases(TokenUsage(llm_calls=100), TokenUsage(llm_calls=20), workers=2)
    >>> leases.draw("a", NO_USAGE, TokenUsage(llm_calls=1)).amount.llm_calls
    20
    >>> leases.close("a", TokenUsage(llm_calls=5))
    >>> leases.left
    TokenUsage(input_tokens=0, output_tokens=0, llm_calls=75)
    """

    def __init__(self, limit: TokenUsage, spent: TokenUsage, workers: int) -> None:
        self._mask = [bool(getattr(limit, name)) for name in _FIELDS]
        self._limit = self._amounts(limit)
        self._spent = self._amounts(spent)
        self._workers = workers
        self._open: dict[str, _Lease] = {}

    def draw(self, holder: str, used: TokenUsage, need: TokenUsage, *, is_busy: bool = False) -> Grant:
        """Give a worker more, if there is more. What it had and has not used is given back.

        A share is a part of what is left, so that shares shrink towards the end; but it is never less than
        what the worker needs. Where less than that is left, it waits for others who may give something back;
        once nobody may, it is given the rest, which is the last.

        Args:
            holder: What the worker is known by.
            used: What it has used so far, with what it has reserved for calls in flight.
            need: The worst case of its next call.
            is_busy: Whether it has calls in flight, which may turn out to be less.
        """
        has = self._open[holder] = _Lease(self._amounts(used), has_more=is_busy)
        left, needed = self._left(), self._amounts(need)
        share = [amount // (2 * max(self._workers, len(self._open))) for amount in left]
        wanted = [max(*each) for each in zip(needed, share, [1] * len(left), strict=True)]
        is_enough = all(amount >= least for amount, least in zip(left, needed, strict=True))
        if not is_enough and any(lease.has_more for lease in self._open.values() if lease is not has):
            return Grant(left=self._usage(left))
        given = [min(*each) for each in zip(wanted, left, strict=True)]
        if any(amount <= 0 for amount in given):
            return Grant(left=self._usage(left), is_last=not is_busy)
        has.granted = tuple([sum(each) for each in zip(has.granted, given, strict=True)])
        has.has_more = True
        return Grant(self._usage(given), self._usage(self._left()), is_last=not is_enough)

    def close(self, holder: str, used: TokenUsage) -> None:
        """Count what a worker has used in all, in place of what it had. Only the first time counts."""
        if self._open.pop(holder, None) is not None:
            self._spent = tuple([sum(each) for each in zip(self._spent, self._amounts(used), strict=True)])

    def is_open(self, holder: str) -> bool:
        """Tell whether a worker has something."""
        return holder in self._open

    @property
    def left(self) -> TokenUsage:
        """What nobody has and nobody has spent; not less than nothing."""
        return self._usage(self._left())

    def _left(self) -> Amounts:
        granted = [lease.granted for lease in self._open.values()]
        return tuple(
            [limit - sum(each) for limit, *each in zip(self._limit, self._spent, *granted, strict=True)]
        )

    def _amounts(self, usage: TokenUsage) -> Amounts:
        usd = 0 if usage.usd is None else picodollars(usage.usd)
        amounts = (usage.llm_calls, usage.input_tokens, usage.output_tokens, usd)
        return tuple([amount for amount, is_limited in zip(amounts, self._mask, strict=True) if is_limited])

    def _usage(self, amounts: Iterable[int]) -> TokenUsage:
        given = iter([max(0, amount) for amount in amounts])
        calls, input_tokens, output_tokens, usd = [next(given) if each else None for each in self._mask]
        money = None if usd is None else dollars(usd)
        return TokenUsage(input_tokens or 0, output_tokens or 0, calls or 0, usd=money)
