"""Errors tell the cause: what `unwrap()` met, whose budget was spent, who was asked, and how it looks."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from returns.result import Failure

from executionkit import compat
from executionkit.approval import Deny, Proposal
from executionkit.core.usage import TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    EvaluationError,
    ExecutionKitError,
    PermanentError,
    ProviderError,
    RateLimitError,
    StageError,
)
from executionkit.errors.handling import unwrapped
from executionkit.events import Event, ToolFinished
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.patterns.structured import structured
from executionkit.provider import LLMProvider, LLMResponse, ToolCall
from executionkit.retry import RetryConfig
from executionkit.runtime.context import Context
from executionkit.stage import Stage, identity
from executionkit.tools import tool
from tests.doubles import NEVER, Asked, Model, each, error_of, reply, result_of

pytestmark = pytest.mark.anyio

REFUSED = PermanentError("the server answered 401; check the key", metadata={"status": 401})


def refusing(asked: Asked) -> object:
    return REFUSED if asked.number > 1 else reply("draft")


async def judge(text: str, provider: LLMProvider) -> float:
    (await complete().run(provider, text)).unwrap()
    return 1.0


async def rewrite(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    (await complete().run(provider, prompt)).unwrap()
    return (await complete().run(provider, prompt)).unwrap()


def plainly(text: str) -> str:
    return Failure(REFUSED).unwrap()


async def rule(value: object) -> str | None:
    return Failure(REFUSED).unwrap()


class Wrapping:
    """A provider that is made of another run."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def complete(self, messages: list[Any], **options: Any) -> LLMResponse:
        return LLMResponse((await complete().run(self._model, "x")).unwrap().value)


async def judge_in_a_group(text: str, provider: LLMProvider) -> float:
    async with anyio.create_task_group() as outer, anyio.create_task_group() as group:
        outer.start_soon(anyio.sleep, 0)
        group.start_soon(judge, text, provider)
    return 1.0


async def rewrite_in_a_group(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    async with anyio.create_task_group() as group:
        group.start_soon(rewrite, provider, prompt)
    return PatternResult("")


async def ask_in_a_group(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    async def ask() -> None:
        await provider.complete([{"role": "user", "content": prompt}])

    await ask()
    async with anyio.create_task_group() as group:
        group.start_soon(ask)
    return PatternResult("")


async def rule_in_a_group(value: object) -> str | None:
    async with anyio.create_task_group() as group:
        group.start_soon(rule, value)
    return None


UNWRAPPING: list[Callable[[], Stage[str, Any]]] = [
    lambda: refine(judge),
    lambda: refine(judge_in_a_group),
    lambda: step(rewrite),
    lambda: step(rewrite_in_a_group),
    lambda: step(ask_in_a_group),
    lambda: complete().checked(rule_in_a_group),
    lambda: complete().map(plainly),
    lambda: complete(system=plainly),
    lambda: complete().checked(rule),
    lambda: structured(str, check=rule),
    lambda: consensus(2, weigh=lambda sample: Failure(REFUSED).unwrap()),
    lambda: complete().using(Wrapping(Model(lambda asked: REFUSED))),
]


@pytest.mark.parametrize("make", UNWRAPPING)
async def test_what_unwrap_met_is_the_failure(make: Callable[[], Stage[str, Any]]) -> None:
    error = error_of(await make().run(Model(refusing), "x", retry=NEVER))
    assert type(error) is PermanentError
    assert error.metadata["status"] == 401
    assert str(error).startswith("the server answered 401")


async def test_a_run_that_is_out_of_budget_says_so_through_an_unwrap() -> None:
    error = error_of(await refine(judge).run(Model(), "x", max_cost=TokenUsage(llm_calls=1)))
    assert isinstance(error, BudgetExhaustedError)
    assert error.metadata["best_draft"] == "ok"
    with pytest.raises(BudgetExhaustedError, match="run's budget"):
        await compat.pipe(Model(), "x", rewrite, max_budget=TokenUsage(llm_calls=1))


async def test_a_failure_of_somebody_else_is_the_cause() -> None:
    def broken(text: str) -> float:
        return Failure(KeyError("no such table")).unwrap()

    error = error_of(await refine(broken).run(Model(), "x"))
    assert isinstance(error, EvaluationError)
    assert isinstance(error.__cause__, KeyError)
    assert "no such table" in str(error)


async def test_a_step_whose_tasks_are_out_of_budget_says_so() -> None:
    async def asks_twice(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(rewrite, provider, prompt)
        return PatternResult("")

    error = error_of(await step(asks_twice).run(Model(), "x", max_cost=TokenUsage(llm_calls=1)))
    assert isinstance(error, BudgetExhaustedError)
    assert error.cost.llm_calls == 1


async def test_what_is_no_failure_of_an_exception_stays_as_it_is() -> None:
    def odd(text: str) -> str:
        return Failure("a text").unwrap()

    error = error_of(await identity(str).map(odd).run(Model(), "x"))
    assert isinstance(error, StageError)
    assert type(error.__cause__).__name__ == "UnwrapFailedError"
    plain = ValueError("x")
    plain.halted_container = Failure(REFUSED)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert unwrapped(plain) is plain


async def test_a_tool_tells_the_model_the_failures_class() -> None:
    @tool
    async def ask(context: Context) -> str:
        """Ask another model."""
        return (await complete().run(context.provider, "x")).unwrap().value

    events: list[Event] = []
    script = each(LLMResponse("", (ToolCall("1", "ask", {}),), "tool_calls"), REFUSED, reply("done"))
    model = Model(script)
    result = result_of(await react([ask]).run(model, "x", trace=events.append))
    assert model.asked[2].messages[-1]["content"] == "Error: PermanentError"
    assert [event.error for event in events if isinstance(event, ToolFinished)] == ["PermanentError"]
    assert result.cost.llm_calls == 3


async def test_an_approval_hook_tells_it_too() -> None:
    async def approve(proposal: Proposal) -> Deny:
        return Failure(REFUSED).unwrap()

    @tool
    def ask() -> str:
        """Ask."""
        return "x"

    model = Model(each(LLMResponse("", (ToolCall("1", "ask", {}),), "tool_calls"), reply("done")))
    result_of(await react([ask], approve=approve).run(model, "x"))
    assert "PermanentError" in model.asked[1].messages[-1]["content"]


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (TokenUsage(llm_calls=2), "2 of 2 calls are spent"),
        (TokenUsage(output_tokens=30), "30 of 30 output tokens are spent"),
    ],
)
async def test_a_spent_budget_says_which_how_far_and_the_call_that_did_not_fit(
    limit: TokenUsage, told: str
) -> None:
    model = Model(lambda asked: reply("ok", 3, 15))
    stage = consensus(3, max_concurrency=1, max_tokens=15)
    error = error_of(await stage.run(model, "a question", max_cost=limit))
    assert str(error) == (
        f"the run's budget does not allow another call: {told}; the call needs about 8 input tokens and up to "
        "15 output tokens; raise max_cost or ask for less"
    )
    known = error.metadata
    assert (known["budget"], known["budget_path"], known["budget_limit"]) == ("run", (), limit)
    assert known["budget_spent"] == TokenUsage(6, 30, 2)
    assert known["budget_needed"] == TokenUsage(8, 15, 1)


AT_ONCE = RetryConfig(base_delay=0)
NOBODY = ProviderError("no connection to localhost:11434")


@pytest.mark.parametrize(
    ("stage", "calls"),
    [
        (complete(), 2),
        (complete() & complete(), 3),
        (complete() | complete(), 2),
        (consensus(5), 10),
        (consensus(20), 10),
        (consensus(3), 2),  # the third sample has no attempt of its own that failed
        (consensus(3, quorum=2), 2),
        (consensus(3, max_concurrency=1), 2),
        (consensus(3, quorum=2, max_concurrency=1), 2),
    ],
)
async def test_a_budget_that_failed_attempts_have_spent_tells_the_last_failure(
    stage: Stage[str, Any], calls: int
) -> None:
    limit = TokenUsage(llm_calls=calls)
    outcome = await stage.run(Model(lambda asked: NOBODY), "x", max_cost=limit, retry=AT_ONCE)
    error = error_of(outcome)
    assert isinstance(error, BudgetExhaustedError)
    assert f"{calls} of {calls} calls are spent" in str(error)
    assert str(error).endswith("; the last attempt failed: ProviderError: no connection to localhost:11434")
    assert str(error).count("the last attempt failed") == 1
    assert error.metadata["last_failure"] == "ProviderError: no connection to localhost:11434"
    assert error.cost == limit


@pytest.mark.parametrize("calls", [2, 3, 8, 10, 16])
async def test_the_failure_that_ends_a_batch_tells_it_as_well(calls: int) -> None:
    model, limit = Model(lambda asked: NOBODY), TokenUsage(llm_calls=calls)
    rows = [str(number) for number in range(30)]
    async with complete().over(rows, model, key=str, max_cost=limit, retry=AT_ONCE) as batch:
        assert [row async for row in batch]
    assert isinstance(batch.failure, BudgetExhaustedError)
    assert str(batch.failure).count("the last attempt failed: ") == 1
    assert batch.failure.metadata["last_failure"] == "ProviderError: no connection to localhost:11434"
    assert batch.cost == limit


async def test_inputs_that_were_not_begun_tell_it_as_well() -> None:
    model = Model(lambda asked: NOBODY)
    many = complete().each(max_concurrency=1)
    limit = TokenUsage(llm_calls=4)  # all of them go into the first input
    value = result_of(await many.run(model, ["a", "b", "c"], max_cost=limit, retry=AT_ONCE)).value
    assert isinstance(error_of(value[0]), ProviderError)
    for outcome in value[1:]:
        assert str(error_of(outcome)).count("the last attempt failed: ProviderError: no connection") == 1


async def test_a_batch_whose_budget_went_into_answers_tells_of_no_failure() -> None:
    model = Model(lambda asked: PermanentError("no") if asked.number == 1 else reply())
    rows = [str(number) for number in range(9)]
    limit = TokenUsage(llm_calls=5)
    async with complete().over(rows, model, key=str, max_cost=limit, max_concurrency=1) as batch:
        assert len([row async for row in batch]) == 6
    assert isinstance(batch.failure, BudgetExhaustedError)
    assert "last_failure" not in batch.failure.metadata


async def test_a_budget_that_was_spent_on_answers_tells_of_no_failure() -> None:
    error = error_of(await consensus(3).run(Model(), "x", max_cost=TokenUsage(llm_calls=2)))
    assert isinstance(error, BudgetExhaustedError)
    assert "last_failure" not in error.metadata


async def test_the_budget_of_a_stage_is_told_by_its_name_and_place() -> None:
    stage = complete() >> consensus(3).within(TokenUsage(llm_calls=2)).named("vote")
    error = error_of(await stage.run(Model(), "x", max_cost=TokenUsage(llm_calls=9)))
    assert str(error).startswith("the budget of Consensus does not allow another call: 2 of 2 calls")
    assert (error.metadata["budget"], error.metadata["budget_path"]) == ("stage", (1,))


async def test_a_step_that_nothing_is_left_for_says_whose_budget_it_was() -> None:
    async def hungry(
        provider: LLMProvider, prompt: str, *, max_cost: TokenUsage | None = None
    ) -> PatternResult[str]:
        return PatternResult("never")

    error = error_of(await (complete() >> step(hungry)).run(Model(), "x", max_cost=TokenUsage(llm_calls=1)))
    assert isinstance(error, BudgetExhaustedError)
    assert "the run's budget" in str(error)
    assert "hungry" in str(error)


class Somewhere(Model):
    """A model that says what and where it is."""

    model = "gpt-nine"
    server = "api.example.com"


async def test_a_message_names_model_and_host_once() -> None:
    error = error_of(await complete().run(Somewhere(lambda asked: REFUSED), "x"))
    assert str(error) == "the server answered 401; check the key (gpt-nine at api.example.com)"
    assert (error.metadata["model"], error.metadata["server"]) == ("gpt-nine", "api.example.com")
    again = error_of(await refine(judge).run(Somewhere(refusing), "x"))
    assert str(again).count("gpt-nine") == 1
    slow = error_of(await complete().run(Somewhere(lambda asked: RateLimitError("slowly")), "x", retry=NEVER))
    assert isinstance(slow, RateLimitError)
    assert str(slow) == "slowly (gpt-nine at api.example.com)"
    foreign = error_of(await complete().run(Somewhere(lambda asked: OSError("down")), "x", retry=NEVER))
    assert "gpt-nine at api.example.com" in str(foreign)
    assert isinstance(foreign.__cause__, OSError)


def test_the_representation_of_an_error_shows_class_and_cost() -> None:
    error = PermanentError("no such model", cost=TokenUsage(3, 0, 1))
    cost = "TokenUsage(input_tokens=3, output_tokens=0, llm_calls=1)"
    assert repr(error) == f"PermanentError('no such model', cost={cost})"

    class Odd(ExecutionKitError):
        def __init__(self) -> None:
            pass

        def __str__(self) -> str:
            raise ValueError

    assert repr(Odd()).startswith("Odd(")


@pytest.mark.parametrize("budget", [9, "9", 9.5, {"llm_calls": 9}, True])
async def test_a_budget_of_the_facades_pipe_that_is_none_is_told_by_its_name(budget: Any) -> None:
    model = Model()
    with pytest.raises(TypeError, match="max_budget") as caught:
        await compat.pipe(model, "x", compat.consensus, max_budget=budget)
    assert repr(budget) in str(caught.value)
    assert model.calls == 0
