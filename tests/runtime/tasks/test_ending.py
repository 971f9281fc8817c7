"""An end that is on its way: whoever has not heard of it yet buys nothing."""

import anyio
import pytest
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from executionkit.core.usage import TokenUsage
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider
from executionkit.runtime.tasks.background import Background
from executionkit.runtime.tasks.ending import Level, heeding_interrupts, is_ending, is_interrupt_coming
from executionkit.runtime.tasks.gather import gather
from executionkit.runtime.tasks.timeouts import finish_within
from executionkit.stage import Stage
from tests.conftest import needs
from tests.doubles import Model, soon

pytestmark = pytest.mark.anyio

KINDS = [KeyboardInterrupt, SystemExit, type("Stop", (BaseException,), {})]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 13])
async def test_no_task_of_a_run_buys_after_an_interrupt_in_another(
    kind: type[BaseException], turns: int
) -> None:
    asked_before: list[int] = []
    model = Model()

    async def interrupted(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        for _ in range(turns):
            await checkpoint()
        asked_before.append(model.calls)
        raise kind

    many: Stage[str, str] = complete()
    for _ in range(20):
        many >>= complete()
    beside = many & many.within(TokenUsage(llm_calls=99))
    with pytest.raises(kind):
        await soon(((step(interrupted) & many) & beside).run(model, "q"))
    assert asked_before == [model.calls]


async def test_an_interrupt_is_told_to_the_levels_around_and_to_no_other() -> None:
    levels: dict[str, tuple[bool, bool]] = {}

    async def at(name: str) -> None:
        levels[name] = (is_interrupt_coming(), is_ending())

    async def interrupted() -> None:
        await checkpoint()
        raise KeyboardInterrupt

    async def work(index: int) -> None:
        if index == 0:
            await finish_within(interrupted, name="one")
        else:
            while not is_interrupt_coming():
                await cancel_shielded_checkpoint()
            await finish_within(lambda: at("within the group"), name="other")

    async def beside() -> None:
        with pytest.raises(KeyboardInterrupt):
            await gather(work, 2, 2)
        await at("around the group")

    background = Background(beside, "beside")
    background.start()
    with anyio.fail_after(5):
        await background.wait()
    await at("outside")
    assert levels["outside"] == (False, False)
    assert levels["around the group"] == (True, True)


@pytest.mark.parametrize("anyio_backend", [pytest.param("trio", marks=needs("trio"))])
async def test_what_is_heard_of_an_interrupt_ends_a_call_before_its_next_line(anyio_backend: str) -> None:
    lock, is_locked, lines = anyio.Lock(), anyio.Event(), list[str]()

    async def call() -> None:
        async with lock:
            lines.append("has the lock")
            await checkpoint()
            lines.append("sends")

    async def work(index: int) -> None:
        if index == 0:
            await is_locked.wait()
            await heeding_interrupts(call())
            return
        async with lock:
            is_locked.set()
            while not lock.statistics().tasks_waiting:
                await checkpoint()
            Level().interrupt()
        for _ in range(5):
            await cancel_shielded_checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await gather(work, 2, 2)
    assert lines == ["has the lock"]
    lock.acquire_nowait()


async def test_a_call_goes_on_where_the_interrupt_never_comes() -> None:
    async def call() -> str:
        await checkpoint()
        with pytest.raises(TimeoutError), anyio.fail_after(0):
            await anyio.sleep_forever()
        return "answer"

    async def refused() -> str:
        await checkpoint()
        raise KeyError("no")

    async def work(index: int) -> str:
        Level().interrupt()
        if index == 0:
            return await heeding_interrupts(call())
        with pytest.raises(KeyError):
            await heeding_interrupts(refused())
        return "refused"

    assert await soon(gather(work, 2, 2)) == ["answer", "refused"]


async def test_a_call_that_is_cancelled_is_told_so() -> None:
    async def call() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            closed.append(True)

    closed = list[bool]()
    with anyio.move_on_after(0.01) as scope:
        await heeding_interrupts(call())
    assert scope.cancelled_caught
    assert closed == [True]
