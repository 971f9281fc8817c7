"""Run by itself: interrupts a run of each kind at random instants, and tells what came of it as JSON.

python tests/interrupting.py asyncio 20 7        20 instants a kind, from seed 7
python tests/interrupting.py trio once           one interrupt, and nobody who catches it
"""

import faulthandler
import json
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from executionkit import (
    LLMProvider,
    LLMResponse,
    PatternResult,
    TokenUsage,
    complete,
    consensus,
    react,
    refine,
    step,
    tool,
)
from executionkit.approval import Approve, Decision, Proposal
from executionkit.datasets import Adaptive
from executionkit.journal import Journal
from executionkit.provider import Message, ToolCall, user
from executionkit.stage import Stage


class Shop:
    """A provider that counts what was ordered, and what was sent."""

    supports_tools = True

    def __init__(self) -> None:
        self.ordered = self.sent = 0

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        self.ordered += 1
        await checkpoint()
        self.sent += 1
        await checkpoint()
        if options.get("tools") and len(messages) < 5:
            return LLMResponse("", (ToolCall(f"id{self.sent}", "look", {"at": "x"}),))
        return LLMResponse("Score: 5" if "Rate how" in str(messages[-1]) else "ok")


class Connecting:
    """Asks the shop once it has connected, in a task of its own, as clients of HTTP do."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        async with anyio.create_task_group() as group:
            group.start_soon(checkpoint)
        return await self._shop.complete(messages, **options)


async def score(text: str, provider: LLMProvider) -> float:
    await provider.complete([user(text)])
    return 0.5


async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    return PatternResult((await provider.complete([user(prompt)])).content)


async def idle(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    for index in range(10):
        str(index)
        await checkpoint()
    return PatternResult(prompt)


async def inner(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    outcome = await (consensus(n=3) & step(tidy)).run(provider, prompt)
    return outcome.unwrap().map(str)


async def tidy(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    try:
        return await ask(provider, prompt)
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(30):
                await checkpoint()


@tool
async def look(at: str) -> str:
    """Look."""
    await checkpoint()
    return at


async def approve(proposal: Proposal) -> Decision:
    await checkpoint()
    return Approve()


STAGES: dict[str, Stage[str, Any]] = {
    "consensus": consensus(n=5, max_concurrency=2),
    "refine": refine(score, max_iterations=2),
    "react": react([look], approve=approve),
    "siblings": (complete() >> step(idle) & complete() >> complete())
    & (step(idle) >> complete() & complete() >> step(idle) >> complete()),
    "nested": step(inner) & step(inner) >> complete(),
    "budget": (consensus(n=6) & complete() >> complete()).within(TokenUsage(output_tokens=8200)),
    "pipeline": (complete() >> step(ask) | complete()) & refine(max_iterations=1),
}


Kind = Callable[[Shop, float | None], Awaitable[object]]


def run_of(stage: Stage[str, Any]) -> Kind:
    return lambda shop, deadline: stage.run(shop, "q", deadline=deadline)


async def streamed(shop: Shop, deadline: float | None) -> object:
    async with STAGES["pipeline"].stream(shop, "q", deadline=deadline) as run:
        async for _ in run:
            pass
    return run.outcome


async def over_rows(shop: Shop, deadline: float | None) -> object:
    rows = ["a", "b", "c", "d", "e"]
    async with (complete() >> complete()).over(rows, shop, key=str, max_concurrency=2) as batch:
        return [row async for row in batch]


async def adapted(shop: Shop, deadline: float | None) -> object:
    rows = ["a", "b", "c", "d", "e"]
    stage, window = complete() >> complete(), Adaptive(most=4)
    async with stage.over(rows, shop, key=str, max_concurrency=window, deadline=deadline) as batch:
        return [row async for row in batch]


async def left(shop: Shop, deadline: float | None) -> object:
    async with STAGES["siblings"].stream(Connecting(shop), "q", deadline=deadline) as run:
        async for _ in run:
            if shop.ordered > 1:
                break
    return run.outcome


async def journaled(shop: Shop, deadline: float | None) -> object:
    with TemporaryDirectory() as folder, Journal(Path(folder) / "runs.db") as journal:
        return await STAGES["pipeline"].run(shop, "q", deadline=deadline, journal=journal.run("a"))


async def for_each(shop: Shop, deadline: float | None) -> object:
    each = (consensus(n=2) & complete()).each(max_concurrency=2)
    return await each.run(shop, ["a", "b", "c"], deadline=deadline)


KINDS: dict[str, Kind] = {
    **{name: run_of(stage) for name, stage in STAGES.items()},
    "stream": streamed,
    "rows": over_rows,
    "adapted": adapted,
    "left": left,
    "journal": journaled,
    "each": for_each,
}


def run(library: str, work: Callable[[], Coroutine[Any, Any, object]]) -> object:
    """Run as a program does: both install a handler for SIGINT."""
    return anyio.run(work, backend=library)


def keep_out(*functions: Callable[..., object]) -> None:
    """Have trio raise an interrupt where these await: within it, in the main task, it breaks trio itself."""
    import trio

    for function in functions:
        trio.lowlevel.enable_ki_protection(function)


def interrupted(library: str, kind: Kind, instant: int) -> dict[str, Any]:
    """Run and interrupt it when the interpreter has called so many functions."""
    shop, events = Shop(), 0
    ordered: int | None = None

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal events, ordered
        if not event.endswith("call"):  # a frame that is left is no place where a signal is looked for
            return
        events += 1
        if events == instant:
            ordered = shop.ordered
            signal.raise_signal(signal.SIGINT)

    async def work() -> object:
        sys.setprofile(count)
        try:
            return await kind(shop, instant % 2 * 60 or None)
        finally:
            sys.setprofile(None)

    if library == "trio":
        # `tidy` too: an interrupt that trio raises in code that then cleans up is known to nobody else meanwhile.
        keep_out(work, streamed, over_rows, adapted, left, journaled, for_each, tidy)
    raised = ""
    try:
        run(library, work)
    except BaseException as error:
        raised = type(error).__name__
    finally:
        sys.setprofile(None)
    return {"raised": raised, "ordered": ordered, "sent": shop.sent, "events": events, "instant": instant}


def main() -> None:
    faulthandler.dump_traceback_later(900, exit=True)
    # What a shell without a terminal runs in the background is begun with the interrupt ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    library, often = sys.argv[1:3]
    if often == "once":
        interrupting = Shop()

        async def interrupt(text: str, provider: LLMProvider) -> float:
            signal.raise_signal(signal.SIGINT)
            return 1.0

        run(library, lambda: refine(interrupt).run(interrupting, "q"))
        return
    chance = random.Random(int(sys.argv[3]))
    found: list[dict[str, Any]] = []
    for name, kind in KINDS.items():
        interrupted(library, kind, sys.maxsize)  # the first imports what the others find
        whole = interrupted(library, kind, sys.maxsize)["events"]
        instants = [chance.randint(1, whole - 1) for _ in range(int(often))]
        found += [{"kind": name, **interrupted(library, kind, instant)} for instant in instants]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
