"""Random schedules of faults, with budgets, retries, deadlines and cancellation: the promises of a run."""

import random
from typing import Any, Final

import anyio
from returns.result import Success

from executionkit import RetryConfig, Stage, complete, consensus, refine
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.outcome import Outcome, PatternResult
from executionkit.providers.openai import Provider
from tests.faults.playing import KEY
from tests.faults.server import FaultServer

__all__ = ["play_all"]

AT_ONCE: Final = 16


def any_stage(chance: random.Random) -> tuple[Stage[str, Any], int]:
    """Draw a pipeline, and how many of its calls may be cancelled: those beside one that ends a vote."""
    n = chance.randint(1, 4)
    at_once = chance.randint(1, n)
    parts: list[tuple[Stage[str, Any], int]] = [
        (complete(), 0),
        (consensus(n=n, max_concurrency=at_once), at_once - 1),
        (refine(lambda text: 0.5, max_iterations=2), 0),
        (refine(max_iterations=1), 0),
    ]
    first, second = chance.choice(parts), chance.choice(parts)
    draw = chance.random()
    if draw < 0.5:
        return first
    if draw < 0.8:
        return first[0] >> second[0], max(first[1], second[1])
    return first[0] | second[0], first[1] + second[1]  # each may fail


async def play(seed: str, server: FaultServer, **settings: Any) -> str:
    chance = random.Random(seed)
    route = f"schedule-{seed}"
    stage, cancelled = any_stage(chance)
    limit = TokenUsage(llm_calls=chance.choice([0, 1, 2, 5, 20]))
    retry = RetryConfig(max_retries=chance.randint(0, 3), base_delay=0.0, max_delay=0.3)
    patience = chance.choice([None, None, 0.01, 0.03])
    async with Provider(server.url(route), "m", KEY, timeout=5.0, **settings) as provider:
        outcome: Outcome[Any] | None = None
        with anyio.move_on_after(10 if patience is None else patience):
            outcome = await stage.run(provider, "Where?", max_cost=limit or None, retry=retry)
    if outcome is None:
        assert patience is not None, f"{seed} did not end in time"
        return "cancelled"
    ended: PatternResult[Any] | ExecutionKitError
    ended = outcome.unwrap() if isinstance(outcome, Success) else outcome.failure()
    cost, shown = ended.cost, repr((ended, ended.metadata, getattr(ended, "__cause__", None)))
    assert KEY not in shown, seed
    assert not limit.llm_calls or cost.llm_calls <= limit.llm_calls, seed
    await server.has_read(route)
    check_cost(seed, cost, server, route, cancelled)
    return type(outcome).__name__


def check_cost(seed: str, cost: TokenUsage, server: FaultServer, route: str, cancelled: int) -> None:
    """Calls that were cancelled while they were sent may or may not have reached the server."""
    counted, reported = server.calls.get(route, 0), server.reported.get(route, NO_USAGE)
    assert counted <= cost.llm_calls <= counted + cancelled, (seed, cost, counted)
    if not cancelled and not server.unreported.get(route):
        assert cost == reported + TokenUsage(llm_calls=counted), (seed, cost, reported)


async def play_all(name: str, seeds: int, server: FaultServer, **settings: Any) -> None:
    ends: dict[str, int] = {}
    turns = anyio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            end = await play(f"{name}-{number}", server, **settings)
            ends[end] = ends.get(end, 0) + 1

    async with anyio.create_task_group() as group:
        for number in range(seeds):
            group.start_soon(one, number)
    assert sum(ends.values()) == seeds
    assert len(ends) == 3, ends
