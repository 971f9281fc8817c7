"""Fallbacks: which failures lead on, what was paid for stays, and what ends them all."""

from typing import Any

import anyio
import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    ConsensusFailedError,
    DeadlineExceededError,
    LLMError,
    PermanentError,
    RateLimitError,
)
from executionkit.events import Event, StageStarted
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.stage import Fallback, identity
from tests.doubles import Buy, Model, each, error_of, reply, result_of, soon


@pytest.mark.anyio
class TestFallbacks:
    async def test_a_fallback_notes_what_failed_before(self) -> None:
        stage = Buy("a", 1, "first") | Buy("b", 2, "second") | Buy("c", 1)
        result = result_of(await stage.run(Model(), "x"))
        assert result.value == "xc"
        assert result.metadata["option_failures"] == ("ExecutionKitError: first", "ExecutionKitError: second")
        assert result.cost.llm_calls == 4
        error = error_of(await (Buy("a", 1, "first") | Buy("b", 2, "second")).run(Model(), "x"))
        assert (str(error), error.metadata["option_failures"]) == ("second", ("ExecutionKitError: first",))
        assert error.cost.llm_calls == 3

    async def test_only_a_failure_of_a_named_class_leads_on(self) -> None:
        model = Model(each(PermanentError("gone"), reply("second")))
        stage = complete().or_else(complete(), on=(LLMError,))
        assert result_of(await stage.run(model, "x")).value == "second"
        for on, calls in (((RateLimitError,), 1), ((), 1), ((RateLimitError, PermanentError), 2)):
            model = Model(each(PermanentError("gone"), reply("second")))
            await complete().or_else(complete(), on=on).run(model, "x")
            assert model.calls == calls

    async def test_what_the_first_option_paid_for_stays(self) -> None:
        def broken(text: str) -> float:
            raise OSError("down")

        stage = refine(broken) | Buy("b")
        result = result_of(await stage.run(Model(), "x"))
        assert result.metadata["option_metadata"][0]["best_draft"] == "ok"
        assert [cost.llm_calls for cost in result.metadata["option_costs"]] == [1]
        error = error_of(await (refine(broken) | Buy("b", 1, "no")).run(Model(), "x"))
        assert error.metadata["option_metadata"][0]["best_draft"] == "ok"
        assert error.metadata["mark"] == "b"
        assert error.cost.llm_calls == 2

    async def test_what_was_tried_before_a_failure_that_leads_nowhere_stays(self) -> None:
        stage = Buy("a", 1, "first") | Buy("b", 1, "second")
        error = error_of(await stage.or_else(complete(), on=(LLMError,)).run(Model(), "x"))
        assert str(error) == "second"
        assert error.metadata["option_failures"] == ("ExecutionKitError: first",)

    @pytest.mark.parametrize(
        "limit", [TokenUsage(llm_calls=2), TokenUsage(output_tokens=40), TokenUsage(input_tokens=11)]
    )
    async def test_never_when_the_runs_own_budget_is_spent(self, limit: TokenUsage) -> None:
        events: list[Event] = []
        stage = consensus(n=9, max_tokens=20, max_concurrency=1) | identity(str)
        model = Model(lambda asked: reply("ok", 3, 20))
        error = error_of(await stage.run(model, "x", max_cost=limit, trace=events.append))
        assert isinstance(error, BudgetExhaustedError)
        assert error.metadata["budget"] == "run"
        assert error.metadata["votes"] == ("ok", "ok")
        assert [event.stage for event in events if isinstance(event, StageStarted)] == [
            "Fallback",
            "Consensus",
        ]

    async def test_a_budget_of_within_is_a_failure_like_any_other(self) -> None:
        bounded = consensus(n=3).within(TokenUsage(llm_calls=2))
        result = result_of(await (bounded | complete()).run(Model(), "x", max_cost=TokenUsage(llm_calls=9)))
        assert result.cost.llm_calls == 3
        around = (consensus(n=3) | identity(str)).within(TokenUsage(llm_calls=2))
        assert result_of(await around.run(Model(), "x")).value == "x"

    async def test_the_run_and_within_both_spent_is_the_run(self) -> None:
        limit = TokenUsage(llm_calls=2)
        stage = (consensus(n=3) | identity(str)).within(limit)
        error = error_of(await stage.run(Model(), "x", max_cost=limit))
        assert error.metadata["budget"] == "run"

    async def test_a_run_of_its_own_below_has_a_budget_of_its_own(self) -> None:
        async def judge(text: str, provider: Any) -> float:
            (await consensus(n=3).run(provider, text, max_cost=TokenUsage(llm_calls=1))).unwrap()
            return 1.0

        stage = refine(judge) | identity(str)
        result = result_of(await stage.run(Model(), "x", max_cost=TokenUsage(llm_calls=99)))
        assert result.value == "x"

    async def test_never_when_the_runs_deadline_is_over(self) -> None:
        async def stuck(text: str, provider: Any) -> float:
            await anyio.sleep_forever()
            return 1.0

        tried: list[str] = []

        def note(value: str) -> str:
            tried.append(value)
            return value

        stage = refine(stuck) | identity(str).map(note)
        error = error_of(await soon(stage.run(Model(), "x", deadline=0.2)))
        assert isinstance(error, DeadlineExceededError)
        assert not tried

    async def test_a_vote_that_failed_leads_on(self) -> None:
        model = Model(lambda asked: reply(str(asked.number)))
        strict = consensus(n=2, strategy="unanimous")
        stage = strict.or_else(complete(), on=(ConsensusFailedError,))
        result = result_of(await stage.run(model, "x"))
        assert result.metadata["option_metadata"][0]["votes"] == ("1", "2")


def test_fallbacks_flatten_where_they_lead_on_alike() -> None:
    a, b, c = complete(), consensus(), refine()
    assert (a | b) | c == a | (b | c) == Fallback((a, b, c))
    on = (LLMError,)
    assert a.or_else(b, on=on).or_else(c, on=on) == Fallback((a, b, c), on)
    assert a.or_else(b, on=on) | c == Fallback((Fallback((a, b), on), c))
    assert a | b.or_else(c, on=on) == Fallback((a, Fallback((b, c), on)))


@pytest.mark.parametrize(
    "on", [LLMError, [LLMError], (ValueError,), ("LLMError",), None, (Exception,)], ids=repr
)
def test_what_no_stage_fails_with_cannot_lead_on(on: Any) -> None:
    with pytest.raises(TypeError):
        complete().or_else(complete(), on=on)
    with pytest.raises(TypeError, match="stage"):
        complete().or_else(on)
