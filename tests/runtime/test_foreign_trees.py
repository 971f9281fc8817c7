"""Random trees of foreign wrappers round random pipelines, with deadlines and cancellations, on both loops.

Nothing but an `ExecutionKitError` as a value, or the caller's own cancellation, leaves a run; in bounded time;
and no task is left. Everything follows from a seed.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
import pytest
import sniffio
from anyio.lowlevel import checkpoint
from returns.result import Failure, Success

from executionkit import (
    ExecutionKitError,
    LLMProvider,
    LLMResponse,
    Message,
    PatternResult,
    ProviderError,
    RetryConfig,
    TokenUsage,
    complete,
    consensus,
    react,
    refine,
    step,
    tool,
)
from executionkit.provider import ToolCall, user
from executionkit.runtime import timeouts
from executionkit.stage import Stage

pytestmark = pytest.mark.anyio

TREES = int(os.environ.get("EXECUTIONKIT_TREES", "60"))
"""Trees on each event loop."""

A_TICK = 0.002
AT_ONCE = RetryConfig(max_retries=1, base_delay=0)


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "GRACE", 0.02)


class Base:
    """A provider that answers after a moment, fails now and then, and calls a tool where it has one."""

    supports_tools = True

    def __init__(self, chance: Random) -> None:
        self.chance = chance

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        for _ in range(self.chance.randrange(3)):
            await anyio.sleep(self.chance.choice((0, A_TICK)))
        if self.chance.random() < 0.15:
            raise self.chance.choice(
                (ProviderError("busy"), KeyError("odd"), ExceptionGroup("two", [OSError()]))
            )
        if options.get("tools") and self.chance.random() < 0.5:
            return LLMResponse("", (ToolCall("id", "foreign", {}),))
        return LLMResponse("7", usage={"prompt_tokens": 2, "completion_tokens": 1})


Deed = Callable[[Callable[[], Awaitable[object]]], Awaitable[object]]


async def plainly(work: Callable[[], Awaitable[object]]) -> object:
    return await work()


async def shielded(work: Callable[[], Awaitable[object]]) -> object:
    found: list[object] = []
    with anyio.CancelScope(shield=True):
        found.append(await work())
    return found[0]


async def converting(work: Callable[[], Awaitable[object]]) -> object:
    try:
        return await work()
    except BaseException as error:
        raise ProviderError("converted") from error


async def swallowing(work: Callable[[], Awaitable[object]]) -> object:
    try:
        return await work()
    except BaseException:
        return None


async def timing_out(work: Callable[[], Awaitable[object]]) -> object:
    with anyio.move_on_after(A_TICK):
        await work()
    with anyio.fail_after(2 * A_TICK):
        return await work()


async def natively_timing_out(work: Callable[[], Awaitable[object]]) -> object:
    if sniffio.current_async_library() != "asyncio":
        return await timing_out(work)
    return await asyncio.wait_for(work(), A_TICK)


async def in_groups(work: Callable[[], Awaitable[object]]) -> object:
    async def fails() -> None:
        await anyio.sleep(A_TICK)
        raise ValueError("a task failed")

    found: list[object] = []
    async with anyio.create_task_group() as group:
        group.start_soon(fails)
        group.start_soon(anyio.sleep, 2 * A_TICK)
        found.append(await work())
    return found[0]


async def cancelling_itself(work: Callable[[], Awaitable[object]]) -> object:
    await checkpoint()
    raise asyncio.CancelledError


async def raising(work: Callable[[], Awaitable[object]]) -> object:
    await work()
    raise BaseExceptionGroup("several", [KeyError("x"), ValueError("y")])


async def dawdling(work: Callable[[], Awaitable[object]]) -> object:
    try:
        return await work()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(A_TICK)


DEEDS: list[Deed] = [
    plainly,
    shielded,
    converting,
    swallowing,
    timing_out,
    natively_timing_out,
    in_groups,
    cancelling_itself,
    raising,
    dawdling,
]


class Wrapper:
    """A provider around another, with a deed."""

    supports_tools = True

    def __init__(self, inner: LLMProvider, deed: Deed) -> None:
        self.inner = inner
        self.deed = deed

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        found = await self.deed(lambda: self.inner.complete(messages, **options))
        return found if isinstance(found, LLMResponse) else LLMResponse("swallowed")


def foreign(chance: Random, depth: int) -> Callable[[str, LLMProvider], Awaitable[None]]:
    """Make foreign code that does something odd round a call, or a run of its own."""
    deed = chance.choice(DEEDS)
    inner = tree(chance, depth - 1) if depth > 0 and chance.random() < 0.5 else None
    deadline = chance.choice((None, A_TICK, 3 * A_TICK))

    async def act(text: str, provider: LLMProvider) -> None:
        async def work() -> object:
            if inner is None:
                return await provider.complete([user(text)])
            return await inner.run(provider, text, deadline=deadline, retry=AT_ONCE)

        await deed(work)

    return act


def tree(chance: Random, depth: int) -> Stage[str, Any]:
    """Make a random pipeline with foreign code in it."""
    act = foreign(chance, depth)

    async def evaluator(text: str, provider: LLMProvider) -> float:
        await act(text, provider)
        return chance.random()

    async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await act(prompt, provider)
        return PatternResult(prompt)

    @tool(name="foreign", timeout=chance.choice((A_TICK, 4 * A_TICK)))
    async def called() -> str:
        """Do something odd."""
        await act("in a tool", Base(chance))
        return "done"

    leaves: list[Callable[[], Stage[str, Any]]] = [
        lambda: refine(evaluator, max_iterations=2),
        lambda: step(function),
        lambda: react([called], max_rounds=3),
        lambda: consensus(n=3).using(Wrapper(Base(chance), chance.choice(DEEDS))),
        complete,
    ]
    stage = chance.choice(leaves)()
    if depth <= 0:
        return stage
    other = tree(chance, depth - 1)
    match chance.randrange(4):
        case 0:
            return stage.map(str) >> other
        case 1:
            return stage | other
        case 2:
            return (stage & other).map(str)
        case _:
            return stage.within(TokenUsage(llm_calls=chance.randrange(1, 9)))


@pytest.mark.timeout(60 + TREES)
async def test_nothing_but_typed_failures_and_the_callers_cancellation_leaves_a_run() -> None:
    for seed in range(TREES):
        chance = Random(seed)
        stage = tree(chance, 2)
        provider = Wrapper(Base(chance), chance.choice(DEEDS))
        deadline = chance.choice((None, 3 * A_TICK, 10 * A_TICK))
        patience = chance.choice((30.0, 2 * A_TICK, 8 * A_TICK))
        outcomes: list[object] = []
        with anyio.fail_after(20), anyio.move_on_after(patience) as scope:
            outcomes.append(await stage.run(provider, "q", deadline=deadline, retry=AT_ONCE))
        await checkpoint()  # nobody is left cancelled
        assert outcomes or scope.cancelled_caught, seed
        for outcome in outcomes:
            assert isinstance(outcome, (Success, Failure)), seed
            if isinstance(outcome, Failure):
                assert isinstance(outcome.failure(), ExecutionKitError), seed
    await anyio.sleep(0.1)  # what was left behind ends by itself


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.timeout(60 + TREES)
async def test_a_native_cancellation_is_all_that_leaves_a_run(anyio_backend: str) -> None:
    for seed in range(TREES):
        chance = Random(seed)
        stage = tree(chance, 2)
        provider = Wrapper(Base(chance), chance.choice(DEEDS))
        task = asyncio.create_task(stage.run(provider, "q", retry=AT_ONCE))
        await asyncio.sleep(A_TICK * chance.randrange(6))
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=20)
        assert done, seed
        assert task.cancelled() or isinstance(task.result(), (Success, Failure)), seed
    await anyio.sleep(0.1)
