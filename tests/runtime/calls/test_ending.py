"""What is cancelled buys nothing more, though it runs on until it awaits something."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import sniffio

from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse, user
from executionkit.stage import Stage

pytestmark = pytest.mark.anyio


class Cancelling:
    """A provider that never waits, and whose second call has the run cancelled."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        self.asked = 0
        self._cancel = cancel

    async def complete(self, messages: list[Any], **options: Any) -> LLMResponse:
        self.asked += 1
        if self.asked == 2:
            self._cancel()
        return LLMResponse(f"answer {self.asked}")


async def score(text: str, provider: LLMProvider) -> float:
    await provider.complete([user(text)])
    return 0.5


async def ask_often(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    for _ in range(5):
        await provider.complete([user(prompt)])
    return PatternResult(prompt)


STAGES: dict[str, Stage[str, Any]] = {
    "a vote in one task": consensus(n=5, max_concurrency=1),
    "a vote": consensus(n=9, max_concurrency=3),
    "a pipeline": complete() >> complete() >> complete() >> complete(),
    "a pair": (complete() >> complete()) & (complete() >> complete()),
    "refine": refine(score, max_iterations=3),
}
FOREIGN: dict[str, Stage[str, Any]] = {
    "a step": step(ask_often),
    "a step in a vote": step(ask_often) & step(ask_often),
}


@pytest.mark.parametrize("name", STAGES)
async def test_a_cancelled_scope_buys_nothing_more(name: str) -> None:
    scope = anyio.CancelScope()
    provider = Cancelling(scope.cancel)
    with anyio.fail_after(10), scope:
        await STAGES[name].run(provider, "q")
    assert scope.cancelled_caught
    assert provider.asked == 2


@pytest.mark.parametrize("name", [*STAGES, *FOREIGN])
@pytest.mark.parametrize("deadline", [None, 60])
async def test_a_cancelled_task_buys_nothing_more(name: str, deadline: float | None) -> None:
    if sniffio.current_async_library() == "trio":
        pytest.skip("trio cancels scopes, not tasks")
    running: list[asyncio.Task[object]] = []
    provider = Cancelling(lambda: running[0].cancel())
    run = (STAGES | FOREIGN)[name].run(provider, "q", deadline=deadline)
    running.append(asyncio.ensure_future(run))
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    assert provider.asked == 2
