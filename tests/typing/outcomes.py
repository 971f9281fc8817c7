"""What the checkers must know of results: narrowed by `match`, by the guards, and read only after that."""

from types import MappingProxyType
from typing import Any, assert_never, assert_type

from returns.result import Failure, Result, Success

from executionkit import (
    BudgetExhaustedError,
    ExecutionKitError,
    LLMError,
    LLMProvider,
    Outcome,
    PatternResult,
    RateLimitError,
    TokenUsage,
    as_outcome,
    as_result,
    consensus,
    is_failure,
    is_success,
    refine,
)
from tests.typing.stages import Count


async def runs(provider: LLMProvider) -> None:
    """A run returns the outcome of the stage's output type, twice."""
    assert_type(await consensus().run(provider, "?"), Outcome[str])
    assert_type(await (consensus() >> Count()).run(provider, "?"), Outcome[int])
    assert_type(consensus().run_sync(provider, "?"), Outcome[str])
    assert_type((consensus() & Count()).run_sync(provider, "?"), Outcome[tuple[str, int]])
    budget = TokenUsage(llm_calls=3)
    assert_type(await refine().run(provider, "?", max_cost=budget, deadline=9.5), Outcome[str])


async def matched(provider: LLMProvider) -> str:
    """`match` on a name is precise and exhaustive: no branch is left over."""
    outcome = await (consensus() >> Count()).run(provider, "?")
    match outcome:
        case Success(result):
            assert_type(result, PatternResult[int])
            assert_type(result.value, int)
            return str(result.value)
        case Failure(error):
            assert_type(error, ExecutionKitError)
            assert_type(error.cost, TokenUsage)
            return error.message


def matched_sync(provider: LLMProvider) -> PatternResult[tuple[str, int]]:
    """What is left after both cases is nothing."""
    outcome = (consensus() & Count()).run_sync(provider, "?")
    match outcome:
        case Success(result):
            assert_type(result, PatternResult[tuple[str, int]])
            return result
        case Failure(error):
            assert_type(error, ExecutionKitError)
            raise error
        case _:
            assert_never(outcome)


def matched_by_error(outcome: Outcome[str]) -> float:
    """A nested class pattern narrows the error."""
    match outcome:
        case Success(result):
            return result.score or 0.0
        case Failure(RateLimitError() as error):
            assert_type(error, RateLimitError)
            return error.retry_after
        case Failure(LLMError() as error):
            assert_type(error.retry_after, float | None)
            return 0.0
        case Failure(error):
            assert_type(error, ExecutionKitError)
            return 0.0


def guarded(outcome: Outcome[int]) -> int:
    """The guards narrow both ways."""
    if is_success(outcome):
        assert_type(outcome, Success[PatternResult[int]])
        assert_type(outcome.unwrap(), PatternResult[int])
        return outcome.unwrap().value
    assert_type(outcome, Failure[ExecutionKitError])
    assert_type(outcome.failure(), ExecutionKitError)
    return 0


def guarded_by_failure(outcome: Outcome[int]) -> None:
    """Asking for the failure first leaves the success."""
    if is_failure(outcome):
        assert_type(outcome, Failure[ExecutionKitError])
    else:
        assert_type(outcome, Success[PatternResult[int]])


def results(result: PatternResult[str], plain: Result[PatternResult[str], ExecutionKitError]) -> None:
    """The fields of a result, and `map`."""
    assert_type(result.value, str)
    assert_type(result.score, float | None)
    assert_type(result.cost, TokenUsage)
    assert_type(result.metadata, MappingProxyType[str, Any])
    assert_type(result.map(len), PatternResult[int])
    assert_type(PatternResult(3, score=1.0), PatternResult[int])
    assert_type(result.cost + result.cost - TokenUsage(1), TokenUsage)
    assert_type(str(result), str)
    assert_type(as_outcome(plain), Outcome[str])


def sized(result: PatternResult[str]) -> PatternResult[int]:
    """Count the letters."""
    return result.map(len)


def as_results(outcome: Outcome[str], plain: Result[PatternResult[str], ExecutionKitError]) -> None:
    """`as_result` gives `.map`, `.alt` and `.value_or` their types, `as_outcome` goes back."""
    widened = as_result(outcome)
    assert_type(widened, Result[PatternResult[str], ExecutionKitError])
    assert_type(widened.map(lambda result: result.map(len)), Result[PatternResult[int], ExecutionKitError])
    assert_type(widened.map(lambda result: result.value).value_or("nothing"), str)
    assert_type(widened.alt(lambda error: error.message), Result[PatternResult[str], str])
    assert_type(as_outcome(widened), Outcome[str])
    assert_type(as_outcome(widened.map(lambda result: result.map(len))), Outcome[int])
    assert_type(as_outcome(plain.map(lambda result: result.map(len))), Outcome[int])
    assert_type(as_outcome(outcome.map(sized)), Outcome[int])
    assert_type(as_outcome(outcome.map(lambda result: PatternResult(len(result.value)))), Outcome[int])


def covariant(
    result: PatternResult[bool], outcome: Outcome[bool]
) -> Result[PatternResult[int], ExecutionKitError]:
    """A result of a narrow type is one of a wide type, and an outcome is a `Result` of `returns`."""
    wide: PatternResult[int] = result
    results: list[PatternResult[object]] = [result, wide, PatternResult("text")]
    assert_type(results[0].value, object)
    wide_outcome: Outcome[int] = outcome
    return wide_outcome


def errors(error: ExecutionKitError, refused: BudgetExhaustedError) -> None:
    """Errors know what they cost and whether to try again."""
    assert_type(error.metadata, MappingProxyType[str, Any])
    assert_type(error.retryable, bool)
    assert_type(error.message, str)
    assert_type(refused.stamped(TokenUsage(1, 2, 3)), BudgetExhaustedError)
