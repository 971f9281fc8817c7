"""A CSV of reviews to Parquet on the embedded model: `python reviews.py SOURCE TARGET LOG local|dask`.

A process of its own, that is killed half-way and started again.
"""

import json
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from executionkit import TokenUsage, consensus, prompt
from executionkit.datasets import Dask, Engine, Local, map_dataset, read_rows
from executionkit.events import AttemptStarted, EventBase
from executionkit.providers.local import LocalProvider
from executionkit.voting import certain


@dataclass
class Review:
    """A row."""

    id: int
    text: str


Mood = Literal["positive", "negative", "mixed"]

STAGE = prompt("Positive, negative or mixed? {text}") >> consensus(
    n=5, output_type=Mood, stop=certain(), max_tokens=8
)


def make_provider() -> LocalProvider:
    """Return a model of this process."""
    return LocalProvider(seed=1, context_size=2048, threads=1)


def note(event: EventBase) -> None:
    """Write each attempt to the file of the environment's `CALLS`."""
    if isinstance(event, AttemptStarted):
        file = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{json.dumps(event.path)}\n".encode())
        os.close(file)


def run(source: str, target: str, engine: Engine) -> None:
    """Run the map and print what came of it."""
    summary = map_dataset(
        read_rows(source, Review),
        target,
        STAGE,
        make_provider,
        key=lambda review: review.id,
        engine=engine,
        max_cost=TokenUsage(llm_calls=2000),
        max_concurrency=4,
        trace=note,
    )
    print(summary, file=sys.stderr)
    figures: dict[str, Any] = {"rows": summary.rows, "failed": summary.failed, "resumed": summary.resumed}
    print(json.dumps({**figures, "calls": summary.cost.llm_calls, "seconds": summary.seconds}), flush=True)


def main() -> None:
    source, target, calls, engine = sys.argv[1:]
    os.environ["CALLS"] = calls
    if engine == "local":
        run(source, target, Local())
        return
    distributed: Any = import_module("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with distributed.Client(cluster) as client:
        run(source, target, Dask(client, rows=25))


if __name__ == "__main__":
    main()
