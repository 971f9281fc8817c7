"""`step`: a function with a pattern's signature, as a stage."""

import pickle
from functools import partial
from typing import Any

import pytest

from executionkit import (
    BudgetExhaustedError,
    LLMProvider,
    PatternResult,
    PermanentError,
    ScriptedProvider,
    TokenUsage,
    compat,
    complete,
    consensus,
    is_failure,
    step,
)
from executionkit.errors import StageError
from executionkit.runtime.context import MeteredProvider

pytestmark = pytest.mark.anyio


async def shout(provider: LLMProvider, prompt: str, *, mark: str = "!") -> PatternResult[str]:
    assert isinstance(provider, MeteredProvider)
    return PatternResult(prompt.upper() + mark, score=0.5, metadata={"mark": mark})


async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    return PatternResult((await provider.complete([{"role": "user", "content": prompt}])).content)


async def bill(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    """Ask once through the provider, twice elsewhere, and report all three."""
    await ask(provider, prompt)
    return PatternResult("billed", cost=TokenUsage(1000, 100, 3))


async def test_value_score_and_metadata_are_the_functions() -> None:
    result = (await step(shout).run(ScriptedProvider("unused"), "hello")).unwrap()
    assert (result.value, result.score, result.metadata["mark"]) == ("HELLO!", 0.5, "!")
    assert result.cost == TokenUsage()


async def test_keywords_are_passed_on() -> None:
    provider = ScriptedProvider("unused")
    assert (await step(shout, mark="?").run(provider, "a")).unwrap().value == "A?"
    assert (await step(partial(shout, mark="?")).run(provider, "a")).unwrap().value == "A?"


async def test_its_input_is_the_text_of_what_came_before() -> None:
    pipeline = complete().map(len) >> step(shout)
    assert (await pipeline.run(ScriptedProvider("four"), "?")).unwrap().value == "4!"


async def test_calls_through_the_provider_are_charged_once_reported_or_not() -> None:
    provider = ScriptedProvider("answer")
    assert (await step(ask).run(provider, "?")).unwrap().cost.llm_calls == 1
    facade = await step(compat.consensus, num_samples=3).run(provider, "?")
    assert facade.unwrap().cost.llm_calls == 3
    assert len(provider.requests) == 4


async def test_what_was_spent_elsewhere_is_charged_as_reported() -> None:
    result = (await step(bill).run(ScriptedProvider("answer"), "?")).unwrap()
    assert result.cost == TokenUsage(1000, 100, 3)


async def test_a_function_that_names_max_cost_is_told_what_is_left() -> None:
    told: list[TokenUsage | None] = []

    async def careful(
        provider: LLMProvider, prompt: str, *, max_cost: TokenUsage | None = None
    ) -> PatternResult[str]:
        told.append(max_cost)
        return await ask(provider, prompt)

    pipeline = step(careful) >> step(careful) >> step(careful, max_cost=TokenUsage(llm_calls=1))
    await pipeline.run(ScriptedProvider("a"), "?", max_cost=TokenUsage(llm_calls=9))
    assert [each and each.llm_calls for each in told] == [9, 8, 1]


async def test_nothing_left_is_refused_before_the_function_runs() -> None:
    outcome = await (step(ask) >> step(compat.consensus)).run(
        ScriptedProvider("a"), "?", max_cost=TokenUsage(llm_calls=1)
    )
    assert is_failure(outcome)
    error = outcome.failure()
    assert isinstance(error, BudgetExhaustedError)
    assert (error.cost.llm_calls, error.metadata["failed_step"]) == (1, "consensus")


async def test_a_foreign_exception_is_wrapped_with_its_cause_and_cost() -> None:
    async def failing(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await ask(provider, prompt)
        raise LookupError("mine")

    error = (await step(failing).run(ScriptedProvider("a"), "?")).failure()
    assert isinstance(error, StageError)
    assert isinstance(error.__cause__, LookupError)
    assert error.cost.llm_calls == 1


async def test_an_error_of_ours_keeps_its_class_and_its_own_cost() -> None:
    async def failing(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await ask(provider, prompt)
        raise PermanentError("mine", cost=TokenUsage(5, 5, 4), metadata={"kept": 1})

    error = (await step(failing).run(ScriptedProvider("a"), "?")).failure()
    assert isinstance(error, PermanentError)
    assert (error.cost.llm_calls, error.metadata["kept"]) == (4, 1)


@pytest.mark.parametrize("returned", [None, "text", 3])
async def test_what_is_no_result_is_an_error(returned: object) -> None:
    async def wrong(provider: LLMProvider, prompt: str) -> Any:
        return returned

    error = (await step(wrong).run(ScriptedProvider("a"), "?")).failure()
    assert isinstance(error, StageError)
    assert f"returned {type(returned).__name__} instead of a PatternResult" in str(error)


async def test_a_native_run_inside_a_step_joins_the_ledger() -> None:
    async def nested(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return (await consensus(4).run(provider, prompt)).unwrap()

    provider = ScriptedProvider("a")
    result = (await (step(nested) >> complete()).run(provider, "?")).unwrap()
    assert (result.cost.llm_calls, len(provider.requests)) == (5, 5)
    assert result.metadata["step_costs"][0].llm_calls == 4


async def test_it_is_a_value_and_named_after_its_function() -> None:
    assert step(shout, mark="?") == step(shout, mark="?")
    assert hash(step(shout)) == hash(step(shout))
    assert step(shout) != step(ask)
    assert pickle.loads(pickle.dumps(step(shout, mark="?"))) == step(shout, mark="?")
    assert (step(shout).name, step(partial(shout, mark="?")).name) == ("shout", "shout")


@pytest.mark.parametrize("function", [None, "shout", 3])
async def test_what_can_not_be_called_is_no_step(function: Any) -> None:
    with pytest.raises(TypeError, match="a step must be an async function"):
        step(function)


async def test_what_stands_behind_the_prompt_may_be_given_by_position() -> None:
    async def repeat(
        provider: LLMProvider, prompt: str, times: int = 1, *, mark: str = ""
    ) -> PatternResult[str]:
        return PatternResult(prompt * times + mark)

    outcome = await step(repeat, 2, mark="!").run(ScriptedProvider([]), "ab")
    assert outcome.unwrap().value == "abab!"
    assert step(repeat, 2) == step(repeat, times=2)
    with pytest.raises(TypeError, match="repeat takes 1 arguments behind the prompt, not 2"):
        step(repeat, 2, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="repeat is given times twice"):
        step(repeat, 2, times=3)  # type: ignore[misc]  # pyright: ignore[reportCallIssue]
