"""Opening a run: event loops, deadlines, retries in faked time, nested runs, and the records of it all."""

import asyncio
import gc
import logging
import threading
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from executionkit import compat
from executionkit.core.usage import TokenUsage
from executionkit.errors import (
    DeadlineExceededError,
    PermanentError,
    ProviderError,
    RateLimitError,
)
from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    Trace,
    WaitFinished,
    WaitStarted,
    with_content,
)
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse, user
from executionkit.providers.pool import Pool
from executionkit.retry import RetryConfig
from executionkit.runtime import tracing
from executionkit.runtime.context import MeteredProvider
from tests.doubles import AT_ONCE, Asked, Buy, Model, each, error_of, reply, result_of, soon


class Clock:
    """Time that passes when somebody sleeps, and not otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await checkpoint()

    def time(self) -> float:
        return self.now


@contextmanager
def faked_time(monkeypatch: pytest.MonkeyPatch) -> Generator[Clock, None, None]:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr("anyio.sleep", clock.sleep)
        patch.setattr("anyio.current_time", clock.time)
        yield clock


class TestSync:
    def test_runs_twice_on_one_provider(self) -> None:
        model = Model()
        for _ in range(2):
            assert result_of(complete().run_sync(model, "x")).value == "ok"
            assert compat.consensus_sync(model, "x", num_samples=2).value == "ok"

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "call",
        [
            complete().run_sync,
            compat.consensus_sync,
            compat.refine_loop_sync,
            partial(compat.react_loop_sync, tools=[]),
            compat.pipe_sync,
        ],
    )
    async def test_is_refused_inside_an_event_loop(
        self, call: Callable[[Model, str], object], anyio_backend_name: str
    ) -> None:
        model = Model()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(RuntimeError, match=f"inside a running {anyio_backend_name} event loop"):
                call(model, "x")
            gc.collect()
        assert not caught
        assert model.calls == 0

    def test_is_refused_in_a_callback_of_an_event_loop(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            raised: asyncio.Future[Exception] = loop.create_future()

            def callback() -> None:
                try:
                    complete().run_sync(Model(), "x")
                except RuntimeError as error:
                    raised.set_result(error)

            loop.call_soon(callback)
            told = "inside a running asyncio event loop; use `await stage.run(...)` there"
            assert told in str(await raised)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.run(main())
            gc.collect()
        assert not caught

    @pytest.mark.anyio
    async def test_runs_in_a_worker_thread_of_an_event_loop(self) -> None:
        outcome = await anyio.to_thread.run_sync(partial(complete().run_sync, Model(), "x"))
        assert result_of(outcome).value == "ok"

    def test_runs_in_a_thread_that_inherits_the_context_of_an_event_loop(self) -> None:
        async def main() -> str:
            return result_of(await asyncio.to_thread(complete().run_sync, Model(), "x")).value

        assert anyio.run(main) == "ok"

    def test_runs_in_several_threads_at_once(self) -> None:
        model, values = Model(), list[str]()
        threads = [
            threading.Thread(target=lambda: values.append(result_of(complete().run_sync(model, "x")).value))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert values == ["ok"] * 4

    def test_a_refused_argument_leaves_no_coroutine(self) -> None:
        with pytest.raises(ValueError, match="must be 0"):
            complete().run_sync(Model(), "x", max_cost=TokenUsage(llm_calls=-1))


@pytest.mark.anyio
class TestDeadline:
    async def test_ends_a_run_that_hangs_with_what_it_achieved(self) -> None:
        model = Model(ticks=lambda asked: 0 if asked.number <= 3 else 10**9)
        stage = consensus(n=5, max_concurrency=1)
        error = error_of(await soon(stage.run(model, "x", deadline=0.05)))
        assert isinstance(error, DeadlineExceededError)
        assert "0.05 s" in str(error)
        assert error.cost == TokenUsage(9, 6, 4)
        assert error.metadata["votes"] == ("ok",) * 3

    async def test_says_what_the_stages_below_achieved(self) -> None:
        model = Model(ticks=lambda asked: 0 if asked.number <= 2 else 10**9)
        stage = complete() >> refine(lambda text: 0.5)
        error = error_of(await soon(stage.run(model, "x", deadline=0.05)))
        assert error.metadata["best_draft"] == "ok"
        assert error.metadata["best_score"] == 0.5
        assert (error.metadata["step_count"], error.metadata["failed_step"]) == (1, "Refine")

    async def test_buys_no_call_after_it(self) -> None:
        def blocking(text: str) -> float:
            time.sleep(0.06)
            return 0.5

        model = Model()
        error = error_of(await refine(blocking).run(model, "x", deadline=0.05))
        assert isinstance(error, DeadlineExceededError)
        assert model.calls == error.cost.llm_calls == 1

    async def test_asks_no_evaluator_after_it(self) -> None:
        def blocking(asked: Asked) -> LLMResponse:
            time.sleep(0.06)
            return reply()

        async def evaluator(text: str, provider: LLMProvider) -> float:
            await anyio.sleep(30)
            return 1.0

        model = Model(blocking, ticks=lambda asked: 0)
        error = error_of(await soon(refine(evaluator).run(model, "x", deadline=0.05)))
        assert isinstance(error, DeadlineExceededError)

    async def test_a_run_in_time_is_untouched(self) -> None:
        assert result_of(await complete().run(Model(), "x", deadline=60)).cost == TokenUsage(3, 2, 1)

    async def test_does_not_wait_for_a_retry_beyond_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Model(each(RateLimitError("busy", retry_after=30.0)))
        with faked_time(monkeypatch) as clock:
            error = error_of(await complete().run(model, "x", deadline=20))
        assert isinstance(error, RateLimitError)
        assert clock.slept == []
        assert error.retry_after == 30.0

    async def test_of_the_outer_run_bounds_the_inner_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def nested(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            return result_of(await complete().run(provider, prompt, deadline=1000))

        model = Model(each(RateLimitError("busy", retry_after=30.0)))
        with faked_time(monkeypatch) as clock:
            await step(nested).run(model, "x", deadline=20)
        assert clock.slept == []

    @pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf")])
    async def test_must_be_positive(self, deadline: float) -> None:
        with pytest.raises(ValueError, match="positive and finite"):
            await complete().run(Model(), "x", deadline=deadline)

    @pytest.mark.parametrize("deadline", ["1", True])
    async def test_must_be_a_number(self, deadline: Any) -> None:
        with pytest.raises(TypeError, match="number of seconds"):
            await complete().run(Model(), "x", deadline=deadline)


def pool_of_one() -> Pool:
    return Pool([Model(each(RateLimitError("busy", retry_after=10**400)))])


@pytest.mark.anyio
class TestRetries:
    async def test_wait_as_long_as_the_server_asks_and_no_longer_than_they_may(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Model(
            each(RateLimitError("a", retry_after=7.0), ProviderError("b"), ProviderError("c"), reply())
        )
        with faked_time(monkeypatch) as clock:
            result = result_of(await complete().run(model, "x"))
        assert result.cost.llm_calls == 4
        first, second, third = clock.slept
        assert first == 7.0
        assert 0 <= second <= 2
        assert 0 <= third <= 4

    async def test_end_where_the_server_asks_for_an_hour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Model(each(RateLimitError("busy", retry_after=3600.0)))
        with faked_time(monkeypatch) as clock:
            error = error_of(await complete().run(model, "x"))
        assert isinstance(error, RateLimitError)
        assert (clock.slept, model.calls, error.retry_after) == ([], 1, 3600.0)

    @pytest.mark.parametrize("asked", [float("nan"), float("inf"), -5.0])
    async def test_survive_an_odd_retry_after(self, asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Model(each(RateLimitError("busy", retry_after=asked), reply()))
        with faked_time(monkeypatch) as clock:
            outcome = await complete().run(model, "x")
        assert all(0 <= seconds <= 1 for seconds in clock.slept)
        assert model.calls == (2 if asked < 0 else 1)
        assert str(outcome)

    @pytest.mark.parametrize(("asked", "least"), [("3", 3.0), ("soon", 0.0), (object(), 0.0), ([], 0.0)])
    async def test_read_a_retry_after_that_is_no_number(
        self, asked: Any, least: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Model(each(RateLimitError("busy", retry_after=asked), reply()))
        with faked_time(monkeypatch) as clock:
            result = result_of(await complete().run(model, "x"))
        assert (result.value, model.calls) == ("ok", 2)
        assert least <= sum(clock.slept) <= max(1.0, least)

    async def test_are_not_made_where_the_server_asks_for_longer_than_there_are_numbers(self) -> None:
        for provider in (Model(each(RateLimitError("busy", retry_after=10**400))), pool_of_one()):
            error = error_of(await complete().run(provider, "x"))
            assert isinstance(error, RateLimitError)
            assert error.retry_after == float("inf")

    async def test_are_not_made_of_permanent_errors(self) -> None:
        model = Model(each(PermanentError("no")))
        error_of(await complete().run(model, "x", retry=AT_ONCE))
        assert model.calls == 1

    async def test_of_foreign_exceptions(self) -> None:
        for raised, calls in ((TimeoutError("slow"), 4), (ConnectionError("gone"), 4), (KeyError("bug"), 1)):
            model = Model(each(raised))
            error = error_of(await complete().run(model, "x", retry=AT_ONCE))
            assert isinstance(error, ProviderError)
            assert error.__cause__ is raised
            assert (model.calls, error.cost.llm_calls) == (calls, calls)
        model = Model(each(KeyError("bug"), reply()))
        named = RetryConfig(base_delay=0, retryable=(KeyError,))
        assert result_of(await complete().run(model, "x", retry=named)).cost.llm_calls == 2

    async def test_of_an_inner_run_are_the_outer_ones_unless_it_says_otherwise(self) -> None:
        async def nested(provider: LLMProvider, prompt: str, *, retry: Any = None) -> PatternResult[str]:
            return await compat.consensus(provider, prompt, num_samples=1, retry=retry)

        for own, calls in ((None, 4), (RetryConfig(max_retries=0), 1)):
            model = Model(each(ProviderError("down")))
            await step(nested, retry=own).run(model, "x", retry=AT_ONCE)
            assert model.calls == calls


@pytest.mark.anyio
class TestNestedRuns:
    async def test_join_the_ledger_of_the_run_they_come_from(self) -> None:
        async def evaluate(text: str, provider: LLMProvider) -> float:
            assert isinstance(provider, MeteredProvider)
            inner = result_of(await consensus(n=2).run(provider, text))
            assert inner.cost.llm_calls == 2
            return 1.0

        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            return await compat.refine_loop(provider, prompt, evaluator=evaluate)

        model = Model()
        result = result_of(await (step(function) >> refine(evaluate)).run(model, "x"))
        assert result.cost.llm_calls == model.calls == 6
        assert [cost.llm_calls for cost in result.metadata["step_costs"]] == [3, 3]

    async def test_have_budgets_of_their_own_beside_those_above(self) -> None:
        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            inner = await consensus(n=5).run(provider, prompt, max_cost=TokenUsage(llm_calls=2))
            assert error_of(inner).cost.llm_calls == 2
            return PatternResult("went on")

        model = Model()
        assert result_of(await step(function).run(model, "x")).cost.llm_calls == model.calls == 2

    async def test_errors_cost_what_the_inner_run_cost_and_the_outer_all(self) -> None:
        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await provider.complete([user("first")])
            return await compat.consensus(provider, prompt, num_samples=2, strategy="unanimous")

        model = Model(lambda asked: reply(f"answer {asked.number}"))
        error = error_of(await step(function).run(model, "x"))
        assert error.cost.llm_calls == model.calls == 3
        assert error.metadata["votes"]

    async def test_a_step_is_told_the_tightest_budget(self) -> None:
        told: list[TokenUsage | None] = []

        async def function(
            provider: LLMProvider, prompt: str, *, max_cost: TokenUsage | None = None
        ) -> PatternResult[str]:
            told.append(max_cost)
            return PatternResult("x")

        bound = partial(function, max_cost=TokenUsage(llm_calls=5, output_tokens=90))
        await step(bound, max_cost=TokenUsage(llm_calls=3)).run(
            Model(), "x", max_cost=TokenUsage(llm_calls=4)
        )
        await step(bound).run(Model(), "x", max_cost=TokenUsage(llm_calls=4))
        await step(function).run(Model(), "x")
        assert told == [TokenUsage(0, 90, 3), TokenUsage(0, 90, 4), None]


def one(trace: Trace) -> Trace:
    return trace


@pytest.mark.anyio
class TestTrace:
    async def test_ids_parents_costs_and_durations(self) -> None:
        events: list[Event] = []
        model = Model(each(RateLimitError("busy"), reply()))
        stage = complete() >> Buy("b", 2)
        result = result_of(await stage.run(model, "secret", trace=events.append, retry=AT_ONCE))
        starts = {
            event.id: event
            for event in events
            if isinstance(event, (RunStarted, StageStarted, CallStarted, AttemptStarted, WaitStarted))
        }
        assert len(starts) == 1 + 3 + 3 + 4 + 1
        (run,) = (event for event in events if isinstance(event, RunStarted))
        root, first, second = (event for event in events if isinstance(event, StageStarted))
        assert (run.parent, root.parent, first.parent, second.parent) == (None, run.id, root.id, root.id)
        assert (root.stage, first.stage, second.stage) == ("Pipeline", "Complete", "Buy")
        calls = [event for event in events if isinstance(event, CallStarted)]
        assert [call.parent for call in calls] == [first.id, second.id, second.id]
        assert [(call.path, call.ordinal) for call in calls] == [((0,), 0), ((1,), 0), ((1,), 1)]
        attempts = [event for event in events if isinstance(event, AttemptStarted)]
        asked, bought, again = calls
        assert [event.parent for event in attempts] == [asked.id, asked.id, bought.id, again.id]
        assert [event.attempt for event in attempts] == [1, 2, 1, 1]
        ended = {
            event.id: event
            for event in events
            if isinstance(event, (RunFinished, StageFinished, CallFinished, AttemptFinished, WaitFinished))
        }
        assert set(ended) == set(starts)
        costs = [event.cost for event in events if isinstance(event, (RunFinished, StageFinished))]
        assert costs[-2:] == [result.cost, result.cost]
        errors = [event.error for event in events if isinstance(event, AttemptFinished)]
        assert errors == ["RateLimitError", None, None, None]
        assert all(0 <= event.duration < 60 for event in ended.values())
        (wait,) = (event for event in events if isinstance(event, WaitStarted))
        assert (wait.parent, wait.attempt, wait.delay, wait.error) == (asked.id, 1, 0.0, "RateLimitError")
        assert len({event.run for event in events}) == 1
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert (events[0], events[-1]) == (run, ended[run.id])

    async def test_holds_no_text_unless_asked_for(self) -> None:
        plain: list[Event] = []
        with_texts: list[Event] = []
        model = Model(each(reply("hidden answer")))
        await complete().run(model, "hidden prompt", trace=plain.append)
        await complete().run(model, "hidden prompt", trace=with_content(with_texts.append))
        assert "hidden" not in repr(plain)
        assert "hidden prompt" in repr(with_texts)
        assert "hidden answer" in repr(with_texts)

    async def test_one_that_raises_is_logged_once_and_dropped(self, caplog: pytest.LogCaptureFixture) -> None:
        seen: list[Event] = []

        def trace(event: Event) -> None:
            seen.append(event)
            raise KeyError("broken trace")

        with caplog.at_level(logging.ERROR, logger="executionkit"):
            result = result_of(await consensus(n=3).run(Model(), "x", trace=trace))
        assert (result.cost.llm_calls, len(seen), len(caplog.records)) == (3, 1, 1)
        assert "is not called again" in caplog.text

    async def test_of_a_failed_and_of_a_cancelled_run_end_all_that_began(self) -> None:
        events: list[Event] = []
        stage = consensus(n=2) & Buy("b", 1, "no")
        await stage.run(
            Model(ticks=lambda asked: 1 if asked.max_tokens == 50 else 9), "x", trace=events.append
        )
        self.all_ended(events)
        (end,) = (event for event in events if isinstance(event, RunFinished))
        assert end.error == "ExecutionKitError"
        events.clear()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(
                    partial(stage.run, Model(ticks=lambda asked: 10**9), "x", trace=events.append)
                )
                for _ in range(5):
                    await checkpoint()
                scope.cancel()
        self.all_ended(events)

    @staticmethod
    def all_ended(events: list[Event]) -> None:
        began = [event.id for event in events if isinstance(event, (RunStarted, StageStarted, CallStarted))]
        ended = [
            event.id for event in events if isinstance(event, (RunFinished, StageFinished, CallFinished))
        ]
        assert began
        assert sorted(began) == sorted(ended)

    async def test_sees_nested_runs_as_stages_below(self) -> None:
        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            return await compat.consensus(provider, prompt, num_samples=1)

        events: list[Event] = []
        await step(function).run(Model(), "x", trace=events.append)
        outer, inner = (event for event in events if isinstance(event, StageStarted))
        assert (outer.stage, inner.stage, inner.parent) == ("function", "Consensus", outer.id)
        assert sum(isinstance(event, RunStarted) for event in events) == 1

    @pytest.mark.parametrize("asks", [one, with_content])
    async def test_a_method_is_one_trace_however_often_it_is_looked_up(
        self, asks: Callable[[Trace], Trace]
    ) -> None:
        class Teller:
            def __init__(self) -> None:
                self.events: list[Event] = []

            def tell(self, event: Event) -> None:
                self.events.append(event)

        teller, events = Teller(), list[Event]()

        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            within = (asks(teller.tell), asks(events.append))
            return (await complete().run(provider, prompt, trace=within)).unwrap()

        traces = (asks(teller.tell), asks(teller.tell), asks(events.append), asks(events.append))
        await step(function).run(Model(), "q", trace=traces)
        assert teller.events == events
        told = [(event.run, event.id, type(event)) for event in events]
        assert len(told) == len(set(told))

    async def test_that_was_installed_can_be_taken_back(self) -> None:
        events: list[Event] = []
        tracing.install(events.append)
        tracing.uninstall(events.append)
        await complete().run(Model(), "x")
        assert events == []

    @pytest.mark.parametrize("trace", [5, "print"])
    async def test_must_be_callable(self, trace: Any) -> None:
        with pytest.raises(TypeError, match="a trace must be callable"):
            await complete().run(Model(), "x", trace=trace)
