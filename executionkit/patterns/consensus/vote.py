"""Consensus: ask several times and take the answer given most often."""

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

import msgspec
from typing_extensions import TypeForm, override

from executionkit.core.bounds import Given, Reach
from executionkit.core.checks import check_flag
from executionkit.core.facade import makes_stage
from executionkit.core.foreign import attribute, fits, is_kind, returned_at_once
from executionkit.core.voting.ballots import Ballot, Cast, FieldBallot, TextBallot, ValueBallot
from executionkit.core.voting.polls import Poll
from executionkit.core.voting.samples import ByProbability, Choice, Sample, checked_weight
from executionkit.core.voting.stopping import Beta, Certain, Forecast, StoppingRule, fewest, widest
from executionkit.core.voting.tally import VotingStrategy, fold
from executionkit.errors import ConsensusFailedError, EvaluationError
from executionkit.errors.handling import wrapping
from executionkit.outcome import PatternResult
from executionkit.patterns.consensus.sampling import Sampler, Sampling
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMProvider, opening, user
from executionkit.runtime.context import Context
from executionkit.runtime.given import frame_of, size_of, told
from executionkit.runtime.rules import Rule, broken, check_rule
from executionkit.stage import Stage
from executionkit.system import System, check_system, system_messages

__all__ = ["Consensus", "consensus"]

T = TypeVar("T")

Strategy: TypeAlias = VotingStrategy | Literal["majority", "unanimous"]
Key: TypeAlias = Callable[[T], Hashable | None]
Weigh: TypeAlias = Callable[[Sample[T]], float]


class Consensus(Stage[str, T], Generic[T], frozen=True, kw_only=True):
    """A vote; see `consensus`.

    Args:
        ballot: How a sample votes.
        sampling: How samples are drawn.
        strategy: What it takes to win.
        stop: When to end early.
        weigh: How much a sample counts.
        check: What a value must be like beyond its type.
        system: What the model is told before the prompt.
    """

    ballot: Ballot[T]
    sampling: Sampling = Sampling()
    strategy: VotingStrategy = VotingStrategy.MAJORITY
    stop: StoppingRule | None = None
    weigh: Callable[[Sample[T]], float] | None = None
    check: Rule[T] | None = None
    system: System[str] | None = None

    def __post_init__(self) -> None:
        _check_function("weigh", self.weigh)
        check_rule(self.check)
        check_system(self.system)
        rule = cast("object", self.stop)
        if rule is not None and (not fits(rule, StoppingRule) or isinstance(rule, type)):
            name = attribute(rule, "__name__")
            given = f"{name}, which has to be called" if name and callable(rule) else f"{rule!r:.80}"
            raise TypeError(f"stop must be a StoppingRule such as certain() or beta(), not {given}")
        if self.strategy is VotingStrategy.UNANIMOUS and not isinstance(rule, Certain | None):
            raise ValueError("a unanimous vote can stop early only with certain(), at the first difference")
        if self.weigh is not None and isinstance(rule, (Beta, Forecast)):
            raise ValueError(
                "beta() and forecast() count whole votes; a weighted vote can stop with certain()"
            )

    @property
    @override
    def figures(self) -> tuple[str, ...]:
        return (
            *("agreement_ratio", "unique_responses", "tie_count", "abstentions"),
            *("samples", "saved", "rounds", "stop_bound"),
        )

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[T]:
        opening(value)  # refuses what is not a prompt
        kind = self.ballot.kind
        poll = Poll(self.ballot)
        sampler = Sampler(
            self.sampling,
            [*system_messages(self.system, value), user(self.ballot.ask(value))],
            context,
            form=None if kind is None else kind.form,
            logprobs=isinstance(self.weigh, ByProbability),
        )
        broken_by: dict[int, str] = {}
        context.report(lambda: self._so_far(poll, sampler, broken_by))
        while wanted := self._wanted(poll, sampler):
            drawn = await sampler.draw(wanted)
            if self.check is not None:
                broken_by |= await self._broken(self.check, sampler, drawn, context)
            for index in drawn:
                self._count(poll, sampler, index, is_valid=index not in broken_by)
        sampler.check_quorum()
        verdicts = poll.verdicts(self.strategy)
        if not verdicts:
            raise ConsensusFailedError(_why_nobody_won(poll, sampler.why_cut, tuple(broken_by.values())))
        with wrapping(ConsensusFailedError, "assembling the fields that won"):
            answer = poll.answer(verdicts)
        if isinstance(self.ballot, FieldBallot):  # no sample may have given it as a whole
            reason = await broken(self.check, answer)
            if reason is not None:
                raise ConsensusFailedError(f"the answer of the winning fields is not acceptable: {reason}")
        agreement = min([verdict.agreement for verdict in verdicts])
        metadata: dict[str, object] = {
            "agreement_ratio": agreement,
            **poll.account(),
            **sampler.account(),
            **self._reasons(broken_by),
            "stop_rule": "none" if self.stop is None else repr(self.stop),
            "stop_bound": 1.0,
        }
        if self.stop is not None:
            standings = poll.standings(sampler.drawable)
            with wrapping(EvaluationError, "the stopping rule"):
                metadata["stop_bound"] = min([self.stop.bound(standing) for standing in standings])
        if isinstance(self.ballot, FieldBallot):
            metadata["field_agreement"] = poll.by_question([verdict.agreement for verdict in verdicts])
        if self.weigh is not None:
            metadata["weights"] = poll.weights()
        return PatternResult(answer, agreement, metadata=metadata)

    @override
    def reach(self, given: Given) -> Reach:
        kind = self.ballot.kind
        given = told(given, self.system)
        prompt = given.value + frame_of(self.ballot.ask(""))
        if kind is not None:
            prompt += size_of(kind.form.schema)
        reach = self.sampling.reach(
            given,
            prompt,
            least=self._least(),
            a_round=self._most_at_once(),
            has_form=kind is not None,
            has_logprobs=isinstance(self.weigh, ByProbability),
        ).answering()
        if kind is None:
            return reach
        return msgspec.structs.replace(reach, value=math.inf, why_value=f"the value of {self.name} as text")

    def _least(self) -> int:
        """Return the fewest samples that a vote can do with: those of one where all say the same."""
        n = self.sampling.n if self.sampling.quorum is None else self.sampling.quorum
        if self.stop is None or self.strategy is VotingStrategy.UNANIMOUS:
            return n
        return min(n, fewest(self.stop, self.sampling.n))

    def _most_at_once(self) -> int | None:
        """Return how many samples a round draws at the most; None where all are drawn in one."""
        if self.stop is None:
            return None
        wanted = 2 if self.strategy is VotingStrategy.UNANIMOUS else widest(self.stop, self.sampling.n)
        return min(self.sampling.n, self.sampling.max_concurrency, max(wanted, self.sampling.quorum or 0))

    def _wanted(self, poll: Poll[T], sampler: Sampler) -> int:
        """Return how many samples to draw next: as many as the rule needs at the least before it may stop."""
        if sampler.is_over or not sampler.left:
            return 0
        if self.stop is None:
            return sampler.left
        if self.strategy is VotingStrategy.UNANIMOUS:  # may end at the first difference
            needed = 0 if len(poll.answers) > 1 else 2 - len(poll.answers)
        else:
            with wrapping(EvaluationError, "the stopping rule"):
                needed = max([operator.index(self.stop.more(at)) for at in poll.standings(sampler.drawable)])
        return min(max(needed, sampler.missing, not poll.casts), sampler.left, self.sampling.max_concurrency)

    async def _broken(
        self, rule: Rule[T], sampler: Sampler, drawn: Sequence[int], context: Context
    ) -> dict[int, str]:
        """Return why the rule does not take samples, for those that it does not take."""

        async def reason_for(at: int) -> str | None:
            read = self._read(sampler.drawn[drawn[at]])
            return None if read is None else await broken(rule, read.value)

        reasons = await context.gather(reason_for, len(drawn), self.sampling.max_concurrency)
        return {index: reason for index, reason in zip(drawn, reasons, strict=True) if reason is not None}

    def _reasons(self, broken_by: Mapping[int, str]) -> dict[str, object]:
        return {} if self.check is None else {"reasons": tuple(broken_by.values())}

    def _count(self, poll: Poll[T], sampler: Sampler, index: int, *, is_valid: bool) -> None:
        choice = sampler.drawn[index]
        read = self._read(choice) if is_valid else None
        if self.weigh is None or read is None:
            poll.add(read)
            return
        sample = Sample(choice.text, read.value, choice.logprobs, sampler.source_of(index))
        with wrapping(EvaluationError, "weigh"):
            weight = checked_weight(returned_at_once(self.weigh(sample)))
        if weight is None:
            raise EvaluationError("weigh returned no weight; a weight is a number from 0 to 1")
        poll.add(read, weight)

    def _read(self, choice: Choice) -> Cast[T] | None:
        return None if choice.was_refused else self.ballot.cast(choice.text, was_cut=choice.was_cut)

    def _so_far(self, poll: Poll[T], sampler: Sampler, broken_by: Mapping[int, str]) -> dict[str, object]:
        """Return what an error shall carry, counting also the samples of the round that failed.

        With a rule these abstain: it may not have seen them.
        """
        for index in sorted(sampler.drawn)[len(poll.casts) :]:
            poll.add(self._read(sampler.drawn[index]) if self.check is None else None)
        return {
            "votes": sampler.texts,
            **poll.account(),
            **sampler.account(),
            **self._reasons(broken_by),
        }


@overload
def consensus(
    n: int = 5,
    *,
    strategy: Strategy = VotingStrategy.MAJORITY,
    temperature: float | None = 0.9,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_concurrency: int = 5,
    stop: StoppingRule | None = None,
    key: Key[str] | None = None,
    weigh: Weigh[str] | None = None,
    quorum: int | None = None,
    providers: Sequence[LLMProvider] = (),
    one_request: bool = False,
    check: Rule[str] | None = None,
    system: System[str] | None = None,
) -> Consensus[str]: ...


@overload
def consensus(
    n: int = 5,
    *,
    output_type: type[T],
    by_field: bool = False,
    strategy: Strategy = VotingStrategy.MAJORITY,
    temperature: float | None = 0.9,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_concurrency: int = 5,
    stop: StoppingRule | None = None,
    key: Key[T] | None = None,
    weigh: Weigh[T] | None = None,
    quorum: int | None = None,
    providers: Sequence[LLMProvider] = (),
    one_request: bool = False,
    check: Rule[T] | None = None,
    system: System[str] | None = None,
) -> Consensus[T]: ...


@overload
def consensus(
    n: int = 5,
    *,
    output_type: TypeForm[T],
    by_field: bool = False,
    strategy: Strategy = VotingStrategy.MAJORITY,
    temperature: float | None = 0.9,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_concurrency: int = 5,
    stop: StoppingRule | None = None,
    key: Key[T] | None = None,
    weigh: Weigh[T] | None = None,
    quorum: int | None = None,
    providers: Sequence[LLMProvider] = (),
    one_request: bool = False,
    check: Rule[T] | None = None,
    system: System[str] | None = None,
) -> Consensus[T]: ...


@makes_stage
def consensus(
    n: int = 5,
    *,
    output_type: TypeForm[Any] | None = None,
    by_field: bool = False,
    strategy: Strategy = VotingStrategy.MAJORITY,
    temperature: float | None = 0.9,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_concurrency: int = 5,
    stop: StoppingRule | None = None,
    key: Key[Any] | None = None,
    weigh: Weigh[Any] | None = None,
    quorum: int | None = None,
    providers: Sequence[LLMProvider] = (),
    one_request: bool = False,
    check: Rule[Any] | None = None,
    system: System[str] | None = None,
) -> Consensus[Any]:
    """Ask up to `n` times and take the answer given most often (Wang et al. 2022, "Self-Consistency").

    Samples vote by their text, stripped and with runs of white space folded; the first seen wins a tie. The
    value is the winner's original text, the score its share of the samples. Without a `stop`, all n samples
    are drawn; with one, they come in rounds of as many as the rule needs at the least before it could stop,
    so that calls and answer are those of drawing one at a time, and nothing is in flight at the stop.

    Args:
        n: Samples to draw at most.
        output_type: A type to decode each sample into (JSON, checked by msgspec): the value is of that type.
            It is asked for as `structured` does, in the strongest form that the server takes; the first
            sample of a provider goes ahead of the others where that is not known. None votes on texts.
        by_field: With `output_type`, vote on each field by itself and assemble the winner.
        strategy: `"majority"`, or `"unanimous"`, which fails on any difference.
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, a sample.
        max_concurrency: Samples in flight at once.
        stop: When to end early: `certain()`, `beta()`, `forecast()`, `unanimous_window()`, or any
            `StoppingRule`. A unanimous vote takes `certain()`, which then ends at the first difference; a
            weighted one takes no rule that counts whole votes (`beta()`, `forecast()`).
        key: What a sample says, for the vote: a function of the text, or of the value with `output_type`; see
            `executionkit.voting`. A sample abstains where it raises or returns None.
        weigh: How much a sample counts, from 0 to 1, 0 for not at all: a function of a `Sample`.
            `ByProbability()` weighs by the endpoint's log-probabilities; a server that refuses to send them
            is asked without, and all samples weigh 1.
        quorum: Answer if at least so many samples came back, even if others failed or the budget ended. None:
            the first failure that retries do not mend ends the vote.
        providers: Whom to ask in turn, sample by sample, in place of the run's provider.
        one_request: Ask for a round's samples in one request (the endpoint's `n`). Samples that the server
            does not send are drawn one by one, and so are all where it refuses, or a budget bounds output.
        check: Looks at the value of a sample, plain or async, and returns None, or the reason why it will not
            do: the sample then abstains. With `by_field` it looks at the assembled answer as well.
        system: What the model is told before the prompt, with each sample: text, or a function of the input.

    Metadata (also on an error, as far as the vote came):
        agreement_ratio (float): The winner's share of the samples drawn, abstentions included; with
            `by_field` that of the field agreed on least. Not on an error.
        unique_responses (int): Different answers.
        tie_count (int): Answers that share the most votes; 1 is a clean win.
        vote_counts (mapping of str to int): Votes by answer, text as it is and any other value as JSON; with
            `by_field`, such a mapping for each field.
        samples (int): Samples that came back.
        saved (int): Samples that no request was sent for.
        rounds (int): How often samples were asked for; each waits for the one before.
        abstentions (int): Samples that cost a call and did not vote: unreadable, refused, filtered, cut off
            or against the rule.
        truncated_samples (int): Samples cut off at the limit of their length, where there are any.
        reasons (tuple of str): With `check`: why samples abstained by the rule.
        stop_rule (str): The rule, or `"none"`. Not on an error.
        stop_bound (float): The rule's figure at the stop, a probability. Not on an error.
        failures (tuple of str): With a quorum: why samples did not come back.
        provider_costs (tuple of TokenUsage): With `providers`: what each has cost.
        field_agreement (mapping of str to float): With `by_field`: the winner's share for each field.
        weights (mapping of str to float): With `weigh`: the sum of weights by answer.
        votes (tuple of str): On an error: the samples drawn before it.

    Returns (on `run`):
        ConsensusFailedError: No sample voted, a unanimous vote has a difference, or the fields that won do
            not make a valid value.
        EvaluationError: `weigh` raised or returned no weight; `check` raised, or returned neither None nor
            text; a `stop` of your own raised, or returned no whole number.

    Raises:
        TypeError: A setting is of the wrong type, or `output_type` is a type that msgspec does not decode.
        ValueError: A setting is out of range, the strategy is unknown, or settings exclude each other.
    """
    check_flag("by_field", by_field)
    _check_function("key", key)
    if by_field and (output_type is None or key is not None):
        raise ValueError("by_field needs `output_type`, and takes no `key`: fields vote by their values")
    ballot: Ballot[Any]
    if output_type is None:
        ballot = TextBallot(fold if key is None else key)
    else:
        ballot = FieldBallot(output_type) if by_field else ValueBallot(output_type, key)
    return Consensus(
        ballot=ballot,
        sampling=Sampling(
            n=n,
            temperature=temperature,
            max_tokens=max_tokens,
            max_concurrency=max_concurrency,
            quorum=quorum,
            providers=tuple(providers),
            one_request=one_request,
        ),
        strategy=VotingStrategy(strategy),
        stop=stop,
        weigh=weigh,
        check=check,
        system=system,
    )


def _check_function(name: str, function: object) -> None:
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {type(function).__name__}")
    if is_kind(function, iscoroutinefunction):
        raise TypeError(f"{name} must be a plain function: what an async one returns cannot be awaited here")


def _why_nobody_won(poll: Poll[Any], why_cut: str, reasons: Sequence[str]) -> str:
    if poll.answers:
        return f"the {len(poll.casts)} samples gave {len(poll.answers)} different answers"
    if poll.weightless:
        return (
            f"{poll.weightless} of {len(poll.casts)} samples were read, and all of them weigh nothing: "
            "`weigh` must be above 2**-21 for a sample to count"
        )
    if reasons:
        return f"{len(reasons)} of {len(poll.casts)} samples broke the rule, and no other voted: {reasons[0]}"
    return f"none of the {len(poll.casts)} samples said anything that its key or type could read{why_cut}"
