"""Random trees of foreign wrappers round random pipelines, with deadlines and cancellations, on both loops.

Nothing but an `ExecutionKitError` as a value, or the caller's own cancellation, leaves a run; in bounded time;
no task is left; no more is sent than the budget allows, and the cost is what the provider counted. All of that
for a run, a stream, many inputs, a pool, a journal and the tools of an MCP server. Everything follows from a
seed.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, cast

import anyio
import pytest
import sniffio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from returns.result import Failure, Success

from executionkit import (
    ExecutionKitError,
    LLMProvider,
    LLMResponse,
    Message,
    PatternResult,
    Pool,
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
from executionkit.batch import Batch
from executionkit.core.groups import leaves
from executionkit.core.usage import NO_USAGE, Reading, read_usage
from executionkit.errors import DeadlineExceededError, RunBusyError, StoppedError
from executionkit.events import AttemptFinished, AttemptStarted, Event, RunFinished, RunStarted
from executionkit.journal import Journal
from executionkit.prices import Price
from executionkit.provider import DEFAULT_MAX_TOKENS, ToolCall, ToolSpec, user
from executionkit.runtime.tasks import timeouts
from executionkit.stage import Stage
from executionkit.streaming import Streaming
from executionkit.tools import Tool
from tests.conftest import BARE

pytestmark = pytest.mark.anyio

TREES = int(os.environ.get("EXECUTIONKIT_TREES", "60"))
"""Trees on each event loop."""

A_TICK = 0.002
AT_ONCE = RetryConfig(max_retries=1, base_delay=0)


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "GRACE", 0.02)


class Base:
    """Answers after a moment, fails now and then, edits what it is handed, calls a tool where it has one."""

    supports_tools = True

    def __init__(self, chance: Random) -> None:
        self.chance = chance

    async def complete(
        self,
        messages: list[Message],
        *,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **options: Any,
    ) -> LLMResponse:
        for _ in range(self.chance.randrange(3)):
            await anyio.sleep(self.chance.choice((0, A_TICK)))
        if self.chance.random() < 0.15:
            raise self.chance.choice(
                (
                    ProviderError("busy", cost=TokenUsage(2, min(max_tokens or 3, 3), 1)),
                    KeyError("odd"),
                    ExceptionGroup("two", [OSError()]),
                )
            )
        shown = len(messages)
        if self.chance.random() < 0.2:
            messages.clear()
        taken = min(max_tokens or 50, self.chance.randint(1, 50))
        usage = {"prompt_tokens": 2, "completion_tokens": taken}
        if tools and self.chance.random() < 0.5:
            name = self.chance.choice([spec["function"]["name"] for spec in tools])
            return LLMResponse("", (ToolCall(f"id{shown}", name, {}),), usage=usage)
        return LLMResponse("7", usage=usage)


IS_LEFT = ContextVar("is_left", default=False)
"""Whether this code runs in a task of foreign code's, for whose end nobody waits."""

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

    async def given_up() -> object:
        IS_LEFT.set(True)  # `wait_for` does not wait for its end where it is cancelled meanwhile
        return await work()

    task = asyncio.ensure_future(given_up())
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # else asyncio tells of it
    return await asyncio.wait_for(task, A_TICK)


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


async def hedging(work: Callable[[], Awaitable[object]]) -> object:
    """Take the first of three answers, and break the others off."""
    found: list[object] = []

    async def ask() -> None:
        with suppress(ExecutionKitError):
            found.append(await work())
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
    return found[0]


async def voting(work: Callable[[], Awaitable[object]]) -> object:
    found: list[object] = []

    async def ask() -> None:
        found.append(await work())

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
    return found[-1]


async def retrying(work: Callable[[], Awaitable[object]]) -> object:
    for _ in range(2):
        with suppress(ExecutionKitError):
            return await work()
    return await work()


LEFT: set["asyncio.Task[None]"] = set()


async def leaving_behind(work: Callable[[], Awaitable[object]]) -> object:
    """Begin a task that outlives this call, and perhaps the run."""

    async def later() -> None:
        IS_LEFT.set(True)
        await anyio.sleep(2 * A_TICK)
        with suppress(BaseException):
            await work()

    if sniffio.current_async_library() == "asyncio":
        task = asyncio.create_task(later())
        LEFT.add(task)
        task.add_done_callback(LEFT.discard)
    else:
        import trio

        trio.lowlevel.spawn_system_task(later)
    return await work()


ASKING: list[Deed] = [hedging, voting, retrying, leaving_behind]
"""What asks more often than once."""

DEEDS: list[Deed] = [
    *ASKING,
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
    """A provider around another, with a deed; one that edits changes what it was handed, before and after."""

    supports_tools = True

    def __init__(self, inner: LLMProvider, deed: Deed, *, edits: bool = False) -> None:
        self.inner = inner
        self.deed = deed
        self.edits = edits

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        if self.edits:
            messages[0]["content"] = "edited"
            options.update(max_tokens=50_000, best_of=2, extra_body={"max_completion_tokens": 40_000})
        found = await self.deed(lambda: self.inner.complete(messages, **options))
        if self.edits:
            messages.clear()
        return found if isinstance(found, LLMResponse) else LLMResponse("swallowed")


class Call:
    """One attempt that a run tells of, and what became of it at the provider.

    Args:
        granted: The output tokens that it was granted.
    """

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.was_asked = self.is_under_way = self.is_left = False
        self.usage: Reading | None = None
        self.cost: TokenUsage | None = None
        self.due: Reading | None = None
        self.has_outlived_its_run = False

    def settled(self, cost: TokenUsage) -> None:
        """Note what the run says that it cost, and what was counted for it by then."""
        self.cost, self.due, self.has_outlived_its_run = cost, self.usage, self.is_under_way

    def check(self) -> None:
        """Check that the cost is what was counted, or what docs/errors-and-budgets.md has in its place."""
        assert self.was_asked
        assert self.cost is not None
        if self.due is None:  # it failed, was cancelled or outlives its run: one call, without tokens
            assert replace(self.cost, usd=None) == TokenUsage(llm_calls=1)
            assert not self.cost.usd
        elif self.due.is_complete:
            assert self.cost == priced(self.due.or_else(0, 0))
        else:  # what was reserved
            assert self.cost.output_tokens >= self.granted
            assert self.cost == priced(replace(self.cost, llm_calls=1))


PRICE = Price(input=1, output=10)


def priced(usage: TokenUsage) -> TokenUsage:
    """Return what was counted with what it costs."""
    return replace(usage, usd=Decimal(usage.input_tokens + 10 * usage.output_tokens) / 1_000_000)


class Till:
    """What a provider counted: the calls that it was asked for, and the tokens of its answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.answered = NO_USAGE
        self.sent: Call | None = None
        """What a run has just told of, and asks for next."""

    @property
    def cost(self) -> TokenUsage:
        return TokenUsage(self.answered.input_tokens, self.answered.output_tokens, self.calls)


class Metered:
    """A provider that counts what it is asked for, whatever the provider behind it does."""

    supports_tools = True
    price = PRICE

    def __init__(self, inner: LLMProvider, till: Till) -> None:
        self.inner = inner
        self.till = till

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        call, self.till.sent = self.till.sent or Call(0), None
        call.was_asked = call.is_under_way = True
        call.is_left = IS_LEFT.get()
        self.till.calls += 1
        try:
            response = await self.inner.complete(messages, **options)
            call.usage = read_usage(response.usage)
        except Exception as error:
            costs = [leaf.cost for leaf in leaves(error) if isinstance(leaf, ExecutionKitError)]
            if any(cost != NO_USAGE for cost in costs):
                total = sum(costs, NO_USAGE)
                call.usage = Reading(total.input_tokens, total.output_tokens)
            raise
        finally:
            call.is_under_way = False
            if call.usage is not None:
                self.till.answered += call.usage.or_else(0, 0)
        return response


def foreign(chance: Random, depth: int, till: Till) -> Callable[[str, LLMProvider], Awaitable[None]]:
    """Make foreign code that does something odd round a call, or a run of its own."""
    deed = chance.choice(DEEDS)
    through = chance.choice((None, *DEEDS))
    edits = chance.random() < 0.3
    # Through a wrapper it is a run of its own: what it asks past the wrapper is on no other ledger.
    on_ledger = till if through is None else Till()
    inner = tree(chance, depth - 1, on_ledger) if depth > 0 and chance.random() < 0.5 else None
    deadline = chance.choice((None, A_TICK, 3 * A_TICK))

    async def act(text: str, provider: LLMProvider) -> None:
        if through is not None:
            provider = Wrapper(provider, through, edits=edits)

        async def work() -> object:
            if inner is None:
                return await provider.complete([user(text)])
            return await inner.run(provider, text, deadline=deadline, retry=AT_ONCE)

        await deed(work)

    return act


def tree(
    chance: Random, depth: int, till: Till | None = None, tools: tuple[Tool, ...] = ()
) -> Stage[str, Any]:
    """Make a random pipeline with foreign code in it.

    Args:
        chance: What all is drawn from.
        depth: How deep it is nested.
        till: Counts what providers are asked for that the pipeline brings along.
        tools: Further tools of its loops.
    """
    till = till or Till()
    act = foreign(chance, depth, till)
    in_a_tool = foreign(chance, depth, Till())  # what a tool runs is a run of its own, on no ledger but that

    async def evaluator(text: str, provider: LLMProvider) -> float:
        await act(text, provider)
        return chance.random()

    async def function(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await act(prompt, provider)
        return PatternResult(prompt)

    @tool(name="foreign", timeout=chance.choice((A_TICK, 4 * A_TICK)))
    async def called() -> str:
        """Do something odd."""
        await in_a_tool("in a tool", Base(chance))
        return "done"

    leaves: list[Callable[[], Stage[str, Any]]] = [
        lambda: refine(evaluator, max_iterations=2),
        lambda: step(function),
        lambda: react([called, *tools], max_rounds=3),
        lambda: consensus(n=3).using(Metered(Wrapper(Base(chance), chance.choice(DEEDS)), till)),
        complete,
    ]
    stage = chance.choice(leaves)()
    if depth <= 0:
        return stage
    other = tree(chance, depth - 1, till, tools)
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


@asynccontextmanager
async def mcp_server_tools() -> AsyncGenerator[tuple[Tool, ...]]:
    """Hand out the tools of an MCP server: one that answers, one that is too slow, one that fails."""
    if BARE and find_spec("mcp") is None:
        yield ()
        return
    from mcp.server.mcpserver import MCPServer

    from executionkit.mcp import mcp_tools

    server = MCPServer("foreign")

    @server.tool()
    async def quick() -> str:
        return "quick"

    @server.tool()
    async def slow() -> str:
        await anyio.sleep(1)
        return "slow"

    @server.tool()
    def failing() -> str:
        raise ValueError("fails")

    async with mcp_tools(server) as tools:
        yield tuple(replace(tool, timeout=4 * A_TICK) for tool in tools)


class Life:
    """One run, by what it tells: its attempts, and what all of it cost."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.cost: TokenUsage | None = None
        self.paid_elsewhere = NO_USAGE

    @property
    def charged(self) -> TokenUsage:
        """What its attempts cost."""
        return sum([call.cost for call in self.calls.values() if call.cost is not None], NO_USAGE)

    @property
    def estimated(self) -> int:
        """How many of them were answered without a usage."""
        return sum(call.due is not None and not call.due.is_complete for call in self.calls.values())

    def check(self, *, is_any_left: bool) -> None:
        """Check that the cost is that of the attempts, and theirs what was counted.

        Args:
            is_any_left: Whether code that did not listen was left behind, so that its calls are as well.
        """
        for call in self.calls.values():
            call.check()
            assert is_any_left or call.is_left or not call.has_outlived_its_run
        assert self.cost == self.charged + self.paid_elsewhere


class Case:
    """A pipeline, whom it asks, what it may spend and what was counted."""

    def __init__(self, seed: int, tools: tuple[Tool, ...], journal: Journal) -> None:
        chance = self.chance = Random(seed)
        self.seed = seed
        self.journal = journal
        self.till = Till()
        self.stage = tree(chance, 2, self.till, tools)
        behind = [Metered(Wrapper(Base(chance), chance.choice(DEEDS)), self.till) for _ in range(3)]
        self.provider: LLMProvider = Pool(behind) if chance.random() < 0.3 else behind[0]
        self.limit = chance.choice(
            (
                NO_USAGE,
                TokenUsage(llm_calls=chance.randint(1, 12)),
                TokenUsage(output_tokens=chance.randint(20, 400)),
                TokenUsage(llm_calls=chance.randint(1, 12), output_tokens=chance.randint(20, 400)),
            )
        )
        deadline = chance.choice((None, None, 3 * A_TICK, 10 * A_TICK))
        money = Random(f"money of {seed}")
        if money.random() < 0.25:
            self.limit += TokenUsage(usd=Decimal(money.randint(400, 4000)) / 1_000_000)
        self.lives: list[Life] = []
        self.is_late = self.was_left = self.is_any_left = False
        self.estimated: object = None
        self.unsettled: object = None
        self.cost: TokenUsage | None = None
        """What the run says that it cost; None where the caller has broken it off."""
        self.reader: Streaming[Any] | Batch[Any, Any] | None = None
        self.settings: dict[str, Any] = {
            "max_cost": self.limit,
            "deadline": deadline,
            "retry": AT_ONCE,
            "trace": self.note,
        }

    def note(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.lives.append(Life())
            case AttemptStarted():
                self.till.sent = Call(event.max_tokens or DEFAULT_MAX_TOKENS)
                self.lives[-1].calls[event.id] = self.till.sent
            case AttemptFinished():
                self.lives[-1].calls[event.id].settled(event.cost)
            case RunFinished():
                self.lives[-1].cost, self.lives[-1].paid_elsewhere = event.cost, event.paid_elsewhere
            case _:
                pass

    async def run(self) -> TokenUsage:
        """Run it in one of the ways; return what it says that it cost."""
        way = self.chance.randrange(5)
        return await (self.in_two_lives() if way == 3 else self.lived(way))

    async def lived(self, way: int) -> TokenUsage:
        match way:
            case 0:
                return self.cost_of(await self.stage.run(self.provider, "q", **self.settings))
            case 1:
                many = self.stage.each(max_concurrency=2)
                return self.cost_of(await many.run(self.provider, ["a", "b", "c"], **self.settings))
            case 2:
                return await self.streamed()
            case _:
                return await self.over_rows()

    async def in_two_lives(self) -> TokenUsage:
        """Run with a journal, perhaps to be broken off, and take it up again: the budget is that of both."""
        way = Random(f"way of {self.seed}").choice((0, 1, 2, 4))
        for seconds in (self.chance.choice((30.0, A_TICK, 4 * A_TICK)), 30.0):
            self.settings["journal"] = self.journal.run(f"run {self.seed}", on_change="reuse")
            with anyio.move_on_after(seconds):
                cost = await self.lived(way)
                if len(self.lives) == 2 or not self.is_late:
                    return cost
        raise AssertionError("the second life did not end")

    async def streamed(self) -> TokenUsage:
        leaves_after = self.chance.choice((0, 3, 10, 10**6))
        async with self.stage.stream(self.provider, "q", **self.settings) as run:
            self.reader = run
            read = 0
            async for _ in run:
                read += 1
                if read > leaves_after:
                    break
        if read:
            self.cost_of(run.outcome)
        return run.cost

    async def over_rows(self) -> TokenUsage:
        batch = self.stage.over(["a", "b"], self.provider, key=str, **self.settings)
        self.reader = batch
        async with batch:
            async for row in batch:
                self.cost_of(row.outcome)
        self.is_late = isinstance(batch.failure, DeadlineExceededError)
        self.estimated = self.unsettled = None  # each row says it of itself
        return batch.cost

    def cost_of(self, outcome: object) -> TokenUsage:
        if isinstance(outcome, Success):
            ended: PatternResult[Any] | ExecutionKitError = cast(
                "Success[PatternResult[Any]]", outcome
            ).unwrap()
        else:
            assert isinstance(outcome, Failure)
            ended = cast("Failure[ExecutionKitError]", outcome).failure()
            assert isinstance(ended, ExecutionKitError)
        self.is_late = isinstance(ended, DeadlineExceededError)
        self.was_left = isinstance(ended, StoppedError)
        assert not isinstance(ended, RunBusyError)  # nobody else has the journal
        self.estimated = ended.metadata.get("usage_estimated", 0)
        self.unsettled = ended.metadata.get("unsettled_calls")
        return ended.cost

    def check(self) -> None:
        """Check the budget, and the cost; when it has just ended, and when all that it left behind has."""
        try:
            self._check()
        except AssertionError as error:
            error.add_note(f"seed {self.seed}: {self.stage} cost {self.cost}, counted {self.till.cost}")
            raise

    def _check(self) -> None:
        counted, limit = self.till.cost, self.limit
        assert not limit.llm_calls or counted.llm_calls <= limit.llm_calls
        assert not limit.output_tokens or counted.output_tokens <= limit.output_tokens
        assert limit.usd is None or (priced(counted).usd or 0) <= limit.usd
        assert counted.llm_calls == sum(len(life.calls) for life in self.lives)
        for life in self.lives:
            life.check(is_any_left=self.is_any_left)
        first, last = self.lives[0], self.lives[-1]
        assert first.paid_elsewhere == NO_USAGE
        assert self.reader is None or self.reader.cost == last.cost
        if self.cost is None:
            return
        assert self.cost == last.cost
        if last is not first and self.was_left:
            return  # before its journal was read, perhaps
        if self.estimated is not None:
            assert self.estimated == sum(life.estimated for life in self.lives)
        if last is not first:
            self._check_replayed(first, last.paid_elsewhere)

    def _check_replayed(self, first: Life, replayed: TokenUsage) -> None:
        """Check what a second life took over: what outlived the first is charged at its reservation."""
        outlived = [call for call in first.calls.values() if call.has_outlived_its_run]
        assert self.unsettled in (None, len(outlived))
        assert replayed.llm_calls == first.charged.llm_calls
        reserved = sum(call.granted for call in outlived)
        assert replayed.output_tokens >= first.charged.output_tokens + reserved
        assert outlived or replayed == first.charged


@pytest.mark.timeout(60 + TREES)
async def test_the_budget_holds_and_the_cost_is_what_the_providers_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases: list[Case] = []
    async with mcp_server_tools() as tools, Journal(tmp_path / "runs.db") as journal:
        for seed in range(0, TREES, 2):  # they take longer
            caplog.clear()
            case = Case(seed, tools, journal)
            cases.append(case)
            patience = case.chance.choice((30.0, 30.0, 2 * A_TICK, 8 * A_TICK))
            with anyio.fail_after(20), anyio.move_on_after(patience):
                case.cost = await case.run()
            case.is_any_left = "is left behind" in caplog.text
            case.check()
    await anyio.sleep(0.1)  # what was left behind ends by itself
    for case in cases:
        case.check()
