"""An interrupt raised somewhere in a random tree of stages: it leaves the run, and nothing is bought after it."""

import os
import random
from collections.abc import Callable
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from executionkit.approval import Approve, Proposal
from executionkit.core.usage import TokenUsage
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolCall, user
from executionkit.stage import Stage
from executionkit.tools import tool
from tests.doubles import soon

pytestmark = pytest.mark.anyio

TREES = int(os.environ.get("EXECUTIONKIT_INTERRUPTS", "20"))
"""How many, on each event loop."""

KINDS = [KeyboardInterrupt, SystemExit, type("Stop", (BaseException,), {})]


class Shop:
    """A model that counts, and that now and then takes its time to clean up."""

    supports_tools = True

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.calls = self.under_way = 0
        self.calls_before: int | None = None

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        self.calls += 1
        self.under_way += 1
        try:
            await self.turns(3)
            if self.chance.random() < 0.1:
                await tidying(0.03)
        finally:
            self.under_way -= 1
        if options.get("tools"):
            return LLMResponse("", (ToolCall(f"id{self.calls}", "look", {"at": "x"}),))
        return LLMResponse("ok")

    async def turns(self, most: int) -> None:
        for _ in range(self.chance.randint(0, most)):
            await checkpoint()

    def interrupt(self) -> NoReturn:
        if self.calls_before is None:
            self.calls_before = self.calls
        raise self.chance.choice(KINDS)


async def tidying(seconds: float) -> None:
    try:
        await anyio.sleep(0.002)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)


def interrupted(shop: Shop) -> Stage[str, Any]:
    """Return a stage that is interrupted in code of one kind or another."""

    async def soon_interrupted(*_: object) -> Any:
        await shop.turns(6)
        shop.interrupt()

    def at_once(*_: object) -> Any:
        shop.interrupt()

    async def approve(proposal: Proposal) -> Approve:
        await soon_interrupted()
        return Approve()

    @tool
    async def look(at: str) -> str:
        """Look."""
        return at

    @tool(name="look")
    async def look_and_end(at: str) -> str:
        """Look."""
        await soon_interrupted()
        return at

    return shop.chance.choice(
        [
            step(soon_interrupted),
            react([look_and_end]),
            react([look], approve=approve),
            refine(soon_interrupted),
            refine(at_once),
            complete().map(at_once),
        ]
    )


def busy(shop: Shop) -> Stage[str, Any]:
    """Return a stage that makes many calls."""

    async def tidies(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        try:
            for _ in range(3):
                await provider.complete([user("x")])
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
        return PatternResult("x")

    many: Stage[str, str] = complete()
    for _ in range(15):
        many >>= complete()
    limited = many.within(TokenUsage(llm_calls=99))
    return shop.chance.choice([step(tidies), many, limited, consensus(n=4, max_concurrency=2) >> many])


def tree(shop: Shop, depth: int, leaf: Callable[[Shop], Stage[str, Any]]) -> Stage[str, Any]:
    if not depth:
        return leaf(shop)
    one, other = tree(shop, depth - 1, leaf), tree(shop, depth - 1, busy)

    async def runs(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        outcome = await (one & other).map(str).run(provider, prompt, deadline=shop.chance.choice([None, 60]))
        return outcome.unwrap()

    async def reads(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        try:
            read = one.stream(provider, prompt) if shop.chance.random() < 0.5 else rows(provider)
            async with read as records:
                async for _ in records:
                    pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(shop.chance.choice([0, 0.02]))
        return PatternResult("x")

    def rows(provider: LLMProvider) -> Any:
        return one.over(["a", "b"], provider, key=str)

    return shop.chance.choice([one & other, other & one, step(runs) & busy(shop), step(reads) & other]).map(
        str
    )


@pytest.mark.timeout(60 + TREES)
@pytest.mark.parametrize("part", range(5))
async def test_a_raised_interrupt_leaves_the_run_and_nothing_is_bought_after_it(part: int) -> None:
    for number in range(part, TREES, 5):
        shop = Shop(random.Random(number))
        stage = tree(shop, shop.chance.randint(1, 3), interrupted)
        with pytest.raises(tuple(KINDS)):
            await soon(stage.run(shop, "q", deadline=shop.chance.choice([None, 60])))
        assert (number, shop.calls, shop.under_way) == (number, shop.calls_before, 0)
