"""Rules about a value: what a stage does about one that is refused, and a rule that fails."""

from collections.abc import Callable
from typing import Any

import pytest

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    ConsensusFailedError,
    EvaluationError,
    InvalidOutputError,
    InvalidPromptError,
)
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.structured import structured
from executionkit.provider import LLMResponse
from executionkit.stage import Stage
from tests.doubles import Asked, Model, each, error_of, odd, odd_soon, reply, result_of


def counted(asked: Asked) -> LLMResponse:
    return reply(str(asked.number + 1))


@pytest.mark.anyio
@pytest.mark.parametrize("rule", [odd, odd_soon])
class TestRules:
    async def test_structured_sends_the_reason_back(self, rule: Any) -> None:
        model = Model(counted)
        result = result_of(await structured(int, check=rule).run(model, "x"))
        assert (result.value, result.metadata["attempts"]) == (3, 2)
        assert result.metadata["reasons"] == ("That answer cannot be used: 2 is even.",)
        assert "2 is even" in model.asked[1].prompt
        assert result.cost.llm_calls == 2

    async def test_decoding_and_the_rule_share_the_retries(self, rule: Any) -> None:
        model = Model(each(reply("none"), reply("4"), reply("6"), reply("7")))
        error = error_of(await structured(int, check=rule).run(model, "x"))
        assert isinstance(error, InvalidOutputError)
        assert (error.cost.llm_calls, error.metadata["last_text"]) == (3, "6")
        assert [("even" in reason) for reason in error.metadata["reasons"]] == [False, True, True]

    async def test_a_sample_that_breaks_it_abstains(self, rule: Any) -> None:
        model = Model(each(reply("2"), reply("3"), reply("2"), reply("3"), reply("4")))
        result = result_of(await consensus(5, output_type=int, check=rule).run(model, "x"))
        assert (result.value, result.score) == (3, 0.4)
        assert result.metadata["abstentions"] == 3
        assert sorted(result.metadata["reasons"]) == ["2 is even", "2 is even", "4 is even"]
        error = error_of(await consensus(2, output_type=int, check=rule).run(Model(each(reply("2"))), "x"))
        assert isinstance(error, ConsensusFailedError)
        assert "2 is even" in str(error)
        assert error.metadata["reasons"] == ("2 is even",) * 2

    async def test_an_answer_of_a_tool_loop_goes_back(self, rule: Any) -> None:
        model = Model(each(reply('{"answer": 2}'), reply('{"answer": 3}')))
        result = result_of(await react([], output_type=int, check=rule).run(model, "x"))
        assert (result.value, result.cost.llm_calls) == (3, 2)
        assert "2 is even" in model.asked[1].messages[-1]["content"]
        assert "2 is even" in result.metadata["reasons"][0]
        error = error_of(await react([], output_type=int, check=rule).run(Model(each(reply("2"))), "x"))
        assert isinstance(error, InvalidOutputError)
        assert len(error.metadata["reasons"]) == 3

    async def test_they_all_keep_to_the_budget(self, rule: Any) -> None:
        for stage in (structured(int, check=rule), complete().map(int).checked(rule)):
            outcome = await stage.run(Model(each(reply("2"))), "x", max_cost=TokenUsage(llm_calls=2))
            error = error_of(outcome)
            assert isinstance(error, BudgetExhaustedError)
            assert error.cost.llm_calls == 2
            assert len(error.metadata["reasons"]) == 2


def raises(value: object) -> str | None:
    raise LookupError("no such id")


async def raises_soon(value: object) -> str | None:
    raise LookupError("no such id")


def says_no(value: object) -> Any:
    return False


RULED: list[Callable[[Any], Stage[str, Any]]] = [
    lambda rule: structured(int, check=rule),
    lambda rule: complete().checked(rule),
    lambda rule: consensus(2, check=rule),
    lambda rule: consensus(2, output_type=int, check=rule),
    lambda rule: react([], check=rule),
    lambda rule: react([], output_type=int, check=rule),
]


@pytest.mark.anyio
@pytest.mark.parametrize("make", RULED)
@pytest.mark.parametrize("rule", [raises, raises_soon, says_no])
async def test_a_rule_that_fails_is_an_evaluation_error(
    make: Callable[[Any], Stage[str, Any]], rule: Any
) -> None:
    error = error_of(await make(rule).run(Model(lambda asked: reply("2")), "x"))
    assert isinstance(error, EvaluationError)
    assert error.cost.llm_calls >= 1
    assert "rule" in str(error)
    assert isinstance(error.__cause__, LookupError) is (rule is not says_no)


@pytest.mark.parametrize("make", RULED)
def test_what_is_no_rule_is_refused_when_set(make: Callable[[Any], Stage[str, Any]]) -> None:
    for rule in ("odd", 7, int):
        with pytest.raises(TypeError, match="rule"):
            make(rule)


@pytest.mark.anyio
async def test_text_is_checked_too() -> None:
    def short(text: str) -> str | None:
        return None if len(text) < 3 else "too long"

    model = Model(each(reply("long answer"), reply("ok")))
    assert result_of(await react([], check=short).run(model, "x")).value == "ok"
    model = Model(each(reply("long answer"), reply("ok"), reply("ok")))
    assert result_of(await consensus(3, check=short).run(model, "x")).metadata["abstentions"] == 1
    error = error_of(await complete().checked(short).run(Model(), ""))
    assert isinstance(error, InvalidPromptError)
    assert error.cost == NO_USAGE
