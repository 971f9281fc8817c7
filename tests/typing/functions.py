"""What the checkers must infer of the facade, and accept as evaluators, tools and providers."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, assert_type

from executionkit import (
    Context,
    Evaluation,
    Evaluator,
    LLMProvider,
    LLMResponse,
    LocalProvider,
    Message,
    PatternResult,
    Provider,
    ScriptedProvider,
    Stage,
    TokenUsage,
    Tool,
    ToolCallingProvider,
    ToolSpec,
    VotingStrategy,
    compat,
    complete,
    consensus_sync,
    pipe_sync,
    react,
    react_loop_sync,
    refine,
    refine_loop_sync,
    structured_sync,
)
from executionkit.patterns.react import React
from executionkit.patterns.refine import Refine
from executionkit.provider import Pieces, StreamingProvider
from tests.typing.stages import City


class Canned:
    """A provider by shape alone: nothing of ours is inherited."""

    supports_tools: Literal[True] = True

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        return LLMResponse("canned")


def length(text: str) -> float:
    """A plain evaluator."""
    return min(1.0, len(text) / 100)


def strict(text: str) -> int:
    """A score of 0 or 1 is a score."""
    return int("please" in text)


def verdict(text: str) -> Evaluation:
    """A plain evaluator that says why."""
    return Evaluation(0.5, "too long")


async def judged(text: str, provider: LLMProvider) -> float:
    """An evaluator that asks a model."""
    return float((await provider.complete([{"role": "user", "content": text}])).content)


async def reviewed(text: str, provider: LLMProvider) -> Evaluation:
    """One that asks and says why."""
    return Evaluation(await judged(text, provider))


class Rubric:
    """An evaluator with settings."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def __call__(self, text: str) -> float:
        return sum(word in text for word in self.words) / len(self.words)


async def weather(city: str, days: int = 1) -> str:
    """A tool."""
    return f"sunny in {city} for {days} days"


async def facade(provider: LLMProvider, tool: Tool) -> None:
    """The functions of the specification."""
    assert_type(await compat.consensus(provider, "?"), PatternResult[str])
    assert_type(await compat.consensus(provider, "?", strategy="unanimous"), PatternResult[str])
    assert_type(await compat.refine_loop(provider, "?", evaluator=length), PatternResult[str])
    assert_type(await compat.react_loop(provider, "?", [tool], max_rounds=2), PatternResult[str])
    assert_type(await compat.pipe(provider, "?", compat.consensus, compat.refine_loop), PatternResult[Any])
    assert_type(await compat.structured(provider, "?", City), PatternResult[City])
    assert_type((await compat.structured(provider, "?", list[int], output_retries=0)).value, list[int])
    assert_type((await compat.structured(provider, "?", Literal["a", "b"])).value, Literal["a", "b"])
    voted = partial(compat.consensus, num_samples=3)
    budget = TokenUsage(llm_calls=9)
    assert_type(await compat.pipe(provider, "?", voted, max_budget=budget, retry=None), PatternResult[Any])


def twins(provider: LLMProvider, tool: Tool) -> None:
    """The twins take the same arguments and return the result itself."""
    assert_type(consensus_sync(provider, "?", num_samples=3), PatternResult[str])
    assert_type(consensus_sync(provider, "?", strategy=VotingStrategy.UNANIMOUS).value, str)
    assert_type(refine_loop_sync(provider, "?", evaluator=judged, patience=1), PatternResult[str])
    assert_type(react_loop_sync(provider, "?", tools=(tool,), tool_timeout=2.5), PatternResult[str])
    assert_type(pipe_sync(provider, "?", compat.consensus, temperature=0.0), PatternResult[Any])
    assert_type(structured_sync(provider, "?", City, output_retries=1), PatternResult[City])
    assert_type(structured_sync(provider, prompt="?", output_type=int).value, int)
    assert_type(structured_sync(provider, "?", City | int), PatternResult[City | int])
    assert_type(compat.consensus_sync(provider=provider, prompt="?").cost, TokenUsage)


def evaluators(provider: LLMProvider, either: Evaluator, perhaps: Evaluator | None) -> None:
    """Every shape of evaluator that is allowed."""
    assert_type(refine(), Refine)
    assert_type(refine(None), Refine)
    assert_type(refine(length), Refine)
    assert_type(refine(strict), Refine)
    assert_type(refine(verdict), Refine)
    assert_type(refine(judged), Refine)
    assert_type(refine(reviewed), Refine)
    assert_type(refine(Rubric(("please", "thanks"))), Refine)
    assert_type(refine(lambda text: 1.0), Refine)
    assert_type(refine(lambda text: text.count("x") / len(text), target_score=0.5), Refine)
    assert_type(refine(lambda text, provider: judged(text, provider)), Refine)
    assert_type(refine(either), Refine)
    assert_type(refine(perhaps, patience=2), Refine)
    assert_type(refine(lambda text: Evaluation(1.0)) >> refine(judged), Stage[str, str])


async def tools(provider: LLMProvider) -> None:
    """Tools are values; their arguments are the model's business."""
    schema: Mapping[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = Tool("weather", "Tells the weather.", schema, weather, timeout=5)
    assert_type(tool.spec, ToolSpec)
    assert_type(react([tool]), React[str])
    assert_type(react((tool,), max_history_messages=4), React[str])
    assert_type(react([tool], output_type=City), React[City])
    assert_type(tool.execute, Callable[..., Awaitable[Any]])


class Promising:
    """A provider whose method was decorated: it returns something to await, and is no coroutine function."""

    def complete(self, messages: list[Message], **kwargs: Any) -> Awaitable[LLMResponse]:
        raise NotImplementedError


class Calling(Promising):
    """One that says by a property that its models call tools."""

    @property
    def supports_tools(self) -> Literal[True]:
        return True


class Inheriting(LLMProvider):
    """One that inherits from the protocol."""

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        return LLMResponse("")


def streamed(provider: Provider, streaming: StreamingProvider) -> None:
    """What streams does so in pieces, each with its text."""
    streams: list[StreamingProvider] = [provider, streaming]
    pieces: Pieces = streams[0].stream([], temperature=0.5)
    assert_type(pieces.response, LLMResponse)
    assert_type(pieces.cost, TokenUsage)


async def providers(
    canned: Canned, ours: Provider, scripted: ScriptedProvider, local: LocalProvider, metered: Context
) -> None:
    """A shape is enough."""
    provider: LLMProvider = canned
    calling: ToolCallingProvider = canned
    all_calling: list[ToolCallingProvider] = [canned, ours, scripted, Calling()]
    others: list[LLMProvider] = [*all_calling, local, metered.provider, Promising(), Inheriting()]
    assert_type(complete().using(others[0]), Stage[str, str])
    assert_type(complete().using(Promising()), Stage[str, str])
    assert_type(calling.supports_tools, Literal[True])
    opened: LLMProvider = Provider("https://example.com/v1", "a-model", api_key="k")
    hello: list[Message] = [{"role": "user", "content": "hi"}]
    answers = [await each.complete(hello) for each in (provider, calling, opened)]
    assert_type(answers, list[LLMResponse])
    assert_type(answers[0].content, str)
    assert_type(answers[0].usage, Mapping[str, Any])
    assert_type(answers[0].total_tokens, int)
    async with Provider("https://example.com/v1", "a-model") as open_provider:
        assert_type(open_provider, Provider)
