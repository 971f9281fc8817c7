"""A notebook's loop: which temperature do five samples agree at? Each `# %%` begins a cell.

A notebook has an event loop already, so its cells `await`; `run_sync` would refuse. In a notebook the body of
`main` stands in the cell by itself. Runs without a model: the provider is scripted.
"""

# %%
import random

import anyio

from executionkit import Outcome, ScriptedProvider, TokenUsage, consensus, is_success
from executionkit.progress import Progress

chance = random.Random(1)  # noqa: S311 - no secret
provider = ScriptedProvider(
    lambda asked: "Paris" if chance.random() > (asked.temperature or 0) / 2 else "Lyon"
)


# %%
async def main() -> dict[float, Outcome[str]]:
    """Run the same vote at several temperatures, and keep every outcome."""
    outcomes: dict[float, Outcome[str]] = {}
    with Progress() as progress:
        for temperature in (0.0, 0.5, 1.0, 1.5):
            vote = consensus(n=5, temperature=temperature).named(f"at {temperature}")
            outcomes[temperature] = await vote.run(
                provider, "What is the capital of France?", max_cost=TokenUsage(llm_calls=5), trace=progress
            )
    return outcomes


outcomes = anyio.run(main)  # in a notebook: outcomes = await main()

# %%
for temperature, outcome in outcomes.items():
    if is_success(outcome):
        result = outcome.unwrap()  # alone at the end of a cell it shows as a table
        print(f"{temperature}: {result.value}, agreement {result.score:.0%}, {result.cost.llm_calls} calls")
    else:
        print(f"{temperature}: {outcome.failure()}")
