"""Twenty tickets, each put into a queue by a vote, under one budget: a CSV of what came, failures kept.

Runs without a model: the provider is scripted. Replace it by a `Provider`.
"""

import csv
import sys
from collections.abc import Sequence
from enum import Enum
from typing import TextIO

from executionkit import Failure, LLMProvider, ScriptedProvider, Success, TokenUsage, consensus
from executionkit.voting import certain


class Queue(Enum):
    """Who answers."""

    BILLING = "billing"
    DELIVERY = "delivery"
    TECHNICAL = "technical"


TICKETS = [
    *[f"I was charged twice for order {number}." for number in range(101, 108)],
    *[f"The parcel of order {number} never came." for number in range(201, 207)],
    *[f"The app crashes on page {number}." for number in range(1, 6)],
    "Do you like tea?",
    "",
]

vote = consensus(n=3, output_type=Queue, stop=certain(), max_tokens=20, system="You sort support tickets.")
sorting = vote.each(max_concurrency=4, name=lambda ticket: ticket[:30])


def classify(provider: LLMProvider, tickets: Sequence[str], file: TextIO) -> None:
    """Write a row for each ticket, whatever became of it."""
    outcome = sorting.run_sync(provider, tickets, max_cost=TokenUsage(llm_calls=60), deadline=120)
    rows = csv.writer(file)
    rows.writerow(["ticket", "queue", "agreement", "calls", "failure"])
    for ticket, one in zip(tickets, outcome.unwrap().value, strict=True):
        match one:
            case Success(result):
                rows.writerow([ticket, result.value.value, result.score, result.cost.llm_calls, ""])
            case Failure(error):
                rows.writerow([ticket, "", "", error.cost.llm_calls, type(error).__name__])


if __name__ == "__main__":
    SAID = {"charged": '"billing"', "parcel": '"delivery"', "crashes": '"technical"', "tea": '"kitchen"'}
    double = ScriptedProvider(lambda asked: next(say for word, say in SAID.items() if word in asked.prompt))
    classify(double, TICKETS, sys.stdout)
