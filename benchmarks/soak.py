"""Hours of use in minutes: random schedules of faults, many runs, a long vote; nothing broken, nothing left.

    python benchmarks/soak.py                       a table, with the bounds beside the figures
    python benchmarks/soak.py --json                one object: the figures by name
    python benchmarks/soak.py --seeds 0             without the schedules

Three parts, each on httpx and aiohttp and on the event loops that they know. `--seeds` schedules of
`tests/faults/test_schedules.py`. `--runs` runs against a fast server in another process, 50 at once: single
calls, votes, pipelines, refusals for want of budget, and runs that are cancelled at some moment. `--samples`
samples through one vote.

Memory is counted after a garbage collection, in blocks that Python's allocator has handed out and in the
resident set of the process; a tenth of the runs is warm-up. The exit status is 1 if a bound is broken.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import anyio
import anyio.lowlevel

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import server
from executionkit import Stage, complete, consensus, is_success
from executionkit.core.usage import TokenUsage
from executionkit.provider import LLMProvider
from executionkit.providers.openai import Provider

__all__ = ["Bounds", "Footprint", "long_vote", "many_runs", "schedules"]

ROOT: Final = Path(__file__).parents[1]
LAPS: Final = 20
AT_ONCE: Final = 50
DESCRIPTORS: Final = Path("/dev/fd")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
Transport: TypeAlias = Literal["httpx", "aiohttp"]
_ALL_WAYS: Final[list[tuple[Transport, str, str]]] = [
    ("httpx", "asyncio", "httpx"),
    ("httpx", "trio", "trio"),
    ("aiohttp", "asyncio", "aiohttp"),
]
WAYS: Final[list[tuple[Transport, str]]] = [way[:2] for way in _ALL_WAYS if find_spec(way[2])]
TRANSPORTS: Final[list[Transport]] = [transport for transport, backend in WAYS if backend == "asyncio"]
NOISE: Final = {"asyncio": 500, "trio": 3_000}
"""Blocks that come and go: trio lets a thousand deadlines that were called off pile up."""
NOISE_LEFT: Final = 10_000
"""Bytes that are left however long a vote is."""

Bounds = dict[str, tuple[float, float]]
"""Figures by name, each with the most that it may be."""


class Footprint(NamedTuple):
    """What the process holds: allocated blocks, bytes of resident memory, open descriptors."""

    blocks: int
    resident: int
    descriptors: int


def footprint() -> Footprint:
    """Measure what the process holds, once garbage is collected."""
    gc.collect()
    return Footprint(sys.getallocatedblocks(), _resident(), len([*DESCRIPTORS.iterdir()]))


def _resident() -> int:
    counts = Path("/proc/self/statm")
    return int(counts.read_text(encoding="ascii").split()[1]) * PAGE if counts.exists() else 0


PIPELINES: Final[list[Stage[str, Any]]] = [
    *[complete()] * 7,
    consensus(n=3, max_concurrency=3),
    complete() >> complete(),
    complete().within(TokenUsage(output_tokens=20)) >> complete(),
]


async def one_run(provider: LLMProvider, chance: random.Random) -> None:
    """Run a pipeline; one in ten may not finish, and one in ten has too small a budget."""
    budget = TokenUsage(llm_calls=1) if chance.random() < 0.1 else None
    with anyio.CancelScope() as scope:
        if chance.random() < 0.1:
            scope.deadline = anyio.current_time() + chance.random() * 0.005
        await chance.choice(PIPELINES).run(provider, "What is the capital of France?", max_cost=budget)


async def laps(port: int, runs: int, seed: int, transport: Transport) -> list[Footprint]:
    """Make the runs with one provider, and measure after each of `LAPS` laps."""
    measured: list[Footprint] = []
    # As many connections as work for them: a pool that still grows would look like a leak.
    url = f"http://127.0.0.1:{port}/v1"
    async with Provider(
        url, "m", "sk-soak-12345678", max_connections=AT_ONCE, transport=transport
    ) as provider:
        for lap in range(LAPS):
            chance = random.Random(seed * LAPS + lap)
            turns = iter(range(runs // LAPS))
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(_work, provider, chance, turns)
            measured.append(footprint())
    return measured


async def _work(provider: LLMProvider, chance: random.Random, turns: Iterator[int]) -> None:
    for _ in turns:
        await one_run(provider, chance)


def many_runs(port: int, runs: int, transport: Transport, backend: str) -> Bounds:
    """Return by how much the process grew after a tenth of the runs, and the descriptors left at the end."""
    before = footprint()
    measured = anyio.run(laps, port, runs, 1, transport, backend=backend)[LAPS // 10 :]
    left = footprint().descriptors - before.descriptors
    third = len(measured) // 3
    first, last = measured[:third], measured[-third:]
    blocks = median(each.blocks for each in last) - median(each.blocks for each in first)
    resident = median(each.resident for each in last) - median(each.resident for each in first)
    most_open = max(each.descriptors for each in measured) - before.descriptors
    return {
        # One object lost in two hundred runs is too many; what is beside that is noise.
        f"{transport}_{backend}_blocks_grown": (blocks, NOISE[backend] + runs / 200),
        f"{transport}_{backend}_kilobytes_grown": (resident / 1024, 4_096),
        f"{transport}_{backend}_descriptors_at_most": (most_open, AT_ONCE + 10),
        f"{transport}_{backend}_descriptors_left": (left, 0),
    }


async def votes(port: int, samples: int, transport: Transport) -> list[tuple[int, int]]:
    """Hold half the vote, then all of it twice; return for each the bytes it took at most, and left."""
    taken: list[tuple[int, int]] = []
    url = f"http://127.0.0.1:{port}/v1"
    async with Provider(url, "m", "sk-soak-12345678", transport=transport) as provider:
        for count in (AT_ONCE, samples // 2, samples, samples):
            before = _traced()
            tracemalloc.reset_peak()
            outcome = await consensus(n=count, max_concurrency=AT_ONCE).run(provider, "Where?")
            assert is_success(outcome), outcome
            del outcome
            await _let_deadlines_go()
            taken.append((tracemalloc.get_traced_memory()[1] - before, _traced() - before))
    return taken[1:]


async def _let_deadlines_go() -> None:
    """Have asyncio forget the deadlines that were called off: it does so where they are over a hundred."""
    for _ in range(101):
        asyncio.get_running_loop().call_later(60, print).cancel()
    await anyio.lowlevel.checkpoint()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def long_vote(port: int, samples: int, transport: Transport) -> Bounds:
    """Return what a vote of so many samples takes and leaves, in bytes a sample."""
    before = footprint()
    tracemalloc.start()
    try:
        taken = anyio.run(votes, port, samples, transport)
    finally:
        tracemalloc.stop()
    (half, _), (whole, _), (again, _) = taken
    bytes_left = max(left for _, left in taken[1:])
    figures = {
        # Garbage that waits for its collection is noise; the shorter the vote, the more it weighs.
        "bytes_a_sample": ((whole - half) / (samples - samples // 2), 1_000 + 2_000_000 / samples),
        "second_to_first": (again / whole, 1 + 1_000 / samples),
        "bytes_left_a_sample": (bytes_left / samples, 1 + NOISE_LEFT / samples),
        "descriptors_left": (footprint().descriptors - before.descriptors, 0),
    }
    return {f"{transport}_vote_{name}": figure for name, figure in figures.items()}


def schedules(seeds: int) -> Bounds:
    """Play random schedules of faults on each way; return on how many of them one failed."""
    each = {**os.environ, "EXECUTIONKIT_SEEDS": str(-(-seeds // len(WAYS)))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/faults/test_schedules.py",
    ]
    failed = 0
    for transport, backend in WAYS:
        part = [*command, "-k", f"{transport}-{backend}"]
        played = subprocess.run(part, cwd=ROOT, env=each, check=False, stdout=sys.stderr)
        failed += played.returncode != 0
    return {"schedules_failed": (failed, 0)}


def measure(runs: int, samples: int, seeds: int) -> Bounds:
    """Take every part whose size is not 0."""
    bounds: Bounds = {}
    with server.running() as port:
        parts: list[tuple[int, Callable[[], Bounds]]] = [
            *((runs, partial(many_runs, port, runs // len(WAYS), *way)) for way in WAYS),
            *((samples, partial(long_vote, port, samples, transport)) for transport in TRANSPORTS),
            (seeds, partial(schedules, seeds)),
        ]
        for size, part in parts:
            if size:
                bounds |= part()
    return bounds


def main() -> int:
    """Soak, print, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one object of named figures")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10_000, help="schedules of faults")
    options = parser.parse_args()
    bounds = measure(options.runs, options.samples, options.seeds)
    if options.json:
        print(json.dumps({name: round(figure, 3) for name, (figure, _) in bounds.items()}))
    else:
        for name, (figure, most) in bounds.items():
            print(f"{name:32} {figure:12.2f}   at most {most:>8g}   {'' if figure <= most else 'BROKEN'}")
    return int(any(figure > most for figure, most in bounds.values()))


if __name__ == "__main__":
    sys.exit(main())
