"""`refine` beyond text: typed values, stages that draft and improve, tasks of any type."""

from typing import Any

import msgspec
import pytest

from executionkit.errors import EvaluationError, InvalidOutputError
from executionkit.events import CallStarted, Event
from executionkit.patterns.complete import complete
from executionkit.patterns.prompt import prompt
from executionkit.patterns.refine import Draft, Evaluation, refine
from executionkit.provider import LLMResponse
from executionkit.stage import identity
from tests.doubles import Model, each, error_of, reply, result_of


class Invoice(msgspec.Struct):
    total: float


def near_ten(invoice: Invoice) -> Evaluation:
    return Evaluation(max(0.0, 1 - abs(10 - invoice.total) / 10), f"{invoice.total} is not 10")


def totals(*amounts: object) -> Model:
    return Model(each(*[reply(f'{{"total": {amount}}}') for amount in amounts]))


@pytest.mark.anyio
class TestValues:
    async def test_drafts_and_evaluator_are_of_the_type(self) -> None:
        model = totals(2, 7, 5, 10)
        result = result_of(await refine(near_ten, output_type=Invoice).run(model, "How much?"))
        assert result.value == Invoice(10)
        assert result.metadata["score_history"] == pytest.approx((0.2, 0.7, 0.5, 1.0))
        assert '"total":7.0' in model.asked[3].prompt
        assert "7.0 is not 10" in model.asked[3].prompt
        assert all("JSON Schema" in asked.prompt for asked in model.asked)

    async def test_a_draft_that_does_not_decode_is_repaired(self) -> None:
        model = totals('"many"', 10)
        result = result_of(await refine(near_ten, output_type=Invoice).run(model, "How much?"))
        assert (result.value, result.cost.llm_calls) == (Invoice(10), 2)

    async def test_one_that_is_not_repaired_leaves_the_best(self) -> None:
        model = totals(5, '"many"')
        error = error_of(
            await refine(near_ten, output_type=Invoice, output_retries=1).run(model, "How much?")
        )
        assert isinstance(error, InvalidOutputError)
        assert error.metadata["best_draft"] == Invoice(5)
        assert (error.metadata["attempts"], error.cost.llm_calls) == (2, 3)

    async def test_a_stage_makes_the_first_draft(self) -> None:
        model = totals(10)
        first = identity(str).map(lambda task: Invoice(4))
        result = result_of(await refine(near_ten, output_type=Invoice, draft=first).run(model, "How much?"))
        assert result.metadata["score_history"] == pytest.approx((0.4, 1.0))
        assert model.calls == 1

    async def test_a_stage_drafts_text_too(self) -> None:
        stage = refine(lambda text: float(text == "ok"), draft=prompt("{}!"))
        model = Model()
        assert result_of(await stage.run(model, "task")).value == "ok"
        assert "task!" in model.asked[0].prompt

    async def test_a_task_of_any_type(self) -> None:
        def closer(best: Draft[int, Invoice]) -> Invoice:
            return Invoice(best.value.total + best.task)

        stage = refine(
            near_ten, draft=identity(int).map(Invoice), improve=identity(Draft[int, Invoice]).map(closer)
        )
        result = result_of(await stage.run(Model(), 4))
        assert (result.value, result.metadata["iterations"]) == (Invoice(8), 4)
        assert result.metadata["score_history"] == pytest.approx((0.4, 0.8, 0.8, 0.8, 0.8))

    async def test_what_improves_sees_task_value_score_and_critique(self) -> None:
        seen: list[str] = []

        def note(text: str) -> Invoice:
            seen.append(text)
            return Invoice(10)

        improve = prompt("{task}|{value}|{score}|{critique}").map(note)
        stage = refine(near_ten, output_type=Invoice, improve=improve)
        result = result_of(await stage.run(totals(4), "How much?"))
        assert seen == ['How much?|{"total":4.0}|0.4|4.0 is not 10']
        assert result.score == 1.0

    async def test_each_round_has_a_path_of_its_own(self) -> None:
        events: list[Event] = []
        stage = refine(
            lambda text: 0.1, draft=complete(), improve=prompt("{value}") >> complete(), max_iterations=2
        )
        await stage.run(Model(), "x", trace=events.append)
        paths = [event.path for event in events if isinstance(event, CallStarted)]
        assert paths == [("draft",), (1, "improve", 1), (2, "improve", 1)]

    async def test_a_refused_draft_of_a_stage_is_told(self) -> None:
        refusing = Model(lambda asked: LLMResponse("", finish_reason="content_filter"))
        result = result_of(await refine(lambda text: 1.0, draft=complete()).run(refusing, "x"))
        assert result.metadata["refusal"] == "content_filter"

    async def test_the_built_in_judge_reads_text_only(self) -> None:
        wrong: Any = identity(str).map(len)
        error = error_of(await refine(draft=wrong).run(Model(), "x"))
        assert isinstance(error, EvaluationError)
        with pytest.raises(TypeError, match="evaluator"):
            refine(output_type=Invoice)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

    @pytest.mark.parametrize(
        ("settings", "kind"),
        [
            ({"draft": "first"}, TypeError),
            ({"improve": len}, TypeError),
            ({"output_type": Invoice, "output_retries": -1}, ValueError),
            ({"system": "Be brief.", "draft": complete(), "improve": prompt("{value}")}, ValueError),
        ],
    )
    async def test_settings_are_checked(self, settings: dict[str, Any], kind: type[Exception]) -> None:
        with pytest.raises(kind):
            refine(len, **settings)
