"""Who scores a draft: evaluators of every shape, and the judge."""

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from executionkit import (
    DeadlineExceededError,
    Evaluation,
    LLMProvider,
    LLMResponse,
    PermanentError,
    ScriptedProvider,
    TokenUsage,
    refine,
)
from executionkit.errors import EvaluationError
from executionkit.runtime.context import MeteredProvider
from tests.doubles import error_of, result_of, shown
from tests.talking import filtered, refuses

pytestmark = pytest.mark.anyio


def plain(text: str) -> float:
    return len(text) / 10


def reasoned(text: str) -> Evaluation:
    return Evaluation(len(text) / 10, f"say more than {text}")


async def of_one(text: str) -> float:
    return len(text) / 10


async def of_two(text: str, provider: LLMProvider) -> float:
    assert isinstance(provider, MeteredProvider)
    return len(text) / 10


async def reviewed(text: str, provider: LLMProvider) -> Evaluation:
    return Evaluation(len(text) / 10)


async def named(text: str, *, provider: LLMProvider | None = None) -> float:
    return len(text) / 10


def optional(text: str, minimum: int = 0) -> float:
    assert minimum == 0, "an optional argument that is no provider stays as it is"
    return len(text) / 10


def defaulted(text: str, provider: LLMProvider | None = None) -> float:
    assert provider is not None
    return len(text) / 10


def scaled(scale: int, text: str) -> float:
    return len(text) / scale


class Rubric:
    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, text: str) -> float:
        return len(text) / self.scale

    async def ask(self, text: str, provider: LLMProvider) -> float:
        return self(text)


@pytest.mark.parametrize(
    "evaluator",
    [
        *(plain, reasoned, of_one, of_two, reviewed, named, optional, defaulted),
        *(partial(scaled, 10), Rubric(10), Rubric(10).ask),
    ],
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
async def test_every_shape_of_evaluator_scores(evaluator: Callable[..., Any]) -> None:
    outcome = await refine(evaluator).run(ScriptedProvider(["abc", "abcdefghij"]), "task")
    result = result_of(outcome)
    assert (result.value, result.score) == ("abcdefghij", 1.0)
    assert result.metadata["score_history"] == (0.3, 1.0)


@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0])
async def test_the_ends_of_the_scale_are_scores(score: float) -> None:
    outcome = await refine(lambda _: score, max_iterations=0).run(ScriptedProvider("draft"), "task")
    assert result_of(outcome).score == score


NO_SCORES: list[Any] = [
    *(float("nan"), float("inf"), 1.5, -0.1, None, "0.5", True, [0.5], KeyError("raised")),
    *(Evaluation(1.5), Evaluation(float("nan")), Evaluation(0.5, None)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize("score", NO_SCORES, ids=repr)
async def test_no_score_is_an_error_that_keeps_the_draft_and_the_cost(score: Any) -> None:
    def evaluator(text: str) -> Any:
        if isinstance(score, Exception):
            raise score
        return score

    error = error_of(await refine(evaluator).run(ScriptedProvider(["the draft"]), "task"))
    assert isinstance(error, EvaluationError)
    assert error.cost.llm_calls == 1
    assert (error.metadata["best_draft"], error.metadata["best_score"]) == ("the draft", None)
    assert error.metadata["score_history"] == ()
    assert error.__cause__ is (score if isinstance(score, Exception) else None)
    assert pickle.loads(pickle.dumps(error)) == error


async def test_an_error_of_ours_in_an_evaluator_keeps_its_class() -> None:
    async def asks(text: str, provider: LLMProvider) -> float:
        await provider.complete([{"role": "user", "content": text}])
        return 1.0

    provider = ScriptedProvider(["draft", PermanentError("the judge is gone")])
    error = error_of(await refine(asks).run(provider, "task"))
    assert isinstance(error, PermanentError)
    assert (error.cost.llm_calls, error.metadata["best_draft"]) == (2, "draft")


async def test_an_evaluators_calls_draw_on_the_budget() -> None:
    async def greedy(text: str, provider: LLMProvider) -> float:
        for _ in range(10):
            await provider.complete([{"role": "user", "content": text}])
        return 1.0

    provider = ScriptedProvider("draft")
    error = error_of(await refine(greedy).run(provider, "task", max_cost=TokenUsage(llm_calls=4)))
    assert error.cost.llm_calls == len(provider.requests) == 4


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Score: 7", 0.7), ("7/10", 0.7), ("**7.5** out of 10", 0.75), ("0", 0.0), ("Rating: 10.", 1.0)],
)
async def test_what_a_judge_may_say(reply: str, score: float) -> None:
    outcome = await refine(max_iterations=0).run(ScriptedProvider(["draft", reply]), "task")
    assert result_of(outcome).score == pytest.approx(score)


@pytest.mark.parametrize("reply", ["I can not say", "42", "between 3 and 8", ""])
async def test_a_judge_that_gives_no_rating(reply: str) -> None:
    error = error_of(await refine().run(ScriptedProvider(["draft", reply]), "task"))
    assert isinstance(error, EvaluationError)
    assert error.cost.llm_calls == 2
    assert (error.metadata["best_draft"], error.metadata["judge_answer"]) == ("draft", reply)


async def of_three(text: str, provider: LLMProvider, task: str) -> float:
    return 1.0


@pytest.mark.parametrize("evaluator", [0.9, "judge", lambda: 1.0, of_three], ids=shown)
async def test_what_can_not_be_called_with_a_text_is_no_evaluator(evaluator: Any) -> None:
    with pytest.raises(TypeError, match="an evaluator"):
        refine(evaluator)


async def test_an_evaluator_that_does_not_listen_is_left_behind() -> None:
    ended: list[bool] = []

    async def stubborn(text: str, provider: LLMProvider) -> float:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        ended.append(True)
        return 1.0

    with anyio.fail_after(10):
        outcome = await refine(stubborn).run(ScriptedProvider(["A draft."]), "?", deadline=0.05)
    error = error_of(outcome)
    assert isinstance(error, DeadlineExceededError)
    assert error.cost.llm_calls == 1
    assert not ended
    await anyio.sleep(0.8)  # what trio leaves behind ends by itself


async def test_a_cancelled_evaluator_is_cancelled() -> None:
    outcomes: list[object] = []

    async def waiting(text: str, provider: LLMProvider) -> float:
        try:
            await anyio.sleep_forever()
        finally:
            outcomes.append("left")
        return 1.0

    with anyio.move_on_after(0.02) as scope:
        outcomes.append(await refine(waiting).run(ScriptedProvider(["A draft."]), "?"))
    assert scope.cancelled_caught
    assert outcomes == ["left"]


@pytest.mark.parametrize(
    ("reply", "refusal"),
    [
        (filtered("10"), "content_filter"),
        (refuses("I do not rate."), "I do not rate."),
        (LLMResponse("Score: 10", extra={"refusal": "No."}), "No."),
    ],
)
async def test_a_judge_that_refuses_gives_no_score(reply: LLMResponse, refusal: str) -> None:
    error = error_of(await refine().run(ScriptedProvider(["draft", reply]), "task"))
    assert isinstance(error, EvaluationError)
    assert (error.metadata["judge_refusal"], error.metadata["judge_answer"]) == (refusal, reply.content)
    assert (error.metadata["best_draft"], error.cost.llm_calls) == ("draft", 2)
    assert "refusal" not in error.metadata
