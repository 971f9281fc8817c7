"""Samples of one prompt, drawn in rounds: over one provider or several, one by one or many in a request."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from returns.result import Failure, Success
from typing_extensions import override

from executionkit.asking import JsonForm, complete_json
from executionkit.context import Context
from executionkit.core.samples import Choice, read_choices
from executionkit.core.usage import TokenUsage
from executionkit.errors import BudgetExhaustedError, ExecutionKitError, PermanentError
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, LLMResponse, Message
from executionkit.stage import Stage

__all__ = ["Sampler", "Sampling"]


_MAY_FIT_SINGLY: Final = (PermanentError, BudgetExhaustedError)
"""How a server or a budget says no to a request for several samples that it may well take one by one."""


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

    async def ask(self, context: Context, messages: list[Message], options: Mapping[str, Any]) -> LLMResponse:
        """Make one request for a sample."""
        temperature, max_tokens = self.temperature, self.max_tokens
        if self.form is None:
            return await context.complete(messages, temperature=temperature, max_tokens=max_tokens, **options)
        asked = await complete_json(
            context, messages, self.form, temperature=temperature, max_tokens=max_tokens, **options
        )
        return asked.response


class _Request(Stage[list[Message], LLMResponse], frozen=True):
    """One request as a stage of its own, so that its failure is a value."""

    sampling: Sampling
    options: tuple[tuple[str, Any], ...]

    @property
    @override
    def name(self) -> str:
        return "Sample"

    @override
    async def perform(self, value: list[Message], context: Context) -> PatternResult[LLMResponse]:
        return PatternResult(await self.sampling.ask(context, value, dict(self.options)))


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
        self._options: dict[str, Any] = {"logprobs": True} if sampling.logprobs else {}
        self._together = sampling.one_request and not _limits_output(context)
        self._asked = 0
        self._out_of_budget = False
        self.drawn: dict[int, Choice] = {}
        """The samples that came back, by their number."""
        self.failures: list[ExecutionKitError] = []
        """Why the others did not."""
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
        if self._together and count > 1:
            await self._draw_together(pending)
            pending = [index for index in pending if index not in self.drawn]
        one = self._draw_surely if self._sampling.quorum is None else self._draw_if_possible

        async def draw_pending(position: int) -> None:
            await one(pending[position])

        if pending:
            # Where the budget ends the vote, the samples in flight are paid for: they are worth waiting for.
            limit = self._sampling.max_concurrency
            await self._context.gather(draw_pending, len(pending), limit, finish_on=(BudgetExhaustedError,))
        return [index for index in range(first, first + count) if index in self.drawn]

    def check_quorum(self) -> None:
        """Check that enough samples came back.

        Raises:
            ExecutionKitError: They did not: the first failure, with the others in its metadata.
        """
        quorum = self._sampling.quorum
        if quorum is not None and len(self.drawn) < quorum and self.failures:
            raise self.failures[0]

    def noted_failures(self) -> tuple[str, ...]:
        """Return what became of the samples that did not come back."""
        return tuple([f"{type(failure).__name__}: {failure}" for failure in self.failures])

    async def _draw_surely(self, index: int) -> None:
        lane = self._lanes[index % len(self._lanes)]
        self._keep([index], await self._sampling.ask(lane, self._messages, self._options))

    async def _draw_if_possible(self, index: int) -> None:
        if self.is_over:
            return
        outcome = await self._attempt(index % len(self._lanes), self._options)
        match outcome:
            case Success(result):
                self._keep([index], result.value)
            case Failure(error):
                self.failures.append(error)
                self._out_of_budget |= isinstance(error, BudgetExhaustedError)

    async def _draw_together(self, indices: Sequence[int]) -> None:
        """Ask each provider once for all its samples of the round; what does not come is drawn singly."""
        lanes = len(self._lanes)
        shares = [[index for index in indices if index % lanes == lane] for lane in range(lanes)]

        async def ask(lane: int) -> None:
            if len(shares[lane]) > 1:
                await self._ask_together(lane, shares[lane])

        await self._context.gather(ask, lanes, self._sampling.max_concurrency)

    async def _ask_together(self, lane: int, share: list[int]) -> None:
        outcome = await self._attempt(lane, {**self._options, "n": len(share)})
        match outcome:
            case Success(result):
                self._keep(share, result.value)
                self._together &= all(index in self.drawn for index in share)
            case Failure(error):
                self._together = False
                if self._sampling.quorum is None and not isinstance(error, _MAY_FIT_SINGLY):
                    raise error

    async def _attempt(self, lane: int, options: dict[str, Any]) -> Outcome[LLMResponse]:
        request = _Request(self._sampling, tuple(options.items()))
        return await self._lanes[lane].attempt(request, self._messages)

    def _keep(self, indices: list[int], response: LLMResponse) -> None:
        first = Choice(response.content, was_refused=response.was_refused)
        if len(indices) == 1 and not self._options:
            self.drawn[indices[0]] = first
        else:
            self.drawn.update(zip(indices, read_choices(first, response.raw), strict=False))


def _limits_output(context: Context) -> bool:
    """Tell whether a budget bounds output tokens: it is kept exactly only one sample a request."""
    left = context.left
    return left is None or left.output_tokens > 0
