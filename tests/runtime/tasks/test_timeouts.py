"""Code that does not listen is left behind, on both event loops."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from executionkit.runtime.tasks import timeouts
from executionkit.runtime.tasks.timeouts import finish_within

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


async def test_what_is_left_behind_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    go = asyncio.Event() if sniffio.current_async_library() == "asyncio" else anyio.Event()

    async def deaf() -> None:
        while not go.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await go.wait()
            except BaseException:
                pass

    with pytest.raises(TimeoutError):
        await finish_within(deaf, 0.01, name="the tool deaf")
    assert [record.getMessage() for record in caplog.records] == [
        "the tool deaf did not end when it was cancelled, and is left behind as it is"
    ]
    go.set()
    await anyio.sleep(0.01)


def test_an_event_loop_ends_without_what_was_left_behind(capfd: pytest.CaptureFixture[str]) -> None:
    async def deaf() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    async def main() -> str:
        with pytest.raises(TimeoutError):
            await finish_within(deaf, 0.01, name="it")
        return "ended"

    assert asyncio.run(main()) == "ended"
    gc.collect()
    assert capfd.readouterr().err == ""


async def test_the_inner_of_two_is_left_first(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "GRACE", 0.5)  # a tenth of it lies between the two: time for a busy machine

    async def deaf() -> None:
        with anyio.CancelScope(shield=True):
            while not is_over.is_set():
                with suppress(BaseException):
                    await anyio.sleep(0.005)

    async def outer() -> None:
        await finish_within(deaf, 30, name="the inner")

    is_over = anyio.Event()
    with pytest.raises(TimeoutError):
        await finish_within(outer, 0.01, name="the outer")
    assert [record.getMessage().split(" did")[0] for record in caplog.records] == ["the inner"]
    is_over.set()
    await anyio.sleep(0.05)


class Abort(BaseException):
    """Like a KeyboardInterrupt, but one that asyncio does not carry past the test."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Abort])
@pytest.mark.parametrize("turns", [0, 1])
async def test_an_interrupt_passes(kind: type[BaseException], turns: int) -> None:
    async def interrupted() -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        raise BaseExceptionGroup("several", [ValueError("beside it"), kind()])

    raised: list[BaseException] = []
    try:
        await finish_within(interrupted, 30, name="it")
    except BaseException as error:
        raised.append(error)
    assert [type(error) for error in raised] == [kind]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_during_the_grace_passes(kind: type[BaseException]) -> None:
    async def interrupted() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise kind

    raised: list[BaseException] = []
    try:
        await finish_within(interrupted, 0.01, name="it")
    except BaseException as error:
        raised.append(error)
    assert [type(error) for error in raised] == [kind]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Abort])
@pytest.mark.parametrize("open_one", [anyio.CancelScope, anyio.create_task_group])
@pytest.mark.parametrize("keeps_shields", [False, True])
async def test_an_interrupt_passes_though_something_is_left_open(
    kind: type[BaseException], open_one: Callable[[], Any], keeps_shields: bool
) -> None:
    async def interrupted() -> None:
        opened = open_one()
        if isinstance(opened, anyio.CancelScope):
            opened.__enter__()
        else:
            await opened.__aenter__()
        raise kind

    raised: list[BaseException] = []
    try:
        await finish_within(interrupted, 30, name="it", keeps_shields=keeps_shields)
    except BaseException as error:
        raised.append(error)
    assert [type(error) for error in raised] == [kind]


async def test_a_cancel_scope_that_code_leaves_open_stays_its_own() -> None:
    async def leaves_open() -> int:
        anyio.CancelScope().__enter__()
        await anyio.lowlevel.checkpoint()
        return 1

    for _ in range(3):
        assert await finish_within(leaves_open, 30, name="it") == 1
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_task_group_that_code_leaves_open_is_closed() -> None:
    async def leaves_open() -> int:
        await anyio.create_task_group().__aenter__()
        return 1

    for _ in range(3):
        assert await finish_within(leaves_open, 30, name="it") == 1


async def test_the_context_is_copied_in_and_what_is_set_there_stays_there() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)
    variable.set(1)

    async def reads() -> int:
        found = variable.get()
        variable.set(2)
        return found

    assert await finish_within(reads, 30, name="it") == 1
    assert variable.get() == 1


async def test_a_shield_holds_on_both_event_loops_where_that_is_asked_for() -> None:
    done: list[str] = []

    async def shields() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.02)
            done.append("shielded")
        await anyio.sleep(0.01)
        done.append("not")

    with pytest.raises(TimeoutError):
        await finish_within(shields, 0.01, name="it", keeps_shields=True)
    assert done == ["shielded"]


async def test_a_task_that_somebody_else_cancels_is_a_failure() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("tasks of asyncio")

    async def waits() -> None:
        await asyncio.sleep(30)

    async def cancel() -> None:
        await asyncio.sleep(0)
        next(task for task in asyncio.all_tasks() if task.get_name() == "the odd one").cancel()

    cancelling = asyncio.create_task(cancel())
    with pytest.raises(RuntimeError, match="somebody else"):
        await finish_within(waits, 30, name="the odd one")
    await cancelling


def test_a_run_with_a_deadline_lets_its_event_loop_end() -> None:
    """What `asyncio.run` cancels at its end is cancelled where no event loop runs any more."""
    with asyncio.Runner() as runner:

        async def begin() -> None:
            pending.append(asyncio.create_task(finish_within(anyio.sleep_forever, 60, name="slow")))
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

        pending: list[asyncio.Task[None]] = []
        runner.run(begin())
    assert pending[0].cancelled()


def test_a_task_whose_event_loop_was_closed_over_it_is_collected_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []

    def tell(unraisable: Any) -> None:
        told.append(unraisable.exc_value)

    def be_silent(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Asyncio says of each task that it was pending."""

    monkeypatch.setattr(sys, "unraisablehook", tell)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(be_silent)
    waiting = loop.create_task(finish_within(anyio.sleep_forever, name="slow"))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    del waiting
    gc.collect()
    assert told == []
