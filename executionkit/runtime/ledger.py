"""The ledger of a run: every call is reserved before it is sent and settled after it.

Accounts form a tree, one for the run and one for each stage below it. A call is admitted by every account
from its own up to the run's, with no `await` between asking and reserving; that is what makes a budget hold
under concurrency.
"""

from collections import Counter
from typing import Any, Final

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from executionkit.core.budget import (
    Ask,
    Owner,
    Purse,
    Refused,
    Wait,
    admit,
    by_field,
    estimate_input,
    left_of,
    tighter,
)
from executionkit.core.dialect import Request
from executionkit.core.journal import Charge, Priced
from executionkit.core.money import Matched, dollars, picodollars, picodollars_of
from executionkit.core.usage import NO_USAGE, Reading, TokenUsage, least_output, plausible, read_usage
from executionkit.errors import PermanentError, StageError
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMResponse, shown_in
from executionkit.runtime.terms import NO_TERMS, Counted, Terms

__all__ = ["RUN_IS_OVER", "Account", "CostTracker", "Payers", "Reservation", "reserve", "try_to_reserve"]

RUN_IS_OVER: Final = "not sent: the run that this provider belongs to is over"

_SHORT_PROMPT: Final = 256
"""Estimated tokens below which a server's own overhead outweighs the error of the estimate."""


class CostTracker:
    """Adds up calls and tokens in two phases: the call before the await, its tokens after it.

    >>> tracker = CostTracker()
    >>> tracker.reserve_call()
    >>> tracker.record_without_call(LLMResponse("hi", usage={"prompt_tokens": 7, "completion_tokens": 2}))
    >>> tracker.to_usage()
    TokenUsage(input_tokens=7, output_tokens=2, llm_calls=1)
    """

    __slots__ = ("_calls", "_input", "_more", "_output", "_priced", "_usd")

    def __init__(self) -> None:
        self._calls = self._input = self._output = self._priced = 0
        self._usd: int | None = None
        """Picodollars; None where no price was known."""
        self._more = NO_USAGE
        """Parts of the tokens: few calls have them."""

    def reserve_call(self) -> None:
        """Count a call that is about to be sent."""
        self._calls += 1

    def record_without_call(self, response: LLMResponse) -> None:
        """Count the tokens of a call that `reserve_call` has counted already."""
        self.settle_call(read_usage(response.usage).or_else(0, 0))

    def record(self, response: LLMResponse) -> None:
        """Count a call and its tokens."""
        self.add_usage(read_usage(response.usage).or_else(0, 0))

    def add_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Count tokens."""
        self._input += input_tokens
        self._output += output_tokens

    def add_usage(self, usage: TokenUsage) -> None:
        """Count calls, tokens and money that were added up elsewhere."""
        self._calls += usage.llm_calls
        self._input += usage.input_tokens
        self._output += usage.output_tokens
        if usage.usd is not None:
            self._usd = (self._usd or 0) + picodollars(usage.usd)
            self._priced += usage.llm_calls
        if usage.has_parts:
            self._more += usage

    def settle_call(self, cost: TokenUsage, usd: int | None = None) -> None:
        """Count what a call cost that `reserve_call` has counted already; no call where it was not sent.

        Args:
            cost: Its tokens; money is left out of account here.
            usd: What it cost in picodollars; None where no price is known.
        """
        self._calls -= 1
        self.add_settled(cost, usd)

    def add_settled(self, cost: TokenUsage, usd: int | None = None) -> None:
        """Count calls and what they cost; as `settle_call` for those that no `reserve_call` has counted."""
        self._calls += cost.llm_calls
        self._input += cost.input_tokens
        self._output += cost.output_tokens
        if usd is not None:
            self._usd = (self._usd or 0) + usd
            self._priced += cost.llm_calls
        if cost.cache_read_tokens or cost.cache_write_tokens or cost.reasoning_tokens:
            self._more += cost

    def to_usage(self) -> TokenUsage:
        """Return what has been counted."""
        if self._usd is None and self._more is NO_USAGE:
            return TokenUsage(self._input, self._output, self._calls)
        return replace(
            self._more,
            input_tokens=self._input,
            output_tokens=self._output,
            llm_calls=self._calls,
            usd=None if self._usd is None else dollars(self._usd),
        )

    snapshot = to_usage

    @property
    def picodollars(self) -> int | None:
        """Money counted; None where no price was known."""
        return self._usd

    @property
    def unpriced(self) -> int:
        """Calls counted whose money is not."""
        return max(0, self._calls - self._priced)

    @property
    def call_count(self) -> int:
        """Calls counted."""
        return self._calls

    @property
    def total_tokens(self) -> int:
        """Tokens counted, both ways."""
        return self._input + self._output


class Account:
    """One node of the ledger: what a run or a stage has spent, has in flight and may spend.

    Args:
        parent: The account above, which pays for this one too.
        limit: The budget of this account; None where it has none of its own.
    """

    __slots__ = (
        "_freed",
        "_held_input",
        "_held_output",
        "_held_usd",
        "_input_overhead",
        "_input_scale",
        "_journaled",
        "_limit",
        "_limit_usd",
        "_owners",
        "asked",
        "cached",
        "endpoints",
        "halts",
        "is_closed",
        "payers",
        "pricing",
        "proofs",
        "replayed",
        "spent",
        "unreported",
    )

    def __init__(self, parent: "Account | None" = None, limit: TokenUsage | None = None) -> None:
        self.spent: CostTracker = CostTracker()
        self._limit = NO_USAGE if limit is None else limit
        self._limit_usd = 0 if limit is None or limit.usd is None else picodollars(limit.usd)
        self._owners: tuple[tuple[Owner, TokenUsage], ...] = ()
        own = () if limit is None else (self,)
        self.payers: Payers = (
            Payers((self,), own)
            if parent is None
            else Payers((self, *parent.payers.all), (*own, *parent.payers.limited))
        )
        self._held_input = self._held_output = self._held_usd = 0
        self._input_scale = 1.0
        self._input_overhead = 0
        self._journaled: TokenUsage | None = None
        self._freed: anyio.Event | None = None
        self.halts: int = 0
        """How many groups of parallel calls below this account have failed and not ended yet."""
        self.replayed: int = 0
        """How many of its calls an earlier life of the run has paid."""
        self.is_closed: bool = False
        """Whether the run is over: nothing is bought any more."""
        self.endpoints: dict[int, Any] = {} if parent is None else parent.endpoints
        """What the run knows of each provider that it asks, by the provider's id."""
        self.proofs: dict[object, anyio.Event] = {} if parent is None else parent.proofs
        """For each server of the run, the end of the call that finds out which fields it takes."""
        self.unreported: int = 0
        """Calls whose usage had to be estimated."""
        self.cached: int = 0
        """Calls that a cache has answered."""
        self.asked: Counter[bytes] = Counter() if parent is None else parent.asked
        """How often the run has asked a cache for what."""
        self.pricing: Pricing | None = None
        """What is to be said of how calls were priced; None for nothing."""

    @property
    def root(self) -> "Account":
        """The account of the run."""
        return self.payers.all[-1]

    @property
    def cost(self) -> TokenUsage:
        """What has been spent."""
        return self.spent.to_usage()

    def tighten(self, limit: TokenUsage, owner: Owner | None = None) -> None:
        """Add a budget to this account's own; only before anything is reserved on it."""
        self._limit = tighter(self._limit, limit)
        self._limit_usd = 0 if self._limit.usd is None else picodollars(self._limit.usd)
        if owner is not None:
            self._owners = (*self._owners, (owner, limit))
        others = [each for each in self.payers.limited if each is not self]
        self.payers = Payers(self.payers.all, (self, *others))

    def charge(self, usage: TokenUsage) -> None:
        """Count what was spent past the ledger, here and in every account above."""
        for account in self.payers.all:
            account.spent.add_usage(usage)

    @property
    def unpriced(self) -> int:
        """Calls whose cost in money is not known, where that of others is, or was to be."""
        is_wanted = self.pricing is not None and self.pricing.is_wanted
        return self.spent.unpriced if is_wanted or self.spent.picodollars is not None else 0

    def left(self) -> TokenUsage | None:
        """Return what this account and all above still allow; None where one has run out."""
        tightest = NO_USAGE
        for account in self.payers.limited:
            rest = left_of(account._limit, account.cost)
            if rest is None:
                return None
            tightest = tighter(tightest, rest)
        return tightest

    def admit(self, ask: Ask) -> int | Wait | Refused:
        """Decide whether a call fits this account's own budget."""
        return self._admit(ask, self._limit, self._limit_usd)

    def _admit(self, ask: Ask, limit: TokenUsage, limit_usd: int) -> int | Wait | Refused:
        purse = None
        if limit_usd:
            usd = self.spent.picodollars or 0
            if self._journaled is not None and self._journaled.usd is not None:
                usd += picodollars(self._journaled.usd)
            purse = Purse(limit_usd, usd, self._held_usd)
        held = TokenUsage(self._held_input, self._held_output)
        return admit(limit, self._committed, held, ask, purse)

    @property
    def _committed(self) -> TokenUsage:
        """What is spent, and what earlier lives of the run have paid for calls that are still to come."""
        return self.cost if self._journaled is None else self.cost + self._journaled

    def expect(self, paid: TokenUsage) -> None:
        """Let a budget know what earlier lives of the run have paid for calls that are still to come."""
        if NO_USAGE not in (paid, self._limit):
            self._journaled = paid

    def replay(self, charge: Charge) -> None:
        """Count, here and in every account above, what an earlier life of the run was charged."""
        cost, usd = charge.cost, charge.usd
        if charge.estimate:
            self.root.learn_input(charge.estimate, cost.input_tokens)
        for account in self.payers.all:
            account.spent.add_settled(cost, usd)
            account.replayed += cost.llm_calls
            account.unreported += charge.is_estimated
            if charge.priced is not None:
                account.note_pricing(charge.priced)
            if account._journaled is not None:
                whole = cost if usd is None else replace(cost, usd=dollars(usd))
                account._journaled -= whole

    def note_pricing(self, priced: Priced) -> None:
        """Note how a call was priced."""
        if self.pricing is None:
            self.pricing = Pricing()
        self.pricing.note(priced)

    def refused(self, decision: Refused, ask: Ask, counted: int) -> Refused:
        """Return why a call does not fit, with whose budget it is: the run's, where it is that as well."""
        for owner, budget in self._owners:
            for limit in by_field(budget):
                limit_usd = 0 if limit.usd is None else picodollars(limit.usd)
                if isinstance(self._admit(ask, limit, limit_usd), Refused):
                    # Where input is not what is limited, what the run has learned of it says nothing.
                    input_tokens = ask.input_tokens if limit.input_tokens or limit_usd else counted
                    needed = TokenUsage(input_tokens, ask.output_tokens, 1)
                    return replace(decision, owner=owner, limit=limit, spent=self._committed, needed=needed)
        return decision

    def spent_out(self) -> Refused | None:
        """Return which budget, of this account or one above, has nothing left; None where all have."""
        for account in self.payers.limited:
            for owner, budget in account._owners:
                for limit in by_field(budget):
                    if left_of(limit, account.cost) is None:
                        return Refused("nothing is left", owner=owner, limit=limit, spent=account.cost)
        return None

    @property
    def output_limit(self) -> int:
        """The output tokens of this account's own budget; 0 for no limit."""
        return self._limit.output_tokens

    @property
    def limits_money(self) -> bool:
        """Whether this account's own budget limits money."""
        return self._limit_usd > 0

    def expected_input(self, estimate: int) -> int:
        """Return an estimate of a prompt, corrected by what servers have been seen to count in this run."""
        return round(estimate * self._input_scale) + self._input_overhead

    def learn_input(self, estimate: int, counted: int) -> None:
        """Keep later estimates of this run from being lower than what a server has been seen to count.

        What a short prompt costs more than estimated is the chat template, and says nothing of a long one.
        """
        if estimate < _SHORT_PROMPT:
            self._input_overhead = max(self._input_overhead, counted - estimate)
        else:
            self._input_scale = max(self._input_scale, (counted - self._input_overhead) / estimate)

    async def settlement(self) -> None:
        """Wait until a call in flight has settled."""
        if self._freed is None:
            self._freed = anyio.Event()
        await self._freed.wait()

    def hold(self, input_tokens: int, output_tokens: int, usd: int = 0) -> None:
        """Hold tokens, and money in picodollars, for a call in flight."""
        self._held_input += input_tokens
        self._held_output += output_tokens
        self._held_usd += usd

    def release(self, input_tokens: int, output_tokens: int, usd: int = 0) -> None:
        """Release what was held, and let calls that wait for room look again."""
        self.hold(-input_tokens, -output_tokens, -usd)
        if self._freed is not None:
            self._freed.set()
            self._freed = None


class Pricing:
    """What a result has to say of how its calls were priced.

    Attributes:
        is_wanted: Whether a provider names prices, but none for its model.
        reported: Calls for which the server gave the figure.
        matched_by: How prices were found, where that was not always by the whole name.
        counted_by: What the reservations under a budget in money rest on, the least certain of them.
    """

    __slots__ = ("counted_by", "is_wanted", "matched_by", "reported")

    def __init__(self) -> None:
        self.is_wanted: bool = False
        self.reported: int = 0
        self.matched_by: Matched = "name"
        self.counted_by: Counted | None = None

    def note(self, priced: Priced) -> None:
        """Note of one call how it was priced."""
        self.is_wanted = self.is_wanted or priced.is_unpriced
        if priced.is_reported:
            self.reported += 1
        elif priced.matched_by != "name":
            self.matched_by = priced.matched_by
        counted_by = priced.counted_by
        if counted_by is not None and (self.counted_by is None or counted_by == "estimate"):
            self.counted_by = counted_by


class Payers(msgspec.Struct, frozen=True):
    """Who pays for a call.

    Args:
        all: The accounts, from the stage's own up to the run's.
        limited: Those of them that have a budget.
    """

    all: tuple[Account, ...]
    limited: tuple[Account, ...]

    def joined(self, others: "Payers") -> "Payers":
        """Return these and others, each once; the run's account stays the last."""
        if set(others.all) <= set(self.all):
            return self
        every = dict.fromkeys([*self.all[:-1], *others.all[:-1], self.all[-1]])
        return Payers(tuple(every), tuple(dict.fromkeys([*self.limited, *others.limited])))


def try_to_reserve(
    payers: Payers, request: Request, terms: Terms = NO_TERMS
) -> "Reservation | Refused | Account":
    """Reserve a call with everybody who pays.

    Args:
        payers: Who pays.
        request: What is to be sent.
        terms: On which terms it is sent.

    Returns:
        The reservation, why there is none, or the account whose next settlement may change that.
    """
    run = payers.all[-1]
    for account in payers.all:
        if account.halts:
            return Refused("a call beside it has failed", is_halted=True)
    if not payers.limited:
        return Reservation(payers, request, terms=terms)
    limits_money = any(account.limits_money for account in payers.limited)
    if limits_money and terms.rates is None:
        return terms.refusal
    counted = terms.input_of(request)
    is_estimate = terms.counted_by == "estimate"
    input_tokens = run.expected_input(counted) if is_estimate else counted
    input_usd, output_rate = terms.rates.worst(input_tokens) if terms.rates is not None else (0, 0)
    bounds = [bound for account in payers.limited if (bound := account.output_limit)]
    output_tokens = max(request.answers, min([_most_output(request), *bounds]))
    busy: Account | None = None
    for account in payers.limited:
        ask = Ask(input_tokens, output_tokens, request.answers, input_usd, output_rate)
        decision = account.admit(ask)
        if isinstance(decision, Refused):
            return account.refused(decision, ask, counted)
        if isinstance(decision, Wait):
            busy = account
        else:
            output_tokens = decision
    if busy is not None:
        return busy
    held_usd = input_usd + picodollars_of(output_tokens, output_rate) if limits_money else 0
    reservation = Reservation(
        payers, request, counted if is_estimate else 0, input_tokens, output_tokens, held_usd, terms
    )
    if bounds or limits_money:
        reservation.max_tokens = max(1, output_tokens // request.answers)
    return reservation


async def reserve(payers: Payers, request: Request, terms: Terms = NO_TERMS) -> "Reservation | Refused":
    """Reserve a call, waiting while a call in flight may make room; see `try_to_reserve`.

    Raises:
        PermanentError: The run ended meanwhile.
    """
    while True:
        decision = try_to_reserve(payers, request, terms)
        if isinstance(decision, Reservation):
            return decision
        if isinstance(decision, Refused):
            await checkpoint()  # who asks again and again gives others a turn, and deadlines theirs
            return decision
        await decision.settlement()
        if payers.all[-1].is_closed:
            raise PermanentError(RUN_IS_OVER)


def _most_output(request: Request) -> int:
    """Return the output tokens that all answers to a request may take together."""
    return (request.max_tokens or DEFAULT_MAX_TOKENS) * request.answers


_NOTHING_READ: Final = Reading()


class Reservation:
    """A call that counts from now on; settle, abandon or cancel it once. A second time does nothing."""

    __slots__ = (
        "_cost",
        "_estimate",
        "_held_input",
        "_held_output",
        "_held_usd",
        "_is_open",
        "_priced",
        "_request",
        "_terms",
        "_usd",
        "is_estimated",
        "max_tokens",
        "payers",
    )

    def __init__(
        self,
        payers: Payers,
        request: Request,
        estimate: int = 0,
        held_input: int = 0,
        held_output: int = 0,
        held_usd: int = 0,
        terms: Terms = NO_TERMS,
    ) -> None:
        self.payers: Payers = payers
        self._request = request
        self._terms = terms
        self._held_usd = held_usd
        self._estimate = estimate
        self._held_input = held_input
        self._held_output = held_output
        self._is_open = True
        self._priced: Priced | None = None
        self._cost = NO_USAGE
        self._usd: int | None = None
        self.is_estimated: bool = False
        """Whether what it was charged is what it had reserved, since no figure was reported."""
        self.max_tokens: int | None = request.max_tokens
        """The output tokens that an answer may take; None leaves it to the provider."""
        for account in payers.all:
            account.spent.reserve_call()
        for account in payers.limited:
            account.hold(held_input, held_output, held_usd)

    def settle(self, reported: object, response: LLMResponse | None = None) -> TokenUsage:
        """Replace the reservation by the reported usage; a figure missing or absurd stays as reserved.

        Args:
            reported: The usage as it was reported, or a `TokenUsage`.
            response: What came back, where something did: a figure below what it proves is absurd too.

        Returns:
            What the call is charged, but for money; nothing where it was settled before. See `charged`.
        """
        if not self._is_open:
            return NO_USAGE
        reading = read_usage(reported)
        # One answer proves one token at most, so that only a report of none has to be held against it.
        if response is not None and (not reading.output_tokens or self._request.answers > 1):
            reading = plausible(reading, least_output(shown_in(response), self.max_tokens))
        if reading.input_tokens is not None and self._estimate:
            self.payers.all[-1].learn_input(self._estimate, reading.input_tokens)
        if reading.is_complete:
            cost = reading.or_else(0, 0)
            return self._close(cost, self._money(reading, cost))
        for account in self.payers.all:
            account.unreported += 1
        self.is_estimated = True
        return self._close(*self._worst(reading))

    def _worst(self, reading: Reading) -> tuple[TokenUsage, int | None]:
        """Return what a call costs at the most, in tokens and in picodollars, where a figure is missing."""
        worst_input = self._held_input or self._terms.input_of(self._request)
        cost = reading.or_else(worst_input, self._held_output or _most_output(self._request))
        return cost, self._money(reading, cost)

    @property
    def worst(self) -> Charge:
        """What the call is charged where nobody ever learns how it ended."""
        try:
            return Charge(*self._worst(_NOTHING_READ))
        except StageError:  # the provider's own count failed, and no budget needed it
            counted = estimate_input(self._request.messages, self._request.tools)
            return Charge(TokenUsage(counted, _most_output(self._request), 1))

    @property
    def charge(self) -> Charge:
        """What the call was charged when it was settled, for the journal."""
        cost = self._cost if self._cost.usd is None else replace(self._cost, usd=None)
        return Charge(
            cost,
            self._usd,
            self.is_estimated,
            self._estimate if not self.is_estimated and cost.input_tokens else 0,
            self._priced,
        )

    def _money(self, reading: Reading, cost: TokenUsage) -> int | None:
        """Return what a call cost in picodollars; None where no price is known and the server gives none."""
        if reading.usd is not None:
            return picodollars(reading.usd)
        rates = self._terms.rates
        if rates is None:
            return None
        if reading.input_tokens is None:  # it may have been of the dearest kind
            usd, output_rate = rates.worst(cost.input_tokens)
            return usd + picodollars_of(cost.output_tokens, output_rate)
        return rates.cost(
            cost.input_tokens, cost.output_tokens, cost.cache_read_tokens, cost.cache_write_tokens
        )

    def _note_pricing(self, *, is_reported: bool) -> None:
        """Note with all who pay how the call was priced."""
        terms = self._terms
        self._priced = Priced(
            terms.is_wanted and terms.rates is None,
            is_reported,
            terms.matched_by,
            terms.counted_by if self._held_usd > 0 else None,
        )
        for account in self.payers.all:
            account.note_pricing(self._priced)

    @property
    def charged(self) -> TokenUsage:
        """What the call was charged when it was settled, in money too where that is known."""
        return self._cost if self._usd is None else replace(self._cost, usd=dollars(self._usd))

    def abandon(self, billed: object = NO_USAGE, *, is_estimate: bool = False) -> TokenUsage:
        """Settle a call that gave no answer; a figure that is absurd stays as reserved, as with an answer.

        Args:
            billed: What the failure says it cost, or what had arrived.
            is_estimate: Whether that is not the server's own figure.
        """
        if billed == NO_USAGE or not isinstance(billed, TokenUsage):
            return self._close(TokenUsage(llm_calls=1), None if self._terms.rates is None else 0)
        if is_estimate and self._is_open:
            self.is_estimated = True
            for account in self.payers.all:
                account.unreported += 1
        return self.settle(billed)

    def cancel(self) -> None:
        """Undo the reservation: the call does not count, for another carries it."""
        self._close(NO_USAGE)

    def _close(self, cost: TokenUsage, usd: int | None = None) -> TokenUsage:
        """Count the cost in place of the reservation; nothing where that was done before."""
        if not self._is_open:
            return NO_USAGE
        self._is_open = False
        self._cost, self._usd = cost, usd
        if cost.llm_calls and (cost.usd is not None or self._held_usd or self._terms.is_notable):
            self._note_pricing(is_reported=cost.usd is not None)
        for account in self.payers.all:
            account.spent.settle_call(cost, usd)
        for account in self.payers.limited:
            account.release(self._held_input, self._held_output, self._held_usd)
        return cost
