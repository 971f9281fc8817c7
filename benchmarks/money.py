"""A budget in dollars under parallel calls: what is spent of it here, and with pydantic-ai's `cost_limit`.

    python benchmarks/money.py               twenty calls at once, with money for five

The same model for both: it answers after a moment, and each answer comes to one cent. pydantic-ai is asked
where it is installed (`pip install pydantic-ai-slim`), with one `RunUsage` for all runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from executionkit import LLMResponse, Message, TokenUsage, consensus
from executionkit.prices import Price

CALLS, AFFORDED = 20, 5
MODEL, TOKENS = "gpt-5-mini", 5_000
"""At two dollars a million tokens an answer comes to one cent; what goes in is left out of the count."""
LIMIT = Decimal("0.01") * AFFORDED
PROMPT = "What is the capital of France?"


class Counting:
    """Answers after a moment, and counts what it was asked."""

    price = Price(0, 2)
    model = MODEL
    count_tokens = "bytes"

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, messages: list[Message], **_options: Any) -> LLMResponse:
        self.calls += 1
        await asyncio.sleep(0.01)
        return LLMResponse("Paris", usage={"prompt_tokens": 0, "completion_tokens": TOKENS})


async def ours() -> tuple[int, Decimal]:
    """Return the calls that were made, and the money that was spent."""
    provider = Counting()
    vote = consensus(CALLS, max_concurrency=CALLS, max_tokens=TOKENS)
    outcome = await vote.run(provider, PROMPT, max_cost=TokenUsage(usd=LIMIT))
    cost = outcome.failure().cost
    return provider.calls, cost.usd or Decimal(0)


async def peer() -> tuple[int, Decimal]:
    """Return the same of pydantic-ai."""
    ai: Any = import_module("pydantic_ai")
    messages: Any = import_module("pydantic_ai.messages")
    usages: Any = import_module("pydantic_ai.usage")
    models: Any = import_module("pydantic_ai.models.function")
    calls = 0

    async def answer(_messages: Any, _info: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        usage = usages.RequestUsage(input_tokens=0, output_tokens=TOKENS)
        text = messages.TextPart("Paris")
        return messages.ModelResponse([text], usage=usage, model_name=MODEL, provider_name="openai")

    agent = ai.Agent(models.FunctionModel(answer, model_name=MODEL))
    usage, limits = usages.RunUsage(), usages.UsageLimits(cost_limit=LIMIT, request_limit=None)
    runs = [agent.run(PROMPT, usage=usage, usage_limits=limits) for _ in range(CALLS)]
    ended: list[object] = await asyncio.gather(*runs, return_exceptions=True)
    errors = [type(each).__name__ for each in ended if isinstance(each, BaseException)]
    assert set(errors) == {"UsageLimitExceeded"}, errors  # it was looked at, once all answers were there
    return calls, Decimal("0.01") * calls


def line(name: str, measure: Callable[[], Awaitable[tuple[int, Decimal]]]) -> str:
    """Return a line of the table."""
    calls, spent = asyncio.run(_awaited(measure))
    return f"{name:12} {calls:2} calls, ${spent} spent of ${LIMIT}"


async def _awaited(measure: Callable[[], Awaitable[tuple[int, Decimal]]]) -> tuple[int, Decimal]:
    return await measure()


def main() -> None:
    """Print both."""
    print(f"{CALLS} calls at once, each to come to one cent; the limit is ${LIMIT}")
    print(line("executionkit", ours))
    if find_spec("pydantic_ai") is None:
        print("pydantic-ai  is not installed: pip install pydantic-ai-slim")
    else:
        print(line("pydantic-ai", peer))


if __name__ == "__main__":
    main()
