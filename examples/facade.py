"""The facade: the patterns as async functions that raise, and their twins for code without an event loop.

Runs without a model: the provider is scripted.
"""

from functools import partial

import anyio

from executionkit import (
    BudgetExhaustedError,
    ScriptedProvider,
    TokenUsage,
    Tool,
    ToolCall,
    consensus_sync,
    refine_loop_sync,
)
from executionkit.compat import consensus, pipe, react_loop, refine_loop

QUESTION = "What is the capital of France?"


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
ADD = Tool("add", "Add two numbers.", NUMBERS, add)


async def main(provider: ScriptedProvider) -> None:
    """Call the four patterns, then run out of budget."""
    vote = await consensus(provider, QUESTION, num_samples=3)
    print(
        f"vote:   {vote.value}, agreement {vote.metadata['agreement_ratio']:.0%}, {vote.cost.llm_calls} calls"
    )

    piped = await pipe(provider, QUESTION, partial(consensus, num_samples=3), refine_loop)
    print(f"pipe:   {piped.value}, {piped.metadata['step_count']} steps, {piped.cost.llm_calls} calls")

    calling = ScriptedProvider([ToolCall("1", "add", {"a": 19, "b": 23}), "It is 42."])
    looped = await react_loop(calling, "What is 19 + 23?", [ADD])
    print(f"tools:  {looped.value}, {looped.metadata['tool_calls_made']} tool call")

    try:
        await consensus(provider, QUESTION, max_cost=TokenUsage(llm_calls=2))
    except BudgetExhaustedError as error:
        print(f"budget: {error.cost.llm_calls} calls spent, votes so far {error.metadata['votes']}")


if __name__ == "__main__":
    double = ScriptedProvider(lambda asked: "Score: 9" if "response_to_rate" in asked.prompt else "Paris")
    anyio.run(main, double)
    print(f"twins:  {consensus_sync(double, QUESTION)}, {refine_loop_sync(double, QUESTION)}")
