"""Cancellation at every moment of every pattern and combinator: nothing left, caught, wrapped, retried."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from returns.result import Success

from executionkit import compat
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import PermanentError, RateLimitError
from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    StageFinished,
    StageStarted,
)
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse, ToolCall, user
from executionkit.retry import RetryConfig
from executionkit.runtime.frame import Settings
from executionkit.runtime.ledger.accounts import Account
from executionkit.runtime.tracing import Tracer
from executionkit.stage import Stage
from executionkit.tools import Tool
from tests.conftest import needs
from tests.doubles import Asked, Buy, Model, held, new_context, reply, result_of, soon

pytestmark = pytest.mark.anyio


async def rating(text: str, provider: LLMProvider) -> float:
    await checkpoint()
    await provider.complete([user(text)])
    return 0.5


async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    return await compat.consensus(provider, prompt, num_samples=2)


async def slow(a: int) -> str:
    for _ in range(3):
        await checkpoint()
    return str(a)


TOOL = Tool("slow", "Waits.", {"type": "object", "properties": {"a": {"type": "integer"}}}, slow)


def answer(asked: Asked) -> object:
    """Answer; the third call is refused once, so that a retry is among what gets cancelled."""
    if asked.number == 3:
        return RateLimitError("busy")
    if asked.tools and len(asked.messages) < 4:
        calls = tuple([ToolCall(f"id{index}", "slow", {"a": index}) for index in range(2)])
        return LLMResponse("", calls, "tool_calls", {"prompt_tokens": 1, "completion_tokens": 1})
    return reply("Score: 5" if "Rate how" in asked.prompt else "ok")


async def no(text: str, provider: LLMProvider) -> float:
    await checkpoint()
    raise KeyError(text)


STAGES: dict[str, Stage[str, Any]] = {
    "complete": complete(),
    "consensus": consensus(n=5, max_concurrency=2),
    "refine": refine(max_iterations=2),
    "refine with an evaluator": refine(rating, max_iterations=2),
    "react": react([TOOL]),
    "step": step(function),
    "pipeline": complete() >> consensus(n=2) >> Buy("a", 2),
    "fallback": refine(no) | complete().map(lambda text: 1 / 0) | consensus(n=3),
    "both": complete() & (Buy("a", 2) >> Buy("b", 2)),
    "map": consensus(n=2).map(str.upper),
    "within": consensus(n=4, max_concurrency=4).within(TokenUsage(output_tokens=300)),
    "using": (complete() >> complete()).using(Model(ticks=lambda asked: 2)),
}
BUDGET = TokenUsage(10**6, 10**6, 100)
RETRY = RetryConfig(base_delay=0.0)


class Scene:
    """One run on an account of its own, watched from outside."""

    def __init__(self, stage: Stage[str, Any]) -> None:
        self.stage = stage
        self.events: list[Event] = []
        self.model = Model(answer, ticks=lambda asked: 3 + asked.number % 3)
        self.account = Account(None, BUDGET)
        settings = Settings(RETRY, Tracer(self.events.append), None)
        self.context = new_context(self.model, self.account, settings)
        self.outcome: object = None
        self.escaped: BaseException | None = None

    async def play(self) -> None:
        try:
            self.outcome = await self.context.attempt(lambda below: below.run(self.stage, "question"))
        except BaseException as error:
            self.escaped = error
            raise

    def is_in_balance(self) -> bool:
        asked = sum(isinstance(event, CallStarted) for event in self.events)
        answered = sum(isinstance(event, CallFinished) for event in self.events)
        started = sum(isinstance(event, AttemptStarted) for event in self.events)
        finished = sum(isinstance(event, AttemptFinished) for event in self.events)
        opened = sum(isinstance(event, StageStarted) for event in self.events)
        closed = sum(isinstance(event, StageFinished) for event in self.events)
        return (
            held(self.account) == NO_USAGE
            and started == finished == self.account.cost.llm_calls
            and asked == answered
            and opened == closed
            and self.model.in_flight == 0
        )


async def turns_of(stage: Stage[str, Any]) -> int:
    """Count the turns of the event loop that a sound run takes."""
    scene, turns = Scene(stage), 0
    async with anyio.create_task_group() as group:

        async def count() -> None:
            nonlocal turns
            while True:
                await checkpoint()
                turns += 1

        group.start_soon(count)
        await scene.play()
        group.cancel_scope.cancel()
    assert isinstance(scene.outcome, Success)
    assert scene.is_in_balance()
    return turns


async def cancelled_after(scene: Scene, turns: int) -> None:
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            for _ in range(turns):
                await checkpoint()
            group.cancel_scope.cancel()

        group.start_soon(cancel)
        await scene.play()


@pytest.mark.parametrize("name", STAGES)
async def test_cancelled_at_every_turn(name: str) -> None:
    stage = STAGES[name]
    turns = await turns_of(stage)
    cut_short = 0
    for moment in range(turns + 2):
        scene = Scene(stage)
        await soon(cancelled_after(scene, moment))
        if scene.escaped is None:
            assert isinstance(scene.outcome, Success)
        else:
            cut_short += 1
            assert isinstance(scene.escaped, anyio.get_cancelled_exc_class())
            assert scene.outcome is None
        assert scene.is_in_balance()
        asked = scene.model.calls
        await checkpoint()
        assert scene.model.calls == asked, "something went on after the cancellation"
        again = Scene(stage)
        await again.play()
        assert isinstance(again.outcome, Success)
    assert cut_short > turns // 2  # the exact number varies: trio shuffles the tasks of a turn


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_is_cancelled_at_every_turn(name: str, anyio_backend: str) -> None:
    """The same by `asyncio.Task.cancel`, which strikes once and not again."""
    for moment in range(await turns_of(STAGES[name]) + 2):
        scene = Scene(STAGES[name])
        task = asyncio.create_task(scene.play())
        for _ in range(moment):
            await checkpoint()
        was_done = task.done()
        task.cancel()
        await soon(asyncio.wait([task]))
        assert task.cancelled() or was_done or scene.outcome is not None
        assert scene.is_in_balance()


@pytest.mark.parametrize("name", STAGES)
async def test_a_run_is_cancelled_and_returns_nothing(name: str) -> None:
    model = Model(answer, ticks=lambda asked: 10_000)
    returned: list[object] = []
    stage: Stage[str, Any] = STAGES[name]
    if name == "using":
        stage = complete().using(model)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def run() -> None:
                returned.append(await stage.run(model, "question", max_cost=BUDGET))

            group.start_soon(run)
            await some_turns()
            scope.cancel()
    assert not returned
    assert model.in_flight == 0


async def some_turns() -> None:
    for _ in range(5):
        await checkpoint()


async def test_waiting_for_room_can_be_cancelled() -> None:
    account = Account(None, TokenUsage(output_tokens=50))
    model = Model(ticks=lambda asked: 10_000)
    context = new_context(model, account, Settings(RETRY, None, None))
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lambda: context.complete([user("x")]))
        for _ in range(10):
            await checkpoint()
        assert (model.calls, held(account).output_tokens) == (1, 50)
        group.cancel_scope.cancel()
    assert held(account) == NO_USAGE
    assert account.cost == TokenUsage(0, 0, 1)


@pytest.mark.parametrize("make", [lambda: KeyboardInterrupt(), lambda: SystemExit(3)])
@pytest.mark.parametrize("anyio_backend", [pytest.param("trio", marks=needs("trio"))])
async def test_an_interrupt_is_neither_caught_nor_retried(
    make: Callable[[], BaseException], anyio_backend: str
) -> None:
    raised = make()
    model = Model(lambda asked: raised)
    with pytest.raises(type(raised)):
        await complete().run(model, "x")
    assert model.calls == 1


async def test_a_provider_that_fails_for_being_cancelled_is_not_retried() -> None:
    class Converting(Model):
        async def complete(self, messages: Any, **kwargs: Any) -> LLMResponse:
            try:
                return await super().complete(messages, **kwargs)
            except anyio.get_cancelled_exc_class():
                raise PermanentError("cancelled, it says") from None

    model = Converting(ticks=lambda asked: 10_000)
    stage = complete() | complete() | consensus(n=3)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(stage.run, model, "x")
            await some_turns()
            scope.cancel()
    assert scope.cancelled_caught
    assert model.calls == 1


async def test_a_result_survives_a_cancellation_that_comes_too_late() -> None:
    values: list[str] = []
    with anyio.CancelScope() as scope:
        values.append(result_of(await complete().run(Model(ticks=lambda asked: 0), "x")).value)
        scope.cancel()
    assert values == ["ok"]
