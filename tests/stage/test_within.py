"""A budget of a stage's own."""

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.stage import Within
from tests.doubles import Model, error_of, joined, result_of


@pytest.mark.anyio
async def test_within_bounds_its_stage_only() -> None:
    stage = joined(consensus(n=2).within(TokenUsage(llm_calls=2)), complete())
    assert result_of(await stage.run(Model(), "x")).cost.llm_calls == 3
    error = error_of(
        await joined(consensus(n=3).within(TokenUsage(llm_calls=2)), complete()).run(Model(), "x")
    )
    assert error.cost.llm_calls == 2
    twice = consensus(n=3).within(TokenUsage(llm_calls=5)).within(TokenUsage(llm_calls=2))
    assert error_of(await twice.run(Model(), "x")).cost.llm_calls == 2
    assert error_of(await twice.run(Model(), "x", max_cost=TokenUsage(llm_calls=1))).cost.llm_calls == 1


def test_of_two_budgets_the_tighter_one_holds() -> None:
    stage = complete()
    twice = stage.within(TokenUsage(llm_calls=2)).within(TokenUsage(output_tokens=50, llm_calls=9))
    assert twice == Within(stage, TokenUsage(output_tokens=50, llm_calls=2))
