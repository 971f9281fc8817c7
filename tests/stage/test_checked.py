"""A stage that is run again with the reason below its prompt, while a rule refuses its value."""

from typing import Any

import pytest

from executionkit.errors import InvalidOutputError
from executionkit.patterns.complete import complete
from executionkit.provider import LLMResponse
from tests.doubles import Asked, Model, error_of, odd, odd_soon, reply, result_of


def counted(asked: Asked) -> LLMResponse:
    return reply(str(asked.number + 1))


@pytest.mark.parametrize("rule", [odd, odd_soon])
@pytest.mark.anyio
async def test_a_stage_runs_again_with_the_reason_below_its_prompt(rule: Any) -> None:
    model = Model(counted)
    stage = complete().map(int).checked(rule)
    result = result_of(await stage.run(model, "a number"))
    assert (result.value, result.metadata["attempts"], result.metadata["reasons"]) == (
        3,
        2,
        ("2 is even",),
    )
    assert model.asked[1].prompt == "a number\n\nAn earlier answer could not be used: 2 is even"
    assert result.cost.llm_calls == 2


@pytest.mark.parametrize("rule", [odd, odd_soon])
@pytest.mark.anyio
async def test_retries_end(rule: Any) -> None:
    model = Model(lambda asked: reply("4"))
    for retries in (0, 1):
        error = error_of(await complete().map(int).checked(rule, output_retries=retries).run(model, "x"))
        assert isinstance(error, InvalidOutputError)
        assert error.metadata["reasons"] == ("4 is even",) * (retries + 1)
        assert error.metadata["last_value"] == 4
        assert error.cost.llm_calls == retries + 1
