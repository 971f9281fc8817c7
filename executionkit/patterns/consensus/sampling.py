"""Samples of one prompt, drawn in rounds: over one provider or several, one by one or many in a request."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import ceil

import msgspec
from returns.result import Failure, Success

from executionkit.core.bounds import Given, Reach, of_calls
from executionkit.core.checks import check_completion, check_count, check_flag
from executionkit.core.combined_bounds import at_once, in_turn, one_of
from executionkit.core.dialect import JsonForm, Request
from executionkit.core.foreign import attribute, described
from executionkit.core.usage import TokenUsage
from executionkit.core.voting.samples import Choice, read_choices
from executionkit.errors import BudgetExhaustedError, ExecutionKitError, JournalError, PermanentError
from executionkit.errors.handling import with_last_failure
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMProvider, LLMResponse, Message, checked_provider
from executionkit.runtime.context import Context
from executionkit.runtime.given import asking

__all__ = ["Sampler", "Sampling"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """How samples are drawn.

    Args:
        n: Samples at most.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: Output tokens at most, a sample.
        max_concurrency: Samples in flight at once.
        quorum: Samples that must come back; None for all of them.
        providers: Whom to ask in turn; empty for the run's provider.
        one_request: Whether to ask for a round's samples in one request.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range.
    """

    n: int = 5
    temperature: float | None = 0.9
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_concurrency: int = 5
    quorum: int | None = None
    providers: tuple[LLMProvider, ...] = ()
    one_request: bool = False

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_count("max_concurrency", self.max_concurrency)
        check_completion(self.temperature, self.max_tokens)
        check_flag("one_request", self.one_request)
        for provider in self.providers:
            checked_provider(provider)
        if self.quorum is not None:
            check_count("quorum", self.quorum)
            if self.quorum > self.n:
                raise ValueError(f"quorum must be at most n, which is {self.n}, not {self.quorum}")

    def reach(
        self,
        given: Given,
        prompt: float,
        *,
        least: int,
        a_round: int | None = None,
        has_form: bool = False,
        has_logprobs: bool = False,
    ) -> Reach:
        """Return what the samples take at the least and at the most.

        Args:
            given: What it depends on.
            prompt: Tokens of the prompt at the most.
            least: Samples of a vote that answers.
            a_round: Samples drawn at once at the most, where a rule may stop the vote; None for all of them.
            has_form: Whether they are asked for in a form.
            has_logprobs: Whether log-probabilities are asked for.
        """
        sources = [asking(given, provider) for provider in self.providers] or [given]
        ask = partial(
            of_calls,
            prompt=prompt,
            max_tokens=self.max_tokens,
            has_form=has_form,
            has_logprobs=has_logprobs,
        )
        # A worker may draw all samples but those that the others are at, and one may go ahead of all.
        chain = self.n if a_round is not None else min(self.n, max(2, self.n - self.max_concurrency + 2))
        shares, places = Counter(dict.fromkeys(sources, 0)), Counter(sources)
        for at, source in enumerate(sources):
            shares[source] += len(range(at, self.n, len(sources)))
        drawn = at_once(
            [
                ask(
                    source,
                    most=share,
                    depth=share if given.is_limited else chain,
                    width=min(
                        share,
                        self.max_concurrency
                        if a_round is None
                        else places[source] * ceil(a_round / len(sources)),
                    ),
                )
                for source, share in shares.items()
                if share
            ],
            given,
        )
        if self.one_request:
            # What a request for several does not bring is drawn singly, and so are all samples after it.
            size = self.n if a_round is None else a_round
            together = [
                [
                    ask(source, most=1, answers=answers)
                    for at, source in enumerate(sources)
                    if (answers := len(range((at - first) % len(sources), size, len(sources)))) > 1
                ]
                for first in range(1 if a_round is None else len(sources))
            ]
            in_one = [at_once(asked, given) for asked in together if asked]
            drawn = in_turn([one_of(in_one), drawn]) if in_one else drawn
            least = self._least_requests(least, size, len(sources))
        is_cached = any(source.is_cached for source in sources)
        return msgspec.structs.replace(
            drawn, least_calls=0 if is_cached else least, value=self.max_tokens, is_text=True
        )

    def _least_requests(self, least: int, size: int, sources: int) -> int:
        """Return the fewest requests that bring so many samples, of rounds of that size at the most."""
        if self.quorum is not None:  # a budget may keep all others from being sent
            return ceil(least / ceil(size / sources))
        rounds, rest = divmod(least, size)
        return rounds * min(sources, size) + min(sources, rest)


class Sampler:
    """Draws the samples of one vote and remembers them. Lives as long as the vote.

    Args:
        sampling: How samples are drawn.
        messages: What is asked.
        context: The stage's context.
        form: The form that samples shall have; None for free text.
        logprobs: Whether to ask for the log-probabilities of tokens.
    """

    def __init__(
        self,
        sampling: Sampling,
        messages: list[Message],
        context: Context,
        *,
        form: JsonForm | None = None,
        logprobs: bool = False,
    ) -> None:
        self._sampling = sampling
        self._request = Request(
            messages, sampling.temperature, sampling.max_tokens, form=form, logprobs=logprobs
        )
        self._context = context
        self._sources = [context.part(provider=each) for each in sampling.providers] or [context]
        # A budget of output tokens is kept exactly only with one sample a request.
        left = context.left
        self._together = sampling.one_request and left is not None and not left.output_tokens
        self._asked = 0
        self._sent: set[int] = set()
        self._out_of_budget = False
        self.drawn: dict[int, Choice] = {}
        """The samples that came back, by their number."""
        self.failures: list[ExecutionKitError] = []
        """Why the others did not."""
        self.rounds: int = 0
        """How often samples were asked for."""

    @property
    def is_over(self) -> bool:
        """Whether drawing more is of no use: the quorum is out of reach, or the budget has ended."""
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
        """Samples that may come back in all: those that failed will not."""
        return self._sampling.n - len(self.failures)

    @property
    def texts(self) -> tuple[str, ...]:
        """The samples that came back, in order."""
        return tuple([self.drawn[index].text for index in sorted(self.drawn)])

    def source_of(self, index: int) -> int:
        """Tell which provider a sample is from."""
        return index % len(self._sources)

    def account(self) -> dict[str, object]:
        """Return what a vote tells of its samples."""
        account: dict[str, object] = {
            "samples": len(self.drawn),
            "saved": self.saved,
            "rounds": self.rounds,
        }
        if self.truncated:
            account["truncated_samples"] = self.truncated
        if self.failures:
            account["failures"] = tuple(map(described, self.failures))
        if self._sampling.providers:
            account["provider_costs"] = self._costs()
        return account

    @property
    def truncated(self) -> int:
        """Samples that were cut off at the limit of their length."""
        return sum([choice.was_cut for choice in self.drawn.values()])

    @property
    def why_cut(self) -> str:
        """What to add to the reason why nobody voted where samples were cut off; else nothing."""
        if not self.truncated:
            return ""
        return (
            f"; {self.truncated} of them were cut off at the limit of their length: raise max_tokens "
            f"({self._sampling.max_tokens}), or ask for shorter answers"
        )

    def _costs(self) -> tuple[TokenUsage, ...]:
        return tuple([source.cost for source in self._sources])

    async def draw(self, count: int) -> Sequence[int]:
        """Draw so many samples at once and return the numbers of those that came back, in order.

        Raises:
            ExecutionKitError: A sample failed, and there is no quorum to be had without it.
        """
        indices = range(self._asked, self._asked + count)
        self._asked += count
        self.rounds += 1
        pending: Sequence[int] = indices
        if self._together and count > 1:
            await self._draw_together(indices)
            pending = [index for index in indices if index not in self.drawn]
        await self._draw_singly(pending)
        return [index for index in indices if index in self.drawn]

    async def _draw_singly(self, indices: Sequence[int]) -> None:
        ahead = self._first_of_cached(indices)
        if not ahead:
            return await self._draw_at_once(indices)
        await self._draw_at_once(ahead)
        return await self._draw_at_once([index for index in indices if index not in ahead])

    def _first_of_cached(self, indices: Sequence[int]) -> Sequence[int]:
        """Return the samples that go ahead: where prompts are cached, the others read what those wrote."""
        if self.drawn or self._sent or len(indices) < 2:
            return ()
        caches = [attribute(source.provider, "caches_prompts") is True for source in self._sources]
        firsts: dict[int, int] = {}
        for index in indices if any(caches) else ():
            source = self.source_of(index)
            if caches[source]:
                firsts.setdefault(source, index)
        return [*firsts.values()]

    async def _draw_at_once(self, indices: Sequence[int]) -> None:
        one = self._draw_surely if self._sampling.quorum is None else self._draw_if_possible

        async def draw(position: int) -> None:
            await one(indices[position])

        if indices:
            # Where the budget ends the vote, the samples in flight are paid for: they are worth waiting for.
            limit = self._sampling.max_concurrency
            await self._context.gather(draw, len(indices), limit, finish_on=(BudgetExhaustedError,))

    async def _draw_surely(self, index: int) -> None:
        self._sent.add(index)
        try:
            answered = await self._sources[self.source_of(index)].answer(self._request, at=(index,))
        except BudgetExhaustedError as error:
            self._note_unsent(index, error)
            raise
        self._keep([index], answered.response)

    async def _draw_if_possible(self, index: int) -> None:
        if self.is_over:
            return
        self._sent.add(index)
        part = self._sources[self.source_of(index)].part(index)
        outcome = await part.attempt(lambda context: self._ask(context, 1))
        match outcome:
            case Success(response):
                self._keep([index], response)
            case Failure(error):
                if isinstance(error, JournalError):
                    raise error
                self.failures.append(error)
                self._note_unsent(index, error)
                self._out_of_budget |= isinstance(error, BudgetExhaustedError)

    def _note_unsent(self, index: int, error: ExecutionKitError) -> None:
        """Note that nothing was sent for a sample, where it is not a retry that the budget refused."""
        if isinstance(error, BudgetExhaustedError) and error.__cause__ is None:
            self._sent.discard(index)

    async def _draw_together(self, indices: Sequence[int]) -> None:
        """Ask each provider once for all its samples of the round; what does not come is drawn singly."""
        sources = range(len(self._sources))
        shares = [[index for index in indices if self.source_of(index) == at] for at in sources]

        async def ask(at: int) -> None:
            share = shares[at]
            if len(share) > 1:
                part = self._sources[at].part("together", share[0])
                outcome = await part.attempt(lambda context: self._ask(context, len(share)))
                match outcome:
                    case Success(response):
                        self._keep(share, response)
                        self._together &= all(index in self.drawn for index in share)
                    case Failure(error):
                        self._together = False
                        may_fit_singly = isinstance(error, (PermanentError, BudgetExhaustedError))
                        if self._sampling.quorum is None and not may_fit_singly:
                            self._sent.update(share)
                            raise error

        await self._context.gather(ask, len(shares), self._sampling.max_concurrency)

    async def _ask(self, context: Context, count: int) -> LLMResponse:
        request = self._request if count == 1 else msgspec.structs.replace(self._request, n=count)
        return (await context.answer(request)).response

    def _keep(self, indices: Sequence[int], response: LLMResponse) -> None:
        first = Choice(response.content, was_refused=response.was_refused, was_cut=response.was_truncated)
        if len(indices) == 1 and not self._request.logprobs:
            self.drawn[indices[0]] = first
        else:
            self.drawn.update(zip(indices, read_choices(first, response.raw), strict=False))

    def check_quorum(self) -> None:
        """Check that enough samples came back.

        Raises:
            ExecutionKitError: They did not: the first failure, with the others in its metadata.
        """
        quorum = self._sampling.quorum
        if quorum is not None and len(self.drawn) < quorum and self.failures:
            first, *others = self.failures
            raise with_last_failure(first, others) if isinstance(first, BudgetExhaustedError) else first
