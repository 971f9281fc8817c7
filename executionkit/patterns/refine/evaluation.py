"""Who scores a draft: an evaluator, plain or async, or a judge, which is the model itself."""

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

import msgspec
from typing_extensions import TypeVar

from executionkit.core.bounds import Given, Reach, of_calls
from executionkit.core.foreign import signature_of
from executionkit.core.judging import judge_prompt, parse_rating, why_no_verdict
from executionkit.core.refusals import noted_refusal
from executionkit.errors import EvaluationError
from executionkit.errors.handling import wrapping
from executionkit.provider import LLMProvider, user
from executionkit.runtime.context import Context
from executionkit.runtime.given import frame_of
from executionkit.runtime.tasks.timeouts import finish_within

__all__ = [
    "Evaluation",
    "Evaluator",
    "ValueEvaluator",
    "evaluated",
    "judged",
    "reach_of_judge",
    "wants_provider",
]

T = TypeVar("T", default=str)

_JUDGE_TEMPERATURE = 0.1
_BYTES_A_CHARACTER = 6
"""In JSON, at the most."""


class Evaluation(msgspec.Struct, frozen=True):
    """What an evaluator found.

    Args:
        score: From 0 to 1.
        critique: What would make the draft better; the next draft gets to see it.
    """

    score: float
    critique: str = ""


_WithProvider: TypeAlias = Callable[[T, LLMProvider], Awaitable[float | Evaluation]]
_Plain: TypeAlias = Callable[[T], float | Evaluation]
Evaluator: TypeAlias = (
    Callable[[str, LLMProvider], Awaitable[float | Evaluation]] | Callable[[str], float | Evaluation]
)
"""Scores a text from 0 to 1: `async (text, provider)`, its calls on the run's ledger, or a plain `(text)`."""

ValueEvaluator: TypeAlias = (
    Callable[[T], float | Evaluation] | Callable[[T, LLMProvider], Awaitable[float | Evaluation]]
)
"""The same of a value of any type."""


async def evaluated(evaluator: ValueEvaluator[T], draft: T, context: Context) -> Evaluation:
    """Have an evaluator score a draft.

    Raises:
        EvaluationError: It raised, or gave no score from 0 to 1.
    """
    with wrapping(EvaluationError, "the evaluator"):
        found: object
        if wants_provider(evaluator):
            found = cast("_WithProvider[T]", evaluator)(draft, context.provider)
        else:
            found = cast("_Plain[T]", evaluator)(draft)
        return _checked(await _ended(found) if inspect.isawaitable(found) else found)


async def judged(task: str, draft: str, context: Context, max_eval_chars: int, max_tokens: int) -> Evaluation:
    """Have the model rate a draft.

    Raises:
        EvaluationError: It gave no rating.
    """
    response = await context.complete(
        [user(judge_prompt(task, draft, max_eval_chars))],
        temperature=_JUDGE_TEMPERATURE,
        max_tokens=max_tokens,
    )
    rating = None if response.was_refused else parse_rating(response.content, was_cut=response.was_truncated)
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


def reach_of_judge(given: Given, draft: float, max_eval_chars: int, max_tokens: int) -> Reach:
    """Return what the model takes to rate a draft of so many tokens."""
    shown = min(draft, _BYTES_A_CHARACTER * max_eval_chars)
    prompt = given.value + shown + frame_of(judge_prompt("", "", 1))
    return of_calls(given, prompt, max_tokens).answering()


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


def wants_provider(evaluator: Callable[..., object]) -> bool:
    """Tell whether an evaluator takes a provider beside the draft.

    Raises:
        TypeError: It can be called neither way.
    """
    if not callable(evaluator):
        raise TypeError(f"an evaluator must be callable, not {type(evaluator).__name__}")
    try:
        signature = signature_of(evaluator)
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
