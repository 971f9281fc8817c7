"""A call is reserved with everybody who pays before it is sent, and settled after it.

It is admitted by every budget from the stage's own up to the run's, with no `await` between asking and
reserving; that is what makes a budget hold under concurrency.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from executionkit.core.budget import Ask, Refused, Wait, estimate_input
from executionkit.core.dialect import Request
from executionkit.core.journal import Charge, Priced
from executionkit.core.money import dollars, picodollars, picodollars_of
from executionkit.core.usage import NO_USAGE, Reading, TokenUsage, least_output, plausible, read_usage
from executionkit.errors import PermanentError, StageError
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMResponse, shown_in
from executionkit.runtime.ledger.accounts import Budget, Payers
from executionkit.runtime.ledger.terms import NO_TERMS, Terms

__all__ = ["RUN_IS_OVER", "Reservation", "reserve", "try_to_reserve"]

RUN_IS_OVER: Final = "not sent: the run that this provider belongs to is over"


def try_to_reserve(
    payers: Payers, request: Request, terms: Terms = NO_TERMS
) -> "Reservation | Refused | Budget":
    """Reserve a call with everybody who pays.

    Args:
        payers: Who pays.
        request: What is to be sent.
        terms: On which terms it is sent.

    Returns:
        The reservation, why there is none, or the budget whose next settlement may change that.
    """
    for account in payers.all:
        if account.halts:
            return Refused("a call beside it has failed", is_halted=True)
    if not payers.budgets:
        return Reservation(payers, request, request.max_tokens, terms)
    limits_money = any(budget.limits_money for budget in payers.budgets)
    if limits_money and terms.rates is None:
        return terms.refusal
    counted = terms.input_of(request)
    is_estimate = terms.counted_by == "estimate"
    input_tokens = payers.all[-1].ledger.expected_input(counted) if is_estimate else counted
    input_usd, output_rate = terms.rates.worst(input_tokens) if terms.rates is not None else (0, 0)
    bounds = [bound for budget in payers.budgets if (bound := budget.limit.output_tokens)]
    output_tokens = max(request.answers, min([_most_output(request), *bounds]))
    busy: Budget | None = None
    for budget in payers.budgets:
        ask = Ask(input_tokens, output_tokens, request.answers, input_usd, output_rate)
        decision = budget.admit(ask)
        if isinstance(decision, Refused):
            return _outermost_refusal(payers.budgets, ask, counted) or decision
        if isinstance(decision, Wait):
            busy = budget
        else:
            output_tokens = decision
    if busy is not None:
        return busy
    held_usd = input_usd + picodollars_of(output_tokens, output_rate) if limits_money else 0
    estimate = counted if is_estimate else 0
    is_limited = bool(bounds) or limits_money
    max_tokens = max(1, output_tokens // request.answers) if is_limited else request.max_tokens
    return Reservation(payers, request, max_tokens, terms, estimate, input_tokens, output_tokens, held_usd)


def _outermost_refusal(budgets: Sequence[Budget], ask: Ask, counted: int) -> Refused | None:
    """Return why the outermost of the budgets that refuse a call does: it is the one to be raised."""
    for budget in reversed(budgets):
        decision = budget.admit(ask)
        if isinstance(decision, Refused):
            return budget.refused(decision, ask, counted)
    return None


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
            await checkpoint()  # whoever asks again and again gives others a turn, and deadlines theirs
            return decision
        await decision.settlement()
        if payers.are_closed:
            raise PermanentError(RUN_IS_OVER)


def _most_output(request: Request) -> int:
    """Return the output tokens that all answers to a request may take together."""
    return (request.max_tokens or DEFAULT_MAX_TOKENS) * request.answers


_NOTHING_READ: Final = Reading()


class Reservation(msgspec.Struct, eq=False):
    """A call that counts from now on; settle, abandon or cancel it once. A second time does nothing.

    Args:
        payers: Who pays.
        request: What is sent.
        max_tokens: The output tokens that an answer may take; None leaves it to the provider.
        terms: On which terms.
        estimate: The tokens of the input as estimated, where the server's count is to correct that; else 0.
        held_input: Tokens held for the input.
        held_output: Tokens held for the output.
        held_usd: Picodollars held.
        is_estimated: Whether what it was charged is what it had reserved, since no figure was reported.
    """

    payers: Payers
    request: Request
    max_tokens: int | None
    terms: Terms = NO_TERMS
    estimate: int = 0
    held_input: int = 0
    held_output: int = 0
    held_usd: int = 0
    is_estimated: bool = False
    _is_open: bool = True
    _cost: TokenUsage = NO_USAGE
    _usd: int | None = None
    _priced: Priced | None = None

    def __post_init__(self) -> None:
        for account in self.payers.all:
            account.spent.reserve_call()
        for budget in self.payers.budgets:
            budget.hold(self.held_input, self.held_output, self.held_usd)

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
        if response is not None and (not reading.output_tokens or self.request.answers > 1):
            reading = plausible(reading, least_output(shown_in(response), self.max_tokens))
        if reading.input_tokens is not None and self.estimate:
            self.payers.all[-1].ledger.learn_input(self.estimate, reading.input_tokens)
        if reading.is_complete:
            cost = reading.or_else(0, 0)
            return self._close(cost, self._money(reading, cost))
        for account in self.payers.all:
            account.noted.unreported += 1
        self.is_estimated = True
        return self._close(*self._worst(reading))

    def _worst(self, reading: Reading) -> tuple[TokenUsage, int | None]:
        """Return what a call costs at the most, in tokens and in picodollars, where a figure is missing."""
        worst_input = self.held_input or self.terms.input_of(self.request)
        cost = reading.or_else(worst_input, self.held_output or _most_output(self.request))
        return cost, self._money(reading, cost)

    @property
    def worst(self) -> Charge:
        """What the call is charged where nobody ever learns how it ended."""
        try:
            return Charge(*self._worst(_NOTHING_READ))
        except StageError:  # the provider's own count failed, and no budget needed it
            counted = estimate_input(self.request.messages, self.request.tools)
            return Charge(TokenUsage(counted, _most_output(self.request), 1))

    @property
    def charge(self) -> Charge:
        """What the call was charged when it was settled, for the journal."""
        cost = self._cost if self._cost.usd is None else replace(self._cost, usd=None)
        return Charge(
            cost,
            self._usd,
            self.is_estimated,
            self.estimate if not self.is_estimated and cost.input_tokens else 0,
            self._priced,
        )

    def _money(self, reading: Reading, cost: TokenUsage) -> int | None:
        """Return what a call cost in picodollars; None where no price is known and the server gives none."""
        if reading.usd is not None:
            return picodollars(reading.usd)
        rates = self.terms.rates
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
        terms = self.terms
        self._priced = Priced(
            terms.is_wanted and terms.rates is None,
            is_reported,
            terms.matched_by,
            terms.counted_by if self.held_usd > 0 else None,
        )
        for account in self.payers.all:
            account.noted.note(self._priced)

    @property
    def charged(self) -> TokenUsage:
        """What the call is charged: a call until it is settled, then tokens too, and money where known."""
        if self._is_open:
            return TokenUsage(llm_calls=1)
        return self._cost if self._usd is None else replace(self._cost, usd=dollars(self._usd))

    def abandon(self, billed: object = NO_USAGE, *, is_estimate: bool = False) -> TokenUsage:
        """Settle a call that gave no answer; a figure that is absurd stays as reserved, as with an answer.

        Args:
            billed: What the failure says it cost, or what had arrived.
            is_estimate: Whether that is not the server's own figure.
        """
        if billed == NO_USAGE or not isinstance(billed, TokenUsage):
            return self._close(TokenUsage(llm_calls=1), None if self.terms.rates is None else 0)
        if is_estimate and self._is_open:
            self.is_estimated = True
            for account in self.payers.all:
                account.noted.unreported += 1
        return self.settle(billed)

    def cancel(self) -> None:
        """Undo the reservation: the call does not count, for another carries it."""
        self._close(NO_USAGE)

    def _close(self, cost: TokenUsage, usd: int | None = None) -> TokenUsage:
        """Count the cost in place of the reservation; nothing where that was done before.

        The cost of a run that is over has been told, and stays as it is.
        """
        if not self._is_open:
            return NO_USAGE
        self._is_open = False
        self._cost, self._usd = cost, usd
        if cost.llm_calls and (cost.usd is not None or self.held_usd or self.terms.is_notable):
            self._note_pricing(is_reported=cost.usd is not None)
        for account in self.payers.all:
            if not account.is_closed:
                account.spent.settle_call(cost, usd)
        for budget in self.payers.budgets:
            budget.release(self.held_input, self.held_output, self.held_usd)
        return cost
