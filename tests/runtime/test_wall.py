"""The wall between a run and foreign code: whatever that does, typed failures or the caller's cancellation."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partialmethod
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
from returns.result import Failure
from typing_extensions import override

from executionkit import (
    DeadlineExceededError,
    ExecutionKitError,
    LLMProvider,
    LLMResponse,
    Message,
    PatternResult,
    ProviderError,
    RetryConfig,
    ScriptedProvider,
    TokenUsage,
    complete,
    consensus,
    react,
    refine,
    step,
    tool,
)
from executionkit.batch import Batch
from executionkit.errors import EvaluationError, StageError
from executionkit.events import Event, RunFinished, ToolFinished, ToolStarted
from executionkit.provider import ToolCall
from executionkit.runtime.context import Context
from executionkit.runtime.tasks import timeouts
from executionkit.runtime.tasks.background import Background
from executionkit.stage import Stage
from executionkit.streaming import Streaming
from tests.doubles import Model, error_of, reply, result_of, soon

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(base_delay=0, max_delay=0)


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "GRACE", 0.1)


def is_asyncio() -> bool:
    return sniffio.current_async_library() == "asyncio"


async def of_another_task() -> None:
    """Raise the cancellation of a task that is not ours, as `await` does."""
    if is_asyncio():
        task = asyncio.create_task(asyncio.sleep(30))
        await asyncio.sleep(0)
        task.cancel()
        await task
    stray: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException as cancelled:
            stray.append(cancelled)
            raise
    raise stray[0]


class Stray:
    """A provider whose own task is cancelled."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        self.calls += 1
        await of_another_task()
        return reply()


@pytest.mark.parametrize("stage", [complete(), consensus(n=3), complete() & complete(), refine()])
async def test_a_provider_that_is_cancelled_by_itself_is_a_provider_error(stage: Stage[str, Any]) -> None:
    error = error_of(await soon(stage.run(Stray(), "q", retry=AT_ONCE)))
    assert isinstance(error, ProviderError)
    assert "cancelled by itself" in str(error)
    assert error.cost.llm_calls >= 1


async def stray_evaluator(text: str, provider: LLMProvider) -> float:
    await of_another_task()
    return 0.5


async def stray_step(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    await of_another_task()
    return PatternResult(prompt)


class StrayStage(Stage[str, str], frozen=True):
    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        await of_another_task()
        return PatternResult(value)


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        (refine(stray_evaluator), EvaluationError),
        (step(stray_step), StageError),
        (complete() >> StrayStage(), StageError),
        (complete() & StrayStage(), StageError),
        (complete().map(lambda _: (_ for _ in ()).throw(asyncio.CancelledError)), StageError),
    ],
)
async def test_other_code_that_is_cancelled_by_itself_is_a_failure(
    stage: Stage[str, Any], kind: type[ExecutionKitError]
) -> None:
    error = error_of(await soon(stage.run(ScriptedProvider(lambda _: "a"), "q")))
    assert type(error) is kind
    assert stage.name == "Step" or isinstance(stage, StrayStage) or error.cost.llm_calls <= 1


@pytest.mark.parametrize("wait", [0.001 * index for index in range(1, 11)])
async def test_a_nested_run_at_the_deadline_of_the_outer_one(wait: float) -> None:
    calls = 0

    class Slow:
        async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
            nonlocal calls
            calls += 1
            await anyio.sleep(wait)
            return reply()

    async def nested(text: str, provider: LLMProvider) -> float:
        while True:
            await consensus(n=3).run(provider, text, deadline=wait * 1.5)

    outcome = await soon(refine(nested).run(Slow(), "q", deadline=0.01))
    error = error_of(outcome)
    assert isinstance(error, DeadlineExceededError)
    assert error.cost.llm_calls == calls


@pytest.mark.parametrize("delay", [0.009, 0.01, 0.011])
async def test_a_tools_time_out_beside_the_callers(delay: float) -> None:
    @tool(timeout=0.01)
    async def slow() -> str:
        """Wait."""
        await anyio.sleep(30)
        return "late"

    model = Model(lambda asked: LLMResponse("", (ToolCall(f"id{asked.number}", "slow", {}),)))
    outcomes: list[object] = []
    for _ in range(5):
        with anyio.move_on_after(delay):
            outcomes.append(await react([slow], max_rounds=1).run(model, "q"))
        await anyio.lowlevel.checkpoint()  # nobody is left cancelled
    assert all(isinstance(outcome, Failure) for outcome in outcomes)


class Shielding:
    """A provider that does not hear of a cancellation until the test is over."""

    def __init__(self) -> None:
        self.is_over = anyio.Event()

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        with anyio.CancelScope(shield=True):
            while not self.is_over.is_set():
                with suppress(BaseException):
                    await self.is_over.wait()
        return reply()


class Converting:
    """A provider that makes a failure of a cancellation."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        self.calls += 1
        try:
            await anyio.sleep(30)
        except BaseException:
            raise ProviderError("cancelled, it says") from None
        return reply()


class Swallowing:
    """A provider that answers all the same."""

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        with suppress(BaseException):
            await anyio.sleep(30)
        return reply()


class Grouping:
    """A provider whose tasks fail for being cancelled."""

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        async def fails() -> None:
            try:
                await anyio.sleep(30)
            finally:
                raise ValueError("beside the cancellation")

        async with anyio.create_task_group() as group:
            group.start_soon(fails)
            group.start_soon(anyio.sleep, 30)
        return reply()


DEAF: list[Callable[[], LLMProvider]] = [Shielding, Converting, Swallowing, Grouping]


@pytest.mark.parametrize("make", DEAF)
@pytest.mark.parametrize("stage", [complete(), consensus(n=3), complete() >> complete(), refine()], ids=str)
async def test_no_provider_outlives_the_deadline(
    make: Callable[[], LLMProvider], stage: Stage[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    error = error_of(await soon(stage.run(model, "q", deadline=0.05, retry=AT_ONCE)))
    assert isinstance(error, DeadlineExceededError)
    assert error.cost.llm_calls in {1, 3}
    left = [record.getMessage() for record in caplog.records]
    assert all(f"the run of {type(stage).__name__} did not end" in line for line in left)
    assert bool(left) == isinstance(model, Shielding)
    if isinstance(model, Shielding):
        model.is_over.set()
        await anyio.sleep(0.01)


@pytest.mark.parametrize("make", [Converting, Swallowing, Grouping])
@pytest.mark.parametrize("stage", [complete(), consensus(n=3), complete() | complete()], ids=str)
@pytest.mark.parametrize("deadline", [None, 30.0])
async def test_the_callers_cancellation_is_all_that_leaves(
    make: Callable[[], LLMProvider], stage: Stage[str, Any], deadline: float | None
) -> None:
    with anyio.fail_after(10), anyio.move_on_after(0.02) as scope:
        await stage.run(make(), "q", retry=AT_ONCE, deadline=deadline)
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_native_cancellation_that_a_provider_converts_is_not_retried() -> None:
    if not is_asyncio():
        pytest.skip("tasks of asyncio")
    model = Converting()
    for stage in (complete(), complete() | complete()):
        task = asyncio.create_task(stage.run(model, "q", retry=AT_ONCE))
        await asyncio.sleep(0.01)
        calls = model.calls
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert model.calls == calls


async def test_time_outs_of_an_evaluators_own_are_its_own_business() -> None:
    async def impatient(text: str, provider: LLMProvider) -> float:
        with anyio.move_on_after(0.01):
            await anyio.sleep(30)
        with suppress(TimeoutError):
            if is_asyncio():
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(30)
                await asyncio.wait_for(asyncio.sleep(30), 0.01)
            with anyio.fail_after(0.01):
                await anyio.sleep(30)
        await anyio.sleep(0.3)  # longer than the grace
        return 1.0

    assert result_of(await soon(refine(impatient).run(ScriptedProvider(lambda _: "a"), "q"))).score == 1.0


async def test_a_refusal_lets_others_run() -> None:
    refusals = 0
    with anyio.move_on_after(0.2) as scope:
        while True:
            outcome = await complete(max_tokens=20).run(
                ScriptedProvider(lambda _: "a"), "q", max_cost=TokenUsage(input_tokens=1)
            )
            assert isinstance(outcome, Failure)
            refusals += 1
    assert scope.cancelled_caught
    assert refusals


async def test_a_tool_call_that_is_cancelled_is_said_to_have_finished() -> None:
    @tool
    async def slow() -> str:
        """Wait."""
        await anyio.sleep(30)
        return "late"

    model = Model(lambda asked: LLMResponse("", (ToolCall(f"id{asked.number}", "slow", {}),)))
    events: list[Event] = []
    outcome = await soon(react([slow]).run(model, "q", deadline=0.05, trace=events.append))
    assert isinstance(error_of(outcome), DeadlineExceededError)
    started = [event for event in events if isinstance(event, ToolStarted)]
    finished = [event for event in events if isinstance(event, ToolFinished)]
    assert [event.id for event in started] == [event.id for event in finished]
    assert finished[0].error in {"CancelledError", "Cancelled"}


class Odd(ProviderError):
    def __init__(self) -> None:
        super().__init__("odd")
        self.metadata = 5  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


class Unmade(ProviderError):
    def __new__(cls, a: int, b: int) -> "Unmade":  # noqa: PYI034
        return super().__new__(cls)

    def __init__(self, a: int, b: int) -> None:
        super().__init__("unmade")


@pytest.mark.parametrize(
    "failure", [Odd(), Unmade(1, 2), RecursionError("deep"), ExceptionGroup("two", [KeyError(1)])]
)
async def test_odd_errors_come_back_typed_and_keep_the_cost(failure: Exception) -> None:
    model = Model(lambda asked: failure if asked.number == 2 else reply())
    error = error_of(await (complete() >> complete()).run(model, "q", retry=RetryConfig(max_retries=0)))
    assert isinstance(error, ProviderError)
    assert error.cost == TokenUsage(3, 2, 2)
    assert error.metadata["step_count"] == 1


def test_a_recursion_without_end_in_a_map_is_a_stage_error() -> None:
    def deep(value: str) -> str:
        return deep(value)

    error = error_of(complete().map(deep).run_sync(ScriptedProvider(["a"]), "q"))
    assert isinstance(error, StageError)
    assert isinstance(error.__cause__, RecursionError)
    assert error.cost.llm_calls == 1


async def test_a_run_whose_task_somebody_else_cancels_is_a_failure() -> None:
    if not is_asyncio():
        pytest.skip("tasks of asyncio")

    async def cancels() -> None:
        await asyncio.sleep(0)
        next(task for task in asyncio.all_tasks() if task.get_name().startswith("the run of")).cancel()

    cancelling = asyncio.create_task(cancels())
    waiting = Model(ticks=lambda asked: 10**6)
    outcome = await soon(complete().run(waiting, "q", deadline=30))
    assert isinstance(error_of(outcome), StageError)
    await cancelling


class Deaf:
    """A provider that hears of no cancellation, until it may answer."""

    def __init__(self) -> None:
        self.is_asked, self.may_answer, self.has_answered = anyio.Event(), anyio.Event(), anyio.Event()

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        with anyio.CancelScope(shield=True):
            self.is_asked.set()
            await self.may_answer.wait()
            self.has_answered.set()
        return reply()

    async def answer(self) -> None:
        """Answer, and let what waited for that end."""
        self.may_answer.set()
        await self.has_answered.wait()
        for _ in range(30):
            await anyio.lowlevel.checkpoint()


async def reading(run: Streaming[Any] | Batch[Any, Any], model: Deaf) -> None:
    """Read until the model is asked."""

    async def read() -> None:
        async for _ in run:
            pass

    async with run, anyio.create_task_group() as group:
        group.start_soon(read)
        await model.is_asked.wait()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["stream", "over"])
async def test_the_cost_of_what_was_left_stays_where_its_run_does_not_listen(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Background, "stop", partialmethod(Background.stop, 0.05))
    model, events = Deaf(), list[Event]()
    stage = complete() >> complete()
    run: Streaming[Any] | Batch[Any, Any] = (
        stage.stream(model, "q", trace=events.append)
        if way == "stream"
        else stage.over(["q"], model, key=str, trace=events.append)
    )
    await reading(run, model)
    told = error_of(run.outcome) if isinstance(run, Streaming) else run.failure
    assert told is not None
    assert run.cost == told.cost == TokenUsage(llm_calls=1)
    await model.answer()
    assert told == (error_of(run.outcome) if isinstance(run, Streaming) else run.failure)
    (finished,) = [event for event in events if isinstance(event, RunFinished)]
    assert run.cost == finished.cost == TokenUsage(llm_calls=1)


@pytest.mark.told_early
async def test_the_run_around_pays_for_a_call_of_a_stream_that_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Background, "stop", partialmethod(Background.stop, 0.05))
    model, costs = Deaf(), list[TokenUsage]()

    async def leave(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        run = complete().stream(provider, prompt)
        await reading(run, model)
        await model.answer()
        costs.append(run.cost)
        return PatternResult("left")

    result = result_of(await step(leave).run(model, "q"))
    assert (costs, result.cost) == ([TokenUsage(llm_calls=1)], TokenUsage(3, 2, 1))
