"""A stage over rows: outcomes and costs, laziness, memory, order, ends that rows share, leaving early."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

from executionkit.batch import Batch, Row
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.core.window import Adaptive
from executionkit.errors import (
    BudgetExhaustedError,
    DeadlineExceededError,
    ExecutionKitError,
    InvalidPromptError,
    PermanentError,
    RateLimitError,
    StageError,
    StoppedError,
)
from executionkit.events import Event, ItemFinished, ItemStarted, RunFinished, WaitFinished
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.provider import LLMResponse
from executionkit.runtime.context import Context
from executionkit.stage import Stage
from tests.doubles import (
    AT_ONCE,
    NEVER,
    UNTOLD_ASYNC,
    Answer,
    Asked,
    Buy,
    Model,
    error_of,
    reply,
    soon,
    total,
)

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.anyio


def upper(asked: Asked) -> LLMResponse:
    return reply(asked.prompt.upper(), 3, len(asked.prompt) % 5 + 1)


def no_at(prompt: str, error: Exception) -> Answer:
    return lambda asked: error if asked.prompt == prompt else upper(asked)


def permanent(status: int) -> PermanentError:
    return PermanentError(f"the server answered {status}", metadata={"status": status})


def texts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


async def read(batch: Batch[Any, Any]) -> list[Row[Any, Any]]:
    async with batch:
        return [row async for row in batch]


def costs(rows: list[Row[Any, Any]]) -> TokenUsage:
    return total([cost_of(row) for row in rows])


def cost_of(row: Row[Any, Any]) -> TokenUsage:
    outcome = row.outcome
    return outcome.unwrap().cost if isinstance(outcome, Success) else outcome.failure().cost


@pytest.mark.parametrize("limit", [1, 3, 50, Adaptive(2, 8)], ids=str)
@pytest.mark.parametrize("ordered", [False, True])
async def test_each_row_has_its_outcome_and_its_cost(limit: int | Adaptive, ordered: bool) -> None:
    model = Model(no_at("row 3", permanent(422)), ticks=lambda asked: (7 * asked.number) % 5 + 1)
    batch = complete().over(texts(40), model, key=str, max_concurrency=limit, ordered=ordered)
    rows = await soon(read(batch))
    assert model.most_in_flight <= (limit if isinstance(limit, int) else limit.most)
    in_order = rows if ordered else sorted(rows, key=lambda row: int(str(row.key)[4:]))
    assert [row.key for row in in_order] == [row.value for row in in_order] == texts(40)
    for row in rows:
        match row.outcome:
            case Success(result):
                assert result.value == row.value.upper()
                assert result.cost == TokenUsage(3, len(row.value) % 5 + 1, 1)
            case Failure(error):
                assert (row.key, type(error)) == ("row 3", PermanentError)
    assert costs(rows) == batch.cost
    assert (batch.done, batch.failed, batch.failure) == (40, 1, None)
    assert batch.summary.failures == {"PermanentError": 1}


async def test_one_bad_row_costs_one_row() -> None:
    model = Model(no_at("row 7", ValueError("broken")))
    batch = complete().over((f"row {n}" for n in range(300)), model, key=str, retry=NEVER)
    rows = await soon(read(batch))
    assert [row.key for row in rows if isinstance(row.outcome, Failure)] == ["row 7"]
    assert len(rows) == 300


async def test_rows_are_pulled_as_they_are_read() -> None:
    pulled = 0

    def endless() -> Iterator[str]:
        nonlocal pulled
        try:
            while True:
                pulled += 1
                yield f"row {pulled}"
        finally:
            pulled = -pulled

    batch = complete().over(endless(), Model(), key=str, max_concurrency=3, ahead=10)
    async with batch:
        assert pulled == 0  # nothing is pulled or sent before the first is asked for
        for read_rows in range(1, 60):
            await anext(batch)
            for _ in range(20):
                await checkpoint()
            assert read_rows <= pulled <= read_rows + 10
    assert pulled < 0  # the generator was closed
    assert isinstance(batch.failure, StoppedError)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("ahead", [1, 2, 7])
async def test_few_rows_ahead_still_get_to_the_end(ahead: int, ordered: bool) -> None:
    model = Model(ticks=lambda asked: asked.number % 3)
    batch = complete().over(texts(30), model, key=str, ahead=ahead, ordered=ordered, max_concurrency=5)
    assert len(await soon(read(batch))) == 30
    assert model.most_in_flight <= ahead


async def test_an_async_source_is_asked_by_one_at_a_time() -> None:
    is_asked = is_closed = False

    async def source() -> AsyncIterator[str]:
        nonlocal is_asked, is_closed
        try:
            for text in texts(30):
                assert not is_asked
                is_asked = True
                await checkpoint()
                is_asked = False
                yield text
        finally:
            is_closed = True

    rows = await soon(read(complete().over(source(), Model(), key=str, max_concurrency=4)))
    assert len(rows) == 30
    assert is_closed


async def test_a_source_that_waits_does_not_keep_a_shared_failure_waiting() -> None:
    async def source() -> AsyncIterator[str]:
        yield "row 0"
        await anyio.sleep_forever()

    model = Model(lambda asked: permanent(401))
    batch = complete().over(source(), model, key=str)
    (row,) = await soon(read(batch))
    assert isinstance(row.outcome, Failure)
    assert isinstance(batch.failure, PermanentError)


@pytest.mark.parametrize("limit", [4, Adaptive()], ids=str)
async def test_nobody_waits_an_hour_for_a_server(limit: int | Adaptive) -> None:
    def answer(asked: Asked) -> object:
        return RateLimitError("slowly", retry_after=3600.0) if asked.number == 20 else upper(asked)

    model = Model(answer, ticks=lambda asked: asked.number % 3)
    batch = consensus(n=3).over(texts(100), model, key=str, max_concurrency=limit)
    rows = await soon(read(batch))
    assert isinstance(batch.failure, RateLimitError)
    assert (
        3590 < batch.failure.retry_after <= 3600
    )  # of the call that was told so, or of one that was not sent
    assert 20 <= model.calls < 100
    assert batch.failure.cost.llm_calls == batch.cost.llm_calls == model.calls
    assert any(isinstance(row.outcome, Success) for row in rows)


async def test_a_call_that_is_not_sent_says_why_and_costs_nothing() -> None:
    model = Model(no_at("row 0", RateLimitError("slowly", retry_after=90.0)))
    (row,) = await soon(read((complete() | complete()).over(texts(1), model, key=str)))
    error = error_of(row.outcome)
    assert isinstance(error, RateLimitError)
    assert "not sent: the server wants no calls for 90 s" in str(error)
    assert 89 < error.retry_after <= 90
    assert (model.calls, error.cost.llm_calls) == (1, 1)


async def test_a_source_that_raises_ends_the_batch_after_the_rows_under_way() -> None:
    def source() -> Iterator[str]:
        yield from texts(5)
        raise OSError("the disk is gone")

    batch = complete().over(source(), Model(upper), key=str)
    rows = await soon(read(batch))
    assert all(isinstance(row.outcome, Success) for row in rows)
    assert len(rows) == 5
    assert isinstance(batch.failure, StageError)
    assert "the disk is gone" in str(batch.failure)
    assert isinstance(batch.failure.__cause__, OSError)
    assert batch.failure.cost == batch.cost == costs(rows)


class Ended(BaseException):
    """What is no failure, as a test framework ends a test by."""


@pytest.mark.parametrize("raised", [asyncio.CancelledError, StopIteration, StopAsyncIteration, ValueError])
@pytest.mark.parametrize("is_async", [False, True])
async def test_rows_under_way_are_given_whatever_a_source_raises(
    raised: type[BaseException], is_async: bool
) -> None:
    class Source:
        """Not a generator: that would turn the end of an iteration into something else."""

        def __init__(self) -> None:
            self._rows = iter(texts(3))

        def __iter__(self) -> "Source":
            return self

        def __next__(self) -> str:
            for row in self._rows:
                return row
            raise raised

    async def source() -> AsyncIterator[str]:
        for row in Source():
            yield row

    is_end = raised is StopIteration
    batch = complete().over(source() if is_async else Source(), Model(upper), key=str)
    rows = await soon(read(batch))
    assert [type(row.outcome) for row in rows] == [Success] * 3
    assert batch.cost == costs(rows)
    assert isinstance(batch.failure, type(None) if is_end else StageError)
    assert is_end or "the rows could not be read" in str(batch.failure)


@pytest.mark.parametrize("where", ["source", "async source", "key", "stage"])
async def test_what_is_no_failure_is_raised(where: str) -> None:
    def checked(place: str, text: str) -> str:
        if place == where and text == "row 2":
            raise Ended
        return text

    def source() -> Iterator[str]:
        return (checked("source", text) for text in texts(4))

    async def source_async() -> AsyncIterator[str]:
        for text in texts(4):
            yield checked("async source", text)

    stage = complete().map(lambda text: checked("stage", text.lower()))
    rows = source_async() if where == "async source" else source()
    with pytest.raises(Ended):
        await soon(read(stage.over(rows, Model(upper), key=lambda text: checked("key", text))))


async def test_a_key_whose_look_up_was_cancelled_costs_one_row() -> None:
    def key(text: str) -> str:
        if text == "row 2":
            raise asyncio.CancelledError  # as `future.result()` does
        return text

    batch = complete().over(texts(4), Model(upper), key=key, ordered=True)
    rows = await soon(read(batch))
    assert [type(row.outcome) for row in rows] == [Success, Success, Failure, Success]
    assert batch.failure is None


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_failure_that_all_rows_share_ends_the_batch(status: int) -> None:
    model = Model(no_at("row 2", permanent(status)))
    batch = complete().over(texts(50), model, key=str, max_concurrency=1)
    rows = await soon(read(batch))
    assert [row.key for row in rows] == texts(3)
    assert model.calls == 3
    assert isinstance(batch.failure, PermanentError)
    assert batch.failure.metadata["status"] == status
    assert batch.failure.metadata["rows"] == 3
    assert batch.failure.cost == batch.cost == costs(rows)


async def test_a_price_that_nobody_knows_ends_the_batch_where_the_budget_is_in_money() -> None:
    model = Model(upper)
    batch = complete().over(texts(50), model, key=str, max_concurrency=1, max_cost=TokenUsage(usd=Decimal(1)))
    assert [row.key for row in await soon(read(batch))] == texts(1)
    assert isinstance(batch.failure, BudgetExhaustedError)
    assert "the provider has no price" in str(batch.failure)
    assert model.calls == 0


@pytest.mark.parametrize("limit", [2, Adaptive(2, 8)], ids=str)
async def test_the_budget_ends_the_batch_and_is_used_up(limit: int | Adaptive) -> None:
    model = Model(upper, ticks=lambda asked: asked.number % 3)
    budget = TokenUsage(llm_calls=21)
    batch = complete().over(texts(50), model, key=str, max_concurrency=limit, max_cost=budget)
    assert batch.left == budget
    rows = await soon(read(batch))
    assert batch.cost.llm_calls == model.calls == 21
    assert batch.left is None
    assert isinstance(batch.failure, BudgetExhaustedError)
    assert sum(isinstance(row.outcome, Success) for row in rows) == 21
    assert costs(rows) == batch.cost


async def test_the_deadline_ends_the_batch_with_what_was_done() -> None:
    def answer(asked: Asked) -> LLMResponse:
        return upper(asked)

    class Slow(Model):
        async def complete(self, messages: Any, **kwargs: Any) -> LLMResponse:
            if messages[-1]["content"] == "row 4":
                await anyio.sleep_forever()
            return await super().complete(messages, **kwargs)

    batch = complete().over(texts(5), Slow(answer), key=str, max_concurrency=2, deadline=2.5)
    rows = await soon(read(batch))
    assert sorted(str(row.key) for row in rows) == texts(5)
    (late,) = [row for row in rows if isinstance(row.outcome, Failure)]
    assert late.key == "row 4"
    assert isinstance(late.outcome.failure(), DeadlineExceededError)
    assert isinstance(batch.failure, DeadlineExceededError)
    assert costs(rows) == batch.cost


async def test_the_first_failure_ends_the_batch_where_that_is_asked_for() -> None:
    model = Model(no_at("row 2", permanent(422)))
    batch = complete().over(texts(50), model, key=str, max_concurrency=1, on_error="fail")
    rows = await soon(read(batch))
    assert len(rows) == model.calls == 3
    assert isinstance(batch.failure, PermanentError)


async def test_keys_that_cannot_be_used_fail_their_row_and_cost_nothing() -> None:
    model = Model(upper)
    keys: dict[str, Any] = {"row 0": 1, "row 1": "1", "row 2": 1, "row 3": None, "row 5": -1, "row 6": True}
    batch = complete().over(texts(7), model, key=lambda text: keys[text], ordered=True)
    rows = await soon(read(batch))
    assert [isinstance(row.outcome, Success) for row in rows] == [
        True,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert [row.key for row in rows] == [1, "1", 1, "row 3", "row 4", -1, "row 6"]
    messages = [str(row.outcome.failure()) for row in rows if isinstance(row.outcome, Failure)]
    assert "the key of an earlier row" in messages[0]
    assert "must be text or a whole number" in messages[1]
    assert "KeyError" in messages[2]
    assert all(
        isinstance(row.outcome.failure(), InvalidPromptError)
        for row in rows
        if isinstance(row.outcome, Failure)
    )
    assert batch.cost.llm_calls == model.calls == 3


@pytest.mark.parametrize("key", UNTOLD_ASYNC)
async def test_what_would_have_to_be_awaited_is_no_key(key: Any) -> None:
    (row,) = await soon(read(complete().over(["a"], Model(), key=key)))
    assert isinstance(row.outcome, Failure)
    assert "awaited" in str(row.outcome.failure())


async def test_leaving_early_cancels_what_is_under_way_and_keeps_the_cost_exact() -> None:
    model = Model(upper, ticks=lambda asked: 1 if asked.number < 6 else 10**9)
    batch = complete().over(texts(99), model, key=str, max_concurrency=4)
    async with batch:
        first = await soon(anext(batch))
        while model.calls < 9:
            await checkpoint()
    assert model.cancelled == model.calls - 5
    assert model.in_flight == 0
    error = batch.failure
    assert isinstance(error, StoppedError)
    assert error.cost == batch.cost
    assert batch.cost.llm_calls == model.calls
    rest = list(batch.unread)
    assert {row.key for row in [first, *rest]} == set(texts(5))
    assert costs([first, *rest]) + TokenUsage(llm_calls=model.cancelled) == batch.cost
    with pytest.raises(StopAsyncIteration):
        for _ in range(9):
            await anext(batch)


async def test_the_callers_cancellation_passes() -> None:
    model = Model(ticks=lambda asked: 10**9)
    batch = complete().over(texts(9), model, key=str)
    with anyio.move_on_after(0.05) as scope:
        await read(batch)
    assert scope.cancelled_caught
    assert model.in_flight == 0
    assert isinstance(batch.failure, StoppedError)


async def test_a_pull_that_times_out_loses_nothing() -> None:
    gate = anyio.Event()

    class Late(Model):
        async def complete(self, messages: Any, **kwargs: Any) -> LLMResponse:
            await gate.wait()
            return await super().complete(messages, **kwargs)

    batch = complete().over(texts(3), Late(upper), key=str)
    async with batch:
        with anyio.move_on_after(0.01) as scope:
            await anext(batch)
        assert scope.cancelled_caught
        gate.set()
        assert len([row async for row in batch]) == 3
    assert (batch.failure, batch.cost.llm_calls) == (None, 3)


async def test_no_rows_cost_nothing() -> None:
    batch = complete().over([], Model(), key=str)
    assert await soon(read(batch)) == []
    assert (batch.cost, batch.failure, batch.left) == (NO_USAGE, None, NO_USAGE)


async def test_a_batch_joins_the_ledger_of_the_run_around_it() -> None:
    class Survey(Stage[int, int], frozen=True):
        async def perform(self, value: int, context: Context) -> PatternResult[int]:
            batch = complete().over(texts(value), context.provider, key=str, max_concurrency=2)
            rows = await read(batch)
            return PatternResult(sum(isinstance(row.outcome, Success) for row in rows))

    model = Model(upper)
    outcome = await soon(Survey().run(model, 9, max_cost=TokenUsage(llm_calls=5)))
    assert outcome.unwrap().value == 5
    assert outcome.unwrap().cost.llm_calls == model.calls == 5


async def test_rows_have_the_same_paths_in_any_order() -> None:
    def paths(events: list[Event]) -> set[object]:
        return {(type(event).__name__, event.path) for event in events}

    seen: list[set[object]] = []
    for ticks in (1, 3):
        events: list[Event] = []
        model = Model(upper, ticks=lambda asked, most=ticks: asked.number % most)  # type: ignore[misc]
        stage = consensus(n=3) >> complete()
        await soon(read(stage.over(texts(6), model, key=str, max_concurrency=4, trace=events.append)))
        seen.append(paths(events))
    assert seen[0] == seen[1]


async def test_a_trace_sees_rows_begin_and_end() -> None:
    events: list[Event] = []
    model = Model(no_at("row 1", permanent(422)))
    await soon(read(complete().over(texts(3), model, key=str, max_concurrency=1, trace=events.append)))
    begun = [event for event in events if isinstance(event, ItemStarted)]
    ended = [event for event in events if isinstance(event, ItemFinished)]
    assert [(event.index, event.total, event.item) for event in begun] == [
        (0, 3, "row 0"),
        (1, 3, "row 1"),
        (2, 3, "row 2"),
    ]
    assert [(event.done, event.failed, event.error) for event in ended] == [
        (1, 0, None),
        (2, 1, "PermanentError"),
        (3, 1, None),
    ]
    assert ended[0].cost == TokenUsage(3, 1, 1)
    assert isinstance(events[-1], RunFinished)
    endless: list[Event] = []
    await soon(read(complete().over(iter(texts(1)), model, key=str, trace=endless.append)))
    assert [event.total for event in endless if isinstance(event, ItemFinished)] == [None]


async def test_mistakes_are_told_before_anything_is_sent() -> None:
    model = Model()
    with pytest.raises(TypeError, match="iterate over"):
        complete().over("text", model, key=str)
    with pytest.raises(TypeError, match="iterate over"):
        complete().over(7, model, key=str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="key takes a function"):
        complete().over([], model, key="id")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="ahead must be at least 1"):
        complete().over([], model, key=str, ahead=0)
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        complete().over([], model, key=str, max_concurrency=0)
    with pytest.raises(ValueError, match="most must be at least 9"):
        Adaptive(9, 3)
    with pytest.raises(ValueError, match="on_error"):
        complete().over([], model, key=str, on_error="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="ordered must be True or False"):
        complete().over([], model, key=str, ordered=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    batch = complete().over(texts(1), model, key=str)
    with pytest.raises(RuntimeError, match="enter the batch first"):
        await anext(batch)
    await read(batch)
    with pytest.raises(RuntimeError, match="entered once"):
        await read(batch)
    assert model.calls == 1


async def test_a_batch_that_is_dropped_is_ended_and_told_of() -> None:
    model = Model(ticks=lambda asked: 1 if asked.number == 1 else 10**9)
    batch = await complete().over(texts(9), model, key=str).__aenter__()
    await anext(batch)
    held = [batch]
    del batch
    with pytest.warns(ResourceWarning, match="use `async with`"):
        held.clear()
    while model.in_flight:
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


def test_a_batch_that_the_end_of_its_loop_ends() -> None:
    model = Model(ticks=lambda asked: 10**9)

    async def main() -> None:
        batch = complete().over(texts(9), model, key=str)
        reading = asyncio.get_running_loop().create_task(read(batch))
        for _ in range(99):
            await checkpoint()
        assert model.in_flight
        assert not reading.done()

    asyncio.run(main())
    assert model.in_flight == 0


def test_without_await() -> None:
    model = Model(no_at("row 3", permanent(422)))
    with complete().over_sync(texts(40), model, key=str, max_cost=TokenUsage(llm_calls=99)) as batch:
        rows = list(batch)
    assert {row.key for row in rows} == set(texts(40))
    assert (batch.done, batch.failed, batch.failure) == (40, 1, None)
    assert costs(rows) == batch.cost
    assert batch.left == TokenUsage(llm_calls=59)
    assert batch.summary.rows == 40
    assert "40 rows in" in str(batch.summary)


def test_without_await_left_early() -> None:
    model = Model(ticks=lambda asked: asked.number)
    with complete().over_sync((f"row {n}" for n in range(10**9)), model, key=str, ahead=5) as batch:
        next(batch)
    assert isinstance(batch.failure, StoppedError)
    assert batch.cost.llm_calls == model.calls
    assert model.in_flight == 0
    with pytest.raises(RuntimeError, match="enter the batch first"):
        next(complete().over_sync([], model, key=str))


async def test_without_await_is_refused_where_a_loop_runs() -> None:
    with pytest.raises(RuntimeError, match="over_sync cannot be called inside a running"):
        complete().over_sync([], Model(), key=str)


async def test_a_429_keeps_all_calls_waiting_and_cuts_the_window() -> None:
    times: list[float] = []
    refused = 0

    def answer(asked: Asked) -> object:
        nonlocal refused
        times.append(anyio.current_time())
        if asked.number == 20:
            refused += 1
            return RateLimitError("slowly", retry_after=0.2)
        return upper(asked)

    events: list[Event] = []
    batch = consensus(n=3).over(
        texts(30), Model(answer), key=str, max_concurrency=Adaptive(2, 6), retry=AT_ONCE, trace=events.append
    )
    rows = await soon(read(batch))
    assert all(isinstance(row.outcome, Success) for row in rows)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) >= 0.15  # those in flight apart, nothing was sent meanwhile
    assert any(isinstance(event, WaitFinished) and event.reason == "rate_limit" for event in events)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 30),
)
async def test_costs_of_rows_add_up_whatever_happens(
    ticks: list[int], limit: int, ahead: int, ordered: bool, budget: int
) -> None:
    def answer(asked: Asked) -> object:
        return permanent(422) if asked.number % 7 == 3 else upper(asked)

    model = Model(answer, ticks=lambda asked: ticks[asked.number % len(ticks)])
    stage = Buy("a", 2) >> complete()
    batch = stage.over(
        texts(12),
        model,
        key=str,
        max_concurrency=limit,
        ahead=ahead,
        ordered=ordered,
        max_cost=TokenUsage(llm_calls=budget),
    )
    rows = await soon(read(batch))
    assert costs(rows) == batch.cost
    assert batch.cost.llm_calls == model.calls
    assert not budget or model.calls <= budget
    if batch.failure is None:
        assert len(rows) == 12


def objects_kept_of_rows() -> int:
    """Return how many more objects there are after 2,400 further rows."""
    model = Model(upper)
    grown = 0
    rows = (f"row {n}" for n in range(3000))
    with complete().over_sync(rows, model, key=str, ahead=50, max_concurrency=4) as batch:
        for number, _ in enumerate(batch):
            model.asked.clear()
            if number == 500:
                gc.collect()
                grown = -len(gc.get_objects())
            elif number == 2900:
                gc.collect()
                grown += len(gc.get_objects())
    return grown


def test_memory_does_not_grow_with_the_rows() -> None:
    """In a process of its own: what other tests do in this one would be counted as well."""
    code = "from tests.test_batch import objects_kept_of_rows; print(objects_kept_of_rows())"
    counted = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert abs(int(counted.stdout)) < 2400  # not one object a row


def test_what_keeps_it_from_being_run_is_told() -> None:
    kept: list[Any] = []

    class Keep(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            kept.append(context.provider)
            return PatternResult(value)

    Keep().run_sync(Model(), "x")
    with complete().over_sync(texts(3), kept[0], key=str) as batch:
        assert list(batch) == []
    assert isinstance(batch.failure, StageError)
    assert "another event loop" in str(batch.failure)


def test_a_failure_that_ends_it_is_said_in_the_summary() -> None:
    with complete().over_sync(texts(9), Model(no_at("row 0", permanent(401))), key=str) as batch:
        list(batch)
    text = str(batch.summary)
    assert "ended early: PermanentError" in text
    assert "PermanentError: " in text
    assert isinstance(batch.summary.failure, ExecutionKitError)
