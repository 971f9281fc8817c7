"""Refinement: draft, score, improve the best draft, until it is good enough or stops getting better."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypedDict, cast, overload

import msgspec
from typing_extensions import TypeForm, TypeVar, Unpack, override

from executionkit.core.bounds import Given, Reach, of_calls, unbounded
from executionkit.core.checks import check_completion, check_count, check_number
from executionkit.core.combined_bounds import in_turn
from executionkit.core.convergence import Convergence, Refinement
from executionkit.core.encoding import json_text
from executionkit.core.endings import is_cut, is_filtered
from executionkit.core.facade import makes_stage
from executionkit.core.foreign import function_name
from executionkit.core.judging import improvement_prompt
from executionkit.core.refusals import noted_refusal
from executionkit.core.schema.answer import AnswerType, answer_type, asking
from executionkit.errors import EvaluationError
from executionkit.events import Evaluated
from executionkit.outcome import PatternResult
from executionkit.patterns.refine.evaluation import (
    Evaluation,
    ValueEvaluator,
    evaluated,
    judged,
    reach_of_judge,
    wants_provider,
)
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMProvider, opening, user
from executionkit.runtime.answers import TypedAnswers, typed_reach
from executionkit.runtime.context import Context, aside, stage_span
from executionkit.runtime.given import PROMPT_FRAME, frame_of, told
from executionkit.stage import Stage
from executionkit.system import System, check_system, system_messages

__all__ = ["Draft", "Refine", "refine"]

A = TypeVar("A", default=str)
T = TypeVar("T", default=str)
A_co = TypeVar("A_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)


class Draft(msgspec.Struct, Generic[A_co, T_co], frozen=True):
    """The best draft so far: what `improve` makes a better one of.

    Args:
        task: What the refinement was given.
        value: The draft.
        score: Its score.
        critique: What its evaluator said of it.
    """

    task: A_co
    value: T_co
    score: float
    critique: str = ""


class _Drafted(msgspec.Struct, Generic[T], frozen=True):
    value: T
    refusal: str | None = None
    is_whole: bool = True


class Refine(Stage[A, T], Generic[A, T], frozen=True):
    """A refinement; see `refine`."""

    evaluator: ValueEvaluator[T] | None = None
    target_score: float = 0.9
    max_iterations: int = 5
    patience: int = 3
    delta_threshold: float = 0.01
    temperature: float | None = 0.7
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_eval_chars: int = 32_768
    system: System[A] | None = None
    output_type: Any = None
    output_retries: int = 2
    draft: Stage[A, T] | None = None
    improve: Stage[Draft[A, T], T] | None = None

    def __post_init__(self) -> None:
        if self.evaluator is not None:
            wants_provider(self.evaluator)
        check_number("target_score", self.target_score, 0, 1)
        check_count("max_iterations", self.max_iterations, least=0)
        check_count("patience", self.patience)
        check_number("delta_threshold", self.delta_threshold, 0)
        check_completion(self.temperature, self.max_tokens)
        check_count("max_eval_chars", self.max_eval_chars)
        check_system(self.system)
        check_count("output_retries", self.output_retries, 0)
        _check_stage("draft", self.draft)
        _check_stage("improve", self.improve)
        if self.output_type is not None:
            answer_type(self.output_type)
            if self.evaluator is None:
                raise TypeError("the built-in judge reads text: to refine values of a type give an evaluator")
        if self.system is not None and self.draft is not None and self.improve is not None:
            raise ValueError("draft and improve have words of their own: set system there")

    @property
    @override
    def figures(self) -> tuple[str, ...]:
        return ("iterations", "converged")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[T]:
        rule = Convergence(self.target_score, self.patience, self.delta_threshold)
        state: Refinement[T] = Refinement()
        drafted: _Drafted[T] | None = None
        context.report(lambda: {**_best(state, drafted), **_progress(state)})
        while True:
            drafted = await self._next(value, state, context)
            found = await self._evaluate(value, drafted.value, context)
            self._tell(found, len(state.history), context)
            state = state.judged(
                drafted.value, found.score, found.critique, rule, drafted.refusal, is_whole=drafted.is_whole
            )
            if state.has_converged(rule) or state.iterations >= self.max_iterations:
                break
        metadata = {
            **_progress(state),
            "converged": state.has_converged(rule),
            **_noted(state),
        }
        return PatternResult(state.best, state.score, metadata=metadata)

    @override
    def reach(self, given: Given) -> Reach:
        asked = told(given, self.system)
        first = self._reach_of_draft(asked, asked.value + PROMPT_FRAME, "")
        if self.draft is not None:
            first = self.draft.reach(given)
        second = self._reach_of_improving(given, first.value)
        later = self._reach_of_improving(given, max(first.value, second.value))
        again = [second, *[later] * (self.max_iterations - 1)][: self.max_iterations]
        judged = [
            self._reach_of_judging(given, first.value),
            *[self._reach_of_judging(given, second.value).if_at_all] * self.max_iterations,
        ]
        longest = max((first, *again[:1]), key=lambda reach: reach.value)
        whole = in_turn([*judged, first, *again])
        return msgspec.structs.replace(
            whole,
            least_said=whole.least_output - first.least_output + first.least_said,
            needs_text=first.needs_text,
            value=longest.value,
            is_text=longest.is_text,
            why_value=longest.why_value,
        )

    def _reach_of_draft(self, given: Given, prompt: float, why: str) -> Reach:
        if self.output_type is None:
            return of_calls(given, prompt, self.max_tokens, is_answer=True, why_prompt=why)
        kind: AnswerType[T] = answer_type(self.output_type)
        return typed_reach(kind, given, prompt, self.max_tokens, self.output_retries, why)

    def _reach_of_improving(self, given: Given, best: float) -> Reach:
        """Return what a draft after the first takes, where the best so far has so many tokens."""
        why = f"what the evaluator of {self.name} says of a draft"
        if self.improve is not None:
            again = self.improve.reach(msgspec.structs.replace(given, value=math.inf, why_value=why))
        else:
            asked = told(given, self.system)
            asks = frame_of(improvement_prompt("", "", 1, "x", was_cut=True)) - len("x")
            said = self.max_tokens if self.evaluator is None else math.inf
            again = self._reach_of_draft(asked, asked.value + best + said + asks, why)
        return again.if_at_all

    def _reach_of_judging(self, given: Given, draft: float) -> Reach:
        if self.evaluator is not None:
            asks = f"what the evaluator of {self.name} asks the model"
            return unbounded(asks) if wants_provider(self.evaluator) else Reach()
        return reach_of_judge(given, draft, self.max_eval_chars, self.max_tokens)

    async def _next(self, task: A, state: Refinement[T], context: Context) -> _Drafted[T]:
        """Return the first draft, or one that is to be better than the best."""
        if not state.history:
            if self.draft is not None:
                return _drafted(await context.run(self.draft, task, at="draft"))
            return await self._asked(task, _text(task), context)
        if self.improve is not None:
            best = Draft(task, state.best, state.score, state.critique)
            round_ = context.part(len(state.history))
            return _drafted(await round_.run(self.improve, best, at="improve"))
        shown = state.best if isinstance(state.best, str) else json_text(state.best)
        prompt = improvement_prompt(
            _text(task), shown, state.score, state.critique, was_cut=not state.is_whole
        )
        return await self._asked(task, prompt, context)

    async def _asked(self, task: A, prompt: str, context: Context) -> _Drafted[T]:
        """Ask the model for a draft: text, or a value of the type."""
        system = system_messages(self.system, task)
        if self.output_type is None:
            response = await context.complete(
                [*system, user(prompt)], temperature=self.temperature, max_tokens=self.max_tokens
            )
            return _Drafted(
                cast("T", response.content),
                response.refusal,
                is_whole=not (response.was_truncated or is_filtered(response.finish_reason)),
            )
        kind: AnswerType[T] = answer_type(self.output_type)
        answers = TypedAnswers(kind, self.output_retries, None, self.temperature, self.max_tokens)
        return _Drafted(await answers.ask([*system, user(asking(prompt, kind))], aside(context)))

    async def _evaluate(self, task: A, draft: T, context: Context) -> Evaluation:
        if self.evaluator is None:
            if not isinstance(draft, str):
                raise EvaluationError(
                    f"the built-in judge reads text, not {type(draft).__name__}; give an evaluator"
                )
            return await judged(_text(task), draft, context, self.max_eval_chars, self.max_tokens)
        return await evaluated(self.evaluator, draft, context)

    def _tell(self, found: Evaluation, iteration: int, context: Context) -> None:
        span = stage_span(context)
        if span is not None:
            evaluator = "judge" if self.evaluator is None else function_name(self.evaluator)
            critique = found.critique if span.content else None
            span.send(
                Evaluated,
                evaluator=evaluator,
                score=found.score,
                iteration=iteration,
                critique=critique or None,
            )


class RefineOptions(TypedDict, total=False):
    """The keywords of `refine`; what they mean stands at `refine`, their defaults in `Refine`."""

    target_score: float
    max_iterations: int
    patience: int
    delta_threshold: float
    temperature: float | None
    max_tokens: int
    max_eval_chars: int
    system: System[str] | None


class ValueOptions(RefineOptions, total=False):
    """Those of a refinement of typed values."""

    output_retries: int


# Overloads, so that the parameters of a lambda are inferred: of a union of functions mypy infers none.
@overload
def refine(
    evaluator: Callable[[str], float | Evaluation] | None = None,
    *,
    draft: Stage[str, str] | None = None,
    improve: Stage[Draft[str, str], str] | None = None,
    **options: Unpack[RefineOptions],
) -> Refine: ...
@overload
def refine(
    evaluator: Callable[[str, LLMProvider], Awaitable[float | Evaluation]],
    *,
    draft: Stage[str, str] | None = None,
    improve: Stage[Draft[str, str], str] | None = None,
    **options: Unpack[RefineOptions],
) -> Refine: ...
@overload
def refine(
    evaluator: Callable[[T], float | Evaluation],
    *,
    output_type: type[T],
    draft: Stage[str, T] | None = None,
    improve: Stage[Draft[str, T], T] | None = None,
    **options: Unpack[ValueOptions],
) -> Refine[str, T]: ...
@overload
def refine(
    evaluator: Callable[[T, LLMProvider], Awaitable[float | Evaluation]],
    *,
    output_type: type[T],
    draft: Stage[str, T] | None = None,
    improve: Stage[Draft[str, T], T] | None = None,
    **options: Unpack[ValueOptions],
) -> Refine[str, T]: ...
@overload
def refine(
    evaluator: Callable[[T], float | Evaluation],
    *,
    output_type: TypeForm[T],
    draft: Stage[str, T] | None = None,
    improve: Stage[Draft[str, T], T] | None = None,
    **options: Unpack[ValueOptions],
) -> Refine[str, T]: ...
@overload
def refine(
    evaluator: Callable[[T, LLMProvider], Awaitable[float | Evaluation]],
    *,
    output_type: TypeForm[T],
    draft: Stage[str, T] | None = None,
    improve: Stage[Draft[str, T], T] | None = None,
    **options: Unpack[ValueOptions],
) -> Refine[str, T]: ...
@overload
def refine(
    evaluator: Callable[[T], float | Evaluation],
    *,
    draft: Stage[A, T],
    improve: Stage[Draft[A, T], T],
    **options: Unpack[RefineOptions],
) -> Refine[A, T]: ...
@overload
def refine(
    evaluator: Callable[[T, LLMProvider], Awaitable[float | Evaluation]],
    *,
    draft: Stage[A, T],
    improve: Stage[Draft[A, T], T],
    **options: Unpack[RefineOptions],
) -> Refine[A, T]: ...
@makes_stage
def refine(
    evaluator: Callable[..., object] | None = None,
    *,
    output_type: object = None,
    draft: Stage[Any, Any] | None = None,
    improve: Stage[Any, Any] | None = None,
    **options: Unpack[ValueOptions],
) -> Refine[Any, Any]:
    """Draft, score, and improve the best draft (Madaan et al. 2023, "Self-Refine", algorithm 1).

    The value is the best draft ever seen, the score its score. Stops at `target_score`, after `patience`
    rounds in a row without a gain, or after `max_iterations` rounds. At most `2 * (1 + max_iterations)` calls
    with the built-in judge, and what `draft` and `improve` take where they are given.

    Args:
        evaluator: `async (draft, provider)` or plain `(draft)`; returns a score from 0 to 1, or an
            `Evaluation` whose critique the next draft gets to see. None: the model is asked for a rating from
            0 to 10, at temperature 0.1, and for what is missing; that takes texts only.
        output_type: The type of the drafts, any that msgspec decodes; None for text.
        draft: The stage that makes the first draft; None asks the model.
        improve: The stage that makes a better one of a `Draft`, the best so far; None asks the model. With
            both, the task may be of any type.
        target_score: Good enough, 0 to 1 (default 0.9).
        max_iterations: Rounds after the first draft (default 5); 0 only drafts and scores.
        patience: Rounds in a row without a gain after which to stop (default 3).
        delta_threshold: What a score must exceed the best one by to be a gain (default 0.01).
        temperature: Sampling temperature of the drafts, 0 to 2 (default 0.7); None leaves it to the provider.
        max_tokens: Output tokens at most, a draft or a judgement (default 4096).
        max_eval_chars: Characters of a draft that the built-in judge gets to see (default 32768).
        system: What the model is told before every draft: text, or a function of the input. The judge has
            words of its own, and so have `draft` and `improve`.
        output_retries: With `output_type`: answers asked for after the first where one does not decode, for
            each draft (default 2).

    Metadata:
        iterations (int): Rounds after the first draft.
        converged (bool): Whether it stopped at the target or because nothing got better, not at
            `max_iterations`.
        score_history (tuple of float): Every score, the first draft's first.
        refusal (str): Where the model refused the best draft, or a content filter cut in on it: the text of
            the refusal, or `"content_filter"`. Also on an error.
        truncated (bool): True, where every draft was cut off: the value is the best of them, without its end.
            A whole draft beats them, whatever its score. Also on an error.
        best_draft (str, or of the type of the drafts): On an error: the best draft so far; beside it
            `iterations` and `score_history`.
        judge_answer (str): On an `EvaluationError` of the built-in judge: what it said.
        judge_refusal (str): On an `EvaluationError`, where the judge refused or was filtered, as `refusal`.

    Returns (on `run`):
        EvaluationError: The evaluator raised or gave no score from 0 to 1, or the judge no rating;
            one that was refused or filtered does not count.
        InvalidOutputError: With `output_type`: no answer decoded.

    Raises:
        TypeError: A setting is of the wrong type; the evaluator takes neither one argument nor two.
        ValueError: A setting is out of range.
    """
    chosen: Any = evaluator
    return Refine(chosen, output_type=output_type, draft=draft, improve=improve, **options)


def _text(task: object) -> str:
    """Return a task as a prompt.

    Raises:
        InvalidPromptError: It is empty, or not text.
    """
    return str(opening(cast("str", task))[0]["content"])


def _drafted(result: PatternResult[T]) -> _Drafted[T]:
    """Return what a stage drafted; one that asks once says by its `finish_reason` whether that is whole."""
    refusal: object = result.metadata.get("refusal")
    reason: object = result.metadata.get("finish_reason")
    is_whole = not (is_cut(reason) or is_filtered(reason) or result.metadata.get("truncated") is True)
    return _Drafted(result.value, refusal if isinstance(refusal, str) else None, is_whole)


def _check_stage(name: str, stage: object) -> None:
    if stage is not None and not isinstance(stage, Stage):
        raise TypeError(f"{name} must be a Stage, not {type(stage).__name__}")


def _best(state: Refinement[T], drafted: _Drafted[T] | None) -> dict[str, object]:
    """Return the best draft so far; the first stands for it until one is judged."""
    if state.history:
        return {"best_draft": state.best, "best_score": state.score, **_noted(state)}
    if drafted is None:
        return {"best_draft": "", "best_score": None}
    return {"best_draft": drafted.value, "best_score": None, **_noted(drafted)}


def _noted(best: Refinement[T] | _Drafted[T]) -> dict[str, object]:
    """Return what there is to say against the best draft."""
    return {**({} if best.is_whole else {"truncated": True}), **noted_refusal(best.refusal)}


def _progress(state: Refinement[T]) -> dict[str, object]:
    return {"iterations": max(0, state.iterations), "score_history": state.history}
