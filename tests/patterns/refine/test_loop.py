"""`refine`: what the next draft gets to see, which draft is the best, what an error keeps."""

import pickle
from typing import Any

import pytest

from executionkit import (
    Evaluation,
    ExecutionKitError,
    LLMResponse,
    PatternResult,
    ProviderError,
    ScriptedProvider,
    TokenUsage,
    complete,
    is_failure,
    is_success,
    prompt,
    refine,
)
from executionkit.errors import InvalidPromptError
from executionkit.outcome import Outcome
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


async def test_it_is_a_value() -> None:
    stage = refine(plain, patience=2)
    assert stage == refine(plain, patience=2)
    assert hash(stage) == hash(refine(plain, patience=2))
    assert stage != refine(plain)
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert "patience=2" in repr(stage)
    with pytest.raises(AttributeError):
        stage.patience = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


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
