"""A budget that a run shares with others elsewhere: it is lent in pieces, as the run needs them."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec
from typing_extensions import override

from executionkit.core.budget import Ask, Owner, Refused, Wait, left_of
from executionkit.core.leases import Grant
from executionkit.core.money import dollars, picodollars, picodollars_of
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.runtime.ledger.accounts import Budget
from executionkit.runtime.ledger.cost_tracker import CostTracker

__all__ = ["Lender", "LentBudget"]

_SOON: Final = 0.05
"""Seconds until others are asked again, and ..."""
_LATER: Final = 1.0
"""... at most, as long as they give nothing back."""


class Lender(msgspec.Struct, frozen=True):
    """Who lends a budget.

    Args:
        draw: Asks for more: what is used so far, what the next call needs, and whether calls are in flight.
        paid: What was paid before this run, and is part of what its account counts.
    """

    draw: Callable[[TokenUsage, TokenUsage, bool], Awaitable[Grant]]
    paid: TokenUsage


class LentBudget(Budget):
    """The budget of a run that is lent to it in pieces.

    A call waits where what is lent has no room for its worst case, and more may be lent. Once nothing more
    will come, what is lent is a budget like any other: output is lowered to what is left, and a call that
    does not fit is refused.

    Args:
        spent: What the run spends.
        limit: The whole budget.
        owner: Whose it is.
        lender: Who lends it.
    """

    __slots__ = (
        "_allowed",
        "_draws",
        "_elsewhere",
        "_is_last",
        "_is_shut",
        "_lender",
        "_needed",
        "_owner",
        "_turn",
    )

    def __init__(self, spent: CostTracker, limit: TokenUsage, owner: Owner, lender: Lender) -> None:
        super().__init__(spent, NO_USAGE)
        self.tighten(limit, owner)
        self._owner = owner
        self._lender = lender
        self._turn: anyio.Lock | None = None
        self._draws = 0
        self._needed = NO_USAGE
        self._allowed = NO_USAGE
        """What the run may spend so far, with what was paid before."""
        self._elsewhere = limit
        """What nobody had or had spent when it was asked for last."""
        self._is_shut = True
        """Whether nothing may be reserved: nothing is lent, or what was lent is being given back."""
        self._is_last = False
        """Whether nothing more will come."""

    @property
    def _used(self) -> TokenUsage:
        """What is spent, and reserved for calls in flight."""
        held, usd = self.held
        return self._committed + held + TokenUsage(usd=dollars(usd) if usd else None)

    @property
    def _spent_by_all(self) -> TokenUsage:
        return self.limit - self._elsewhere - (self._allowed - self._used).if_positive()

    @property
    @override
    def left(self) -> TokenUsage | None:
        """What may still be spent, here or elsewhere, when that was heard of last."""
        return left_of(self.limit, self._spent_by_all)

    @override
    def admit(self, ask: Ask) -> int | Wait | Refused:
        """Decide whether a call fits; it waits where more may be lent."""
        if not self._is_shut:
            usd = self._allowed.usd
            decision = self._admit(ask, self._allowed, 0 if usd is None else picodollars(usd))
            if self._is_last or decision == ask.output_tokens:
                return decision
        elif self._is_last:
            return Refused("nothing is left of it")
        usd = dollars(ask.input_usd + picodollars_of(ask.output_tokens, ask.output_rate))
        call = TokenUsage(ask.input_tokens, ask.output_tokens, 1, usd=usd)
        self._needed += (call - self._needed).if_positive()
        return Wait.WAIT

    @override
    def refused(self, decision: Refused, ask: Ask, counted: int) -> Refused:
        """Return why a call does not fit: by what is left of the whole."""
        needed = TokenUsage(ask.input_tokens, ask.output_tokens, 1)
        why = "nothing is left of it, here or elsewhere"
        return Refused(why, owner=self._owner, limit=self.limit, spent=self._spent_by_all, needed=needed)

    @override
    async def settlement(self) -> None:
        """Wait until a call in flight has settled, or more was lent."""
        if self._is_last:
            await super().settlement()
            return
        self._turn = self._turn or anyio.Lock()
        draws = self._draws
        async with self._turn:
            if draws == self._draws:  # nobody else has asked meanwhile
                await self._draw()

    async def _draw(self) -> None:
        """Ask for more; where others may give something back, again and again."""
        delay = _SOON
        grant = await self._asked()
        while grant.amount == NO_USAGE and not grant.is_last:
            with anyio.move_on_after(delay):
                await super().settlement()
            delay = min(2 * delay, _LATER)
            grant = await self._asked()
        self._draws += 1
        self._is_last = grant.is_last
        self._needed = NO_USAGE

    async def _asked(self) -> Grant:
        """Give back what is not used, and ask for more."""
        self._is_shut = True
        used = self._used
        is_busy = self.held != (NO_USAGE, 0)
        grant = await self._lender.draw((used - self._lender.paid).if_positive(), self._needed, is_busy)
        self._elsewhere = grant.left
        if grant.amount != NO_USAGE:
            self._allowed = _of_fields(used + grant.amount, self.limit)
            self._is_shut = False
        return grant


def _of_fields(usage: TokenUsage, limit: TokenUsage) -> TokenUsage:
    """Return a usage without what is not limited."""
    return TokenUsage(
        usage.input_tokens if limit.input_tokens else 0,
        usage.output_tokens if limit.output_tokens else 0,
        usage.llm_calls if limit.llm_calls else 0,
        usd=usage.usd if limit.usd else None,
    )
