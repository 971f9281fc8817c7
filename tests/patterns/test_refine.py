"""`refine`: evaluators of every shape, what the next draft gets to see, what an error keeps."""

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from executionkit import (
    DeadlineExceededError,
    Evaluation,
    ExecutionKitError,
    LLMProvider,
    LLMResponse,
    PatternResult,
    PermanentError,
    ProviderError,
    ScriptedProvider,
    TokenUsage,
    complete,
    is_failure,
    is_success,
    prompt,
    refine,
)
from executionkit.errors import EvaluationError, InvalidPromptError
from executionkit.outcome import Outcome
from executionkit.runtime.context import MeteredProvider
from tests.doubles import shown
from tests.talking import filtered, refuses

pytestmark = pytest.mark.anyio


def answered(outcome: Outcome[str]) -> PatternResult[str]:
    assert is_success(outcome), outcome
    return outcome.unwrap()


def failed(outcome: Outcome[str]) -> ExecutionKitError:
    assert is_failure(outcome), outcome
    return outcome.failure()


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
    result = answered(outcome)
    assert (result.value, result.score) == ("abcdefghij", 1.0)
    assert result.metadata["score_history"] == (0.3, 1.0)


@pytest.mark.parametrize("score", [0, 1, 0.0, 1.0])
async def test_the_ends_of_the_scale_are_scores(score: float) -> None:
    outcome = await refine(lambda _: score, max_iterations=0).run(ScriptedProvider("draft"), "task")
    assert answered(outcome).score == score


async def test_the_reasons_reach_the_next_draft() -> None:
    provider = ScriptedProvider(["ab", "abcd", "abc", "abcdefghij"])
    await refine(reasoned).run(provider, "the task")
    first, second, third, fourth = [request.prompt for request in provider.requests]
    assert first == "the task"
    assert "say more than ab" in second
    assert "say more than abcd" in third
    assert "say more than abcd" in fourth  # the reasons of the best draft, not of the last
    assert all("the task" in prompt for prompt in (second, third, fourth))


async def test_the_judges_reasons_reach_the_next_draft() -> None:
    provider = ScriptedProvider(["draft", "Score: 4\nIt lacks a date.", "better", "Score: 10"])
    result = answered(await refine().run(provider, "task"))
    assert "It lacks a date." in provider.requests[2].prompt
    assert (result.value, result.score, result.cost.llm_calls) == ("better", 1.0, 4)


async def test_without_reasons_none_are_made_up() -> None:
    provider = ScriptedProvider(["abc", "abcdefghij"])
    await refine(plain).run(provider, "task")
    assert "evaluation said" not in provider.requests[1].prompt


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

    error = failed(await refine(evaluator).run(ScriptedProvider(["the draft"]), "task"))
    assert isinstance(error, EvaluationError)
    assert error.cost.llm_calls == 1
    assert (error.metadata["best_draft"], error.metadata["best_score"]) == ("the draft", None)
    assert error.metadata["score_history"] == ()
    assert error.__cause__ is (score if isinstance(score, Exception) else None)
    assert pickle.loads(pickle.dumps(error)) == error


async def test_an_evaluator_that_fails_later_leaves_the_best_draft() -> None:
    def moody(text: str) -> float:
        if text == "third":
            raise ValueError("no more")
        return {"first": 0.6, "second": 0.2}[text]

    provider = ScriptedProvider(["first", "second", "third"])
    error = failed(await refine(moody).run(provider, "task"))
    assert error.cost.llm_calls == 3
    assert (error.metadata["best_draft"], error.metadata["best_score"]) == ("first", 0.6)
    assert (error.metadata["iterations"], error.metadata["score_history"]) == (1, (0.6, 0.2))
    assert isinstance(error.__cause__, ValueError)


async def test_an_error_of_ours_in_an_evaluator_keeps_its_class() -> None:
    async def asks(text: str, provider: LLMProvider) -> float:
        await provider.complete([{"role": "user", "content": text}])
        return 1.0

    provider = ScriptedProvider(["draft", PermanentError("the judge is gone")])
    error = failed(await refine(asks).run(provider, "task"))
    assert isinstance(error, PermanentError)
    assert (error.cost.llm_calls, error.metadata["best_draft"]) == (2, "draft")


async def test_an_evaluators_calls_draw_on_the_budget() -> None:
    async def greedy(text: str, provider: LLMProvider) -> float:
        for _ in range(10):
            await provider.complete([{"role": "user", "content": text}])
        return 1.0

    provider = ScriptedProvider("draft")
    error = failed(await refine(greedy).run(provider, "task", max_cost=TokenUsage(llm_calls=4)))
    assert error.cost.llm_calls == len(provider.requests) == 4


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Score: 7", 0.7), ("7/10", 0.7), ("**7.5** out of 10", 0.75), ("0", 0.0), ("Rating: 10.", 1.0)],
)
async def test_what_a_judge_may_say(reply: str, score: float) -> None:
    outcome = await refine(max_iterations=0).run(ScriptedProvider(["draft", reply]), "task")
    assert answered(outcome).score == pytest.approx(score)


@pytest.mark.parametrize("reply", ["I can not say", "42", "between 3 and 8", ""])
async def test_a_judge_that_gives_no_rating(reply: str) -> None:
    error = failed(await refine().run(ScriptedProvider(["draft", reply]), "task"))
    assert isinstance(error, EvaluationError)
    assert error.cost.llm_calls == 2
    assert (error.metadata["best_draft"], error.metadata["judge_answer"]) == ("draft", reply)


async def test_a_draft_that_never_came() -> None:
    error = failed(
        await refine(plain).run(ScriptedProvider([ProviderError("down", retryable=False)]), "task")
    )
    assert isinstance(error, ProviderError)
    assert (error.metadata["best_draft"], error.metadata["best_score"]) == ("", None)
    assert error.cost.llm_calls == 1


@pytest.mark.parametrize("prompt", ["", " \n", None, 7])
async def test_a_prompt_that_is_none(prompt: Any) -> None:
    provider = ScriptedProvider("draft")
    error = failed(await refine(plain).run(provider, prompt))
    assert isinstance(error, InvalidPromptError)
    assert (error.cost, provider.requests) == (TokenUsage(), [])


async def test_a_megabyte_and_lone_surrogates_are_a_prompt() -> None:
    for text in ("x" * 1_000_000, "half a \ud83d pair"):
        provider = ScriptedProvider(["draft", "Score: 10"])
        assert answered(await refine().run(provider, text)).value == "draft"
        assert text in provider.requests[1].prompt


@pytest.mark.parametrize(
    "settings",
    [
        *({"target_score": 1.1}, {"target_score": -0.1}, {"max_iterations": -1}, {"patience": 0}),
        *({"delta_threshold": float("inf")}, {"max_eval_chars": 0}, {"temperature": 2.1}, {"max_tokens": 0}),
    ],
    ids=str,
)
async def test_settings_out_of_range_fail_when_the_stage_is_built(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        refine(plain, **settings)


async def of_three(text: str, provider: LLMProvider, task: str) -> float:
    return 1.0


@pytest.mark.parametrize("evaluator", [0.9, "judge", lambda: 1.0, of_three], ids=shown)
async def test_what_can_not_be_called_with_a_text_is_no_evaluator(evaluator: Any) -> None:
    with pytest.raises(TypeError, match="an evaluator"):
        refine(evaluator)


async def test_it_is_a_value() -> None:
    stage = refine(plain, patience=2)
    assert stage == refine(plain, patience=2)
    assert hash(stage) == hash(refine(plain, patience=2))
    assert stage != refine(plain)
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert "patience=2" in repr(stage)
    with pytest.raises(AttributeError):
        stage.patience = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def test_an_evaluator_that_does_not_listen_is_left_behind() -> None:
    ended: list[bool] = []

    async def stubborn(text: str, provider: LLMProvider) -> float:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        ended.append(True)
        return 1.0

    with anyio.fail_after(10):
        outcome = await refine(stubborn).run(ScriptedProvider(["A draft."]), "?", deadline=0.05)
    error = failed(outcome)
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
    ("draft", "refusal"), [(refuses("No."), "No."), (filtered("Half"), "content_filter")]
)
async def test_a_refused_draft_is_told(draft: LLMResponse, refusal: str) -> None:
    result = answered(await refine(lambda _: 0.95, max_iterations=0).run(ScriptedProvider([draft]), "task"))
    assert (result.value, result.metadata["refusal"]) == (draft.content, refusal)


def cut(text: str) -> LLMResponse:
    return LLMResponse(text, finish_reason="length")


@pytest.mark.parametrize("fragment", [cut("a fine beginning"), filtered("a fine beginning")])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_draft_that_was_cut_is_not_the_best(fragment: LLMResponse, place: int) -> None:
    drafts: list[str | LLMResponse] = ["whole", "whole too"]
    drafts.insert(place, fragment)
    provider = ScriptedProvider(drafts)
    scores = {"whole": 0.2, "whole too": 0.3, "a fine beginning": 0.99}
    result = answered(await refine(scores.__getitem__, max_iterations=2).run(provider, "task"))
    assert (result.value, result.score) == ("whole too", 0.3)
    assert sorted(result.metadata["score_history"]) == [0.2, 0.3, 0.99]
    assert not {"truncated", "refusal"} & result.metadata.keys()
    asked_to_be_short = ["cut off" in str(asked.messages) for asked in provider.requests]
    assert asked_to_be_short == [False, place == 0, False]


async def test_where_all_drafts_were_cut_the_best_of_them_says_so() -> None:
    drafts = {"one": 0.2, "two": 0.95, "three": 0.3}
    provider = ScriptedProvider([*map(cut, drafts)])
    result = answered(await refine(drafts.__getitem__, max_iterations=2).run(provider, "task"))
    assert (result.value, result.score, result.metadata["truncated"]) == ("two", 0.95, True)
    assert not result.metadata["converged"]

    def broken(text: str) -> float:
        raise ValueError

    error = failed(await refine(broken).run(ScriptedProvider([cut("half")]), "task"))
    assert (error.metadata["best_draft"], error.metadata["truncated"]) == ("half", True)


async def test_patience_ends_the_wait_for_a_whole_draft() -> None:
    provider = ScriptedProvider([*map(cut, "abcdefgh")])
    result = answered(await refine(lambda _: 0.95, max_iterations=7, patience=2).run(provider, "task"))
    assert (result.metadata["iterations"], result.metadata["converged"]) == (2, True)


async def test_stages_that_draft_say_what_was_cut() -> None:
    scores = {"half": 0.9, "whole": 0.1}
    stage = refine(scores.__getitem__, draft=complete(), improve=prompt("Better: {value}") >> complete())
    result = answered(await stage.run(ScriptedProvider([cut("half"), *["whole"] * 4]), "task"))
    assert (result.value, result.score) == ("whole", 0.1)


async def test_only_the_best_draft_is_told_as_a_refusal() -> None:
    first = refine(lambda text: 0.8 if text else 0.1, max_iterations=1)
    assert "refusal" not in answered(await first.run(ScriptedProvider([refuses(), "text"]), "task")).metadata
    assert "refusal" not in answered(await first.run(ScriptedProvider(["text", refuses()]), "task")).metadata
    other = refine(lambda text: 0.1 if text else 0.8, max_iterations=1)
    assert "refusal" in answered(await other.run(ScriptedProvider([refuses(), "text"]), "task")).metadata


async def test_an_error_tells_whether_the_best_draft_was_refused() -> None:
    def broken(text: str) -> float:
        raise ValueError("an empty text")

    error = failed(await refine(broken).run(ScriptedProvider([refuses("No.")]), "task"))
    assert (error.metadata["best_draft"], error.metadata["refusal"]) == ("", "No.")
    later = refine(lambda text: broken(text) if text else 0.1)
    error = failed(await later.run(ScriptedProvider([refuses("No."), "text"]), "task"))
    assert (error.metadata["best_score"], error.metadata["refusal"]) == (0.1, "No.")


@pytest.mark.parametrize(
    ("reply", "refusal"),
    [
        (filtered("10"), "content_filter"),
        (refuses("I do not rate."), "I do not rate."),
        (LLMResponse("Score: 10", extra={"refusal": "No."}), "No."),
    ],
)
async def test_a_judge_that_refuses_gives_no_score(reply: LLMResponse, refusal: str) -> None:
    error = failed(await refine().run(ScriptedProvider(["draft", reply]), "task"))
    assert isinstance(error, EvaluationError)
    assert (error.metadata["judge_refusal"], error.metadata["judge_answer"]) == (refusal, reply.content)
    assert (error.metadata["best_draft"], error.cost.llm_calls) == ("draft", 2)
    assert "refusal" not in error.metadata
