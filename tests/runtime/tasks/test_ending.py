"""An end that is on its way: whoever has not heard of it yet buys nothing."""

import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context

import anyio
import pytest
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from executionkit.core.usage import TokenUsage
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse, Message, user
from executionkit.runtime.frame import Settings
from executionkit.runtime.ledger.accounts import Account
from executionkit.runtime.tasks.background import Background
from executionkit.runtime.tasks.ending import Level, interruptible, is_ending, is_interrupt_coming
from executionkit.runtime.tasks.gather import gather
from executionkit.runtime.tasks.threads import in_thread
from executionkit.runtime.tasks.timeouts import finish_within
from executionkit.stage import Stage
from tests.conftest import needs
from tests.doubles import NEVER, Asked, Model, new_context, reply, soon

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
        try:
            await gather(work, 2, 2)
        except KeyboardInterrupt:
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
            await interruptible(call())
            return
        async with lock:
            is_locked.set()
            while not lock.statistics().tasks_waiting:
                await checkpoint()
            Level().announce()
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
        Level().announce()
        if index == 0:
            return await interruptible(call())
        with pytest.raises(KeyError):
            await interruptible(refused())
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
        await interruptible(call())
    assert scope.cancelled_caught
    assert closed == [True]


Held = Callable[[type[BaseException]], Stage[str, str]]
"""Makes a stage that raises an interrupt, and holds it up to clean up."""


async def tidying(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
    return PatternResult(prompt)


def raising(kind: type[BaseException]) -> Stage[str, str]:
    async def raises(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await checkpoint()
        raise kind

    return step(raises)


def beside_a_stage_that_tidies_up(kind: type[BaseException]) -> Stage[str, str]:
    return (raising(kind) & step(tidying)).map(str)


def in_a_step_that_tidies_up(kind: type[BaseException]) -> Stage[str, str]:
    async def runs(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        try:
            await (raising(kind) & complete()).run(provider, prompt)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
        return PatternResult(prompt)

    return step(runs)


def in_a_call_of_a_group_that_tidies_up(kind: type[BaseException]) -> Stage[str, str]:
    async def runs(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        async def asks() -> None:
            with pytest.raises(kind):
                await provider.complete([user("interrupt")])
            await anyio.sleep(0.1)
            raise kind

        async with anyio.create_task_group() as group:
            group.start_soon(tidying, provider, prompt)
            await asks()
        return PatternResult(prompt)

    return step(runs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "held",
    [beside_a_stage_that_tidies_up, in_a_step_that_tidies_up, in_a_call_of_a_group_that_tidies_up],
)
async def test_no_task_of_a_run_buys_while_an_interrupt_is_held_up(
    held: Held, kind: type[BaseException]
) -> None:
    asked_before: list[int] = []

    class Struck(kind):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            asked_before.append(model.calls)

    def answered(asked: Asked) -> LLMResponse:
        if asked.messages[-1]["content"] == "interrupt":
            raise Struck
        return reply("ok")

    model = Model(answered)
    many: Stage[str, str] = complete()
    for _ in range(50):
        many >>= complete()
    with pytest.raises(kind):
        await soon((held(Struck) & many).run(model, "q"))
    assert asked_before[0] == model.calls


async def test_who_catches_an_interrupt_is_not_held_up_by_it() -> None:
    async def catches(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        with pytest.raises(KeyboardInterrupt):
            await (raising(KeyboardInterrupt) & complete()).run(provider, prompt)
        before, others = is_ending(), list[bool]()

        async def other() -> None:
            others.append(is_ending())

        await finish_within(other, name="other")
        return PatternResult(f"{before} {others}")

    outcome = await soon(step(catches).run(Model(), "q"))
    assert outcome.unwrap().value == "False [False]"


async def test_who_handles_an_interrupt_still_holds_it() -> None:
    async def handles(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        try:
            await (raising(KeyboardInterrupt) & complete()).run(provider, prompt)
        except KeyboardInterrupt:
            handled.append(is_ending())
            with pytest.raises(ValueError, match="no"):
                raise ValueError("no") from None
            handled.append(is_ending())
        return PatternResult(prompt)

    handled = list[bool]()
    assert (await soon(step(handles).run(Model(), "q"))).unwrap().value == "q"
    assert handled == [True, True]


async def test_others_go_on_where_an_interrupt_was_caught_and_nothing_is_heard_of_it() -> None:
    model, was_caught, has_gone_on = Model(), anyio.Event(), anyio.Event()

    async def catches(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        with pytest.raises(KeyboardInterrupt):
            await (raising(KeyboardInterrupt) & complete()).run(provider, prompt)
        was_caught.set()
        await has_gone_on.wait()
        return PatternResult(prompt)

    async def goes_on(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await was_caught.wait()
        await provider.complete([user("a")])
        has_gone_on.set()
        return PatternResult(prompt)

    outcome = await soon((step(catches) & step(goes_on)).run(model, "q"))
    assert outcome.unwrap().value == ("q", "q")


async def test_what_keeps_its_context_keeps_nothing_of_the_run() -> None:
    contexts, values = list[Context](), list["weakref.ref[Value]"]()

    class Value:
        pass

    def value_of(_: str) -> Value:
        contexts.append(copy_context())
        value = Value()
        values.append(weakref.ref(value))
        return value

    async def steps(provider: LLMProvider, prompt: str) -> PatternResult[Value]:
        return PatternResult(value_of(prompt))

    (await (complete().map(value_of) & step(steps)).run(Model(), "q")).unwrap()
    gc.collect()
    assert [value() for value in values] == [None, None]
    assert len(contexts) == 2


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_that_waited_for_the_budget_is_not_sent_once_it_is_cancelled(turns: int) -> None:
    asked_before: list[int] = []
    model = Model()
    outcome: object = None

    async def cancel(scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await cancel_shielded_checkpoint()
        scope.cancel()
        asked_before.append(model.calls)

    budget = TokenUsage(output_tokens=4200)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel, scope)
            outcome = await (consensus(n=6) & complete() >> complete()).run(model, "q", max_cost=budget)
    assert outcome is not None or asked_before == [model.calls]


async def test_a_call_that_waits_for_the_end_of_its_run_is_in_no_cost() -> None:
    model, account = Model(), Account()
    context, counted = new_context(model, account, Settings(NEVER, None, None)), list[int]()

    async def ask() -> None:
        level = Level()
        level.ends_at = 0.0
        level.enter()
        await context.complete([user("q")])

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        for _ in range(5):
            await checkpoint()
            counted.append(account.cost.llm_calls)
    assert counted == [0] * 5
    assert (model.calls, account.cost.llm_calls) == (1, 1)  # it goes on where no end comes


async def read_rows(model: Model) -> None:
    async with (complete() >> complete()).over(["a"], model, key=str) as batch:
        async for _ in batch:
            pass


async def read_records(model: Model) -> None:
    async with (complete() >> complete()).stream(model, "q") as run:
        async for _ in run:
            pass


@pytest.mark.parametrize("read", [read_rows, read_records])
async def test_nothing_is_bought_for_a_reader_who_is_cancelled_and_does_not_know_it_yet(
    read: Callable[[Model], Awaitable[None]],
) -> None:
    def answered(asked: Asked) -> LLMResponse:
        if asked.number == 1:
            scope.cancel()
        return reply("ok")

    model = Model(answered, ticks=lambda asked: 5)
    with anyio.CancelScope() as scope:
        await soon(read(model))
    assert scope.cancelled_caught
    assert model.calls == 1


async def test_a_read_that_timed_out_holds_nothing_up_once_there_is_another() -> None:
    ending = list[bool]()
    may_begin = anyio.Event()

    async def looks(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await may_begin.wait()
        ending.append(is_ending())
        return PatternResult(prompt)

    async with step(looks).over(["a", "b"], Model(), key=str) as batch:
        with anyio.move_on_after(0.01) as scope:
            await anext(batch)
        ending.append(is_ending())
        may_begin.set()
        rows = [row.key async for row in batch]
    assert scope.cancelled_caught
    assert (sorted(rows, key=str), ending) == (["a", "b"], [False, False, False])


async def test_an_interrupt_in_a_thread_is_told_before_the_event_loop_hears_of_it() -> None:
    has_begun, was_told = threading.Event(), list[bool]()

    def raises() -> None:
        has_begun.set()
        raise KeyboardInterrupt

    async def work(index: int) -> None:
        if index == 0:
            await finish_within(lambda: in_thread(raises), name="a tool")
        while not has_begun.is_set():
            await cancel_shielded_checkpoint()
        give_up = time.monotonic() + 5
        while not is_interrupt_coming() and time.monotonic() < give_up:
            time.sleep(0.001)  # noqa: ASYNC251 - so that the event loop hears of nothing
        was_told.append(is_interrupt_coming())

    with pytest.raises(KeyboardInterrupt):
        await gather(work, 2, 2)
    assert was_told == [True]


class Struck:
    """A model that is interrupted as it is cancelled; one call of two. The second one ends `until`."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind
        self._calls = 0
        self.until: anyio.CancelScope | None = None

    async def complete(self, messages: list[Message], **options: object) -> LLMResponse:
        self._calls += 1
        is_first = self._calls == 1
        if self._calls == 2 and self.until is not None:
            self.until.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            if is_first:
                raise self._kind
        return reply("ok")


async def cancelled(stage: Stage[str, object], model: Struck) -> None:
    with anyio.CancelScope() as model.until:
        await stage.run(model, "q")


async def late(stage: Stage[str, object], model: Struck) -> None:
    await stage.run(model, "q", deadline=0.3)


async def left(stage: Stage[str, object], model: Struck) -> None:
    async with stage.stream(model, "q") as run:
        with anyio.CancelScope() as model.until:
            async for _ in run:
                pass


async def left_rows(stage: Stage[str, object], model: Struck) -> None:
    async with stage.over(["a", "b"], model, key=str) as batch:
        with anyio.CancelScope() as model.until:
            async for _ in batch:
                pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [cancelled, late, left, left_rows])
async def test_an_interrupt_passes_that_comes_as_its_task_is_cancelled(
    end: Callable[[Stage[str, object], Struck], Awaitable[None]], kind: type[BaseException]
) -> None:
    with pytest.raises(kind):
        await soon(end((complete() & complete()).map(str), Struck(kind)))
