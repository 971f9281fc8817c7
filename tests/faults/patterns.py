"""Faults played to whole patterns: an outcome, its cost what the server counted and reported."""

from collections.abc import Callable, Container, Iterable
from typing import Any, Final

import anyio
from returns.result import Success

from executionkit import RetryConfig, Stage, Tool, complete, consensus, react, refine
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, LLMError
from executionkit.outcome import Outcome
from executionkit.providers.openai import Provider
from tests.faults.kinds import FAULTS, HEAVY
from tests.faults.playing import KEY
from tests.faults.script import Fault
from tests.faults.server import FaultServer
from tests.faults.ways import Way

__all__ = ["KINDS", "PATTERNS", "play_all"]

PROMPT: Final = "What is the capital of France?"
ONCE_MORE: Final = RetryConfig(max_retries=1, base_delay=0.0, max_delay=2.0)
KINDS: Final = [fault for fault in FAULTS if fault.name not in HEAVY]


async def look_up(city: str) -> str:
    return city


LOOK_UP = Tool("look_up", "Look a city up.", {"type": "object", "properties": {}}, look_up)
PATTERNS: dict[str, Callable[[], Stage[str, Any]]] = {
    "consensus": lambda: consensus(n=2, max_concurrency=1),
    "refine": lambda: refine(lambda text: 0.5, max_iterations=1),
    "react": lambda: react([LOOK_UP]),
    "pipe": lambda: complete() >> complete(),
}


async def play_all(
    name: str,
    account: str,
    faults: Iterable[Fault],
    server: FaultServer,
    way: Way,
    may_be_unsent: Container[str] = (),
) -> None:
    """Play faults, for each of which the way is made anew; after those named an attempt may end before a byte of it is sent, and still counts."""
    turns = anyio.Semaphore(8)

    async def play(fault: Fault) -> None:
        async with turns:
            route = f"{name}-{account}~{fault.name}"
            await check(route, PATTERNS[name](), fault, server, way, may_be_unsent)

    with anyio.fail_after(50):
        async with anyio.create_task_group() as group:
            for fault in faults:
                group.start_soon(play, fault)


async def check(
    route: str,
    stage: Stage[str, Any],
    fault: Fault,
    server: FaultServer,
    way: Way,
    may_be_unsent: Container[str],
) -> None:
    timeout = 0.3 if fault.slow else 20.0
    url = server.url(route)
    async with way.settings() as settings, Provider(url, "m", KEY, timeout=timeout, **settings) as provider:
        outcome = await stage.run(provider, PROMPT, retry=ONCE_MORE)
    if fault.error is not None or fault.text:  # of an answer without text each pattern thinks its own
        assert isinstance(outcome, Success) is (fault.error is None), (route, outcome)
    cost = _cost_of(outcome)
    await server.has_read(route)
    unsent = cost.llm_calls - server.calls[route]
    assert unsent == 0 or (unsent == 1 and fault.name in may_be_unsent), (route, unsent)
    if fault.reports:
        assert cost == server.reported[route] + TokenUsage(llm_calls=cost.llm_calls), route
    assert KEY not in repr(outcome)
    assert KEY not in repr(_metadata_of(outcome))


def _cost_of(outcome: Outcome[Any]) -> TokenUsage:
    return outcome.unwrap().cost if isinstance(outcome, Success) else _error_of(outcome).cost


def _metadata_of(outcome: Outcome[Any]) -> object:
    return outcome.unwrap().metadata if isinstance(outcome, Success) else _error_of(outcome).metadata


def _error_of(outcome: Outcome[Any]) -> ExecutionKitError:
    error = outcome.failure()
    assert isinstance(error, ExecutionKitError)
    if isinstance(error, LLMError):
        assert error.retryable in {True, False}
    return error
