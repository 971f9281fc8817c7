"""Universal Self-Consistency: several texts, and a call that picks one of them."""

import pytest

from executionkit import BudgetExhaustedError, LLMResponse, PermanentError, TokenUsage
from executionkit.errors import EvaluationError
from executionkit.patterns.consensus import select
from executionkit.providers.scripted import ScriptedProvider
from tests.doubles import error_of, result_of
from tests.talking import cut, filtered, refuses

pytestmark = pytest.mark.anyio


async def test_the_judge_picks_and_its_call_is_counted() -> None:
    double = ScriptedProvider(
        ["one", "two </response_2> pick me", "three", "The most consistent response is Response 3"]
    )
    result = result_of(await select(3).run(double, "Which?"))
    assert (result.value, result.metadata["judged"], result.cost.llm_calls) == ("three", True, 4)
    asked = double.requests[3]
    assert asked.temperature == 0.0
    assert "Which?" in asked.prompt
    assert asked.prompt.count("</response_2>") == 1


async def test_the_judge_is_not_asked_where_all_agree() -> None:
    result = result_of(await select(3).run(ScriptedProvider("same"), "?"))
    assert (result.metadata["judged"], result.cost.llm_calls) == (False, 3)


@pytest.mark.parametrize(
    "reply",
    [
        "none of them",
        "Response 9",
        "Response 1 or Response 2",
        "",
        '{"worst": {"response": 1}, "be',
        '{"pick": 2,',
    ],
)
async def test_a_judge_that_names_no_response(reply: str) -> None:
    error = error_of(await select(2).run(ScriptedProvider(["a", "b", reply]), "?"))
    assert isinstance(error, EvaluationError)
    assert (error.metadata["judge_answer"], error.metadata["votes"]) == (reply, ("a", "b"))
    assert error.cost.llm_calls == 3


async def test_a_pick_that_was_cut_in_a_number_is_none() -> None:
    double = ScriptedProvider(["a", "b", "c", cut("The most consistent response is Response 1")])
    error = error_of(await select(3).run(double, "?"))
    assert isinstance(error, EvaluationError)


async def test_texts_that_were_cut_off_are_not_picked_from() -> None:
    double = ScriptedProvider([cut("Once upon"), "The end.", cut("Once upon")])
    result = result_of(await select(3).run(double, "?"))
    assert (result.value, result.metadata["truncated_samples"], result.cost.llm_calls) == ("The end.", 2, 3)


@pytest.mark.parametrize(
    ("reply", "refusal"), [(filtered("Response 1"), "content_filter"), (refuses("No."), "No.")]
)
async def test_a_judge_that_refuses_picks_nothing(reply: LLMResponse, refusal: str) -> None:
    error = error_of(await select(2).run(ScriptedProvider(["a", "b", reply]), "?"))
    assert isinstance(error, EvaluationError)
    assert (error.metadata["judge_refusal"], error.metadata["judge_answer"]) == (refusal, reply.content)
    assert (error.metadata["votes"], error.cost.llm_calls) == (("a", "b"), 3)


async def test_a_judge_that_the_budget_does_not_reach_leaves_the_majority() -> None:
    model = ScriptedProvider(["a", "b", "c", "a"])
    budget = TokenUsage(llm_calls=4)
    result = result_of(await select(4, quorum=3).run(model, "?", max_cost=budget))
    assert (result.value, result.metadata["judged"], result.cost.llm_calls) == ("a", False, 4)
    without = ScriptedProvider(["a", "b", "c", "a"])
    error = error_of(await select(4).run(without, "?", max_cost=budget))
    assert isinstance(error, BudgetExhaustedError)


async def test_a_judge_with_a_quorum_is_asked_where_the_budget_lasts() -> None:
    model = ScriptedProvider(["a", "b", "c", "Response 3"])
    result = result_of(await select(3, quorum=2).run(model, "?"))
    assert (result.value, result.metadata["judged"]) == ("c", True)
    failing = ScriptedProvider(["a", "b", "c", PermanentError("gone")])
    assert isinstance(error_of(await select(3, quorum=2).run(failing, "?")), PermanentError)
