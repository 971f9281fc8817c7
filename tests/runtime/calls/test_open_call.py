"""Who pays where foreign code sits between a run and its model: each attempt once, and none for nothing."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit import (
    BudgetExhaustedError,
    ExecutionKitError,
    LLMResponse,
    PatternResult,
    PermanentError,
    ProviderError,
    RetryConfig,
    Stage,
    TokenUsage,
    complete,
    consensus,
    refine,
    step,
)
from executionkit.core.retry_quota import RetryQuota
from executionkit.core.usage import NO_USAGE
from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    RunFinished,
    StageFinished,
)
from executionkit.outcome import Outcome
from executionkit.provider import LLMProvider, Message, user
from executionkit.runtime.context import Context
from tests.doubles import AT_ONCE, Asked, Model, error_of, reply, result_of, soon

pytestmark = pytest.mark.anyio

Wrap = Callable[[LLMProvider, list[Message], dict[str, Any]], Awaitable[LLMResponse]]


class Wrapper:
    """A provider made of another one and a function of it."""

    supports_tools = True

    def __init__(self, wrapped: LLMProvider, work: Wrap) -> None:
        self.wrapped = wrapped
        self.work = work

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        return await self.work(self.wrapped, messages, kwargs)


class Within(Stage[str, str], frozen=True):
    """Runs a stage with a wrapper of the run's own provider."""

    work: Wrap
    stage: Stage[str, str] = complete(max_tokens=100)

    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        return await context.run(self.stage.using(Wrapper(context.provider, self.work)), value)


async def hedged(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
    """Ask three times at once and take the first answer."""
    answers: list[LLMResponse] = []

    async def ask() -> None:
        try:
            answers.append(await wrapped.complete(messages, **kwargs))
        except BudgetExhaustedError:
            return

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
    return answers[0]


async def twice(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
    await wrapped.complete(messages, **kwargs)
    return await wrapped.complete(messages, **kwargs)


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
async def test_a_hedge_buys_no_more_than_the_budget_has(calls: int) -> None:
    model = Model(ticks=lambda asked: 3)
    result = result_of(await Within(hedged).run(model, "?", max_cost=TokenUsage(llm_calls=calls)))
    assert model.calls == result.cost.llm_calls == min(calls, 3)


@pytest.mark.parametrize("n", [2, 5])
async def test_a_vote_over_hedges_holds_its_budget(n: int) -> None:
    model = Model(ticks=lambda asked: 2)
    budget = TokenUsage(llm_calls=n + 1)
    outcome = await Within(hedged, consensus(n)).run(model, "?", max_cost=budget)
    assert model.calls <= n + 1
    spent = outcome.unwrap().cost if type(outcome).__name__ == "Success" else outcome.failure().cost
    assert spent.llm_calls == model.calls


async def test_a_wrapper_that_asks_twice_does_not_wait_for_itself() -> None:
    model = Model(lambda asked: reply("x", 1, 100))
    outcome = await soon(Within(twice).run(model, "?", max_cost=TokenUsage(output_tokens=300)))
    assert (result_of(outcome).cost, model.calls) == (TokenUsage(2, 200, 2), 2)
    tight = await soon(Within(twice).run(Model(lambda asked: reply("x", 1, 100)), "?",
                                         max_cost=TokenUsage(output_tokens=100)))  # fmt: skip
    assert isinstance(error_of(tight), BudgetExhaustedError)
    assert error_of(tight).cost == TokenUsage(1, 100, 1)


async def test_a_task_left_behind_pays_for_itself_and_nothing_once_the_run_is_over() -> None:
    model = Model(ticks=lambda asked: 1)
    caught: list[BaseException] = []
    over = anyio.Event()
    cost: TokenUsage | None = None

    async with anyio.create_task_group() as group:

        async def later(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> None:
            await over.wait()
            try:
                await wrapped.complete(messages, **kwargs)
            except PermanentError as error:
                caught.append(error)

        async def leaving(
            wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]
        ) -> LLMResponse:
            group.start_soon(later, wrapped, messages, kwargs)
            return await wrapped.complete(messages, **kwargs)

        cost = result_of(await Within(leaving).run(model, "?")).cost
        over.set()
    assert cost is not None
    assert (cost.llm_calls, model.calls) == (1, 1)
    assert "the run that this provider belongs to is over" in str(caught[0])


async def test_each_attempt_of_a_stage_bound_to_the_metered_provider_is_billed_once() -> None:
    quota = RetryQuota()

    class Failing(Model):
        retry_quota = quota

    failure = ProviderError("busy", cost=TokenUsage(100, 25, 1))
    model = Failing(lambda asked: failure)

    class Bound(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            return await context.run(complete().using(context.provider), value)

    retry = RetryConfig(max_retries=3, base_delay=0.0)
    error = error_of(await Bound().run(model, "?", retry=retry))
    assert (model.calls, error.cost) == (4, TokenUsage(400, 100, 4))
    assert error.metadata["attempts"] == 4
    assert quota.tokens < 500


def _numbers(options: object) -> list[int]:
    """Return all numbers in request fields; those of the tests are output limits."""
    if isinstance(options, dict):
        return [number for value in cast("dict[str, Any]", options).values() for number in _numbers(value)]
    return [options] if isinstance(options, int) else []


async def passed_on(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
    return await wrapped.complete(messages, **kwargs)


async def tried_twice(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
    with suppress(ProviderError):
        return await wrapped.complete(messages, **kwargs)
    return await wrapped.complete(messages, **kwargs)


async def converted(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
    try:
        return await wrapped.complete(messages, **kwargs)
    except ExecutionKitError as error:
        raise ValueError("of its own") from error


def run_of_its_own(work: Wrap, stage: Stage[str, str], *, unwraps: bool) -> Stage[object, str]:
    """A step that spends, and then runs a stage with a wrapper of its provider: on a ledger of its own."""

    async def run(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        for _ in range(2):
            await provider.complete([user(prompt)], max_tokens=200)
        outcome = await stage.run(Wrapper(provider, work), prompt, retry=AT_ONCE)
        if unwraps:
            outcome.unwrap()
        return PatternResult("tried", cost=outcome.failure().cost)

    return step(run)


@pytest.mark.parametrize("unwraps", [False, True])
@pytest.mark.parametrize("work", [passed_on, tried_twice, converted, hedged, twice])
async def test_what_a_run_of_its_own_declares_is_billed_once(work: Wrap, unwraps: bool) -> None:
    down = ProviderError("503")
    model = Model(lambda asked: reply("x", 100, 150) if asked.number <= 2 else down)
    stage = run_of_its_own(work, complete(max_tokens=20), unwraps=unwraps)
    outcome = await soon(stage.run(model, "?", retry=AT_ONCE))
    cost = error_of(outcome).cost if unwraps else result_of(outcome).cost
    assert cost == TokenUsage(200, 300, model.calls)


@pytest.mark.parametrize("unwraps", [False, True])
@pytest.mark.parametrize(
    "stage", [complete(), consensus(n=3), complete() >> complete(), complete() | complete()]
)
@pytest.mark.parametrize("work", [passed_on, tried_twice, converted, hedged, twice])
async def test_a_call_that_a_wrapper_was_refused_is_none(
    work: Wrap, stage: Stage[str, str], unwraps: bool
) -> None:
    model = Model()
    outcome = await soon(
        run_of_its_own(work, stage, unwraps=unwraps).run(model, "?", max_cost=TokenUsage(llm_calls=2))
    )
    cost = error_of(outcome).cost if unwraps else result_of(outcome).cost
    assert model.calls == cost.llm_calls == 2


@pytest.mark.parametrize(
    "spelled",
    [
        {"max_completion_tokens": 50_000},
        {"max_tokens": 50_000},
        {"max_output_tokens": 50_000},
        {"max_new_tokens": 50_000},
        {"num_predict": 50_000},
        {"maxOutputTokens": 50_000},
        {"n_predict": 50_000},
        {"max_tokens": 5, "max_completion_tokens": 50_000},
        {"extra_body": {"max_tokens": 50_000}},
        {"extra_body": {"options": {"num_predict": 50_000}}},
        {"options": {"num_predict": 50_000}},
        {"generation_config": {"max_output_tokens": 50_000}},
        {},
    ],
    ids=str,
)
async def test_every_spelling_of_the_output_limit_is_held_to_the_budget(spelled: dict[str, Any]) -> None:
    async def evaluate(text: str, provider: LLMProvider) -> float:
        options: dict[str, Any] = dict(spelled)
        await provider.complete([user("rate")], **options)
        return 1.0

    async def raising(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
        options: dict[str, Any] = {**kwargs, **spelled}
        return await wrapped.complete(messages, **options)

    model = Model(lambda asked: reply("x", 1, 1))
    budget = TokenUsage(output_tokens=100)
    result_of(await refine(evaluate, max_tokens=40).run(model, "?", max_cost=budget))
    result_of(await Within(raising).run(model, "?", max_cost=budget))
    assert model.calls == 3
    for asked in model.asked:
        limits = [asked.max_tokens, *_numbers(asked.options)]
        assert any(limit is not None for limit in limits)
        assert all(limit <= 100 for limit in limits if limit is not None)


@pytest.mark.parametrize(
    "spelled",
    [
        {"n": 4},
        {"best_of": 4},
        {"n": 2, "best_of": 4},
        {"num_return_sequences": 4},
        {"extra_body": {"n": 4}},
        {"extra_body": {"generation_config": {"candidateCount": 4}}},
        {"sampling_params": {"n": 4}},
        {"extra_body": {"best_of": 4, "max_tokens": 50_000}},
    ],
    ids=str,
)
async def test_every_answer_that_a_server_may_bill_is_reserved(spelled: dict[str, Any]) -> None:
    async def evaluate(text: str, provider: LLMProvider) -> float:
        options: dict[str, Any] = dict(spelled)
        await provider.complete([user("rate")], **options)
        return 1.0

    async def multiplying(
        wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]
    ) -> LLMResponse:
        options: dict[str, Any] = {**kwargs, **spelled}
        return await wrapped.complete(messages, **options)

    def billed(asked: Asked) -> LLMResponse:
        """Answer as long as the limit allows, as often as the fields say."""
        numbers = _numbers(asked.options)
        limit = min(number for number in [asked.max_tokens or 0, *numbers] if number > 4)
        return reply("x", 1, limit * max([1, *(number for number in numbers if number < 5)]))

    budget = TokenUsage(output_tokens=100)
    refined = await refine(evaluate, max_tokens=20).run(Model(billed), "?", max_cost=budget)
    assert result_of(refined).cost == TokenUsage(2, 20 + 80, 2)
    wrapped = await Within(multiplying).run(Model(billed), "?", max_cost=budget)
    assert result_of(wrapped).cost.output_tokens == 100
    silent = await Within(multiplying).run(Model(lambda _: LLMResponse("x")), "?", max_cost=budget)
    assert result_of(silent).cost.output_tokens == 100
    none = await Within(multiplying).run(Model(billed), "?", max_cost=TokenUsage(output_tokens=3))
    assert isinstance(error_of(none), BudgetExhaustedError)


@pytest.mark.parametrize("spelled", [{"best_of": "4"}, {"extra_body": {"n": 0}}, {"candidateCount": 2.0}])
async def test_a_number_of_answers_that_is_none_is_refused_before_the_call(spelled: dict[str, Any]) -> None:
    async def evaluate(text: str, provider: LLMProvider) -> float:
        options: dict[str, Any] = dict(spelled)
        await provider.complete([user("rate")], **options)
        return 1.0

    model = Model()
    error = error_of(await refine(evaluate).run(model, "?"))
    assert isinstance(error.__cause__, (TypeError, ValueError))
    assert re.match("(best_of|n|candidateCount) must be", str(error.__cause__))
    assert model.calls == 1


class Nasty(dict[str, int]):
    def get(self, *_: object) -> Any:
        raise RuntimeError("no")

    def keys(self) -> Any:
        raise RuntimeError("no")


async def test_usage_that_cannot_be_read_settles_at_the_reservation() -> None:
    model = Model(lambda asked: LLMResponse("x", usage=Nasty(prompt_tokens=1)))
    vote = consensus(3, max_tokens=50, max_concurrency=1)
    result = result_of(await soon(vote.run(model, "?", max_cost=TokenUsage(output_tokens=200))))
    assert (result.cost.output_tokens, result.metadata["usage_estimated"]) == (150, 3)


async def test_no_attribute_of_a_provider_can_lose_an_answer() -> None:
    class Odd:
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            return reply("paid")

        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

    assert result_of(await complete(stream=True).run(Odd(), "?")).value == "paid"
    assert result_of(await consensus(2).run(Odd(), "?")).value == "paid"


async def test_a_cost_that_cannot_be_read_settles_the_call() -> None:
    class Odd(ProviderError):
        def __init__(self) -> None:
            super().__init__("down", retryable=False)

        def __getattribute__(self, name: str) -> Any:
            if name == "cost":
                raise KeyError(name)
            return super().__getattribute__(name)

    model = Model(lambda asked: Odd())
    budget = TokenUsage(output_tokens=100)
    outcome = await soon((complete() | complete()).run(model, "?", max_cost=budget))
    assert error_of(outcome).cost.llm_calls == model.calls == 2


async def test_a_metered_provider_is_refused_once_its_run_is_over() -> None:
    kept: list[LLMProvider] = []

    async def keep(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        kept.append(provider)
        return PatternResult(prompt)

    model = Model()
    result_of(await step(keep).run(model, "?"))
    with pytest.raises(PermanentError, match="is over"):
        await kept[0].complete([user("more")])
    assert error_of(await complete().run(kept[0], "more")).cost == NO_USAGE
    assert model.calls == 0


async def test_a_task_left_behind_buys_nothing_while_the_run_ends() -> None:
    """Between a failure and whoever waits for it there is a turn of the event loop."""
    may_buy = anyio.Event()
    bought: list[object] = []

    async def buy(provider: LLMProvider) -> None:
        await may_buy.wait()
        with suppress(ExecutionKitError):
            bought.append(await provider.complete([user("late")]))

    model, outcomes = Model(), list[Outcome[str]]()
    async with anyio.create_task_group() as group:

        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            group.start_soon(buy, provider)
            raise ValueError("fails")

        def told(event: Event) -> None:
            if isinstance(event, StageFinished):
                may_buy.set()

        outcomes.append(await step(function).run(model, "?", deadline=30, trace=told))
    assert (error_of(outcomes[0]).cost.llm_calls, model.calls, bought) == (0, 0, [])


class Slow(Model):
    """Answers what is asked as "slow" when the test lets it."""

    def __init__(self, may_answer: anyio.Event) -> None:
        super().__init__()
        self.may_answer = may_answer

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        response = await super().complete(messages, **kwargs)
        if messages[-1]["content"] == "slow":
            await self.may_answer.wait()
        return response


async def ask_slow(provider: LLMProvider) -> None:
    await provider.complete([user("slow")])


async def test_a_call_that_waits_for_room_when_its_run_ends_is_refused() -> None:
    is_over = anyio.Event()
    model = Slow(is_over)
    refused: list[ExecutionKitError] = []
    outcomes: list[Outcome[str]] = []

    async def buy(provider: LLMProvider, text: str) -> None:
        try:
            await provider.complete([user(text)], max_tokens=60)
        except ExecutionKitError as error:
            refused.append(error)

    async with anyio.create_task_group() as group:

        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            group.start_soon(buy, provider, "slow")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(buy, provider, "waits")
            await anyio.wait_all_tasks_blocked()
            return PatternResult("done")

        outcomes.append(await step(function).run(model, "?", max_cost=TokenUsage(output_tokens=100)))
        is_over.set()
    assert (result_of(outcomes[0]).cost.llm_calls, model.calls) == (1, 1)
    assert [type(error) for error in refused] == [PermanentError]


async def test_a_call_left_behind_is_told_before_its_run_ends_and_never_again() -> None:
    may_answer, answers, events = anyio.Event(), list[LLMResponse](), list[Event]()
    outcomes: list[Outcome[str]] = []

    async def buy(provider: LLMProvider) -> None:
        answers.append(await provider.complete([user("slow")]))

    async with anyio.create_task_group() as group:

        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await provider.complete([user("quick")])
            group.start_soon(buy, provider)
            await anyio.wait_all_tasks_blocked()
            return PatternResult("done")

        outcomes.append(await step(function).run(Slow(may_answer), "?", trace=events.append))
        assert isinstance(events[-1], RunFinished)
        may_answer.set()
    assert len(answers) == 1
    cost = result_of(outcomes[0]).cost
    assert cost == TokenUsage(*reply_usage(), 2)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].cost == cost
    for began, ended in ((CallStarted, CallFinished), (AttemptStarted, AttemptFinished)):
        assert sum(isinstance(event, began) for event in events) == 2
        costs = [event.cost for event in events if isinstance(event, ended)]
        assert sum(costs, NO_USAGE) == cost
        assert costs[1] == TokenUsage(llm_calls=1)


async def test_the_cost_of_a_run_stays_as_it_was_told() -> None:
    """A call left behind may settle while a failure is on its way to whoever waits for it."""
    may_answer, events, outcomes = anyio.Event(), list[Event](), list[Outcome[str]]()

    async with anyio.create_task_group() as group:

        async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            group.start_soon(ask_slow, provider)
            await anyio.wait_all_tasks_blocked()
            raise ValueError("fails")

        def told(event: Event) -> None:
            events.append(event)
            if isinstance(event, StageFinished):
                may_answer.set()

        outcomes.append(await step(function).run(Slow(may_answer), "?", trace=told))
    assert error_of(outcomes[0]).cost == TokenUsage(llm_calls=1)
    assert [event.cost for event in events if isinstance(event, RunFinished)] == [TokenUsage(llm_calls=1)]


async def test_what_a_run_within_a_run_leaves_behind_buys_nothing_and_is_paid_by_the_outer() -> None:
    may_answer, kept, told = anyio.Event(), list[LLMProvider](), list[Event]()
    model = Slow(may_answer)
    costs: list[TokenUsage] = []

    async with anyio.create_task_group() as group:

        async def leaves(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            kept.append(provider)
            group.start_soon(ask_slow, provider)
            await anyio.wait_all_tasks_blocked()
            return PatternResult("done")

        async def outer(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            inner = await step(leaves).run(provider, prompt, trace=told.append)
            costs.append(result_of(inner).cost)
            with pytest.raises(PermanentError, match="is over"):
                await kept[0].complete([user("late")])
            may_answer.set()
            await anyio.wait_all_tasks_blocked()
            return PatternResult("done")

        costs.append(result_of(await step(outer).run(model, "?", trace=told.append)).cost)
    assert costs == [TokenUsage(llm_calls=1), TokenUsage(*reply_usage(), 1)]
    assert model.calls == 1
    assert [event.cost for event in told if isinstance(event, RunFinished)] == costs
    assert [event.cost for event in told if isinstance(event, CallFinished) and event.attempts] == costs[1:]


def reply_usage() -> tuple[int, int]:
    usage = reply().usage
    return usage["prompt_tokens"], usage["completion_tokens"]


async def test_a_metered_provider_is_refused_in_another_event_loop() -> None:
    found: list[BaseException] = []

    async def elsewhere(provider: LLMProvider) -> None:
        try:
            await provider.complete([user("x")])
        except RuntimeError as error:
            found.append(error)

    async def take(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, provider))
        return PatternResult(prompt)

    model = Model()
    result_of(await step(take).run(model, "?", max_cost=TokenUsage(llm_calls=1)))
    assert "another event loop" in str(found[0])
    assert model.calls == 0


async def test_an_inner_gather_does_not_lift_the_halt_of_the_outer_one() -> None:
    model = Model(lambda asked: ProviderError("down", retryable=False))
    failed = anyio.Event()

    class Nested(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            async def work(index: int) -> None:
                if index == 0:
                    try:
                        await context.complete([user("fails")])
                    finally:
                        failed.set()
                with anyio.CancelScope(shield=True):
                    await failed.wait()
                    await anyio.sleep(0)
                    await context.gather(lambda _: anyio.sleep(0), 2, 2)
                    await context.complete([user("after the failure")])

            await context.gather(work, 2, 2)
            return PatternResult(value)

    error_of(await Nested().run(model, "?"))
    assert model.calls == 1


async def test_a_refusal_gives_others_a_turn() -> None:
    model = Model()
    with anyio.move_on_after(0.2) as scope:

        class Loop(Stage[str, str], frozen=True):
            async def perform(self, value: str, context: Context) -> PatternResult[str]:
                while True:
                    await complete().run(context.provider, value)

        await Loop().run(model, "?", max_cost=TokenUsage(llm_calls=1))
    assert scope.cancelled_caught
    assert model.calls == 1


async def test_a_provider_that_edits_what_it_is_handed_edits_a_copy() -> None:
    class Editor(Model):
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            response = await super().complete(messages, **kwargs)
            for message in messages:
                message["content"] = "edited"
            messages.append({"role": "user", "content": "more"})
            for name, held in kwargs.items():
                if name == "response_format":
                    held.clear()
                elif name == "tools" and held:
                    held[0]["function"].clear()
            return response

    seen: list[object] = []

    def answer(asked: Asked) -> object:
        seen.append((str(asked.messages), str(asked.options), str(asked.tools)))
        return ProviderError("again") if asked.number % 2 else reply('{"a": 1}')

    result_of(await consensus(1, output_type=dict[str, int]).run(Editor(answer), "?", retry=AT_ONCE))
    assert seen[0] == seen[1]


FATES = st.lists(st.sampled_from(["pass", "twice", "hedge", "fail", "raise limit"]), min_size=1, max_size=4)


@given(fates=FATES, calls=st.integers(1, 8), tokens=st.sampled_from([0, 120, 300, 700]), n=st.integers(1, 5))
async def test_whatever_wrappers_do_the_budget_holds_and_the_cost_is_what_was_sent(
    fates: list[str], calls: int, tokens: int, n: int
) -> None:
    async def work(wrapped: LLMProvider, messages: list[Message], kwargs: dict[str, Any]) -> LLMResponse:
        fate = fates[model.calls % len(fates)]
        if fate == "twice":
            return await twice(wrapped, messages, kwargs)
        if fate == "hedge":
            return await hedged(wrapped, messages, kwargs)
        if fate == "fail":
            await wrapped.complete(messages, **kwargs)
            raise OSError("after it was paid")
        if fate == "raise limit":
            options: dict[str, Any] = {**kwargs, "max_tokens": 10_000}
            return await wrapped.complete(messages, **options)
        return await wrapped.complete(messages, **kwargs)

    spent = [0, 0]  # what was answered, and in how many answers: some calls are cancelled before that

    def answer(asked: Asked) -> object:
        used = min(asked.max_tokens or 4096, 60)
        spent[0] += used
        spent[1] += 1
        return reply("x", 1, used)

    model = Model(answer, ticks=lambda asked: asked.number % 3)
    budget = TokenUsage(llm_calls=calls, output_tokens=tokens)
    stage = Within(work, consensus(n, max_tokens=100, max_concurrency=3))
    outcome = await soon(stage.run(model, "?", max_cost=budget, retry=AT_ONCE))
    cost = outcome.unwrap().cost if type(outcome).__name__ == "Success" else outcome.failure().cost
    assert cost == TokenUsage(spent[1], spent[0], model.calls)
    assert model.calls <= calls
    assert not tokens or spent[0] <= tokens
