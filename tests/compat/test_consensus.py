"""`compat.consensus`, row by row of the contract."""

from collections.abc import Sequence

import pytest
from anyio import lowlevel

from executionkit import ScriptedProvider
from executionkit.compat import (
    BudgetExhaustedError,
    ConsensusFailedError,
    LLMResponse,
    PermanentError,
    ProviderError,
    RetryConfig,
    TokenUsage,
    consensus,
)
from executionkit.providers.scripted import Answer, ScriptedRequest

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(base_delay=0.0)


async def test_the_winner_is_given_back_as_it_was_written() -> None:
    provider = ScriptedProvider(["Rome", " New \n York ", "New York", "New  York", "Paris"])
    result = await consensus(provider, "?")
    assert result.value == " New \n York "
    assert result.score == result.metadata["agreement_ratio"] == 0.6
    assert (result.metadata["unique_responses"], result.metadata["tie_count"]) == (3, 1)
    assert result.cost.llm_calls == 5


async def test_the_first_seen_wins_a_tie() -> None:
    result = await consensus(ScriptedProvider(["b", "a", "a", "b", "c"]), "?")
    assert (result.value, result.score, result.metadata["tie_count"]) == ("b", 0.4, 2)


async def test_case_and_punctuation_make_a_difference() -> None:
    result = await consensus(ScriptedProvider(["Rome", "rome", "Rome."]), "?", num_samples=3)
    assert result.metadata["unique_responses"] == 3


@pytest.mark.parametrize("strategy", ["majority", "unanimous"])
async def test_all_of_one_mind(strategy: str) -> None:
    provider = ScriptedProvider(["Rome", "Rome\n", " Rome"])
    result = await consensus(provider, "?", num_samples=3, strategy=strategy)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert (result.value, result.score, result.metadata["unique_responses"]) == ("Rome", 1.0, 1)


async def test_unanimous_with_a_difference_fails_with_its_cost_and_votes() -> None:
    provider = ScriptedProvider(["Rome", "Rome", "Paris"])
    with pytest.raises(ConsensusFailedError) as caught:
        await consensus(provider, "?", num_samples=3, strategy="unanimous")
    assert caught.value.cost.llm_calls == 3
    assert caught.value.metadata["votes"] == ("Rome", "Rome", "Paris")


async def test_every_sample_is_the_same_request() -> None:
    provider = ScriptedProvider("Rome")
    await consensus(provider, "the prompt")
    for request in provider.requests:
        assert request.messages == ({"role": "user", "content": "the prompt"},)
        assert (request.temperature, request.max_tokens, request.tools) == (0.9, 4096, ())
    assert len(provider.requests) == 5


async def test_settings_reach_the_provider() -> None:
    provider = ScriptedProvider("Rome")
    await consensus(provider, "?", num_samples=2, temperature=None, max_tokens=17)
    assert [(each.temperature, each.max_tokens) for each in provider.requests] == [(None, 17)] * 2


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (3, 3), (5, 5), (50, 9)])
async def test_at_most_max_concurrency_are_in_flight(limit: int, most: int) -> None:
    flying = seen = 0

    async def answer(request: ScriptedRequest) -> str:
        nonlocal flying, seen
        flying += 1
        seen = max(seen, flying)
        for _ in range(5):
            await lowlevel.checkpoint()
        flying -= 1
        return "Rome"

    await consensus(ScriptedProvider(answer), "?", num_samples=9, max_concurrency=limit)
    assert seen == most


async def test_votes_stand_in_the_order_of_the_samples_not_of_the_answers() -> None:
    async def answer(request: ScriptedRequest) -> str:
        for _ in range(20 - 4 * request.index):
            await lowlevel.checkpoint()
        return f"answer {request.index}"

    result = await consensus(ScriptedProvider(answer), "?")
    assert result.value == "answer 0"  # the last to come in, the first seen in the vote


async def test_a_budget_of_calls_is_kept_to_the_call() -> None:
    provider = ScriptedProvider("Rome")
    with pytest.raises(BudgetExhaustedError) as caught:
        await consensus(provider, "?", max_cost=TokenUsage(llm_calls=3))
    assert caught.value.cost.llm_calls == len(provider.requests) == 3
    assert caught.value.metadata["votes"] == ("Rome",) * 3


async def test_a_tight_budget_of_output_is_slow_not_wrong() -> None:
    provider = ScriptedProvider(lambda _: LLMResponse("Rome", usage={"completion_tokens": 2}))
    result = await consensus(provider, "?", max_cost=TokenUsage(output_tokens=300))
    assert result.cost.output_tokens == 10
    assert [request.max_tokens for request in provider.requests] == [300, 298, 296, 294, 292]


async def test_a_failed_attempt_is_retried_and_counts() -> None:
    provider = ScriptedProvider(["Rome", ProviderError("down"), "Rome", "Rome"])
    result = await consensus(provider, "?", num_samples=3, retry=AT_ONCE)
    assert (result.score, result.cost.llm_calls) == (1.0, 4)


@pytest.mark.parametrize("failure", [PermanentError("no such model"), KeyError("choices")])
async def test_the_first_failure_for_good_ends_the_vote(failure: Exception) -> None:
    answers: Sequence[Answer] = ["Rome", failure, *["Rome"] * 8]
    provider = ScriptedProvider(answers)
    with pytest.raises((PermanentError, ProviderError)) as caught:
        await consensus(provider, "?", num_samples=10, max_concurrency=2)
    assert caught.value.cost.llm_calls == len(provider.requests) <= 3
    assert caught.value.metadata["votes"][0] == "Rome"
    if isinstance(failure, KeyError):
        assert caught.value.__cause__ is failure


async def test_the_raised_error_is_a_fresh_copy_with_its_cause() -> None:
    cause = KeyError("choices")
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await consensus(ScriptedProvider([cause]), "?", num_samples=1)
        assert caught.value.__cause__ is cause


@pytest.mark.parametrize("samples", [0, -1])
async def test_no_samples_make_no_vote(samples: int) -> None:
    with pytest.raises(ValueError, match=f"num_samples must be at least 1, not {samples}"):
        await consensus(ScriptedProvider("Rome"), "?", num_samples=samples)


@pytest.mark.parametrize("samples", [2.0, "3", True, None])
async def test_samples_are_counted_in_whole_numbers(samples: int) -> None:
    with pytest.raises(TypeError, match="num_samples must be a whole number"):
        await consensus(ScriptedProvider("Rome"), "?", num_samples=samples)


async def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="plurality"):
        await consensus(
            ScriptedProvider("Rome"),
            "?",
            strategy="plurality",  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        )


async def test_concurrency_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="max_concurrency must be at least 1, not 0"):
        await consensus(ScriptedProvider("Rome"), "?", max_concurrency=0)
