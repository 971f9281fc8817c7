"""Stages one after the other: what the steps cost, and how far a failed one came."""

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import StageError
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.stage import identity
from tests.doubles import Buy, Model, error_of, result_of


@pytest.mark.anyio
async def test_a_pipeline_says_what_its_steps_cost_and_said() -> None:
    result = result_of(await (complete() >> consensus(n=2)).run(Model(), "x"))
    assert result.score == 1.0
    assert result.metadata["agreement_ratio"] == 1.0
    assert result.metadata["step_count"] == 2
    assert result.metadata["step_costs"] == (TokenUsage(3, 2, 1), TokenUsage(6, 4, 2))
    assert result.metadata["step_metadata"][0]["finish_reason"] == "stop"


@pytest.mark.anyio
async def test_a_failed_pipeline_says_how_far_it_came() -> None:
    error = error_of(await (complete() >> Buy("b", 1, "no") >> complete()).run(Model(), "x"))
    assert (error.metadata["step_count"], error.metadata["failed_step"]) == (1, "Buy")
    assert error.metadata["step_costs"] == (TokenUsage(3, 2, 1),)
    assert error.metadata["mark"] == "b"
    assert error.cost == TokenUsage(6, 4, 2)


@pytest.mark.anyio
async def test_a_map_after_a_pipeline_fails_with_its_cost() -> None:
    def broken(text: str) -> str:
        raise LookupError(text)

    for stage in ((complete() >> complete()).map(broken), identity(str).map(broken)):
        error = error_of(await stage.run(Model(), "x"))
        assert isinstance(error, StageError)
        assert "failed_step" not in error.metadata
