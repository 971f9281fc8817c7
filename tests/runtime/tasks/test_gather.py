"""Work at once: in order, bounded, one failure at most, and what came in beside it noted."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from executionkit.errors import BudgetExhaustedError, ExecutionKitError, PermanentError
from executionkit.runtime.tasks.gather import gather
from tests.doubles import soon

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_results_stand_in_order_and_no_more_than_the_limit_is_under_way(count: int, limit: int) -> None:
    under_way = most = 0

    async def work(index: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(count - index):
            await checkpoint()
        under_way -= 1
        return index * index

    assert await gather(work, count, limit) == [index * index for index in range(count)]
    assert most == min(count, limit)


async def test_failures_that_come_in_meanwhile_are_noted_beside_known_ones() -> None:
    go, failed = anyio.Event(), list[int]()

    async def work(index: int) -> None:
        if index == 2:
            go.set()
        await go.wait()
        failed.append(index)
        raise PermanentError(f"no {index}", metadata={"other_failures": [f"inside {index}"]})

    with pytest.raises(PermanentError) as raised:
        await gather(work, 3, 3)
    first, *others = failed
    assert str(raised.value) == f"no {first}"
    noted = raised.value.metadata["other_failures"]
    assert noted == (f"inside {first}", *(f"PermanentError: no {other}" for other in others))
    assert others


async def test_a_foreign_failure_comes_back_as_it_is() -> None:
    async def work(index: int) -> None:
        await checkpoint()
        raise KeyError(index)

    with pytest.raises(KeyError):
        await gather(work, 3, 3)


async def test_the_first_failure_starts_nothing_new() -> None:
    started: list[int] = []
    told: list[None] = []

    async def work(index: int) -> None:
        started.append(index)
        await checkpoint()
        if index == 0:
            raise ExecutionKitError("no")
        await anyio.sleep_forever()

    with pytest.raises(ExecutionKitError):
        await soon(gather(work, 100, 3, on_failure=lambda: told.append(None)))
    assert sorted(started) == [0, 1, 2]
    assert told


async def test_after_some_failures_what_is_under_way_is_awaited() -> None:
    finished: list[int] = []

    async def work(index: int) -> None:
        if index == 1:
            raise BudgetExhaustedError("spent")
        for _ in range(5):
            await checkpoint()
        finished.append(index)

    with pytest.raises(BudgetExhaustedError):
        await gather(work, 100, 3, (BudgetExhaustedError,))
    assert set(finished) <= {0, 2}
    assert finished
