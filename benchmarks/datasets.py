"""A million rows in one process: `python benchmarks/datasets.py [ROWS]`.

Prints what a row of `Stage.over` costs in CPU beside the same stage in a bare loop, `await stage.run(...)`
with a ledger for each row, both against a provider that answers at once; and by how much the memory grows.
Where async-batch-llm is installed, its `process_stream` is run beside them.
"""

import argparse
import asyncio
import gc
import resource
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from executionkit import LLMResponse, TokenUsage, complete
from executionkit.datasets import Adaptive

_USAGE = {"prompt_tokens": 12, "completion_tokens": 3}


class Instant:
    """Answers at once."""

    async def complete(self, messages: list[dict[str, Any]], **options: Any) -> LLMResponse:
        """Return the same answer as always."""
        return LLMResponse("positive", usage=_USAGE)


def texts(count: int) -> Iterator[str]:
    """Yield rows."""
    for number in range(count):
        yield f"Is this review positive or negative? Review {number}"


def resident() -> float:
    """Return the resident memory in MB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


async def bare(count: int) -> None:
    """Run the stage once for each row, one after the other."""
    stage, provider = complete(), Instant()
    limit = TokenUsage(llm_calls=10)
    for text in texts(count):
        (await stage.run(provider, text, max_cost=limit)).unwrap()


async def over(count: int, max_concurrency: int | Adaptive) -> float:
    """Run the stage over all rows; return by how much the memory grew after the first thousand."""
    limit = TokenUsage(llm_calls=2 * count)
    before = 0.0
    batch = complete().over(
        texts(count), Instant(), key=lambda text: text, max_concurrency=max_concurrency, max_cost=limit
    )
    async with batch:
        async for row in batch:
            row.outcome.unwrap()
            if batch.done >= 5000 and not before:
                gc.collect()
                before = resident()
    assert (batch.done, batch.failed) == (count, 0), batch.failure
    return resident() - before


async def async_batch_llm(count: int) -> float:
    """The same in async-batch-llm, where it is installed; return by how much the memory grew."""
    peer: Any = import_module("async_batch_llm")

    async def execute(self: object, *given: object, **options: object) -> object:
        return "positive", {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}, None

    strategy: Any = type("Strategy", (peer.LLMCallStrategy,), {"execute": execute})()
    config = peer.ProcessorConfig(concurrency=64, max_queue_size=1000, max_result_queue_size=1000)
    seen, before = 0, 0.0
    async for result in peer.process_stream(strategy, ((text, text) for text in texts(count)), config=config):
        assert result.success
        seen += 1
        if seen == 5000:
            gc.collect()
            before = resident()
    assert seen == count
    return resident() - before


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    count: int = parser.parse_args().rows
    few = min(count, 50_000)
    begun = time.process_time()
    asyncio.run(bare(few))
    alone = (time.process_time() - begun) / few
    print(f"bare loop: {1e6 * alone:.0f} us CPU a row ({few:,} rows)")
    for limit in (64, Adaptive()):
        begun = time.process_time()
        grown = asyncio.run(over(count, limit))
        row = (time.process_time() - begun) / count
        print(
            f"over, {limit}: {1e6 * row:.0f} us CPU a row, {row / alone:.2f} x the bare loop; "
            f"resident memory grew by {grown:.1f} MB over {count:,} rows"
        )
    try:
        begun = time.process_time()
        grown = asyncio.run(async_batch_llm(few))
        row = (time.process_time() - begun) / few
        print(
            f"async-batch-llm: {1e6 * row:.0f} us CPU a row, {row / alone:.2f} x the bare loop; "
            f"resident memory grew by {grown:.1f} MB over {few:,} rows"
        )
    except ImportError:
        print("async-batch-llm is not installed", file=sys.stderr)


if __name__ == "__main__":
    main()
