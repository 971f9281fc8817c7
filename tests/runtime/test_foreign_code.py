"""What foreign code may do to a run: odd errors, odd answers, wrappers, other event loops."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from executionkit import (
    BudgetExhaustedError,
    ExecutionKitError,
    LLMProvider,
    LLMResponse,
    Message,
    PatternResult,
    PermanentError,
    ProviderError,
    RetryConfig,
    ScriptedProvider,
    TokenUsage,
    compat,
    complete,
    consensus,
    react,
    refine,
    step,
    tool,
)
from executionkit.errors import EvaluationError, StageError
from executionkit.events import with_content
from executionkit.provider import ToolCall
from executionkit.stage import Fallback, Pipeline
from tests.doubles import error_of, result_of

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(base_delay=0, max_delay=0)
ROOM = TokenUsage(output_tokens=300)
USAGE = {"prompt_tokens": 3, "completion_tokens": 30}


class Busy(ProviderError):
    """A subclass that forgets to call `super().__init__`."""

    def __init__(self, code: int) -> None:
        self.code = code


class Flaky:
    """Fails every other call."""

    supports_tools = True

    def __init__(self, failure: Callable[[], Exception], tokens: int = 30) -> None:
        self.failure = failure
        self.tokens = tokens
        self.calls = 0

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        self.calls += 1
        if self.calls % 2:
            raise self.failure()
        return LLMResponse("yes", usage={"prompt_tokens": 3, "completion_tokens": self.tokens})


def wrong_cost() -> Exception:
    error = ProviderError("x")
    error.cost = 5  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    return error


@pytest.mark.parametrize("failure", [lambda: Busy(503), wrong_cost])
async def test_an_error_without_a_sound_cost_is_settled_and_retried(failure: Callable[[], Exception]) -> None:
    with anyio.fail_after(5):
        model = Flaky(failure)
        result = result_of(await consensus(3).run(model, "q", max_cost=ROOM, retry=AT_ONCE))
    assert (result.value, result.cost.llm_calls) == ("yes", model.calls)


async def test_a_negative_cost_buys_no_room() -> None:
    model = Flaky(lambda: ProviderError("x", cost=TokenUsage(0, -1000, 0)), tokens=300)
    with anyio.fail_after(5):
        outcome = await consensus(10, max_concurrency=1).run(model, "q", max_cost=ROOM, retry=AT_ONCE)
    error = error_of(outcome)
    assert isinstance(error, BudgetExhaustedError)
    assert 0 <= error.cost.output_tokens <= 600
    assert error.metadata["usage_estimated"] > 0


async def test_each_attempt_gets_messages_of_its_own() -> None:
    seen: list[int] = []

    class Prefixing:
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            messages.insert(0, {"role": "system", "content": "be brief"})
            messages[-1]["cache"] = 1
            seen.append(len(messages))
            if len(seen) == 1:
                raise ProviderError("busy")
            return LLMResponse("yes", usage=USAGE)

    result_of(await consensus(3).run(Prefixing(), "q", retry=AT_ONCE))
    assert seen == [2, 2, 2, 2]


class Shouting:
    """A wrapper, as the docs show one."""

    def __init__(self, inner: LLMProvider) -> None:
        self.inner = inner

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        response = await self.inner.complete(messages, **kwargs)
        return LLMResponse(response.content.upper(), usage=response.usage)


@pytest.mark.parametrize("budget", [None, TokenUsage(llm_calls=9), TokenUsage(output_tokens=500)])
async def test_a_wrapper_around_the_metered_provider_pays_once(budget: TokenUsage | None) -> None:
    async def shouted(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return (await complete().using(Shouting(provider)).run(provider, prompt)).unwrap()

    model = ScriptedProvider(lambda _: LLMResponse("yes", usage=USAGE))
    with anyio.fail_after(5):
        result = result_of(await step(shouted).run(model, "q", max_cost=budget))
    assert (result.value, result.cost) == ("YES", TokenUsage(3, 30, 1))
    assert len(model.requests) == 1


async def test_a_provider_kept_from_an_earlier_step_pays_once() -> None:
    kept: list[LLMProvider] = []

    async def keep(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        kept.append(provider)
        return PatternResult(prompt)

    async def use(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return (await complete().using(kept[0]).run(provider, prompt)).unwrap()

    model = ScriptedProvider(lambda _: LLMResponse("yes", usage=USAGE))
    with anyio.fail_after(5):
        result = result_of(await (step(keep) >> step(use)).run(model, "q", max_cost=ROOM))
    assert result.cost.llm_calls == len(model.requests) == 1


async def test_an_error_in_a_nested_pipeline_keeps_the_outer_steps() -> None:
    model = ScriptedProvider(["a", "b", PermanentError("gone")])
    inner = (complete() >> complete()).within(TokenUsage(llm_calls=9))
    error = error_of(await (complete() >> inner).run(model, "q"))
    assert error.cost.llm_calls == 3
    assert (error.metadata["step_count"], len(error.metadata["step_costs"])) == (1, 1)
    assert error.metadata["inner"]["step_count"] == 1


async def bought(provider: LLMProvider, prompt: str, **keywords: Any) -> PatternResult[str]:
    return await compat.consensus(provider, prompt, **keywords)


async def test_the_tighter_of_two_budgets_holds_for_a_step_that_takes_any_keyword() -> None:
    model = ScriptedProvider(lambda _: "yes")
    with pytest.raises(BudgetExhaustedError):
        await compat.pipe(
            model,
            "q",
            partial(bought, max_cost=TokenUsage(llm_calls=5)),
            max_cost=TokenUsage(llm_calls=2),
        )
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [({"max_cost": TokenUsage(llm_calls=-5)}, ValueError), ({"retry": "often"}, TypeError)],
)
async def test_a_wrong_shared_argument_is_refused_before_any_call(
    wrong: dict[str, Any], kind: type[Exception]
) -> None:
    model = ScriptedProvider(lambda _: "yes")
    with pytest.raises(kind):
        await compat.pipe(model, "q", compat.consensus, compat.consensus, **wrong)
    assert not model.requests


async def test_a_wrong_bound_budget_is_refused_before_any_call() -> None:
    model = ScriptedProvider(lambda _: "yes")
    broken = partial(compat.consensus, max_cost=TokenUsage(llm_calls=-5))
    with pytest.raises(ValueError, match="llm_calls"):
        await compat.pipe(model, "q", compat.consensus, broken)
    assert not model.requests


async def test_a_metered_provider_stays_in_its_event_loop() -> None:
    async def elsewhere(text: str, provider: LLMProvider) -> float:
        await anyio.to_thread.run_sync(lambda: consensus(3).run_sync(provider, "x"))
        return 0.5

    with anyio.fail_after(5):
        error = error_of(await refine(elsewhere).run(ScriptedProvider(lambda _: "yes"), "q", max_cost=ROOM))
    assert isinstance(error, EvaluationError)
    assert "another event loop" in str(error)


async def test_a_nested_run_that_ended_at_its_deadline_keeps_its_votes_to_itself() -> None:
    async def impatient(text: str, provider: LLMProvider) -> float:
        await consensus(3).run(Slow(), "x", deadline=0.02)
        await consensus(3).run(provider, "x", deadline=0.02)
        raise ValueError("no")

    class Slow:
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            if messages[-1]["content"] == "x":
                await anyio.sleep(10)
            return LLMResponse("draft", usage=USAGE)

    error = error_of(await refine(impatient).run(Slow(), "q"))
    assert error.metadata["best_draft"] == "draft"
    assert "votes" not in error.metadata


@pytest.mark.parametrize(
    "answer",
    [
        LLMResponse("", tool_calls=({"id": "1"},), usage=USAGE),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        LLMResponse("", tool_calls=(ToolCall(1, "f", {}),), usage=USAGE),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        LLMResponse("x", finish_reason=["stop"], usage=USAGE),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ],
)
async def test_a_junk_answer_is_a_provider_error_that_was_paid_for(answer: LLMResponse) -> None:
    error = error_of(await complete().run(ScriptedProvider([answer]), "q"))
    assert isinstance(error, ProviderError)
    assert error.cost == TokenUsage(3, 30, 1)


async def test_an_interrupt_is_never_grouped() -> None:
    class Abort(BaseException):
        """Like a KeyboardInterrupt, but one that asyncio does not carry past the test."""

    class Interrupted:
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            raise Abort

    with pytest.raises(Abort):
        await consensus(3).run(Interrupted(), "q")


async def test_a_class_in_place_of_a_provider_is_refused() -> None:
    with pytest.raises(TypeError, match="not its class"):
        await complete().run(ScriptedProvider, "q")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def async_trace(*event: object) -> None: ...


class AsyncTrace:
    async def __call__(self, event: object) -> None: ...


TRACES: list[Any] = [async_trace, AsyncTrace(), partial(async_trace, 1)]


@pytest.mark.parametrize("trace", [*TRACES, *map(with_content, TRACES)])
async def test_an_async_trace_is_refused(trace: Any) -> None:
    with pytest.raises(TypeError, match="plain function"):
        await complete().run(ScriptedProvider(["a"]), "q", trace=trace)


@pytest.mark.parametrize(
    "build",
    [
        lambda: complete().map(5),  # type: ignore[arg-type]  # pyright: ignore
        lambda: complete().within(None),  # type: ignore[arg-type]  # pyright: ignore
        lambda: complete(stream=5),  # type: ignore[arg-type]  # pyright: ignore
        lambda: Pipeline((5,)),  # type: ignore[arg-type]  # pyright: ignore
        lambda: Pipeline([complete()]),  # type: ignore[arg-type]  # pyright: ignore
    ],
)
def test_wrong_parts_are_refused_when_a_stage_is_built(build: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        build()


def test_a_fallback_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a stage to try"):
        Fallback[str, str](())


def test_a_subscripted_result_can_be_made() -> None:
    assert PatternResult[str]("x") == PatternResult("x"), sys.version


def test_errors_without_init_are_values_too() -> None:
    assert (Busy(1).cost, dict(Busy(1).metadata), Busy(1).retryable) == (TokenUsage(), {}, True)
    assert isinstance(Busy(1), ExecutionKitError)


class Closed(Exception):
    """An exception that lets nobody look at it."""

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)


async def test_an_exception_that_lets_nobody_look_at_it_is_one_like_any_other() -> None:
    async def fails(*_: object) -> Any:
        raise Closed("x")

    error = error_of(await refine(fails).run(ScriptedProvider("a"), "q"))
    assert isinstance(error, EvaluationError)
    assert isinstance(error.__cause__, Closed)
    error = error_of(await step(fails).run(ScriptedProvider("a"), "q"))
    assert isinstance(error.__cause__, Closed)
    broken = tool(fails_as_a_tool)
    model = ScriptedProvider([ToolCall("a", broken.name, {}), "done"])
    assert result_of(await react([broken]).run(model, "q")).value == "done"
    assert model.requests[1].prompt == "Error: Closed"


async def fails_as_a_tool() -> str:
    """Fail."""
    raise Closed("x")


class Text(str):
    """A text that cannot be read as one."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("not to be read")


async def test_the_message_of_an_error_is_what_its_text_holds() -> None:
    error = error_of(await complete().run(ScriptedProvider([PermanentError(Text("gone"))]), "q"))
    assert (str(error), type(error.args[0])) == ("gone", str)


def deep(leaf: BaseException) -> BaseException:
    for _ in range(5_000):
        leaf = BaseExceptionGroup("nested", [leaf])
    return leaf


@pytest.mark.parametrize("deadline", [None, 60])
async def test_what_a_group_holds_is_found_in_any_depth(deadline: float | None) -> None:
    async def fails(*_: object, raises: Callable[[], BaseException]) -> Any:
        raise deep(raises())

    async def outcome_of(raises: Callable[[], BaseException]) -> Any:
        stage = step(partial(fails, raises=raises))
        return await (stage & stage).run(ScriptedProvider("a"), "q", deadline=deadline)

    assert str(error_of(await outcome_of(lambda: ProviderError("down")))) == "down"
    assert isinstance(error_of(await outcome_of(lambda: ValueError("x"))), StageError)
    raised: list[BaseException] = []
    try:
        await outcome_of(KeyboardInterrupt)
    except BaseException as error:
        raised.append(error)
    assert [type(error) for error in raised] == [KeyboardInterrupt]
