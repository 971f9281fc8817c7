"""What runs the rows of a data set, and the engine of this process."""

from typing import Protocol, TypeVar

import msgspec

from executionkit.batch import Source
from executionkit.core.usage import TokenUsage
from executionkit.datasets.shards import Job, Report, run_rows
from executionkit.datasets.state import State

__all__ = ["Engine", "Local"]

A = TypeVar("A")
B = TypeVar("B")


class Engine(Protocol):
    """Runs a stage for rows, wherever: `Local()`, `Dask(client)` or `Ray()`."""

    async def run(self, job: Job[A, B], rows: Source[A], state: State, max_cost: TokenUsage) -> Report:
        """Run all rows.

        Args:
            job: What is to be done with each.
            rows: Those that no earlier life has answered.
            state: Where it is kept.
            max_cost: The budget, with what earlier lives paid for calls of rows that did not answer; none if
                it is `NO_USAGE`.
        """
        ...


class Local(msgspec.Struct, frozen=True):
    """This process."""

    async def run(self, job: Job[A, B], rows: Source[A], state: State, max_cost: TokenUsage) -> Report:
        """Run all rows in this process."""
        return await run_rows(job, rows, state.log, max_cost)
