"""The ledger of a run: who has spent what, and who may still spend what.

Accounts form a tree, one for the run and one for each stage below it. What is reserved or spent on one counts
on all above it. Few accounts have a budget of their own, or anything to say of how calls were counted and
priced; so those are records of their own.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import msgspec
from msgspec.structs import replace

from executionkit.core.budget import Ask, Owner, Purse, Refused, Wait, admit, by_field, left_of, tighter
from executionkit.core.frozen import EMPTY
from executionkit.core.journal import Charge, Priced
from executionkit.core.money import Matched, dollars, picodollars
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.runtime.ledger.cost_tracker import CostTracker
from executionkit.runtime.ledger.terms import Counted

__all__ = ["Account", "Budget", "Ledger", "Payers"]

_SHORT_PROMPT: Final = 256
"""Estimated tokens below which a server's own overhead outweighs the error of the estimate."""


class Ledger(msgspec.Struct, eq=False):
    """What all accounts of a run share.

    Args:
        endpoints: What the run knows of each provider that it asks, by the provider's id.
        proofs: For each server, the end of the call that finds out which fields it takes.
        asked: How often the run has asked a cache for what.
        under_way: What ends the records of each call under way with the run, where the call outlives it.
        input_scale: What servers count of a long prompt, over what was estimated.
        input_overhead: What they count of a short one beyond that.
    """

    endpoints: dict[int, Any] = {}
    proofs: dict[object, anyio.Event] = {}
    asked: Counter[bytes] = msgspec.field(default_factory=Counter[bytes])
    under_way: dict[object, Callable[[], None]] = {}
    input_scale: float = 1.0
    input_overhead: int = 0

    def expected_input(self, estimate: int) -> int:
        """Return an estimate of a prompt, corrected by what servers have been seen to count in this run."""
        return round(estimate * self.input_scale) + self.input_overhead

    def learn_input(self, estimate: int, counted: int) -> None:
        """Keep later estimates of this run from being lower than what a server has been seen to count.

        What a short prompt costs more than estimated is the chat template, and says nothing of a long one.
        """
        if estimate < _SHORT_PROMPT:
            self.input_overhead = max(self.input_overhead, counted - estimate)
        else:
            self.input_scale = max(self.input_scale, (counted - self.input_overhead) / estimate)


class Budget:
    """The budget of one account, and what is held of it for calls in flight.

    Args:
        spent: What the account spends.
        limit: What it may spend.
    """

    __slots__ = ("_freed", "_held", "_held_usd", "_limit_usd", "_owners", "_spent", "journaled", "limit")

    def __init__(self, spent: CostTracker, limit: TokenUsage) -> None:
        self._spent = spent
        self.limit: TokenUsage = limit
        """What may be spent: where there are several budgets, what holds all of them."""
        self._limit_usd = _picodollars_of(limit)
        self._owners: tuple[tuple[Owner, TokenUsage], ...] = ()
        self._held = NO_USAGE
        self._held_usd = 0
        self._freed: anyio.Event | None = None
        self.journaled: TokenUsage | None = None
        """What earlier lives of the run have paid for calls that are still to come."""

    @property
    def limits_money(self) -> bool:
        """Whether it limits money."""
        return self._limit_usd > 0

    @property
    def held(self) -> tuple[TokenUsage, int]:
        """What calls in flight have reserved: tokens, and money in picodollars."""
        return self._held, self._held_usd

    @property
    def left(self) -> TokenUsage | None:
        """What may still be spent; None where something has run out."""
        return left_of(self.limit, self._spent.to_usage())

    def tighten(self, limit: TokenUsage, owner: Owner | None) -> None:
        """Hold another limit too; only before anything is reserved."""
        self.limit = tighter(self.limit, limit)
        self._limit_usd = _picodollars_of(self.limit)
        if owner is not None:
            self._owners = (*self._owners, (owner, limit))

    def admit(self, ask: Ask) -> int | Wait | Refused:
        """Decide whether a call fits."""
        return self._admit(ask, self.limit, self._limit_usd)

    def _admit(self, ask: Ask, limit: TokenUsage, limit_usd: int) -> int | Wait | Refused:
        purse = None
        if limit_usd:
            usd = self._spent.picodollars or 0
            if self.journaled is not None and self.journaled.usd is not None:
                usd += picodollars(self.journaled.usd)
            purse = Purse(limit_usd, usd, self._held_usd)
        return admit(limit, self._committed, self._held, ask, purse)

    @property
    def _committed(self) -> TokenUsage:
        """What is spent, and what earlier lives of the run have paid for calls that are still to come."""
        cost = self._spent.to_usage()
        return cost if self.journaled is None else cost + self.journaled

    def refused(self, decision: Refused, ask: Ask, counted: int) -> Refused:
        """Return why a call does not fit, with whose budget it is: the run's, where it is that as well."""
        for owner, budget in self._owners:
            for limit in by_field(budget):
                limit_usd = _picodollars_of(limit)
                if isinstance(self._admit(ask, limit, limit_usd), Refused):
                    # Where input is not what is limited, what the run has learned of it says nothing.
                    input_tokens = ask.input_tokens if limit.input_tokens or limit_usd else counted
                    needed = TokenUsage(input_tokens, ask.output_tokens, 1)
                    return replace(decision, owner=owner, limit=limit, spent=self._committed, needed=needed)
        return decision

    @property
    def spent_out(self) -> Refused | None:
        """Which of the limits has nothing left; None where all have."""
        spent = self._spent.to_usage()
        for owner, budget in self._owners:
            for limit in by_field(budget):
                if left_of(limit, spent) is None:
                    return Refused("nothing is left", owner=owner, limit=limit, spent=spent)
        return None

    def hold(self, input_tokens: int, output_tokens: int, usd: int = 0) -> None:
        """Hold tokens, and money in picodollars, for a call in flight."""
        held = self._held
        self._held = TokenUsage(held.input_tokens + input_tokens, held.output_tokens + output_tokens)
        self._held_usd += usd

    def release(self, input_tokens: int, output_tokens: int, usd: int = 0) -> None:
        """Release what was held, and let calls that wait for room look again."""
        self.hold(-input_tokens, -output_tokens, -usd)
        if self._freed is not None:
            self._freed.set()
            self._freed = None

    async def settlement(self) -> None:
        """Wait until a call in flight has settled."""
        if self._freed is None:
            self._freed = anyio.Event()
        await self._freed.wait()


def _picodollars_of(limit: TokenUsage) -> int:
    return 0 if limit.usd is None else picodollars(limit.usd)


class Caveats(msgspec.Struct, eq=False):
    """What a result has to say of how its calls were counted and priced.

    Args:
        unreported: Calls whose usage had to be estimated.
        replayed: Calls that an earlier life of the run has paid.
        cached: Calls that a cache has answered.
        wants_prices: Whether a provider names prices, but none for its model.
        reported: Calls for which the server gave the figure in money.
        matched_by: How prices were found, where that was not always by the whole name.
        counted_by: What the reservations under a budget in money rest on, the least certain of them.
        paid_elsewhere: What no call of this life of the run was charged.
    """

    unreported: int = 0
    replayed: int = 0
    cached: int = 0
    wants_prices: bool = False
    reported: int = 0
    matched_by: Matched = "name"
    counted_by: Counted | None = None
    paid_elsewhere: TokenUsage = NO_USAGE

    def note(self, priced: Priced) -> None:
        """Note of one call how it was priced."""
        self.wants_prices = self.wants_prices or priced.is_unpriced
        if priced.is_reported:
            self.reported += 1
        elif priced.matched_by != "name":
            self.matched_by = priced.matched_by
        counted_by = priced.counted_by
        if counted_by is not None and (self.counted_by is None or counted_by == "estimate"):
            self.counted_by = counted_by


class Account:
    """One node of the ledger: what a run or a stage has spent, has in flight and may spend.

    Args:
        parent: The account above, which pays for this one too.
        limit: The budget of this account; None where it has none of its own.
    """

    __slots__ = ("_budget", "_caveats", "halts", "is_closed", "ledger", "payers", "spent")

    def __init__(self, parent: "Account | None" = None, limit: TokenUsage | None = None) -> None:
        self.spent: CostTracker = CostTracker()
        self._budget: Budget | None = None
        self._caveats: Caveats | None = None
        self.halts: int = 0
        """How many groups of parallel calls below this account have failed and not ended yet."""
        self.is_closed: bool = False
        """Whether the run that it stands for is over: nothing is bought any more, and its cost is final."""
        if parent is None:
            self.ledger: Ledger = Ledger()
            """What all accounts of the run share."""
            self.payers: Payers = Payers((self,), ())
            """Who pays for a call: this account, and all above it."""
        else:
            self.ledger = parent.ledger
            self.payers = Payers((self, *parent.payers.all), parent.payers.budgets)
        if limit is not None:
            self.tighten(limit)

    @property
    def root(self) -> "Account":
        """The account of the run."""
        return self.payers.all[-1]

    @property
    def cost(self) -> TokenUsage:
        """What has been spent."""
        return self.spent.to_usage()

    @property
    def held(self) -> tuple[TokenUsage, int]:
        """What is held of its own budget for calls in flight: tokens, and money in picodollars."""
        return (NO_USAGE, 0) if self._budget is None else self._budget.held

    def tighten(self, limit: TokenUsage, owner: Owner | None = None) -> None:
        """Add a budget to this account's own; only before anything is reserved on it."""
        if self._budget is None:
            self.take(Budget(self.spent, NO_USAGE)).tighten(limit, owner)
        else:
            self._budget.tighten(limit, owner)

    def take(self, budget: Budget) -> Budget:
        """Take a budget for this account's own, where it has none so far, and return it."""
        self._budget = budget
        self.payers = Payers(self.payers.all, (budget, *self.payers.budgets))
        return budget

    def left(self) -> TokenUsage | None:
        """Return what this account and all above still allow; None where one has run out."""
        tightest = NO_USAGE
        for budget in self.payers.budgets:
            rest = budget.left
            if rest is None:
                return None
            tightest = tighter(tightest, rest)
        return tightest

    def spent_out(self) -> Refused | None:
        """Return which budget, of this account or one above, has nothing left; None where all have."""
        return next(filter(None, [budget.spent_out for budget in self.payers.budgets]), None)

    def close(self) -> None:
        """Note that the run that the account stands for is over: its cost is final, and nothing is bought.

        Calls that outlive the ledger are told as ended, with what it counts for them. Those of a run within a
        run go on, on the accounts above.
        """
        self.is_closed = True
        if self is self.root:
            for end in [*self.ledger.under_way.values()]:
                end()

    def charge(self, usage: TokenUsage) -> None:
        """Count what was spent past the ledger, here and in every account above."""
        if usage == NO_USAGE:
            return
        for account in self.payers.all:
            account.spent.add_usage(usage)
            account.noted.paid_elsewhere += usage

    def expect(self, paid: TokenUsage) -> None:
        """Let its own budget know what earlier lives of a run have paid for calls still to come."""
        if self._budget is not None and paid != NO_USAGE:
            self._budget.journaled = paid

    def replay(self, charge: Charge) -> None:
        """Count, here and in every account above, what an earlier life of the run was charged."""
        cost, usd = charge.cost, charge.usd
        if charge.estimate:
            self.ledger.learn_input(charge.estimate, cost.input_tokens)
        for account in self.payers.all:
            account.spent.add_settled(cost, usd)
            account.noted.paid_elsewhere += cost if usd is None else replace(cost, usd=dollars(usd))
            account.noted.replayed += cost.llm_calls
            account.noted.unreported += charge.is_estimated
            if charge.priced is not None:
                account.noted.note(charge.priced)
            budget = account._budget
            if budget is not None and budget.journaled is not None:
                budget.journaled -= cost if usd is None else replace(cost, usd=dollars(usd))

    @property
    def caveats(self) -> Caveats:
        """What is to be said of how its calls were counted and priced; `noted` is for adding to that."""
        return Caveats() if self._caveats is None else self._caveats

    @property
    def noted(self) -> Caveats:
        """What is said of its calls so far, to add something."""
        if self._caveats is None:
            self._caveats = Caveats()
        return self._caveats

    @property
    def unpriced(self) -> int:
        """Calls whose cost in money is not known, where that of others is, or was to be."""
        is_wanted = self._caveats is not None and self._caveats.wants_prices
        return self.spent.unpriced if is_wanted or self.spent.picodollars is not None else 0

    def told(self) -> Mapping[str, object]:
        """Return what a result says of its cost, where there is something to say.

        `usage_estimated` (int): Calls whose tokens are those reserved, for the server gave no figure.
        `unpriced_calls` (int): Calls whose money is not in `cost.usd`, for no price is known.
        `cached_calls` (int): Calls that a cache has answered, at no cost.
        `usd_reported_calls` (int): Calls whose money is the server's own figure.
        `price_matched_by` (str): `"prefix"` or `"other server"`, where a price was not found by the name.
        `input_counted_by` (str): What reservations under a budget in money rest on: `"estimate"` or a bound,
        `"bytes"` or `"count_tokens"`.
        """
        if self._caveats is None and not self.unpriced:
            return EMPTY
        caveats = self.caveats
        said: dict[str, object] = {
            "usage_estimated": caveats.unreported,
            "unpriced_calls": self.unpriced,
            "cached_calls": caveats.cached,
            "usd_reported_calls": caveats.reported,
            "price_matched_by": None if caveats.matched_by == "name" else caveats.matched_by,
            "input_counted_by": caveats.counted_by,
        }
        return {name: value for name, value in said.items() if value}


class Payers(msgspec.Struct, frozen=True):
    """Who pays for a call.

    Args:
        all: The accounts, from the stage's own up to the run's.
        budgets: The budgets that some of them have.
    """

    all: tuple[Account, ...]
    budgets: tuple[Budget, ...]

    @property
    def are_closed(self) -> bool:
        """Whether a run that is to pay is over."""
        return any(account.is_closed for account in self.all)

    def joined(self, others: "Payers") -> "Payers":
        """Return these and others, each once; the run's account stays the last."""
        if set(others.all) <= set(self.all):
            return self
        every = dict.fromkeys([*self.all[:-1], *others.all[:-1], self.all[-1]])
        return Payers(tuple(every), tuple(dict.fromkeys([*self.budgets, *others.budgets])))
