"""The ledger of a run: every call is reserved before it is sent and settled after it.

Accounts form a tree, one for the run and one for each stage below it. A call is admitted by every account
from its own up to the run's, with no `await` between asking and reserving; that is what makes a budget hold
under concurrency.
"""

from collections.abc import Collection
from typing import Final

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from executionkit.core.budget import Ask, Refused, Wait, admit, estimate_input, left_of, tighter
from executionkit.core.usage import NO_USAGE, Shown, TokenUsage, least_output, plausible, read_usage
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMResponse, Message, ToolSpec

__all__ = ["Account", "CostTracker", "Request", "Reservation"]

_SHORT_PROMPT: Final = 256
"""Estimated tokens below which a server's own overhead outweighs the error of the estimate."""


class Request(msgspec.Struct, frozen=True):
    """What the worst case of a call follows from.

    Args:
        messages: The conversation.
        max_tokens: Output tokens at most, an answer; None leaves it to the provider.
        tools: Tools the model may call.
        choices: Answers asked for at once (the endpoint's `n`); each may take `max_tokens`.
    """

    messages: list[Message]
    max_tokens: int | None = None
    tools: list[ToolSpec] | None = None
    choices: int = 1

    @property
    def most_output(self) -> int:
        """Output tokens that all answers together may take."""
        return (self.max_tokens or DEFAULT_MAX_TOKENS) * self.choices

    def estimate(self) -> int:
        """Return the estimated prompt tokens."""
        return estimate_input(self.messages, self.tools)


class CostTracker:
    """Adds up calls and tokens in two phases: the call before the await, its tokens after it.

    >>> tracker = CostTracker()
    >>> tracker.reserve_call()
    >>> tracker.record_without_call(LLMResponse("hi", usage={"prompt_tokens": 7, "completion_tokens": 2}))
    >>> tracker.to_usage()
    TokenUsage(input_tokens=7, output_tokens=2, llm_calls=1)
    """

    __slots__ = ("_spent",)

    def __init__(self) -> None:
        self._spent = NO_USAGE

    def reserve_call(self) -> None:
        """Count a call that is about to be sent."""
        self._spent += _ONE_CALL

    def record_without_call(self, response: LLMResponse) -> None:
        """Count the tokens of a call that `reserve_call` has counted already."""
        self._spent += read_usage(response.usage).or_else(0, 0) - _ONE_CALL

    def record(self, response: LLMResponse) -> None:
        """Count a call and its tokens."""
        self.reserve_call()
        self.record_without_call(response)

    def add_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Count tokens."""
        self._spent += TokenUsage(input_tokens, output_tokens)

    def add_usage(self, usage: TokenUsage) -> None:
        """Count calls, tokens and money that were added up elsewhere."""
        self._spent += usage

    def to_usage(self) -> TokenUsage:
        """Return what has been counted."""
        return self._spent

    snapshot = to_usage

    @property
    def call_count(self) -> int:
        """Calls counted."""
        return self._spent.llm_calls

    @property
    def total_tokens(self) -> int:
        """Tokens counted, both ways."""
        return self._spent.total_tokens


_ONE_CALL: Final = TokenUsage(llm_calls=1)


class Account(CostTracker):
    """One node of the ledger: what a run or a stage has spent, has in flight and may spend.

    Args:
        parent: The account above, which pays for this one too.
        limit: The budget of this account; None where it has none of its own.
    """

    __slots__ = (
        "_freed",
        "_halted",
        "_held_input",
        "_held_output",
        "_input_overhead",
        "_input_scale",
        "_limit",
        "_limited",
        "_line",
        "unreported",
    )

    def __init__(self, parent: "Account | None" = None, limit: TokenUsage | None = None) -> None:
        super().__init__()
        self._limit = NO_USAGE if limit is None else limit
        own = () if limit is None else (self,)
        self._line: tuple[Account, ...] = (self,) if parent is None else (self, *parent._line)
        self._limited: tuple[Account, ...] = own if parent is None else (*own, *parent._limited)
        self._held_input = self._held_output = 0
        self._input_scale = 1.0
        self._input_overhead = 0
        self._halted = False
        self._freed: anyio.Event | None = None
        self.unreported: int = 0

    def tighten(self, limit: TokenUsage) -> None:
        """Add a budget to this account's own; only before anything is reserved on it."""
        self._limit = tighter(self._limit, limit)
        self._limited = (self, *(each for each in self._limited if each is not self))

    async def reserve(self, request: Request) -> "Reservation | Refused":
        """Reserve a call here and in every account above, waiting while a call in flight may make room."""
        estimate = request.estimate() if self._limited else 0
        while True:
            for account in self._line:
                if account._halted:
                    await checkpoint()
                    return Refused("a call beside it has failed", is_halted=True)
            decision = self._try_reserve(request, estimate)
            if not isinstance(decision, Account):
                return decision
            await decision._settlement()

    @property
    def root(self) -> "Account":
        """The account of the run."""
        return self._line[-1]

    def halt(self, halted: bool) -> None:
        """Let nothing below this account buy another call, or let it again."""
        self._halted = halted

    def learn_input(self, estimate: int, counted: int) -> None:
        """Keep later estimates of this run from being lower than what a server has been seen to count.

        What a short prompt costs more than estimated is the chat template, and says nothing of a long one.
        """
        run = self._line[-1]
        if estimate < _SHORT_PROMPT:
            run._input_overhead = max(run._input_overhead, counted - estimate)
        else:
            run._input_scale = max(run._input_scale, (counted - run._input_overhead) / estimate)

    def open_call(self, held_input: int, held_output: int) -> None:
        """Count a call that is about to be sent and hold its tokens, here and in every account above."""
        for account in self._line:
            account.reserve_call()
        for account in self._limited:
            account._hold(held_input, held_output)

    def close_call(self, held_input: int, held_output: int, spent: TokenUsage) -> None:
        """Replace the tokens held by those spent, and let calls that wait for room look again.

        Args:
            held_input: Input tokens that were held for it.
            held_output: Output tokens that were held for it.
            spent: What it took; the call itself was counted when it was opened.
        """
        for account in self._line:
            account.add_usage(spent)
        for account in self._limited:
            account._release(held_input, held_output)

    def flag_unreported(self) -> None:
        """Note a call whose usage had to be estimated."""
        for account in self._line:
            account.unreported += 1

    def charge(self, usage: TokenUsage) -> None:
        """Count what was spent past the ledger, here and in every account above."""
        for account in self._line:
            account.add_usage(usage)

    def left(self) -> TokenUsage | None:
        """Return what this account and all above still allow; None where one has run out."""
        tightest = NO_USAGE
        for account in self._limited:
            rest = left_of(account._limit, account.to_usage())
            if rest is None:
                return None
            tightest = tighter(tightest, rest)
        return tightest

    def _try_reserve(self, request: Request, estimate: int) -> "Reservation | Refused | Account":
        """Return the reservation, why there is none, or the account whose next settlement may change that."""
        if not self._limited:
            return Reservation(self, request)
        run = self._line[-1]
        input_tokens = round(estimate * run._input_scale) + run._input_overhead
        bounds = [bound for account in self._limited if (bound := account._limit.output_tokens)]
        output_tokens = min([request.most_output, *bounds])
        busy: Account | None = None
        for account in self._limited:
            decision = account._admit(Ask(input_tokens, output_tokens))
            if isinstance(decision, Refused):
                return decision
            if isinstance(decision, Wait):
                busy = account
            else:
                output_tokens = decision
        if busy is not None:
            return busy
        reservation = Reservation(self, request, estimate, input_tokens, output_tokens)
        if bounds:
            reservation.max_tokens = max(1, output_tokens // request.choices)
        return reservation

    def _admit(self, ask: Ask) -> int | Wait | Refused:
        return admit(self._limit, self.to_usage(), TokenUsage(self._held_input, self._held_output), ask)

    async def _settlement(self) -> None:
        if self._freed is None:
            self._freed = anyio.Event()
        await self._freed.wait()

    def _hold(self, input_tokens: int, output_tokens: int) -> None:
        self._held_input += input_tokens
        self._held_output += output_tokens

    def _release(self, input_tokens: int, output_tokens: int) -> None:
        self._hold(-input_tokens, -output_tokens)
        if self._freed is not None:
            self._freed.set()
            self._freed = None


class Reservation:
    """A call that counts from now on; `settle` or `abandon` it exactly once."""

    __slots__ = ("_account", "_estimate", "_held_input", "_held_output", "_request", "max_tokens")

    def __init__(
        self,
        account: Account,
        request: Request,
        estimate: int = 0,
        held_input: int = 0,
        held_output: int = 0,
    ) -> None:
        self._account = account
        self._request = request
        self._estimate = estimate
        self._held_input = held_input
        self._held_output = held_output
        self.max_tokens: int | None = request.max_tokens
        """The output tokens that the call may take; None leaves it to the provider."""
        account.open_call(held_input, held_output)

    def settle(self, reported: object, answers: Collection[Shown] = ()) -> TokenUsage:
        """Replace the reservation by the reported usage; a figure missing or absurd stays as reserved.

        Args:
            reported: The usage as it was reported, or a `TokenUsage`.
            answers: What came back, where something did: a figure below what it proves is absurd too.
        """
        reading = plausible(read_usage(reported), least_output(answers, self.max_tokens))
        if not reading.is_complete:
            self._account.flag_unreported()
        if reading.input_tokens is not None and self._estimate:
            self._account.learn_input(self._estimate, reading.input_tokens)
        return self._close(reading.or_else(self._worst_input(), self._worst_output()))

    def abandon(self, billed: object = NO_USAGE) -> TokenUsage:
        """Settle a call that gave no answer; `billed` is what the failure says it cost.

        A figure that is absurd stays as reserved, as with an answer.
        """
        if billed == NO_USAGE or not isinstance(billed, TokenUsage):
            return self._close(_ONE_CALL)
        return self.settle(billed)

    def _close(self, cost: TokenUsage) -> TokenUsage:
        self._account.close_call(self._held_input, self._held_output, cost - _ONE_CALL)
        return cost

    def _worst_input(self) -> int:
        return self._held_input or self._request.estimate()

    def _worst_output(self) -> int:
        return self._held_output or self._request.most_output
