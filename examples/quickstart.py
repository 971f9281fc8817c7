"""Classify a support ticket by vote, draft a summary of it and refine that, on a model in this process.

Run it with `just demo`. No key, no network. The model is SmolLM2-135M: quick, and not clever.
"""

import re
import sys
from tempfile import TemporaryDirectory
from typing import Literal

from executionkit import Evaluation, Failure, Outcome, Success, TokenUsage, consensus, refine
from executionkit.journal import Journal
from executionkit.progress import Progress
from executionkit.providers.local import LocalProvider

TICKET = (
    "I was charged twice for my May invoice, 49 euros each time. "
    "Please refund one payment. My customer number is 4711."
)


Category = Literal["payment", "delivery", "software bug"]

PROMPT = f"""A customer writes: {TICKET}

What kind of problem is it: payment, delivery or software bug?"""


def summary_task(category: Category) -> str:
    """Return the prompt for a summary of the ticket, once the vote has said what it is about."""
    return (
        f"Rewrite this {category} ticket as one short sentence for the support team. "
        f"Mention the amount and the customer number.\n\n{TICKET}"
    )


FACTS = {
    "the amount of 49 euros": r"\b49\b",
    "the customer number 4711": r"\b4711\b",
    "that the customer paid twice": r"twice|double|two payments|second payment|one payment",
    "that a refund is wanted": r"refund",
}


def covers_the_facts(summary: str) -> Evaluation:
    """Score a summary by the facts it mentions, less a tenth where it rambles. No model is asked."""
    missing = [fact for fact, pattern in FACTS.items() if not re.search(pattern, summary, re.IGNORECASE)]
    rambles = len(summary.split()) > 40
    score = 1 - len(missing) / len(FACTS) - 0.1 * rambles
    return Evaluation(max(0.0, score), f"Mention {', and '.join(missing)}." if missing else "Keep it short.")


vote = consensus(n=5, output_type=Category, temperature=0.5, max_tokens=20)
pipeline = vote.map(summary_task) >> refine(covers_the_facts, max_iterations=4, max_tokens=100)
"""A frozen value: nothing has run yet."""


def show(outcome: Outcome[str]) -> None:
    """Print an outcome, whichever it is."""
    match outcome:
        case Success(result):
            vote_notes, refine_notes = result.metadata["step_metadata"]
            print(f"votes         {dict(vote_notes['vote_counts'])}")
            print(f"draft scores  {refine_notes['score_history']}")
            print(f"summary       {result.value.strip()}")
            print(f"score         {result.score}")
            for name, cost in zip(("vote", "refine"), result.metadata["step_costs"], strict=True):
                print(f"cost: {name:7} {_cost(cost)}")
            print(f"cost: all     {_cost(result.cost)}")
        case Failure(error):
            print(f"{type(error).__name__}: {error}")
            print(f"votes so far  {error.metadata.get('votes')}")
            print(f"cost: all     {_cost(error.cost)}")


def _cost(cost: TokenUsage) -> str:
    return f"{cost.llm_calls} calls, {cost.input_tokens} tokens in, {cost.output_tokens} out"


def main() -> None:
    """Run the pipeline with a budget that is enough, then with one that is not: a failure is a value too."""
    with (
        LocalProvider(seed=1) as provider,
        TemporaryDirectory() as folder,
        Journal(f"{folder}/runs.db") as journal,
    ):
        for budget in (TokenUsage(llm_calls=12), TokenUsage(llm_calls=3)):
            print(f"\n--- at most {budget.llm_calls} calls ---", flush=True)
            bounds = pipeline.bounds(PROMPT, provider=provider, max_cost=budget)
            run = journal.run(f"at most {budget.llm_calls} calls")
            with Progress(file=sys.stdout, bounds=bounds, past=journal.past_runs(pipeline)) as progress:
                outcome = pipeline.run_sync(provider, PROMPT, max_cost=budget, trace=progress, journal=run)
            show(outcome)


if __name__ == "__main__":
    main()
