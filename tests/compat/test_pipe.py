"""`compat.pipe`, row by row of the contract."""

from functools import partial
from typing import Any

import pytest

from executionkit import ExecutionKitError, ScriptedProvider
from executionkit.compat import (
    BudgetExhaustedError,
    LLMProvider,
    PatternResult,
    PermanentError,
    TokenUsage,
    consensus,
    pipe,
    react_loop,
    refine_loop,
)
from executionkit.errors import StageError

pytestmark = pytest.mark.anyio


class Recorder:
    """A step that keeps what it was given."""

    def __init__(self, value: object = "out", cost: TokenUsage | None = None) -> None:
        self.result = PatternResult(value, cost=cost or TokenUsage())
        self.prompts: list[object] = []
        self.keywords: list[dict[str, Any]] = []

    async def __call__(self, provider: LLMProvider, prompt: str, **keywords: Any) -> PatternResult[object]:
        self.prompts.append(prompt)
        self.keywords.append(keywords)
        return self.result


async def asking(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    """Ask once and report no cost: the ledger knows."""
    return PatternResult((await provider.complete([{"role": "user", "content": prompt}])).content)


async def asking_twice(
    provider: LLMProvider, prompt: str, *, max_cost: TokenUsage | None = None
) -> PatternResult[str]:
    """Ask twice and heed no budget."""
    await asking(provider, prompt)
    return await asking(provider, prompt)


async def test_each_value_as_text_is_the_next_prompt() -> None:
    first, second = Recorder(12), Recorder({"a": 1})
    result = await pipe(ScriptedProvider("unused"), "in", first, second)
    assert (first.prompts, second.prompts) == (["in"], ["12"])
    assert result.value == {"a": 1}


async def test_the_last_steps_score_and_keys_are_the_pipes() -> None:
    provider = ScriptedProvider("Rome")
    result = await pipe(provider, "?", asking, partial(consensus, num_samples=2))
    assert (result.value, result.score) == ("Rome", 1.0)
    assert (result.metadata["step_count"], result.metadata["agreement_ratio"]) == (2, 1.0)
    assert result.metadata["step_metadata"][1]["tie_count"] == 1


async def test_the_cost_is_the_sum() -> None:
    provider = ScriptedProvider("Score: 10")
    result = await pipe(provider, "?", asking, partial(consensus, num_samples=3), refine_loop)
    costs = result.metadata["step_costs"]
    assert [cost.llm_calls for cost in costs] == [1, 3, 2]
    assert result.cost == sum(costs, TokenUsage())
    assert result.cost.llm_calls == len(provider.requests) == 6


async def test_no_steps_give_back_the_prompt_at_no_cost() -> None:
    provider = ScriptedProvider("unused")
    result = await pipe(provider, "the prompt")
    assert (result.value, result.cost, result.metadata["step_count"]) == ("the prompt", TokenUsage(), 0)
    assert result.metadata["step_metadata"] == result.metadata["step_costs"] == ()
    assert provider.requests == []


async def test_cost_that_went_past_the_provider_counts_as_reported() -> None:
    elsewhere = Recorder(cost=TokenUsage(100, 10, 2))
    result = await pipe(ScriptedProvider("hi"), "?", elsewhere, asking)
    assert result.metadata["step_costs"][0] == TokenUsage(100, 10, 2)
    assert result.cost.llm_calls == 3


async def test_reported_cost_is_not_counted_twice() -> None:
    async def reporting(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        inner = await consensus(provider, prompt, num_samples=2)
        return PatternResult(inner.value, cost=inner.cost)

    provider = ScriptedProvider("hi")
    result = await pipe(provider, "?", reporting)
    assert result.cost.llm_calls == len(provider.requests) == 2


async def test_a_budget_bounds_all_steps_together() -> None:
    provider = ScriptedProvider("hi")
    three = partial(consensus, num_samples=3)
    with pytest.raises(BudgetExhaustedError) as caught:
        await pipe(provider, "?", three, three, max_budget=TokenUsage(llm_calls=5))
    error = caught.value
    assert error.cost.llm_calls == len(provider.requests) == 5
    assert (error.metadata["step_count"], error.metadata["failed_step"]) == (1, "consensus")
    assert error.metadata["step_costs"][0].llm_calls == 3


async def test_a_spent_budget_is_told_as_the_one_that_was_given() -> None:
    """Not as what was left of it for the step that ran out."""
    five = partial(consensus, num_samples=5)
    with pytest.raises(BudgetExhaustedError, match=r"^the run's budget .*: 9 of 9 calls are spent") as raised:
        await pipe(ScriptedProvider("x"), "?", five, five, max_budget=TokenUsage(llm_calls=9))
    assert raised.value.metadata["budget_limit"] == TokenUsage(llm_calls=9)


async def test_a_step_that_ignores_its_budget_is_held_to_it_all_the_same() -> None:
    provider = ScriptedProvider("hi")
    with pytest.raises(BudgetExhaustedError) as caught:
        await pipe(provider, "?", asking_twice, asking_twice, max_budget=TokenUsage(llm_calls=3))
    assert caught.value.cost.llm_calls == len(provider.requests) == 3


async def test_what_was_spent_elsewhere_draws_on_the_budget() -> None:
    provider = ScriptedProvider("hi")
    elsewhere = Recorder(cost=TokenUsage(llm_calls=3))
    with pytest.raises(BudgetExhaustedError):
        await pipe(provider, "?", elsewhere, asking, max_budget=TokenUsage(llm_calls=3))
    assert provider.requests == []


@pytest.mark.parametrize(("outer", "inner"), [(4, 0), (0, 4), (4, 9), (9, 4)])
async def test_nested_pipes_share_the_tighter_budget(outer: int, inner: int) -> None:
    provider = ScriptedProvider("hi")
    nested = partial(pipe, max_budget=TokenUsage(llm_calls=inner))

    async def both(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return await nested(provider, prompt, asking_twice, asking_twice, asking_twice)

    with pytest.raises(BudgetExhaustedError) as caught:
        await pipe(provider, "?", both, max_budget=TokenUsage(llm_calls=outer))
    assert caught.value.cost.llm_calls == len(provider.requests) == 4


async def test_nested_pipes_add_up() -> None:
    provider = ScriptedProvider("hi")

    async def inner(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return await pipe(provider, prompt, asking, asking_twice)

    result = await pipe(provider, "?", asking, inner)
    assert [cost.llm_calls for cost in result.metadata["step_costs"]] == [1, 3]
    assert result.cost.llm_calls == len(provider.requests) == 4


@pytest.mark.parametrize(
    ("shared", "own", "calls"),
    [(None, 2, 2), (2, None, 2), (4, 2, 2), (2, 4, 2)],
)
async def test_of_a_shared_budget_and_a_steps_own_the_tighter_holds(
    shared: int | None, own: int | None, calls: int
) -> None:
    provider = ScriptedProvider("hi")
    step = consensus if own is None else partial(consensus, max_cost=TokenUsage(llm_calls=own))
    keywords = {} if shared is None else {"max_cost": TokenUsage(llm_calls=shared)}
    with pytest.raises(BudgetExhaustedError) as caught:
        await pipe(provider, "?", step, num_samples=6, **keywords)
    assert caught.value.cost.llm_calls == len(provider.requests) == calls


@pytest.mark.parametrize(("total", "own"), [(2, 5), (5, 2), (2, 2)])
async def test_of_the_pipes_budget_and_a_steps_own_the_tighter_holds(total: int, own: int) -> None:
    provider = ScriptedProvider("hi")
    step = partial(consensus, num_samples=6, max_cost=TokenUsage(llm_calls=own))
    with pytest.raises(BudgetExhaustedError):
        await pipe(provider, "?", step, max_budget=TokenUsage(llm_calls=total))
    assert len(provider.requests) == 2


async def test_a_step_that_takes_a_budget_is_told_what_is_left() -> None:
    told: list[TokenUsage | None] = []

    async def noting(
        provider: LLMProvider, prompt: str, *, max_cost: TokenUsage | None = None
    ) -> PatternResult[str]:
        told.append(max_cost)
        return await asking(provider, prompt)

    await pipe(ScriptedProvider("hi"), "?", noting, noting, max_budget=TokenUsage(llm_calls=5))
    assert told == [TokenUsage(llm_calls=5), TokenUsage(llm_calls=4)]
    told.clear()
    await pipe(ScriptedProvider("hi"), "?", noting)
    assert told == [None]


async def test_a_steps_own_keyword_beats_a_shared_one() -> None:
    own, other = Recorder(), Recorder()
    await pipe(ScriptedProvider("hi"), "?", partial(own, temperature=0.1), other, temperature=0.9)
    assert (own.keywords, other.keywords) == ([{"temperature": 0.1}], [{"temperature": 0.9}])


async def test_shared_keywords_go_only_to_steps_that_take_them() -> None:
    provider = ScriptedProvider("Score: 10")
    await pipe(
        *(provider, "?", asking, partial(consensus, num_samples=1), refine_loop), temperature=0.2, patience=1
    )
    assert [request.temperature for request in provider.requests] == [None, 0.2, 0.2, 0.1]


async def test_a_keyword_that_no_step_takes_is_a_type_error_before_any_call() -> None:
    provider = ScriptedProvider("hi")
    with pytest.raises(TypeError, match="no step takes the shared keyword 'patience'"):
        await pipe(provider, "?", asking, consensus, patience=3)
    with pytest.raises(TypeError, match="temperature"):
        await pipe(provider, "?", temperature=0.5)
    assert provider.requests == []


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"max_tokens": 0}, ValueError, "max_tokens must be at least 1"),
        ({"max_tokens": "many"}, TypeError, "max_tokens must be a whole number"),
        ({"temperature": -1}, ValueError, "temperature must be from 0 to 2"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"retry": 3}, TypeError, "retry"),
        ({"max_cost": TokenUsage(-1)}, ValueError, "budget input_tokens"),
    ],
)
async def test_a_wrong_shared_keyword_is_refused_before_any_call(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    provider = ScriptedProvider("hi")
    with pytest.raises(error, match=message):
        await pipe(provider, "?", asking, consensus, **keywords)
    assert provider.requests == []


async def test_what_is_no_function_is_a_type_error_before_any_call() -> None:
    provider = ScriptedProvider("hi")
    with pytest.raises(TypeError, match="a step must be an async function, not str"):
        await pipe(provider, "?", asking, "step")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert provider.requests == []


async def test_what_a_step_raises_comes_out_with_the_cost_so_far() -> None:
    async def failing(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        raise KeyError("mine")

    provider = ScriptedProvider("hi")
    with pytest.raises(StageError, match="KeyError") as caught:
        await pipe(provider, "?", asking, failing)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.cost.llm_calls == 1
    assert (caught.value.metadata["failed_step"], caught.value.metadata["step_count"]) == ("failing", 1)


async def test_an_error_of_ours_keeps_its_class_and_the_cost_it_reports() -> None:
    async def failing(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        raise PermanentError("mine", cost=TokenUsage(7, 7, 7))

    with pytest.raises(PermanentError) as caught:
        await pipe(ScriptedProvider("hi"), "?", asking, failing)
    assert caught.value.cost.llm_calls == 8


@pytest.mark.parametrize("returned", [None, "text", {"value": "text"}])
async def test_a_step_returns_a_result_or_fails(returned: object) -> None:
    async def wrong(provider: LLMProvider, prompt: str) -> Any:
        await asking(provider, prompt)
        return returned

    with pytest.raises(StageError, match="instead of a PatternResult") as caught:
        await pipe(ScriptedProvider("hi"), "?", wrong)
    assert caught.value.cost.llm_calls == 1


async def test_a_step_that_is_not_async_fails_as_a_value() -> None:
    def wrong(provider: LLMProvider, prompt: str) -> Any:
        return PatternResult("too early")

    with pytest.raises(ExecutionKitError):
        await pipe(ScriptedProvider("hi"), "?", wrong)


async def test_react_runs_as_a_step() -> None:
    provider = ScriptedProvider("the answer")
    result = await pipe(provider, "?", partial(react_loop, tools=[]), asking)
    assert result.value == "the answer"


async def test_a_hundred_steps() -> None:
    provider = ScriptedProvider("hi")
    result = await pipe(provider, "?", *[asking] * 100)
    assert (result.cost.llm_calls, result.metadata["step_count"]) == (100, 100)


async def test_a_negative_budget_is_refused() -> None:
    provider = ScriptedProvider("hi")
    with pytest.raises(ValueError, match="budget llm_calls"):
        await pipe(provider, "?", asking, max_budget=TokenUsage(llm_calls=-1))
    assert provider.requests == []
