"""The embedded model behind a proxy that cuts: an answer or an error in time, every attempt paid for."""

import random
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from returns.result import Success

from executionkit import RetryConfig, Stage, complete, consensus, refine
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.outcome import Outcome
from executionkit.provider import user
from executionkit.providers.local import LocalProvider
from executionkit.providers.openai import Provider
from executionkit.runtime.tasks.event_loops import closing_at_exit
from tests.real.cutting import CuttingProxy, cutting_proxy

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(300)]

KEY = "sk-Secret/1+2=3"
RUNS, AT_ONCE = 10, 4
PROMPT = "Hi"


def any_stage(chance: random.Random) -> tuple[Stage[str, Any], int]:
    """Draw a stage, and how many of its calls may be in flight at once."""
    stages: list[tuple[Stage[str, Any], int]] = [
        (complete(max_tokens=2), 1),
        (complete(max_tokens=2, stream=True), 1),
        (consensus(n=3, max_concurrency=1, max_tokens=2), 1),
        (consensus(n=3, max_concurrency=3, max_tokens=2), 3),
        (refine(lambda text: 0.5, max_iterations=1, max_tokens=2), 1),
        (complete(max_tokens=2) >> complete(max_tokens=2, stream=True), 1),
    ]
    return chance.choice(stages)


async def play(name: str, proxy: CuttingProxy) -> None:
    """Make one run. What was cancelled or ran out of time while it was sent may not have reached the proxy."""
    chance = random.Random(name)
    stage, at_once = any_stage(chance)
    limit = TokenUsage(llm_calls=chance.choice([0, 0, 2, 5]))
    retry = RetryConfig(max_retries=chance.randint(0, 3), base_delay=0.0, max_delay=1.0)
    # The model takes its time where other tests use the cores; some runs have none.
    deadline, timeout = chance.choice([(None, 30.0), (None, 30.0), (None, 30.0), (0.3, 30.0), (None, 0.3)])
    async with Provider(proxy.url(name), "m", KEY, timeout=timeout) as provider:
        with anyio.fail_after(60):
            outcome = await stage.run(
                provider, PROMPT, max_cost=limit or None, retry=retry, deadline=deadline
            )
    cost, counted = _cost_of(outcome), proxy.requests.get(name, 0)
    assert not limit.llm_calls or cost.llm_calls <= limit.llm_calls, name
    assert counted <= cost.llm_calls, (name, cost, counted)
    if at_once == 1 and deadline is None and timeout > 1:
        assert cost.llm_calls == counted, (name, cost)


def _cost_of(outcome: Outcome[Any]) -> TokenUsage:
    ended: Any = outcome.unwrap() if isinstance(outcome, Success) else outcome.failure()
    assert isinstance(outcome, Success) or isinstance(ended, ExecutionKitError)
    assert KEY not in repr((ended, ended.metadata, getattr(ended, "__cause__", None)))
    cost: TokenUsage = ended.cost
    return cost


async def test_every_run_ends_and_is_paid_for(model: LocalProvider, anyio_backend: str) -> None:
    # Who else knows where the model listens would be waited for when it stops; a test may.
    address = model._open()[0].address  # pyright: ignore[reportPrivateUsage]
    async with cutting_proxy(urlsplit(address).port or 0, anyio_backend) as proxy:
        turns = anyio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with turns:
                await play(name, proxy)

        async with anyio.create_task_group() as group:
            for number in range(RUNS):
                group.start_soon(one, f"{anyio_backend}-{number}")
    assert len(proxy.fates) >= 4, proxy.fates
    async with closing_at_exit():
        assert (await model.complete([user(PROMPT)], max_tokens=2)).content
