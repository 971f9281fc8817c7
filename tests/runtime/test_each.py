"""One stage over many inputs: order, costs, shared failures, budgets, deadlines, and what a trace sees."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import anyio
import pytest
from returns.result import Failure, Success

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    DeadlineExceededError,
    PermanentError,
    ProviderError,
    RateLimitError,
)
from executionkit.events import CallStarted, Event, ItemFinished, ItemStarted
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.provider import LLMResponse
from tests.doubles import (
    NEVER,
    UNTOLD_ASYNC,
    Answer,
    Asked,
    Buy,
    Model,
    error_of,
    reply,
    result_of,
    soon,
    total,
)

pytestmark = pytest.mark.anyio


def letters(count: int) -> list[str]:
    return [f"letter {chr(ord('a') + index)}" for index in range(count)]


def upper(asked: Asked) -> LLMResponse:
    return reply(asked.prompt.upper(), 3, len(asked.prompt) % 5 + 1)


def no_at(prompt: str, error: Exception) -> Answer:
    def answer(asked: Asked) -> object:
        return error if asked.prompt == prompt else upper(asked)

    return answer


def permanent(status: int) -> PermanentError:
    return PermanentError(f"the server answered {status}", metadata={"status": status})


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_outcomes_come_in_order_each_with_its_cost(limit: int) -> None:
    inputs = letters(12)
    model = Model(no_at("letter c", permanent(422)), ticks=lambda asked: (7 * asked.number) % 5 + 1)
    result = result_of(await complete().each(max_concurrency=limit).run(model, inputs))
    assert len(result.value) == 12
    assert model.most_in_flight <= limit
    for text, outcome in zip(inputs, result.value, strict=True):
        match outcome:
            case Success(answer):
                assert answer.value == text.upper()
                assert answer.cost == TokenUsage(3, len(text) % 5 + 1, 1)
            case Failure(error):
                assert text == "letter c"
                assert isinstance(error, PermanentError)
                assert error.cost.llm_calls == 1
    costs = [
        each.unwrap().cost if isinstance(each, Success) else each.failure().cost for each in result.value
    ]
    assert total(costs) == result.cost
    assert result.metadata["inputs"] == 12
    assert result.metadata["failed"] == 1


async def test_no_inputs_cost_nothing() -> None:
    model = Model()
    for on_error in ("collect", "fail"):
        result = result_of(await complete().each(on_error=on_error).run(model, []))
        assert (result.value, result.cost) == ((), NO_USAGE)
    assert model.calls == 0


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_failure_that_all_share_ends_it(status: int) -> None:
    model = Model(no_at("letter c", permanent(status)))
    result = result_of(await complete().each(max_concurrency=1).run(model, letters(9)))
    assert model.calls == 3
    assert [isinstance(outcome, Success) for outcome in result.value] == [True, True, *[False] * 7]
    third = result.value[2].failure()
    assert third.cost.llm_calls == 1
    for outcome in result.value[3:]:
        error = outcome.failure()
        assert error == third.stamped(NO_USAGE)
        assert error.__traceback__ is None
    assert result.metadata["failed"] == 7


async def test_a_price_that_nobody_knows_is_shared_where_the_budget_is_in_money() -> None:
    model = Model()
    result = result_of(
        await complete().each(max_concurrency=1).run(model, letters(3), max_cost=TokenUsage(usd=Decimal(1)))
    )
    first, *others = [outcome.failure() for outcome in result.value]
    assert first.metadata["is_unpriced"] is True
    assert others == [first, first]
    assert model.calls == 0


@pytest.mark.parametrize(
    "error",
    [
        permanent(400),
        permanent(422),
        ProviderError("down", metadata={"status": 503}),
        RateLimitError("slowly"),
        ValueError("broken"),
    ],
    ids=repr,
)
async def test_a_failure_of_one_input_is_its_own(error: Exception) -> None:
    model = Model(no_at("letter c", error))
    result = result_of(await complete().each(max_concurrency=1).run(model, letters(5), retry=NEVER))
    assert [isinstance(outcome, Success) for outcome in result.value] == [True, True, False, True, True]


async def test_a_used_up_quota_is_shared() -> None:
    model = Model(no_at("letter a", RateLimitError("no quota", retryable=False)))
    result = result_of(await complete().each(max_concurrency=1).run(model, letters(4)))
    assert model.calls == 1
    assert all(isinstance(outcome.failure(), RateLimitError) for outcome in result.value)


async def test_what_is_under_way_buys_no_more_after_a_shared_failure() -> None:
    model = Model(
        no_at("b0: letter d", permanent(401)), ticks=lambda asked: 1 + (asked.prompt == "b0: letter d")
    )
    result = result_of(await Buy("b", 5).each(max_concurrency=4).run(model, letters(8)))
    assert model.calls < 16
    errors = [outcome.failure() for outcome in result.value]
    assert {type(error) for error in errors} == {PermanentError}
    assert {error.cost.llm_calls for error in errors[:3]} <= {1, 2, 3}
    assert all(error.cost == NO_USAGE for error in errors[4:])
    assert total([error.cost for error in errors]) == result.cost


async def test_the_runs_budget_ends_it() -> None:
    model = Model(upper)
    stage = complete(max_tokens=20).each(max_concurrency=2)
    result = result_of(await stage.run(model, letters(6), max_cost=TokenUsage(llm_calls=4)))
    assert model.calls == result.cost.llm_calls == 4
    assert [isinstance(outcome, Success) for outcome in result.value] == [True] * 4 + [False] * 2
    for outcome in result.value[4:]:
        error = outcome.failure()
        assert isinstance(error, BudgetExhaustedError)
        assert error.cost == NO_USAGE
        assert error.metadata["budget"] == "run"


async def test_a_budget_of_the_inputs_stage_is_its_own() -> None:
    stage = consensus(n=2).within(TokenUsage(llm_calls=1)) | complete()
    result = result_of(await stage.each().run(Model(upper), letters(3)))
    assert [outcome.unwrap().value for outcome in result.value] == [text.upper() for text in letters(3)]
    alone = result_of(await consensus(n=2).within(TokenUsage(llm_calls=1)).each().run(Model(), letters(3)))
    assert [outcome.failure().cost.llm_calls for outcome in alone.value] == [1, 1, 1]
    assert alone.value[0].failure().metadata["budget"] == "stage"


async def test_a_budget_around_all_inputs_is_shared() -> None:
    stage = complete().each(max_concurrency=1).within(TokenUsage(llm_calls=2))
    model = Model(upper)
    result = result_of(await stage.run(model, letters(5)))
    assert [isinstance(outcome, Success) for outcome in result.value] == [True, True, False, False, False]
    assert model.calls == 2


class Slow:
    """Answers at once, but for one prompt, which it never answers."""

    def __init__(self, stuck: str) -> None:
        self.stuck = stuck
        self.calls = 0

    async def complete(self, messages: Sequence[Any], **options: Any) -> LLMResponse:
        self.calls += 1
        if messages[-1]["content"] == self.stuck:
            await anyio.sleep_forever()
        return reply("ok")


async def test_the_deadline_leaves_what_is_done() -> None:
    slow = Slow("letter c")
    stage = complete().each(max_concurrency=1)
    result = result_of(await soon(stage.run(slow, letters(6), deadline=1.5)))
    assert [isinstance(outcome, Success) for outcome in result.value] == [True, True, *[False] * 4]
    errors = [outcome.failure() for outcome in result.value[2:]]
    assert {type(error) for error in errors} == {DeadlineExceededError}
    assert [error.cost.llm_calls for error in errors] == [1, 0, 0, 0]
    assert slow.calls == 3


async def test_a_late_input_says_how_far_it_came() -> None:
    def never(text: str) -> float:
        return 0.1

    result = result_of(await soon(refine(never).each().run(Rated(), ["x"], deadline=1.5)))
    assert result.value[0].failure().metadata["best_draft"] == "draft"


class Rated:
    """One draft, and then nothing."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, messages: Sequence[Any], **options: Any) -> LLMResponse:
        self.calls += 1
        if self.calls > 1:
            await anyio.sleep_forever()
        return reply("draft")


async def test_a_cancelled_run_is_cancelled() -> None:
    with anyio.move_on_after(0.05) as scope:
        await complete().each().run(Slow("letter a"), letters(3), deadline=60)
    assert scope.cancelled_caught


async def test_fail_gives_values_and_ends_with_the_first_failure() -> None:
    stage = complete().each(max_concurrency=1, on_error="fail")
    result = result_of(await stage.run(Model(upper), letters(3)))
    assert result.value == ("LETTER A", "LETTER B", "LETTER C")
    assert [cost.llm_calls for cost in result.metadata["item_costs"]] == [1, 1, 1]
    assert [metadata["finish_reason"] for metadata in result.metadata["item_metadata"]] == ["stop"] * 3
    model = Model(no_at("letter c", permanent(422)))
    error = error_of(await stage.run(model, letters(5)))
    assert isinstance(error, PermanentError)
    assert (error.metadata["failed_input"], error.metadata["failed"], model.calls) == (2, 1, 3)
    paid = error.metadata["results"]
    assert [None if each is None else each.value for each in paid] == [
        "LETTER A",
        "LETTER B",
        None,
        None,
        None,
    ]
    assert error.cost.llm_calls == 3


async def test_an_input_that_is_no_prompt_fails_alone() -> None:
    result = result_of(await complete().each().run(Model(upper), ["a", "", "c"]))
    assert [isinstance(outcome, Success) for outcome in result.value] == [True, False, True]


async def test_the_sequence_may_change_meanwhile() -> None:
    inputs = letters(4)

    def shrink(asked: Asked) -> LLMResponse:
        inputs.clear()
        return upper(asked)

    result = result_of(await complete().each(max_concurrency=1).run(Model(shrink), inputs))
    assert len(result.value) == 4


async def test_paths_tell_the_inputs_apart_whatever_the_timing() -> None:
    def placed(events: list[Event]) -> set[tuple[object, int]]:
        return {(event.path, event.ordinal) for event in events if isinstance(event, CallStarted)}

    seen: list[set[tuple[object, int]]] = []
    for limit in (1, 4):
        events: list[Event] = []
        model = Model(upper, ticks=lambda asked: asked.number % 3)
        await consensus(2).each(max_concurrency=limit).run(model, letters(3), trace=events.append)
        seen.append(placed(events))
    assert seen[0] == seen[1] == {((item, sample), 0) for item in range(3) for sample in range(2)}


async def test_a_trace_sees_each_input_by_name() -> None:
    events: list[Event] = []
    model = Model(no_at("letter b", permanent(422)))
    stage = complete().each(max_concurrency=1, name=lambda text: text[-1])
    await stage.run(model, letters(3), trace=events.append)
    begun = [event for event in events if isinstance(event, ItemStarted)]
    ended = [event for event in events if isinstance(event, ItemFinished)]
    assert [(each.item, each.done, each.total, each.path) for each in begun] == [
        ("a", 0, 3, (0,)),
        ("b", 1, 3, (1,)),
        ("c", 2, 3, (2,)),
    ]
    assert [(each.item, each.done, each.failed, each.error) for each in ended] == [
        ("a", 1, 0, None),
        ("b", 2, 1, "PermanentError"),
        ("c", 3, 1, None),
    ]
    assert [each.id for each in begun] == [each.id for each in ended]
    assert [each.cost.llm_calls for each in ended] == [1, 1, 1]


def broken(text: str) -> str:
    raise KeyError(text)


@pytest.mark.parametrize("name", [broken, *UNTOLD_ASYNC])
async def test_a_name_that_cannot_be_had_is_a_number(name: Any) -> None:
    events: list[Event] = []
    await complete().each(name=name).run(Model(), ["a"], trace=events.append)
    assert [event.item for event in events if isinstance(event, ItemStarted)] == ["1"]
