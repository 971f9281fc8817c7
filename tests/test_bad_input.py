"""What a stranger may pass in, in both APIs: a clear error with its cost, or an answer."""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from executionkit import compat
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    EvaluationError,
    ExecutionKitError,
    InvalidPromptError,
    ProviderClosedError,
    ProviderError,
    StageError,
)
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import Evaluation, refine
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse
from executionkit.providers.openai import Provider
from executionkit.providers.pool import Cooldown
from executionkit.stage import Stage, identity
from executionkit.tools import Tool
from executionkit.voting import beta
from tests.doubles import AT_ONCE, NEVER, Model, each, error_of, reply, result_of, soon

pytestmark = pytest.mark.anyio

Facade = Callable[..., Awaitable[PatternResult[Any]]]


async def raised_by(call: Awaitable[object]) -> ExecutionKitError:
    with pytest.raises(ExecutionKitError) as raised:
        await call
    return raised.value


async def piped(provider: LLMProvider, prompt: str) -> PatternResult[Any]:
    return await compat.pipe(provider, prompt, compat.consensus)


NATIVE: list[Stage[str, str]] = [complete(), consensus(), refine(), react([]), complete() >> consensus()]
FACADE: list[Facade] = [
    compat.consensus,
    compat.refine_loop,
    partial(compat.react_loop, tools=[]),
    piped,
]


class TestPrompts:
    @pytest.mark.parametrize("stage", NATIVE, ids=lambda stage: stage.name)
    @pytest.mark.parametrize("prompt", ["", " \n\t ", None, 7, b"bytes", ["list"]])
    async def test_native(self, stage: Stage[Any, str], prompt: Any) -> None:
        model = Model()
        error = error_of(await stage.run(model, prompt))
        assert isinstance(error, InvalidPromptError)
        assert isinstance(error, ValueError)
        assert (error.cost, model.calls) == (NO_USAGE, 0)
        assert "prompt" in str(error)

    @pytest.mark.parametrize("facade", FACADE)
    @pytest.mark.parametrize("prompt", ["", "  "])
    async def test_facade_empty(self, facade: Facade, prompt: str) -> None:
        model = Model()
        with pytest.raises(ValueError, match="the prompt is empty") as raised:
            await facade(model, prompt)
        assert isinstance(raised.value, ExecutionKitError)
        assert model.calls == 0

    @pytest.mark.parametrize("facade", FACADE[:3])
    async def test_facade_not_text(self, facade: Facade) -> None:
        with pytest.raises(InvalidPromptError, match="must be text, not int"):
            await facade(Model(), 7)

    async def test_a_value_of_another_type_between_stages(self) -> None:
        counted: Stage[str, Any] = complete().map(len)
        error = error_of(await (counted >> complete()).run(Model(), "x"))
        assert "put .map(str) or prompt(...) before the stage" in str(error)
        assert error.cost == TokenUsage(3, 2, 1)

    @pytest.mark.parametrize("prompt", ["x" * 1_000_000, "\ud800 lone \udfff", "\x00", "é" * 10])
    @pytest.mark.parametrize("budget", [None, TokenUsage(10**7, 10**6, 100)])
    async def test_odd_but_good(self, prompt: str, budget: TokenUsage | None) -> None:
        model = Model(lambda asked: reply(f"Score: 9 {asked.prompt[:5]}"))
        for stage in (complete(), consensus(n=3), refine(), react([])):
            outcome = await soon(stage.run(model, prompt, max_cost=budget, trace=lambda event: None))
            assert result_of(outcome).cost.llm_calls >= 1
        assert (await compat.consensus(model, prompt, num_samples=2, max_cost=budget)).score == 1.0
        assert prompt in model.asked[0].prompt

    async def test_a_megabyte_does_not_fit_a_small_budget(self) -> None:
        model = Model()
        error = error_of(await complete().run(model, "x" * 1_000_000, max_cost=TokenUsage(input_tokens=1000)))
        assert "input tokens" in str(error)
        assert model.calls == 0

    async def test_an_empty_answer_ends_a_pipeline_with_its_cost(self) -> None:
        error = error_of(await (complete() >> complete()).run(Model(each(reply(""))), "x"))
        assert isinstance(error, InvalidPromptError)
        assert error.cost == TokenUsage(3, 2, 1)


class TestSettings:
    @pytest.mark.parametrize(
        "build",
        [
            lambda: consensus(n=0),
            lambda: consensus(n=-1),
            lambda: consensus(n=1.5),  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
            lambda: consensus(n=True),
            lambda: consensus(strategy="plurality"),  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
            lambda: consensus(max_concurrency=0),
            lambda: consensus(temperature=2.5),
            lambda: consensus(temperature=math.nan),
            lambda: complete(max_tokens=0),
            lambda: complete(temperature="hot"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            lambda: refine(target_score=1.5),
            lambda: refine(max_iterations=-1),
            lambda: refine(patience=0),
            lambda: refine(delta_threshold=-0.1),
            lambda: refine(max_eval_chars=0),
            lambda: refine("evaluator"),  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownLambdaType]
            lambda: refine(lambda: 1.0),  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownLambdaType]
            lambda: react([], max_rounds=0),
            lambda: react(["tool"]),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
            lambda: step(5),  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownLambdaType]
            lambda: complete().within(5),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            lambda: complete().within(TokenUsage(llm_calls=-1)),
            lambda: complete().using(object()),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ],
    )
    async def test_native_settings_fail_when_the_stage_is_built(self, build: Callable[[], object]) -> None:
        with pytest.raises((ValueError, TypeError)) as raised:
            build()
        assert len(str(raised.value)) > 10

    @pytest.mark.parametrize(
        ("facade", "keywords"),
        [
            (compat.consensus, {"num_samples": 0}),
            (compat.consensus, {"num_samples": "3"}),
            (compat.consensus, {"strategy": "plurality"}),
            (compat.consensus, {"max_concurrency": 0}),
            (compat.consensus, {"max_tokens": 0}),
            (compat.consensus, {"max_cost": TokenUsage(llm_calls=-1)}),
            (compat.consensus, {"max_cost": TokenUsage(llm_calls=1.5)}),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            (compat.consensus, {"max_cost": 5}),
            (compat.consensus, {"retry": 3}),
            (compat.refine_loop, {"target_score": 2}),
            (compat.refine_loop, {"evaluator": 5}),
            (compat.refine_loop, {"max_iterations": -1}),
            (compat.react_loop, {"tools": [], "max_rounds": 0}),
            (compat.react_loop, {"tools": [5]}),
            (compat.pipe, {"max_budget": TokenUsage(output_tokens=-1)}),
            (compat.pipe, {"unheard_of": 1}),
        ],
    )
    async def test_wrong_arguments_are_refused_before_any_call(
        self, facade: Facade, keywords: dict[str, Any]
    ) -> None:
        model = Model()
        with pytest.raises((ValueError, TypeError)) as raised:
            await facade(model, "x", **keywords)
        assert not isinstance(raised.value, ExecutionKitError)
        assert model.calls == 0

    @pytest.mark.parametrize("budget", [TokenUsage(llm_calls=-1), TokenUsage(output_tokens=1.5), 3])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def test_budgets_of_a_native_run(self, budget: Any) -> None:
        model = Model()
        with pytest.raises((ValueError, TypeError)):
            await complete().run(model, "x", max_cost=budget)
        assert model.calls == 0

    async def test_a_wrong_retry_of_a_native_run(self) -> None:
        with pytest.raises(TypeError, match="RetryConfig"):
            await complete().run(Model(), "x", retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def raising(text: str) -> float:
    raise KeyError("lost")


def dividing(text: str) -> float:
    return 1 / 0


async def interested(text: str, provider: LLMProvider) -> float:
    raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])


class TestEvaluators:
    @pytest.mark.parametrize(
        "score", [math.nan, math.inf, -math.inf, 1.5, -0.1, None, "0.5", True, [], 1j, 10**400]
    )
    async def test_no_score(self, score: Any) -> None:
        model = Model()
        error = error_of(await refine(lambda text: score).run(model, "x"))
        assert isinstance(error, EvaluationError)
        assert "a score is a number from 0 to 1" in str(error)
        assert error.cost == TokenUsage(3, 2, 1)
        assert (error.metadata["best_draft"], error.metadata["best_score"]) == ("ok", None)

        async def evaluator(text: str, provider: LLMProvider) -> float:
            return Evaluation(score)  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

        caught = await raised_by(compat.refine_loop(model, "x", evaluator=evaluator))
        assert caught == error

    @pytest.mark.parametrize("evaluator", [raising, interested, dividing])
    async def test_one_that_raises(self, evaluator: Any) -> None:
        error = error_of(await refine(evaluator).run(Model(), "x"))
        assert isinstance(error, EvaluationError)
        assert type(error.__cause__) in {KeyError, ExceptionGroup, ZeroDivisionError}
        assert not isinstance(error, ExceptionGroup)
        assert error.cost == TokenUsage(3, 2, 1)
        assert error.metadata["best_draft"] == "ok"
        caught = await raised_by(compat.refine_loop(Model(), "x", evaluator=evaluator))
        assert caught == error
        assert type(caught.__cause__) is type(error.__cause__)

    async def test_one_that_fails_later_keeps_the_best_draft(self) -> None:
        scores = iter([0.5, 0.2])
        model = Model(lambda asked: reply(f"draft {asked.number}"))
        error = error_of(await refine(lambda text: next(scores)).run(model, "x"))
        assert isinstance(error, EvaluationError)
        assert (error.metadata["best_draft"], error.metadata["best_score"]) == ("draft 1", 0.5)
        assert error.metadata["score_history"] == (0.5, 0.2)
        assert error.cost.llm_calls == 3

    async def test_a_judge_that_can_not_be_read(self) -> None:
        model = Model(each(reply("draft"), reply("lovely!")))
        error = error_of(await refine().run(model, "x"))
        assert isinstance(error, EvaluationError)
        assert (error.metadata["judge_answer"], error.metadata["best_draft"]) == ("lovely!", "draft")
        assert error.cost.llm_calls == 2

    async def test_whole_numbers_and_subclasses_of_float_are_scores(self) -> None:
        class Precise(float):
            pass

        async def judge(text: str, provider: LLMProvider, *, score: float) -> float:
            return score

        for score in (1, Precise(1.0)):
            result = result_of(await refine(partial(judge, score=score)).run(Model(), "x"))
            assert result.metadata["score_history"] == (1.0,)
            assert type(result.score) is float


JUNK: list[Any] = [
    None,
    "text",
    {"choices": []},
    5,
    LLMResponse(5),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LLMResponse(b"bytes"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LLMResponse("x", tool_calls="calls"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LLMResponse(["x"]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
]


class TestProviders:
    @pytest.mark.parametrize("junk", JUNK, ids=repr)
    async def test_junk_is_an_error_and_not_asked_for_again(self, junk: object) -> None:
        for stage in (complete(), consensus(n=2, max_concurrency=1), refine(), react([])):
            model = Model(each(junk))
            error = error_of(await stage.run(model, "x"))
            assert isinstance(error, ProviderError)
            assert "the provider returned" in str(error)
            assert (model.calls, error.cost.llm_calls) == (1, 1)
        assert isinstance(
            await raised_by(compat.consensus(Model(each(junk)), "x", num_samples=1)), ProviderError
        )

    async def test_null_fields_are_no_error(self) -> None:
        junk = LLMResponse(None, None, None, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        result = result_of(await complete().run(Model(each(junk)), "x"))
        assert result.value == ""
        assert result_of(await react([]).run(Model(each(junk)), "x")).value == ""
        called = LLMResponse("", [])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert result_of(await react([]).run(Model(each(called)), "x")).value == ""

    @pytest.mark.parametrize("provider", [None, object(), 5, "model", {"complete": 1}])
    async def test_of_the_wrong_shape(self, provider: Any) -> None:
        with pytest.raises(TypeError, match="a provider needs `async complete"):
            await complete().run(provider, "x")
        with pytest.raises(TypeError, match="a provider needs `async complete"):
            await compat.consensus(provider, "x")
        with pytest.raises(TypeError):
            await compat.react_loop(provider, "x", [])

    async def test_one_that_is_closed(self) -> None:
        provider = compat.Provider("http://127.0.0.1:9", "model")
        await provider.aclose()
        error = error_of(await consensus(n=2, max_concurrency=1).run(provider, "x"))
        assert isinstance(error, ProviderClosedError)
        assert error.cost == TokenUsage(llm_calls=1)
        assert isinstance(await raised_by(compat.refine_loop(provider, "x")), ProviderClosedError)

    @pytest.mark.parametrize("call", [{"id": "1", "name": "f"}, None, "call"])
    async def test_tool_calls_that_are_none(self, call: Any) -> None:
        model = Model(each(LLMResponse("", (call,))))
        error = error_of(await react([]).run(model, "x"))
        assert error.cost.llm_calls == 1
        assert isinstance(await raised_by(compat.react_loop(model, "x", [])), type(error))

    async def test_one_that_is_not_async(self) -> None:
        class Blocking:
            def complete(self, messages: object, **kwargs: object) -> LLMResponse:
                return reply()

        blocking: Any = Blocking()
        error = error_of(await complete().run(blocking, "x"))
        assert isinstance(error, ProviderError)
        assert isinstance(error.__cause__, TypeError)
        assert error.cost.llm_calls == 1

    async def test_one_that_takes_other_arguments(self) -> None:
        class Other:
            async def complete(self, text: str) -> str:
                return text

        other: Any = Other()
        error = error_of(await consensus(n=3).run(other, "x", retry=AT_ONCE))
        assert isinstance(error, ProviderError)
        assert "TypeError" in str(error)

    async def test_one_without_tools_in_the_facade(self) -> None:
        class Plain:
            async def complete(self, messages: object, **kwargs: object) -> LLMResponse:
                return reply()

        plain: Any = Plain()
        with pytest.raises(TypeError, match="supports_tools"):
            await compat.react_loop(plain, "x", [])

    async def test_one_that_raises_anything(self) -> None:
        for raised in (
            KeyError("x"),
            ExceptionGroup("g", [OSError()]),
            StopAsyncIteration(),
            AssertionError(),
        ):
            model = Model(each(raised))
            error = error_of(await consensus(n=2, max_concurrency=1).run(model, "x", retry=NEVER))
            assert isinstance(error, ProviderError)
            assert error.__cause__ is raised
            assert error.cost.llm_calls == 1
            caught = await raised_by(compat.consensus(Model(each(raised)), "x", num_samples=1, retry=NEVER))
            assert caught.__cause__ is raised


class TestStages:
    async def test_a_pipeline_of_a_hundred_stages(self) -> None:
        chain: Stage[str, str] = identity(str)
        for _ in range(100):
            chain = chain >> complete()
        model = Model()
        result = result_of(await soon(chain.run(model, "x", max_cost=TokenUsage(llm_calls=100))))
        assert result.cost == TokenUsage(300, 200, 100)
        assert result.metadata["step_count"] == model.calls == 100
        piped = await compat.pipe(Model(), "x", *[compat.consensus] * 100, num_samples=1)
        assert piped.cost == result.cost

    async def test_a_hundred_deep(self) -> None:
        mapped: Stage[str, str] = complete()
        both: Stage[str, Any] = complete()
        within: Stage[str, str] = complete()
        for _ in range(100):
            mapped = mapped.map(lambda text: text + "!")
            both = both & complete()
            within = (within >> complete()).within(TokenUsage(llm_calls=1000))
        assert result_of(await mapped.run(Model(), "x")).value == "ok" + "!" * 100
        assert result_of(await soon(both.run(Model(), "x"))).cost.llm_calls == 101
        assert result_of(await soon(within.run(Model(), "x"))).cost.llm_calls == 101

    async def test_a_map_that_raises(self) -> None:
        stages: list[Stage[str, Any]] = [
            complete().map(lambda text: 1 / 0),
            (complete() >> complete()).map(lambda text: 1 / 0),
            identity(str).map(lambda text: 1 / 0),
            (complete() | complete()).map(lambda text: 1 / 0),
            (complete() & complete()).map(lambda pair: 1 / 0),
            refine(lambda text: 1.0).map(lambda text: 1 / 0),
        ]
        for stage in stages:
            model = Model()
            error = error_of(await stage.run(model, "x"))
            assert isinstance(error, StageError)
            assert isinstance(error.__cause__, ZeroDivisionError)
            assert error.cost.llm_calls == model.calls
            assert "failed_step" not in error.metadata

    async def test_a_step_that_returns_or_raises_something_else(self) -> None:
        async def text(provider: LLMProvider, prompt: str) -> Any:
            await provider.complete([{"role": "user", "content": prompt}])
            return "text"

        async def lost(provider: LLMProvider, prompt: str) -> Any:
            await provider.complete([{"role": "user", "content": prompt}])
            raise KeyError("lost")

        def blocking(provider: LLMProvider, prompt: str) -> Any:
            return PatternResult("x")

        for function, calls in ((text, 1), (lost, 1), (blocking, 0)):
            error = error_of(await step(function).run(Model(), "x"))
            assert isinstance(error, StageError)
            assert error.cost.llm_calls == calls
            assert isinstance(await raised_by(compat.pipe(Model(), "x", function)), StageError)

    async def test_a_stage_that_performs_badly(self) -> None:
        def missing() -> dict[str, object]:
            raise KeyError("missing")

        class Wrong(Stage[str, str], frozen=True):
            async def perform(self, value: str, context: Any) -> Any:
                context.report(missing)
                await context.complete([{"role": "user", "content": value}])
                return value

        error = error_of(await Wrong().run(Model(), "x"))
        assert isinstance(error, StageError)
        assert "Wrong returned str instead of a PatternResult" in str(error)
        assert error.cost.llm_calls == 1


HUGE = 10**400
SETTINGS: list[Callable[[], Any]] = [
    lambda: Provider("http://localhost/v1", "m", timeout=HUGE),
    lambda: Provider("http://localhost/v1", "m", default_temperature=HUGE),
    lambda: Cooldown(seconds=HUGE),
    lambda: Tool("t", "", {}, Model().complete, HUGE),
    lambda: complete(temperature=HUGE),
    lambda: consensus(stop=beta(HUGE)),
    lambda: complete().run_sync(Model(), "q", deadline=HUGE),
]


@pytest.mark.parametrize("build", SETTINGS)
def test_a_number_that_no_float_can_hold_is_out_of_range(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"finite|from 0 to 2|larger"):
        build()
