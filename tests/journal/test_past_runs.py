"""What a journal tells of the runs of a pipeline that are over."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from executionkit import PermanentError, ProviderError, TokenUsage, complete, consensus, refine
from executionkit.core.past_runs import past_runs
from executionkit.errors import JournalError
from executionkit.journal import Journal, PastRuns
from executionkit.plan import fingerprint
from executionkit.prices import Price
from tests.doubles import AT_ONCE, NEVER, Model, each, reply, result_of

pytestmark = pytest.mark.anyio


def score(text: str) -> float:
    return 1.0


PIPELINE = consensus(2, max_tokens=20) >> refine(score, max_tokens=20)


def priced(model: Model, price: Price) -> Any:
    model.price = price  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return model


async def test_it_is_what_the_results_said(tmp_path: Path) -> None:
    price = Price("0.25", 2)
    async with Journal(tmp_path / "runs.db") as journal:
        assert journal.past_runs(PIPELINE) == PastRuns()
        costs: list[TokenUsage] = []
        for number in (3, 1, 2):
            broken = [ProviderError("down", cost=TokenUsage(7, 0, 1))] * number
            model = priced(Model(each(*broken, reply("yes", 10, number))), price)
            run = PIPELINE.run(
                model, f"question {number}", retry=AT_ONCE, journal=journal.run(f"run {number}")
            )
            costs.append(result_of(await run).cost)
        past = journal.past_runs(PIPELINE)
        assert past == journal.past_runs(fingerprint(PIPELINE.named("other")))
        assert journal.past_runs(PIPELINE, most=1) == past_runs(costs[-1:])
    most, least, median = costs
    assert (past.least, past.median, past.most) == (least, median, most)
    assert (past.least.llm_calls, past.most.llm_calls) == (4, 6)
    assert past.most.usd == costs[0].usd == Decimal("0.00000025") * (3 * 7 + 3 * 10) + Decimal("0.000002") * 9
    assert str(past) == (
        "3 runs took 4 to 6 calls (median 5), 3 to 9 output tokens (median 6), "
        "$0.000015 to $0.000031 (median $0.000023)"
    )


async def test_what_is_no_whole_run_of_it_does_not_count(tmp_path: Path) -> None:
    stage = complete(max_tokens=20)
    async with Journal(tmp_path / "runs.db") as journal:
        await stage.run(Model(), "q", journal=journal.run("one"))
        await stage.run(
            Model(each(PermanentError("no", metadata={"status": 401}))), "q", journal=journal.run("two")
        )
        await stage.named("b").run(Model(), "q", journal=journal.run("named"))
        await complete(max_tokens=9).run(Model(), "q", journal=journal.run("changed"))
        changed = journal.run("changed", on_change="reuse")
        await stage.run(Model(), "q", journal=changed)  # what the old one paid is a part of its cost
        await stage.map(str.upper).run(Model(), "q", journal=journal.run("another"))
        async with stage.over(["a", "b"], Model(), key=str, journal=journal.run("batch")) as batch:
            assert len([row async for row in batch]) == 2
        with anyio.move_on_after(0.01):
            await stage.run(Model(ticks=lambda asked: 10**6), "q", journal=journal.run("stopped"))
        past = journal.past_runs(stage)
        assert len(journal.runs()) == 7
    assert (past.answered, past.failed, past.most.llm_calls) == (2, 1, 1)
    assert str(past) == "2 runs took 1 call, 2 output tokens; 1 failed"


async def test_all_lives_of_a_run_are_one(tmp_path: Path) -> None:
    stage = complete(max_tokens=20)
    async with Journal(tmp_path / "runs.db") as journal:
        down = Model(each(ProviderError("down", cost=TokenUsage(3, 1, 1))))
        assert (await stage.run(down, "q", retry=NEVER, journal=journal.run("one"))).failure()
        assert str(journal.past_runs(stage)) == "1 failed"
        cost = result_of(await stage.run(Model(), "q", journal=journal.run("one"))).cost
        past = journal.past_runs(stage)
    assert (past.answered, past.failed) == (1, 0)
    assert past.least == past.median == past.most == cost
    assert cost.llm_calls == 2


def test_money_is_that_of_runs_with_a_price() -> None:
    costs = [TokenUsage(5, 5, 1), TokenUsage(5, 5, 1, usd=Decimal(2)), TokenUsage(5, 5, 1, usd=Decimal(1))]
    past = past_runs(costs)
    assert (past.least.usd, past.median.usd, past.most.usd) == (Decimal(1), Decimal(1), Decimal(2))
    assert past_runs(costs[:1]).most.usd is None
    assert str(past_runs([])) == "no run"


async def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    wrong: Any = 3
    journal = Journal(tmp_path / "runs.db")
    with pytest.raises(JournalError, match="not open"):
        journal.past_runs(PIPELINE)
    async with journal:
        with pytest.raises(TypeError, match="a pipeline or its fingerprint, not int"):
            journal.past_runs(wrong)
        with pytest.raises(ValueError, match="most"):
            journal.past_runs(PIPELINE, most=0)
