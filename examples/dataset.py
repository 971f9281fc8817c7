"""A data set, file to file: a map that can be killed and started again, and ends early where its budget does.

Runs without a model: the provider is scripted.
"""

import tempfile
from pathlib import Path

import msgspec

from executionkit import ScriptedProvider, TokenUsage, consensus, prompt
from executionkit.datasets import map_dataset, read_rows, write_rows


class Review(msgspec.Struct):
    """A row of the file."""

    id: int
    text: str


def main() -> None:
    """Judge forty reviews by a vote of three, under a budget that does for half of them, and then for all."""
    folder = Path(tempfile.mkdtemp())
    write_rows(folder / "reviews.csv", (Review(number, f"Review {number}: good") for number in range(40)))
    judge = prompt("Is this review positive or negative? {text}") >> consensus(n=3)

    for calls in (60, 120):
        summary = map_dataset(
            read_rows(folder / "reviews.csv", Review),
            folder / "judged.jsonl",
            judge,
            lambda: ScriptedProvider("positive"),
            key=lambda review: review.id,
            max_cost=TokenUsage(llm_calls=calls),
            max_concurrency=1,
        )
        ended = "all rows are done" if summary.failure is None else type(summary.failure).__name__
        print(f"{summary.resumed} done before, {summary.cost.llm_calls} calls in all, {ended}")


if __name__ == "__main__":
    main()
