"""Rows with a journal: a batch that was ended at any moment goes on, row by row, and pays nothing twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from returns.result import Success

from executionkit.batch import Batch, Row
from executionkit.core.usage import TokenUsage
from executionkit.errors import BudgetExhaustedError, JournalMismatchError, ProviderError
from executionkit.events import Event, ItemFinished
from executionkit.journal import Journal
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.provider import LLMResponse
from tests.doubles import NEVER, Asked, Model, reply, soon

pytestmark = pytest.mark.anyio

STAGE = consensus(n=3) >> complete()


def upper(asked: Asked) -> LLMResponse:
    return reply(asked.prompt.upper(), 3, 2)


def texts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


async def read(batch: Batch[Any, Any]) -> dict[Any, Row[Any, Any]]:
    async with batch:
        return {row.key: row async for row in batch}


async def drained(batch: Batch[Any, Any]) -> None:
    async for _ in batch:
        pass


@pytest.mark.parametrize("ends_after", [1, 5, 10, 23])
async def test_a_batch_that_was_left_goes_on_and_pays_nothing_twice(tmp_path: Path, ends_after: int) -> None:
    async with Journal(tmp_path / "runs.db") as journal:
        first = Model(upper, ticks=lambda asked: 1 if asked.number <= ends_after else 10**9)
        batch = STAGE.over(texts(9), first, key=str, journal=journal.run("x"), max_concurrency=3)
        async with batch, anyio.create_task_group() as group:
            group.start_soon(drained, batch)
            while first.calls - first.in_flight < ends_after:
                await checkpoint()
            group.cancel_scope.cancel()
        settled = first.calls - first.cancelled
        second = Model(upper)
        rows = [*reversed(texts(9))]  # their order is of no matter
        events: list[Event] = []
        batch = STAGE.over(rows, second, key=str, journal=journal.run("x"), trace=events.append)
        done = await soon(read(batch))
    assert {key: row.outcome.unwrap().value for key, row in done.items()} == {t: t.upper() for t in texts(9)}
    assert second.calls == 9 * 4 - settled
    assert batch.cost.llm_calls == first.calls + second.calls  # those lost are charged
    assert batch.summary.resumed == sum(event.resumed for event in events if isinstance(event, ItemFinished))
    assert batch.failure is None


async def test_the_budget_holds_over_all_lives(tmp_path: Path) -> None:
    model = Model(upper)
    async with Journal(tmp_path / "runs.db") as journal:
        for limit, answered in ((10, None), (10, None), (36, 9)):
            budget = TokenUsage(llm_calls=limit)
            batch = STAGE.over(
                texts(9), model, key=str, journal=journal.run("x"), max_cost=budget, max_concurrency=2
            )
            rows = await soon(read(batch))
            assert batch.cost.llm_calls == model.calls <= limit
            if answered is None:
                assert isinstance(batch.failure, BudgetExhaustedError)
            else:
                assert sum(isinstance(row.outcome, Success) for row in rows.values()) == answered
    assert Counter(asked.prompt for asked in model.asked) == Counter(
        [*texts(9) * 3, *map(str.upper, texts(9))]
    )


async def test_rows_that_failed_for_want_of_an_answer_are_asked_again(tmp_path: Path) -> None:
    def answer(asked: Asked) -> object:
        return ProviderError("down") if asked.prompt == "row 3" else upper(asked)

    async with Journal(tmp_path / "runs.db") as journal:
        run = journal.run("x")
        first, second, third = Model(answer), Model(upper), Model(upper)
        batch = complete().over(texts(9), first, key=str, journal=run, retry=NEVER)
        await soon(read(batch))
        assert (batch.failed, batch.failure) == (1, None)
        batch = complete().over(texts(9), second, key=str, journal=run)
        await soon(read(batch))
        assert [asked.prompt for asked in second.asked] == ["row 3"]
        assert (batch.failed, batch.summary.resumed, batch.cost.llm_calls) == (0, 8, 10)
        await soon(read(complete().over(texts(12), third, key=str, journal=run)))
        assert third.calls == 3  # rows may be added


async def test_another_pipeline_is_told(tmp_path: Path) -> None:
    async with Journal(tmp_path / "runs.db") as journal:
        await soon(read(complete().over(texts(2), Model(), key=str, journal=journal.run("x"))))
        model = Model()
        batch = consensus(n=2).over(texts(2), model, key=str, journal=journal.run("x"))
        assert await soon(read(batch)) == {}
        assert isinstance(batch.failure, JournalMismatchError)
        assert model.calls == 0
        with pytest.raises(TypeError, match=r"journal\.run\(run_id\)"):
            complete().over([], model, key=str, journal=journal)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_without_await(tmp_path: Path) -> None:
    model = Model(upper)
    with Journal(tmp_path / "runs.db") as journal:
        for resumed in (0, 5):
            with complete().over_sync(texts(5), model, key=str, journal=journal.run("x")) as batch:
                assert len(list(batch)) == 5
            assert batch.summary.resumed == resumed
    assert model.calls == 5
