"""Samples of one prompt, drawn in rounds: over one provider or several, one by one or many in a request."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import msgspec
from returns.result import Failure, Success
from typing_extensions import override

from executionkit.asking import JsonForm, complete_json, is_refusal, knows_form, strongest_options
from executionkit.core.usage import TokenUsage
from executionkit.core.voting.samples import Choice, read_choices
from executionkit.errors import (
    BudgetExhaustedError,
    ExecutionKitError,
    PermanentError,
    ProviderError,
    described,
)
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, LLMResponse, Message, user
from executionkit.retry import RetryConfig, retry_delay
from executionkit.runtime.context import Context
from executionkit.stage import Stage

__all__ = ["Sampler", "Sampling"]

_takes_logprobs: Final["WeakKeyDictionary[object, bool]"] = WeakKeyDictionary()
"""Which providers are known to take a request for log-probabilities, or to refuse it."""


_MAY_FIT_SINGLY: Final = (PermanentError, BudgetExhaustedError)
"""How a server or a budget says no to a request for several samples that it may well take one by one."""

_LOGPROBS: Final[dict[str, Any]] = {"logprobs": True}
_ONCE: Final = RetryConfig(max_retries=0)


class Sampling(msgspec.Struct, frozen=True):
    """How samples are drawn.

    Args:
        n: Samples at most.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: Output tokens at most, a sample.
        max_concurrency: Samples in flight at once.
        quorum: Samples that must come back; None for all of them.
        providers: Whom to ask in turn; empty for the run's provider.
        one_request: Whether to ask for a round's samples in one request.
        logprobs: Whether to ask for the log-probabilities of tokens.
        form: The form that samples shall have; None for free text.
    """

    n: int
    temperature: float | None
    max_tokens: int
    max_concurrency: int
    quorum: int | None = None
    providers: tuple[LLMProvider, ...] = ()
    one_request: bool = False
    logprobs: bool = False
    form: JsonForm | None = None

    async def ask(self, context: Context, messages: list[Message], count: int = 1) -> LLMResponse:
        """Make one request for a sample, or for several; without log-probabilities where they are refused."""
        if not self.logprobs or _taken(context) is False:
            return await self.send(context, messages, count, {})
        if _taken(context):
            return await self.send(context, messages, count, _LOGPROBS)
        outcome = await context.attempt(_Request(self, count, True), messages)
        match outcome:
            case Success(result):
                _note(context, True)
                return result.value
            case Failure(error):
                if not is_refusal(error):
                    raise error
        response = await self.send(context, messages, count, {})
        _note(context, False)
        return response

    async def send(
        self, context: Context, messages: list[Message], count: int, extra: dict[str, Any]
    ) -> LLMResponse:
        """Make one request with these further fields, in the form that is asked for."""
        temperature, max_tokens = self.temperature, self.max_tokens
        options: dict[str, Any] = {**extra, "n": count} if count > 1 else extra
        if self.form is None:
            return await context.complete(messages, temperature=temperature, max_tokens=max_tokens, **options)
        if count > 1:  # in the form that is proven: a refusal is of `n`
            options = {**options, **strongest_options(context, self.form)}
            return await context.complete(messages, temperature=temperature, max_tokens=max_tokens, **options)
        asked = await complete_json(
            context, messages, self.form, temperature=temperature, max_tokens=max_tokens, **options
        )
        return asked.response

    @property
    def asks_more_than_text(self) -> bool:
        """Whether there are fields in a request that a server may not take."""
        return self.logprobs or self.form is not None

    def knows(self, context: Context) -> bool:
        """Tell whether it is known which of the fields that are asked for the provider takes."""
        return (self.form is None or knows_form(context)) and (
            not self.logprobs or _taken(context) is not None
        )


class _Request(Stage[list[Message], LLMResponse], frozen=True):
    """One request as a stage of its own, so that its failure is a value."""

    sampling: Sampling
    count: int = 1
    with_logprobs: bool = False

    @property
    @override
    def name(self) -> str:
        return "Sample"

    @override
    async def perform(self, value: list[Message], context: Context) -> PatternResult[LLMResponse]:
        if self.with_logprobs:
            return PatternResult(await self.sampling.send(context, value, self.count, _LOGPROBS))
        return PatternResult(await self.sampling.ask(context, value, self.count))


def _taken(context: Context) -> bool | None:
    try:
        return _takes_logprobs.get(context.endpoint)
    except TypeError:  # neither hashed nor weakly referenced: nothing is remembered of it
        return None


def _note(context: Context, taken: bool) -> None:
    with suppress(TypeError):
        _takes_logprobs[context.endpoint] = taken


class Sampler:
    """Draws the samples of one vote and remembers them. Lives as long as the vote.

    Args:
        sampling: How samples are drawn.
        messages: What is asked.
        context: The stage's context.
    """

    def __init__(self, sampling: Sampling, messages: list[Message], context: Context) -> None:
        self._sampling = sampling
        self._messages = messages
        self._context = context
        self._lanes = [context.below().using(each) for each in sampling.providers] or [context]
        self._together = sampling.one_request and not _limits_output(context)
        self._takes_n: set[int] = set()
        self._asked = 0
        self._sent: set[int] = set()
        self._out_of_budget = False
        self.drawn: dict[int, Choice] = {}
        """The samples that came back, by their number."""
        self.failures: list[ExecutionKitError] = []
        """Why the others did not."""
        self.was_judged: bool = False
        """Whether a judge picked the answer."""
        self.rounds: int = 0
        """How often samples were asked for."""

    @property
    def is_over(self) -> bool:
        """Whether there is no use in drawing more: a quorum can not be had any more, or nothing is left."""
        quorum = self._sampling.quorum
        return quorum is not None and (self._out_of_budget or len(self.failures) > self._sampling.n - quorum)

    @property
    def left(self) -> int:
        """Samples that may still be asked for."""
        return self._sampling.n - self._asked

    @property
    def saved(self) -> int:
        """Samples that no request was sent for."""
        drawn, undrawn = len(self.drawn), len(self._sent - self.drawn.keys())
        if not self._sampling.one_request:  # those cancelled while they waited for room were not sent
            undrawn = min(undrawn, max(0, self._context.cost.llm_calls - drawn))
        return self._sampling.n - drawn - undrawn

    @property
    def missing(self) -> int:
        """Samples still missing to a quorum where some failed: no rule may end the vote before it is had."""
        quorum = self._sampling.quorum
        return 0 if quorum is None or not self.failures else max(0, quorum - len(self.drawn))

    @property
    def drawable(self) -> int:
        """Samples that can come back in all: those that failed can not."""
        return self._sampling.n - len(self.failures)

    @property
    def costs(self) -> tuple[TokenUsage, ...]:
        """What each of several providers has cost so far."""
        return tuple([lane.cost for lane in self._lanes]) if self._sampling.providers else ()

    def provider_of(self, index: int) -> int:
        """Tell which provider a sample is from."""
        return index % len(self._lanes)

    @property
    def texts(self) -> tuple[str, ...]:
        """The samples that came back, in order."""
        return tuple([self.drawn[index].text for index in sorted(self.drawn)])

    async def draw(self, count: int) -> Sequence[int]:
        """Draw so many samples at once and return the numbers of those that came back, in order.

        Raises:
            ExecutionKitError: A sample failed, and there is no quorum to be had without it.
        """
        first, self._asked = self._asked, self._asked + count
        self.rounds += 1
        pending: Sequence[int] = range(first, first + count)
        if self._sampling.asks_more_than_text:
            pending = await self._prove(pending)
        if self._together and len(pending) > 1:
            await self._draw_together(pending)
            pending = [index for index in pending if index not in self.drawn]
        await self._draw_singly(pending)
        return [index for index in range(first, first + count) if index in self.drawn]

    async def _prove(self, pending: Sequence[int]) -> Sequence[int]:
        """Find out by one sample of each provider which fields it takes, so that not all are refused."""
        firsts: dict[int, int] = {}
        for index in pending:
            if not self._knows(self.provider_of(index)):
                firsts.setdefault(id(self._lane(index).endpoint), index)
        if not firsts:
            return pending
        await self._draw_singly(list(firsts.values()))
        return [index for index in pending if index not in firsts.values()]

    def _knows(self, lane: int) -> bool:
        if self._sampling.knows(self._lanes[lane]):
            return True
        return any(self.provider_of(index) == lane for index in self.drawn)

    async def _draw_singly(self, indices: Sequence[int]) -> None:
        one = self._draw_surely if self._sampling.quorum is None else self._draw_if_possible

        async def draw(position: int) -> None:
            await one(indices[position])

        if indices:
            # Where the budget ends the vote, the samples in flight are paid for: they are worth waiting for.
            limit = self._sampling.max_concurrency
            await self._context.gather(draw, len(indices), limit, finish_on=(BudgetExhaustedError,))

    def check_quorum(self) -> None:
        """Check that enough samples came back.

        Raises:
            ExecutionKitError: They did not: the first failure, with the others in its metadata.
        """
        quorum = self._sampling.quorum
        if quorum is not None and len(self.drawn) < quorum and self.failures:
            raise self.failures[0]

    async def judge(self, prompt: str) -> LLMResponse | None:
        """Ask a judge, at temperature 0; None where the budget ends before it and a quorum is in hand.

        Raises:
            ExecutionKitError: The call failed.
        """
        asked = _Request(Sampling(1, 0.0, self._sampling.max_tokens, 1))
        if self._sampling.quorum is None:
            return await asked.sampling.ask(self._context, [user(prompt)])
        outcome = await self._context.attempt(asked, [user(prompt)])
        match outcome:
            case Success(result):
                return result.value
            case Failure(BudgetExhaustedError()):
                return None
            case Failure(error):
                raise error

    def noted_failures(self) -> tuple[str, ...]:
        """Return what became of the samples that did not come back."""
        return tuple(map(described, self.failures))

    def _lane(self, index: int) -> Context:
        return self._lanes[self.provider_of(index)]

    async def _draw_surely(self, index: int) -> None:
        self._sent.add(index)
        try:
            response = await self._sampling.ask(self._lane(index), self._messages)
        except BudgetExhaustedError as error:
            self._note_unsent(index, error)
            raise
        self._keep([index], response)

    async def _draw_if_possible(self, index: int) -> None:
        if self.is_over:
            return
        self._sent.add(index)
        outcome = await self._lane(index).attempt(_Request(self._sampling), self._messages)
        match outcome:
            case Success(result):
                self._keep([index], result.value)
            case Failure(error):
                self.failures.append(error)
                self._note_unsent(index, error)
                self._out_of_budget |= isinstance(error, BudgetExhaustedError)

    def _note_unsent(self, index: int, error: ExecutionKitError) -> None:
        """Note that nothing was sent for a sample, where it is not a retry that the budget refused."""
        if isinstance(error, BudgetExhaustedError) and error.__cause__ is None:
            self._sent.discard(index)

    async def _draw_together(self, indices: Sequence[int]) -> None:
        """Ask each provider once for all its samples of the round; what does not come is drawn singly."""
        lanes = len(self._lanes)
        shares = [[index for index in indices if index % lanes == lane] for lane in range(lanes)]

        async def ask(lane: int) -> None:
            if len(shares[lane]) > 1 and self._knows(lane):
                await self._ask_together(lane, shares[lane])

        await self._context.gather(ask, lanes, self._sampling.max_concurrency)

    async def _ask_together(self, lane: int, share: list[int]) -> None:
        outcome = await self._attempt_together(lane, len(share))
        match outcome:
            case Success(result):
                self._keep(share, result.value)
                self._together &= all(index in self.drawn for index in share)
                self._takes_n.add(lane)
            case Failure(error):
                self._together = False
                if self._sampling.quorum is None and not _may_fit_singly(error):
                    self._sent.update(share)
                    raise error

    async def _attempt_together(self, lane: int, count: int) -> Outcome[LLMResponse]:
        """Ask for several samples; until the server is known to take that, a 5xx is not asked again."""
        request, context = _Request(self._sampling, count), self._lanes[lane]
        if lane in self._takes_n:
            return await context.attempt(request, self._messages)
        outcome = await context.retrying(_ONCE).attempt(request, self._messages)
        delay = _wait_for(outcome, context.retry)
        if delay is None:
            return outcome
        await anyio.sleep(delay)
        return await context.attempt(request, self._messages)

    def _keep(self, indices: list[int], response: LLMResponse) -> None:
        first = Choice(response.content, was_refused=response.was_refused)
        if len(indices) == 1 and not self._sampling.logprobs:
            self.drawn[indices[0]] = first
        else:
            self.drawn.update(zip(indices, read_choices(first, response.raw), strict=False))


def _wait_for(outcome: Outcome[LLMResponse], retry: RetryConfig) -> float | None:
    """Return how long to wait before asking for several samples again; None where that is of no use."""
    match outcome:
        case Success():
            return None
        case Failure(error):
            return None if _may_fit_singly(error) else retry_delay(retry, 1, error)


def _may_fit_singly(error: ExecutionKitError) -> bool:
    """Tell whether an error may be about the size of a request: some servers say so with a 5xx."""
    is_answer = isinstance(error, ProviderError) and "status" in error.metadata
    return is_answer or isinstance(error, _MAY_FIT_SINGLY)


def _limits_output(context: Context) -> bool:
    """Tell whether a budget bounds output tokens: it is kept exactly only one sample a request."""
    left = context.left
    return left is None or left.output_tokens > 0
