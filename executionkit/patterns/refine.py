"""Refinement: draft, score, improve the best draft, until it is good enough or stops getting better."""

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypedDict, Unpack, cast, overload

import msgspec
from typing_extensions import override

from executionkit.core.checks import check_completion, check_count, check_number
from executionkit.core.convergence import Convergence, Refinement
from executionkit.core.facade import makes_stage
from executionkit.core.judging import improvement_prompt, judge_prompt, parse_rating, why_no_verdict
from executionkit.core.refusals import noted_refusal
from executionkit.errors import EvaluationError, wrapping
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMProvider, LLMResponse, opening, user
from executionkit.runtime.context import Context
from executionkit.runtime.timeouts import finish_within
from executionkit.stage import Stage

__all__ = ["Evaluation", "Evaluator", "Refine", "refine"]


class Evaluation(msgspec.Struct, frozen=True):
    """What an evaluator found.

    Args:
        score: From 0 to 1.
        critique: What would make the text better; the next draft gets to see it.
    """

    score: float
    critique: str = ""


_WithProvider: TypeAlias = Callable[[str, LLMProvider], Awaitable[float | Evaluation]]
_Plain: TypeAlias = Callable[[str], float | Evaluation]
Evaluator: TypeAlias = _WithProvider | _Plain
"""Scores a text from 0 to 1: `async (text, provider)`, its calls on the run's ledger, or a plain `(text)`."""

_JUDGE_TEMPERATURE = 0.1


class Refine(Stage[str, str], frozen=True):
    """A refinement; see `refine`."""

    evaluator: Evaluator | None = None
    target_score: float = 0.9
    max_iterations: int = 5
    patience: int = 3
    delta_threshold: float = 0.01
    temperature: float | None = 0.7
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_eval_chars: int = 32_768

    def __post_init__(self) -> None:
        if self.evaluator is not None:
            _wants_provider(self.evaluator)
        check_number("target_score", self.target_score, 0, 1)
        check_count("max_iterations", self.max_iterations, least=0)
        check_count("patience", self.patience)
        check_number("delta_threshold", self.delta_threshold, 0)
        check_completion(self.temperature, self.max_tokens)
        check_count("max_eval_chars", self.max_eval_chars)

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        rule = Convergence(self.target_score, self.patience, self.delta_threshold)
        state, draft = Refinement(), LLMResponse("")
        context.report(lambda: {**_best(state, draft), **_progress(state)})
        messages = opening(value)
        while True:
            draft = await context.complete(messages, temperature=self.temperature, max_tokens=self.max_tokens)
            found = await self._evaluate(value, draft.content, context)
            state = state.judged(draft.content, found.score, found.critique, rule, draft.refusal)
            if state.has_converged(rule) or state.iterations >= self.max_iterations:
                break
            messages = [user(improvement_prompt(value, state.best, state.score, state.critique))]
        metadata = {
            **_progress(state),
            "converged": state.has_converged(rule),
            **noted_refusal(state.refusal),
        }
        return PatternResult(state.best, state.score, metadata=metadata)

    async def _evaluate(self, task: str, draft: str, context: Context) -> Evaluation:
        if self.evaluator is None:
            return await self._judge(task, draft, context)
        with wrapping(EvaluationError, "the evaluator"):
            found: object
            if _wants_provider(self.evaluator):
                found = cast("_WithProvider", self.evaluator)(draft, context.provider)
            else:
                found = cast("_Plain", self.evaluator)(draft)
            return _checked(await _ended(found) if inspect.isawaitable(found) else found)

    async def _judge(self, task: str, draft: str, context: Context) -> Evaluation:
        response = await context.complete(
            [user(judge_prompt(task, draft, self.max_eval_chars))],
            temperature=_JUDGE_TEMPERATURE,
            max_tokens=self.max_tokens,
        )
        rating = (
            None if response.was_refused else parse_rating(response.content, was_cut=response.was_truncated)
        )
        if rating is None:
            problem = "the judge gave no single rating from 0 to 10; use a stronger judge or an evaluator"
            raise EvaluationError(
                why_no_verdict(response.refusal, problem),
                metadata={
                    "judge_answer": response.content,
                    **noted_refusal(response.refusal, "judge_refusal"),
                },
            )
        return Evaluation(rating, response.content)


class RefineOptions(TypedDict, total=False):
    """The keywords of `refine`; what they mean stands at `refine`, their defaults in `Refine`."""

    target_score: float
    max_iterations: int
    patience: int
    delta_threshold: float
    temperature: float | None
    max_tokens: int
    max_eval_chars: int


# Overloads, so that the parameters of a lambda are inferred: of a union of functions mypy infers none.
@overload
def refine(evaluator: _Plain | None = None, **options: Unpack[RefineOptions]) -> Refine: ...
@overload
def refine(evaluator: _WithProvider, **options: Unpack[RefineOptions]) -> Refine: ...
@makes_stage
def refine(evaluator: Evaluator | None = None, **options: Unpack[RefineOptions]) -> Refine:
    """Draft, score, and improve the best draft (Madaan et al. 2023, "Self-Refine", algorithm 1).

    The value is the best draft ever seen, the score its score. Stops at `target_score`, after `patience`
    rounds in a row without a gain, or after `max_iterations` rounds. At most `2 * (1 + max_iterations)` calls
    with the built-in judge.

    Args:
        evaluator: `async (text, provider)` or plain `(text)`; returns a score from 0 to 1, or an `Evaluation`
            whose critique the next draft gets to see. None: the model is asked for a rating from 0 to 10, at
            temperature 0.1, and for what is missing.
        target_score: Good enough, 0 to 1 (default 0.9).
        max_iterations: Rounds after the first draft (default 5); 0 only drafts and scores.
        patience: Rounds in a row without a gain after which to stop (default 3).
        delta_threshold: What a score must exceed the best one by to be a gain (default 0.01).
        temperature: Sampling temperature of the drafts, 0 to 2 (default 0.7); None leaves it to the provider.
        max_tokens: Output tokens at most, a draft or a judgement (default 4096).
        max_eval_chars: Characters of a draft that the built-in judge gets to see (default 32768).

    Metadata:
        iterations (int): Rounds after the first draft.
        converged (bool): Whether it stopped at the target or for want of gains, not at `max_iterations`.
        score_history (tuple of float): Every score, the first draft's first.
        refusal (str): Where the model refused the best draft, or a content filter cut in on it: the text of
            the refusal, or `"content_filter"`. Also on an error.
        best_draft (str): On an error: the best draft so far; beside it `iterations` and `score_history`.
        judge_answer (str): On an `EvaluationError` of the built-in judge: what it said.
        judge_refusal (str): On an `EvaluationError`, where the judge refused or was filtered, as `refusal`.

    Returns (on `run`):
        EvaluationError: The evaluator raised or gave no score from 0 to 1, or the judge no rating;
            a rating that was refused or filtered is none.

    Raises:
        TypeError: A setting is of the wrong type; the evaluator takes neither one argument nor two.
        ValueError: A setting is out of range.
    """
    return Refine(evaluator, **options)


def _best(state: Refinement, draft: LLMResponse) -> dict[str, object]:
    """Return the best draft so far; the first stands for it until one is judged."""
    if not state.history:
        return {"best_draft": draft.content, "best_score": None, **noted_refusal(draft.refusal)}
    return {"best_draft": state.best, "best_score": state.score, **noted_refusal(state.refusal)}


def _progress(state: Refinement) -> dict[str, object]:
    return {"iterations": max(0, state.iterations), "score_history": state.history}


def _checked(found: object) -> Evaluation:
    score, critique = _parts(found)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not (0 <= score <= 1):
        raise EvaluationError(f"the evaluator returned {score!r:.80}; a score is a number from 0 to 1")
    if not isinstance(critique, str):
        raise EvaluationError(f"the evaluator's critique must be text, not {type(critique).__name__}")
    return Evaluation(float(score), critique)


def _parts(found: object) -> tuple[object, object]:
    """Return the score and the critique of what an evaluator gave, whatever their types."""
    return (found.score, found.critique) if isinstance(found, Evaluation) else (found, "")


async def _ended(found: Awaitable[object]) -> object:
    """Await an evaluator; no deadline waits for one that does not listen."""

    async def work() -> object:
        return await found

    try:
        return await finish_within(work, name="an evaluator")
    finally:
        if inspect.iscoroutine(found) and inspect.getcoroutinestate(found) == inspect.CORO_CREATED:
            found.close()  # cancelled before it began


def _wants_provider(evaluator: Evaluator) -> bool:
    """Tell whether an evaluator takes a provider beside the text.

    Raises:
        TypeError: It can be called neither way.
    """
    if not callable(evaluator):
        raise TypeError(f"an evaluator must be callable, not {type(evaluator).__name__}")
    try:
        signature = inspect.signature(evaluator)
    except ValueError:
        return False
    if _takes(signature, 2):
        return True
    if _takes(signature, 1):
        return False
    raise TypeError(f"an evaluator takes (text) or (text, provider), not {signature}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return count == 1 or _second(signature) in {"provider", ""}


def _second(signature: inspect.Signature) -> str:
    """Name the second parameter if it is optional; an optional one is taken for a provider only by name."""
    parameters = list(signature.parameters.values())
    second = parameters[1] if len(parameters) > 1 else parameters[0]
    return "" if second.default is second.empty else second.name
