"""Each pattern, in both APIs, against the embedded model over real HTTP. Prompts are small: it is slow."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from returns.result import Failure, Success

from executionkit import (
    BudgetExhaustedError,
    LLMProvider,
    LLMResponse,
    Message,
    TokenUsage,
    Tool,
    compat,
    complete,
    consensus,
    consensus_sync,
    pipe_sync,
    react,
    react_loop_sync,
    refine,
    refine_loop_sync,
)
from executionkit.errors import EvaluationError
from executionkit.providers.local import LocalProvider
from executionkit.runtime.tasks.event_loops import closing_at_exit

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SKY = "Is the sky blue? Answer yes or no."
WEATHER = "What is the weather in Paris?"


async def weather(city: str) -> str:
    return f"18 degrees and sunny in {city}"


TOOL = Tool(
    "get_weather",
    "Get weather of a city",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    weather,
)


def length(text: str) -> float:
    return min(1.0, len(text) / 10)


async def length_async(text: str, provider: LLMProvider) -> float:
    return length(text)


@pytest.fixture
async def local(model: LocalProvider, anyio_backend: str) -> AsyncIterator[LocalProvider]:
    async with closing_at_exit():
        yield model


@pytest.mark.anyio
async def test_complete(local: LocalProvider) -> None:
    outcome = await complete(max_tokens=6).run(local, SKY)
    result = outcome.unwrap()
    assert result.value
    assert result.cost.llm_calls == 1
    assert 0 < result.cost.output_tokens <= 6
    assert result.cost.input_tokens > 10
    assert "usage_estimated" not in result.metadata


@pytest.mark.anyio
async def test_consensus(local: LocalProvider) -> None:
    native = (await consensus(n=3, temperature=0, max_tokens=8).run(local, SKY)).unwrap()
    facade = await compat.consensus(local, SKY, num_samples=3, temperature=0, max_tokens=8)
    for result in (native, facade):
        assert result.value
        assert result.cost.llm_calls == 3
        assert result.score == result.metadata["agreement_ratio"]


class Watched:
    """The model, and whether each of its answers was whole."""

    def __init__(self, provider: LLMProvider) -> None:
        self.provider = provider
        self.are_whole: list[bool] = []

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        response = await self.provider.complete(messages, **options)
        self.are_whole.append(not response.was_truncated)
        return response


@pytest.mark.anyio
async def test_refine(local: LocalProvider) -> None:
    of_native, of_facade = Watched(local), Watched(local)
    native = (await refine(length, max_iterations=1, max_tokens=12).run(of_native, SKY)).unwrap()
    facade = await compat.refine_loop(of_facade, SKY, evaluator=length_async, max_iterations=1, max_tokens=12)
    for result, watched in ((native, of_native), (facade, of_facade)):
        history = result.metadata["score_history"]
        # At so few tokens a draft may be cut off; it is the best only where no whole one is there.
        best = max(zip(watched.are_whole, history, strict=True))
        assert (not result.metadata.get("truncated", False), result.score) == best
        assert result.cost.llm_calls == len(result.metadata["score_history"])


@pytest.mark.anyio
async def test_the_built_in_judge(local: LocalProvider) -> None:
    outcome = await refine(max_iterations=0, max_tokens=16).run(local, SKY)
    match outcome:  # a model of this size may well say something that is no rating
        case Success(result):
            assert result.score is not None
            assert result.cost.llm_calls == 2
        case Failure(error):
            assert isinstance(error, EvaluationError)
            assert error.metadata["best_draft"]
            assert error.cost.llm_calls == 2


@pytest.mark.anyio
async def test_react_calls_the_tool(local: LocalProvider) -> None:
    native = (await react((TOOL,), temperature=0, max_tokens=48).run(local, WEATHER)).unwrap()
    facade = await compat.react_loop(local, WEATHER, (TOOL,), temperature=0, max_tokens=48)
    for result in (native, facade):
        assert result.metadata["tool_calls_made"] >= 1
        assert "18 degrees" in result.value
        assert result.cost.llm_calls == result.metadata["rounds"]


@pytest.mark.anyio
async def test_a_pipeline_adds_up(local: LocalProvider) -> None:
    pipeline = consensus(n=2, temperature=0, max_tokens=8) >> refine(length, max_iterations=0, max_tokens=8)
    result = (await pipeline.run(local, SKY)).unwrap()
    assert result.cost == sum(result.metadata["step_costs"], TokenUsage())
    assert result.cost.llm_calls == 3


def test_each_twin_twice_on_one_provider(model: LocalProvider) -> None:
    for _ in range(2):
        assert consensus_sync(model, SKY, num_samples=2, temperature=0, max_tokens=8).cost.llm_calls == 2
        assert refine_loop_sync(model, SKY, evaluator=length_async, max_iterations=0, max_tokens=8).value
        assert react_loop_sync(model, WEATHER, (TOOL,), temperature=0, max_tokens=48).value
        assert (
            pipe_sync(model, SKY, compat.consensus, num_samples=2, temperature=0, max_tokens=8).cost.llm_calls
            == 2
        )
        assert complete(max_tokens=4).run_sync(model, SKY).unwrap().value


@pytest.mark.anyio
async def test_a_budget_of_calls_stops_twenty_samples_half_way(local: LocalProvider) -> None:
    samples = consensus(n=20, max_concurrency=20, max_tokens=4)
    error = (await samples.run(local, SKY, max_cost=TokenUsage(llm_calls=10))).failure()
    assert isinstance(error, BudgetExhaustedError)
    assert error.cost.llm_calls == 10
    assert (await complete(max_tokens=4).run(local, SKY)).unwrap().value


@pytest.mark.anyio
async def test_a_budget_of_tokens_stops_twenty_samples_half_way(local: LocalProvider) -> None:
    samples = consensus(n=20, max_concurrency=20, max_tokens=8)
    error = (await samples.run(local, "Tell a story.", max_cost=TokenUsage(output_tokens=80))).failure()
    assert isinstance(error, BudgetExhaustedError)
    assert 64 <= error.cost.output_tokens <= 80
    assert 8 <= error.cost.llm_calls <= 20
    assert len(error.metadata["votes"]) >= 8
