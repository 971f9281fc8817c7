"""Code that does not listen is left behind, on both event loops."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from executionkit.runtime import timeouts
from executionkit.runtime.timeouts import finish_within

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "GRACE", 0.05)


async def at_once() -> int:
    return 1


async def after_a_turn() -> int:
    await anyio.lowlevel.checkpoint()
    return 1


async def forever() -> None:
    await anyio.sleep_forever()


async def swallows_once() -> int:
    try:
        await anyio.sleep_forever()
    except BaseException:
        return 5
    return 6


async def swallows_a_while() -> None:
    for _ in range(20):
        try:
            await anyio.sleep(0.02)
        except anyio.get_cancelled_exc_class():
            pass


async def shielded() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.3)


async def raises() -> None:
    raise KeyError("secret")


@pytest.mark.parametrize("work", [at_once, after_a_turn])
async def test_a_result_comes_back(work: Callable[[], Coroutine[Any, Any, int]]) -> None:
    assert await finish_within(work, 30, name="it") == 1


async def test_an_exception_comes_back() -> None:
    with pytest.raises(KeyError):
        await finish_within(raises, 30, name="it")


@pytest.mark.parametrize("work", [forever, swallows_once, swallows_a_while, shielded])
async def test_time_is_up(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    with anyio.fail_after(5), pytest.raises(TimeoutError):
        await finish_within(work, 0.01, name="it")
    await anyio.sleep(0.35)  # what trio leaves behind ends by itself


@pytest.mark.parametrize("work", [forever, swallows_once, swallows_a_while])
async def test_cancellation_from_outside_wins(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    with anyio.move_on_after(0.02) as scope:
        await finish_within(work, 30, name="it")
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await anyio.sleep(0.45)


async def test_cancelled_by_itself_is_a_failure() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("trio gives nobody its Cancelled to raise")

    async def cancels_itself() -> None:
        await anyio.lowlevel.checkpoint()
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="by itself"):
        await finish_within(cancels_itself, 30, name="it")


async def test_a_native_cancellation_is_not_swallowed() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("tasks of asyncio")
    task = asyncio.create_task(finish_within(swallows_once, 30, name="it"))
    await anyio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_time_out_around_keeps_its_count() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("asyncio.timeout")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await finish_within(swallows_once, 30, name="it")
    with pytest.raises(TimeoutError):
        await finish_within(swallows_once, 0.01, name="it")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert sys.version_info >= (3, 11)


async def test_time_outs_within_are_the_codes_own_business() -> None:
    async def works_on() -> str:
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        await anyio.sleep(0.1)  # longer than the grace: it was not the code that was cancelled
        assert scope.cancelled_caught
        return "recovered"

    async def gives_up() -> None:
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()

    assert await finish_within(works_on, 30, name="it") == "recovered"
    with pytest.raises(TimeoutError):
        await finish_within(gives_up, 30, name="it")
    with anyio.fail_after(5) as around:  # and nobody is left cancelled
        await anyio.lowlevel.checkpoint()
    assert not around.cancel_called


async def test_time_outs_within_put_nothing_off() -> None:
    async def retries_for_ever() -> None:
        while True:
            with anyio.move_on_after(0.01):
                await anyio.sleep_forever()

    with anyio.fail_after(5), pytest.raises(TimeoutError):
        await finish_within(retries_for_ever, 0.1, name="it")


async def test_a_native_time_out_within() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("asyncio.timeout")

    async def works_on() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30)
        except TimeoutError:
            await asyncio.sleep(0.1)
        return "recovered"

    assert await finish_within(works_on, 30, name="it") == "recovered"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_native_time_out_within_that_dawdles_is_closed_with_the_rest() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("asyncio.timeout")

    async def dawdles() -> None:
        async with asyncio.timeout(0.01):
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(30)

    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await finish_within(dawdles, 0.1, name="it")
