"""Kills runs at random instants and takes them up again: `python -m tests.killing KILLS SEED [tools]`.

This process imports everything and then forks: a child runs a pipeline with a journal, and is killed with
SIGKILL after a random time. What the model was asked, and what tools did to the world, stands in a log that
each child appends to. At the end stands one line of JSON: what was counted, and what was broken.
"""

import gc
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec

from executionkit import (
    Context,
    LLMResponse,
    PermanentError,
    RetryConfig,
    Stage,
    TokenUsage,
    ToolCall,
    complete,
    consensus,
    react,
    refine,
    structured,
)
from executionkit.core.journal import Charge, total_of
from executionkit.errors import BudgetExhaustedError, UnsettledToolError
from executionkit.events import CallStarted, Event
from executionkit.journal import Journal
from executionkit.journal.sqlite import SQLiteStore
from executionkit.provider import Message
from executionkit.runtime.calls.open_call import call_under_way
from executionkit.tools import Tool, tool

BACKENDS = ("asyncio", "trio") if find_spec("trio") else ("asyncio",)
NO_WAIT = RetryConfig(max_retries=2, base_delay=0.0)


class Number(msgspec.Struct, frozen=True):
    n: int


class World:
    """The model and the tools; all that they do stands in a log.

    Args:
        log: The file.
        seed: Of answers, and of the time that they take.
    """

    supports_tools = True

    def __init__(self, log: Path, seed: int) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._seed = seed

    def note(self, *what: object) -> None:
        os.write(self._log, json.dumps(what).encode() + b"\n")

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        call = call_under_way.get()
        assert call is not None
        path, ordinal = call.place
        self.note("sent", [*path], ordinal)
        fate = random.Random(f"{self._seed} {path} {ordinal} {messages!r}")
        await anyio.sleep(random.Random().random() * 0.004)
        if "json_schema" in str(options.get("response_format")):
            raise PermanentError("response_format json_schema is not supported", metadata={"status": 400})
        if fate.random() < 0.05:
            raise PermanentError("this one never works", metadata={"status": 400})
        usage = {"prompt_tokens": 3 + fate.randrange(9), "completion_tokens": 2 + fate.randrange(9)}
        if options.get("tools") and fate.random() < 0.7:
            calls = tuple([ToolCall(f"c{at}", "pay", {"amount": fate.randrange(9)}) for at in range(3)])
            return LLMResponse("", calls, "tool_calls", usage)
        if "response_format" in options:
            return LLMResponse(
                '{"n": "x"}' if fate.random() < 0.4 else f'{{"n": {fate.randrange(2)}}}', usage=usage
            )
        return LLMResponse(f"Response {fate.randrange(3)} Score: {fate.randrange(10)}", usage=usage)

    def tool(self, effects: Any) -> Tool:
        async def pay(amount: int, context: Context) -> str:
            """Pay an amount."""
            self.note("effect", effects, [*context.path])
            await anyio.sleep(random.Random().random() * 0.004)
            return f"paid {amount}"

        return tool(pay, effects=effects)


async def score(text: str, provider: Any) -> float:
    """Score a draft with a vote of its own."""
    outcome = await consensus(3, quorum=1).run(provider, f"Rate: {text}")
    return len(str(outcome.unwrap().value)) % 10 / 10


def stage_of(world: World, chance: random.Random, *, only_tools: bool) -> Stage[str, Any]:
    """Return a pipeline: a vote, repairs, a tool loop, or several in turn."""
    at_once = chance.randrange(1, 41)
    vote = consensus(chance.choice([3, 7, 40]), max_concurrency=at_once, quorum=1)
    repairs = structured(Number, output_retries=3).map(str) | complete(system="then")
    tools = react([world.tool(chance.choice(["once", "idempotent"]))], max_rounds=4, on_limit="answer")
    refined = refine(score, max_iterations=2) | complete(system="then")
    several = [vote, repairs, tools | complete(system="then"), refined]
    if only_tools:
        return tools
    whole = chance.choice(several)
    for step in chance.sample(several, chance.randrange(2)):
        whole >>= step
    return whole


def said_by(outcome: Any) -> dict[str, Any]:
    is_answer = type(outcome).__name__ == "Success"
    found = outcome.unwrap() if is_answer else outcome.failure()
    metadata = {**found.metadata}
    lives = {name: metadata.pop(name, None) for name in ("replayed", "unsettled_calls")}
    return {
        "kind": "answer" if is_answer else type(found).__name__,
        "value": str(found.value) if is_answer else str(found),
        "score": found.score if is_answer else None,
        "metadata": repr(_without_costs(metadata)),
        "cost": msgspec.to_builtins(found.cost),
        "unsettled": lives["unsettled_calls"],
        "key": metadata.get("key"),
        "is_mismatch": "diverged_calls" in metadata,
    }


def _without_costs(value: Any) -> Any:
    """Leave out what the lost attempts cost: that is checked as a whole."""
    if isinstance(value, TokenUsage):
        return None
    if isinstance(value, (tuple, list)):
        return tuple(map(_without_costs, cast("tuple[object, ...]", value)))
    if hasattr(value, "items"):
        return {name: _without_costs(part) for name, part in value.items() if name != "budget_spent"}
    return value


def in_child(work: Callable[[int], object], seconds: float | None = None) -> float | None:
    """Run something in a child; kill that so many seconds after it has begun.

    Returns:
        The seconds that it took, None where it was killed.
    """
    hears, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.nice(10)  # on a busy machine the parent has to be awake at its instant
            work(tells)
            code = 0
        finally:
            os._exit(code)
    os.close(tells)
    os.read(hears, 1)
    os.close(hears)
    began = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a child failed")
    return time.monotonic() - began if os.WIFEXITED(status) else None


def live(
    folder: Path, seed: int, backend: str, limit: TokenUsage | None, tells: int, *, has_journal: bool
) -> None:
    """Live once, and write down how it ended."""
    world = World(folder / ("log" if has_journal else "log of the whole"), seed)
    stage = stage_of(world, random.Random(seed), only_tools=sys.argv[3:] == ["tools"])
    events: list[Event] = []

    async def run() -> Any:
        settings: dict[str, Any] = {"retry": NO_WAIT, "trace": events.append}
        os.write(tells, b"x")
        if not has_journal:
            return await stage.run(world, "question", **settings)
        async with Journal(folder / "runs.db", prompts=True) as journal:
            return await stage.run(world, "question", journal=journal.run("a"), max_cost=limit, **settings)

    outcome = anyio.run(run, backend=backend)
    calls = sum(isinstance(event, CallStarted) for event in events)
    text = json.dumps({**said_by(outcome), "calls": calls})
    (folder / ("end" if has_journal else "whole")).write_text(text)


class Tally:
    """What was counted and what was broken, over all runs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []

    def check(self, is_right: bool, what: str) -> None:
        if not is_right:
            self.broken.append(what)


def one_run(seed: int, tally: Tally, kills: int) -> int:  # noqa: C901 - a life, and a line for each promise
    """Kill a run up to so many times, let it end, and check everything. Return how often it was killed."""
    chance = random.Random(seed)
    backend = BACKENDS[seed % len(BACKENDS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lasted = in_child(partial(live, folder, seed, backend, None, has_journal=False)) or 0.0
        whole = json.loads((folder / "whole").read_text())
        limit = None
        if chance.random() < 0.3:
            limit = TokenUsage(llm_calls=whole["cost"]["llm_calls"] + chance.randrange(8))
        settled: set[str] = set()
        lost: dict[tuple[int, int], Charge] = {}
        made = 0
        for _ in range(min(kills, chance.randrange(1, 4))):
            seconds = random.Random().random() * lasted * 1.2
            living = partial(live, folder, seed, backend, limit, has_journal=True)
            is_killed = in_child(living, seconds) is None
            made += is_killed
            tally.counts["with a log to recover"] += is_killed and (folder / "runs.db-wal").exists()
            settled, in_flight, has_failed = looked_at(folder)
            if has_failed:  # it had come to its end: whoever runs it again wants what failed asked again
                tally.counts["failed before"] += 1
                return made
            if not is_killed:
                break
            tally.counts["in flight"] += len(in_flight.keys() - lost.keys())
            lost |= in_flight
            check_unpaid(folder, settled, tally, seed)
        while True:
            in_child(partial(live, folder, seed, backend, limit, has_journal=True))
            end = json.loads((folder / "end").read_text())
            if end["kind"] != UnsettledToolError.__name__:
                break
            tally.counts["resolved by a person"] += 1
            in_child(partial(resolve, folder, end["key"]))
        check_unpaid(folder, settled, tally, seed)
        sent = sum(count for (what, *_), count in log_of(folder).items() if what == "sent")
        if limit is not None:
            tally.check(sent <= limit.llm_calls, f"{seed}: {sent} calls of {limit.llm_calls}")
        for (what, place), count in log_of(folder).items():
            if what == "effect":
                tally.counts["effects"] += 1
                tally.check(count == 1 or '"once"' not in place, f"{seed}: {place} happened {count} times")
        if limit is not None:  # there may be less than the whole takes, and another answer then
            tally.counts["short of budget"] += end["kind"] == BudgetExhaustedError.__name__
            tally.counts["limited"] += 1
            return made
        for what in ("kind", "value", "score", "metadata"):
            tally.check(end[what] == whole[what], f"{seed}: {what}: {parted(end[what], whole[what])}")
        held, _ = total_of([*lost.values()])
        cost = msgspec.convert(whole["cost"], TokenUsage) + held
        tally.check(
            msgspec.convert(end["cost"], TokenUsage) == cost, f"{seed}: cost {end['cost']} for {cost}"
        )
        tally.check(end["unsettled"] == len(lost), f"{seed}: {end['unsettled']} unsettled for {len(lost)}")
        tally.check(sent <= whole["cost"]["llm_calls"] + len(lost), f"{seed}: {sent} sent, {len(lost)} lost")
        tally.counts["runs"] += 1
        return made


def parted(one: object, other: object) -> str:
    """Show where two texts part."""
    mine, its = str(one), str(other)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(mine, its, strict=False)))
    at = max(0, same - 60)
    return f"...{mine[at : at + 160]} for ...{its[at : at + 160]}"


def resolve(folder: Path, key: str, tells: int) -> None:
    os.write(tells, b"x")
    with Journal(folder / "runs.db") as journal:
        (row,) = [row for row in journal.rows("a") if row.kind == "tool" and row.body.key == key]
        amount = json.loads(row.prompt)["arguments"]["amount"] if row.prompt else None
        journal.resolve("a", key, "paid" if amount is None else f"paid {amount}")


def looked_at(folder: Path) -> tuple[set[str], dict[tuple[int, int], Charge], bool]:
    """Return which calls had settled when the process ended, what those under way had reserved.

    And whether the run had come to its end, and failed; a call that a person has to settle is no such end.
    """
    if not (folder / "runs.db").exists():
        return set(), {}, False
    store = SQLiteStore(folder / "runs.db")
    unsettled = UnsettledToolError.__name__
    has_failed = any(info.ended == "failed" and info.error != unsettled for info in store.runs())
    rows = [row for info in store.runs() for row in store.rows(info.number) if row.kind == "call"]
    store.close()
    settled = {json.dumps([[*row.path], row.ordinal]) for row in rows if row.state == "done"}
    sent = [(row.seq, row.body.attempts, row.body.held) for row in rows if row.state == "sent"]
    reserved = {(seq, attempts): held for seq, attempts, held in sent if held is not None}
    return settled, reserved, has_failed


def log_of(folder: Path) -> Counter[Any]:
    text = (folder / "log").read_text() if (folder / "log").exists() else ""
    found: Counter[Any] = Counter()
    for line in text.splitlines():
        what, *place = json.loads(line)
        found[what, json.dumps(place)] += 1
    return found


def check_unpaid(folder: Path, settled: set[str], tally: Tally, seed: int) -> None:
    """Check that nothing was sent again that had settled: remember how often each was sent then."""
    sent = {place: count for (what, place), count in log_of(folder).items() if what == "sent"}
    path = folder / "settled"
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    for place, count in known.items():
        tally.check(sent.get(place, 0) == count, f"{seed}: {place} had settled and was paid again")
    path.write_text(json.dumps({place: sent.get(place, 0) for place in settled}))


def warm_up() -> None:
    """Import all that a child needs, so that it need not."""
    hears, tells = os.pipe()
    for backend in BACKENDS:
        for seed in range(3):
            with tempfile.TemporaryDirectory() as name:
                live(Path(name), seed, backend, None, tells, has_journal=True)
    os.close(hears)
    os.close(tells)
    gc.collect()
    gc.freeze()


def main() -> None:
    wanted, seed = int(sys.argv[1]), int(sys.argv[2])
    warm_up()
    tally, made = Tally(), 0
    while made < wanted:
        made += one_run(seed, tally, wanted - made)
        seed += 1
    print(json.dumps({"kills": made, **tally.counts, "broken": len(tally.broken), "first": tally.broken[:5]}))


if __name__ == "__main__":
    main()
