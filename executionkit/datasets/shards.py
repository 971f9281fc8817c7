"""What runs a stage for some of the rows of a data set, in this process, on whatever engine."""

import os
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
from returns.result import Failure

from executionkit.batch import Batch, Key, Row, Source
from executionkit.core.durations import Durations
from executionkit.core.foreign import described
from executionkit.core.leases import Grant
from executionkit.core.rate_limit import RateLimit
from executionkit.core.seen import Seen
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.core.window import Adaptive
from executionkit.datasets.coordinator import Link, Message, Place
from executionkit.datasets.log import Begun, Line, Log, decoded, lines_of
from executionkit.datasets.state import PATIENCE, BusyError, Fold, State, locked, spent_in, total_of
from executionkit.errors import ExecutionKitError, StageError
from executionkit.events import Trace
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import RetryConfig
from executionkit.runtime.calls.shared_limits import SharedLimit, shared_limits
from executionkit.runtime.ledger.lending import Lender
from executionkit.runtime.rows import key_of, used_key
from executionkit.stage import Stage

__all__ = ["Job", "Report", "Shard", "count_lost", "cut", "run_rows", "run_shard"]

A = TypeVar("A")
B = TypeVar("B")

_OF_THE_ATTEMPT: Final = frozenset({"BudgetExhaustedError", "ProviderClosedError"})
"""What rows fail with whose worker was given up as lost and lives: nothing is lent to it any more."""


class Job(msgspec.Struct, Generic[A, B], frozen=True):
    """What is to be done with each row. It travels to where that is done.

    Args:
        stage: What is run.
        make_provider: Returns the model to ask; called there.
        key: What a row is known by.
        max_concurrency: As in `Stage.over`.
        retry: As in `Stage.over`.
        trace: As in `Stage.over`.
        ends_at: When no more time is left, in seconds since 1970; None for never.
        takes_anywhere: Whether an answer of an earlier life is taken by what was asked.
    """

    stage: Stage[A, B]
    make_provider: Callable[[], LLMProvider]
    key: Callable[[A], Key]
    max_concurrency: int | Adaptive
    retry: RetryConfig | None
    trace: Trace | None
    ends_at: float | None
    takes_anywhere: bool


class Report(msgspec.Struct):
    """What came of rows beside what is in the state.

    Args:
        durations: How long each took that is over.
        resumed: Rows whose calls earlier lives had paid for.
        cost: What was spent since the log was begun.
        failure: What ended them before the last row.
    """

    durations: Durations = msgspec.field(default_factory=Durations)
    resumed: int = 0
    cost: TokenUsage = NO_USAGE
    failure: ExecutionKitError | None = None

    def add(self, other: "Report") -> None:
        """Count those of another in; the first failure stays."""
        self.durations.merge(other.durations)
        self.resumed += other.resumed
        self.cost += other.cost
        self.failure = self.failure or other.failure


class Shard(msgspec.Struct, Generic[A], frozen=True):
    """Some rows, on their way to a worker.

    Args:
        number: Which shard of the data set.
        rows: The rows.
        known: What earlier lives called for them, as lines.
    """

    number: int
    rows: list[A]
    known: list[bytes]


async def run_rows(
    job: Job[A, B],
    rows: Source[A],
    log: Log,
    max_cost: TokenUsage | None,
    draw: Callable[[TokenUsage, TokenUsage, bool], Awaitable[Grant]] | None = None,
) -> Report:
    """Run a stage for rows, and keep what comes out.

    Args:
        job: What to do.
        rows: The rows that no earlier life has answered.
        log: Where it is kept.
        max_cost: The budget of all rows, with what earlier lives paid for their calls.
        draw: Asks for more of it, where others share it; see `Lender`.

    Raises:
        OSError: The log cannot be written.
    """
    before = log.paid
    lender = None if draw is None or max_cost is None else Lender(draw, before)
    async with AsyncExitStack() as stack:
        provider = await _entered(stack, checked_provider(job.make_provider()))
        batch: Batch[A, B] = Batch(
            job.stage,
            rows,
            provider,
            key=job.key,
            max_concurrency=job.max_concurrency,
            keep=log.add,
            max_cost=max_cost,
            retry=job.retry,
            trace=job.trace,
            deadline=None if job.ends_at is None else max(0.001, job.ends_at - time.time()),
            journal=log,
            lender=lender,
        )
        try:
            async with batch:
                async for _ in batch:
                    pass
        finally:
            log.leave(batch.cost)
    if log.trouble is not None:
        raise log.trouble
    cost = batch.cost + log.unneeded - before
    return Report(batch.durations, batch.summary.resumed, cost, batch.failure)


async def run_shard(
    job: Job[A, B], shard: Shard[A], folder: Path, begun: Begun, max_cost: TokenUsage | None, link: Link
) -> Report:
    """Run a stage for the rows of a shard, on a worker: those that no attempt before has done.

    Args:
        job: What to do.
        shard: The rows.
        folder: The state, which all workers see.
        begun: What is run.
        max_cost: The budget of all rows; None for none.
        link: To the coordinator.

    Raises:
        BusyError: Another worker still works on the shard.
        OSError: The state cannot be written.
    """
    earlier = sorted(folder.glob(f"part-{shard.number:08}-*.jsonl"))  # noqa: ASYNC240 - nothing else runs yet
    number = int(earlier[-1].stem.split("-")[2]) + 1 if earlier else 1
    # An attempt that died before it had a file is told from this one by its last part.
    path = folder / f"part-{shard.number:08}-{number:04}-{os.urandom(4).hex()}.jsonl"
    if (await link.ask(Message("begin", path.name, link.worker))).is_over:
        return Report()
    with ExitStack() as stack:
        for file in earlier:
            why = f"another worker still works on {file}"
            stack.enter_context(locked(file, why, patience=PATIENCE))
            await link.ask(Message("close", file.name, used=spent_in(file)))
        fold = Fold(asks_again=False, but=_OF_THE_ATTEMPT)
        lines = [*fold.lines([map(decoded, shard.known), *map(lines_of, earlier)])]
        folded = tuple([file.name for file in earlier])
        begun = msgspec.structs.replace(begun, folded=folded, before=total_of(lines))
        log = Log(path, begun, lines, takes_anywhere=job.takes_anywhere)
        stack.callback(log.end)
        for file in earlier:
            file.unlink()
        over = {line.record["key"] for line in lines if line.record is not None}
        rest = [row for row in shard.rows if job.key(row) not in over]
        limits = _Limits(link, path.name, begun.nonce.encode())
        stack.callback(shared_limits.reset, shared_limits.set(limits))
        report = await run_rows(job, rest, log, max_cost, partial(_drawn, link, path.name))
    is_end = report.failure is not None
    await link.ask(Message("close", path.name, used=report.cost, is_end=is_end))
    await limits.end()
    return report


class _Limits:
    """The rate limits of a shard's providers, which the coordinator keeps.

    Args:
        link: To the coordinator.
        attempt: Whose requests they are.
        salt: What to make digests with that stand for a key.
    """

    def __init__(self, link: Link, attempt: str, salt: bytes) -> None:
        self._link = link
        self._attempt = attempt
        self._limits: dict[tuple[str, RateLimit], SharedLimit] = {}
        self.salt: Final = salt

    def limit_of(self, server: str, limit: RateLimit) -> SharedLimit:
        known = self._limits.get((server, limit))
        if known is None:
            known = self._limits[server, limit] = SharedLimit(partial(self._placed, server, limit))
        return known

    async def _placed(
        self, server: str, limit: RateLimit, tokens: int, unused: int, patience: float | None
    ) -> float:
        place = Place(server, limit, tokens, unused, patience)
        reply = await self._link.ask(Message("pace", self._attempt, place=place))
        if reply.is_over:
            raise OSError("the data set is over")
        return reply.delay

    async def end(self) -> None:
        """Give back what the last requests did not take; an attempt that is closed gets no place for that."""
        for (server, limit), shared in self._limits.items():
            if shared.unused and limit.tokens_per_minute is not None:
                place = Place(server, limit, unused=shared.unused)
                await self._link.ask(Message("pace", self._attempt, place=place))


async def cut(job: Job[A, B], source: Source[A], state: State, size: int) -> AsyncGenerator[Shard[A]]:
    """Yield rows in shards, with what earlier lives called for them; a row without a key of its own fails.

    Args:
        job: Tells the keys.
        source: The rows.
        state: Where what failed is kept, and what is known comes from.
        size: Rows of a shard.

    Raises:
        StageError: The rows cannot be read; those before are in shards yielded already.
    """
    known: defaultdict[Key, list[bytes]] = defaultdict(list)
    for call in state.log.known:
        known[call.path[0]].append(Line(call=call).encoded())
    count, seen, failure = 0, Seen(), None
    shard: Shard[A] = Shard(0, [], [])
    try:
        async for row in _as_async(source):
            key, mistake = key_of(count, row, job.key)
            count += 1
            if mistake is None and not seen.add(key):
                mistake = used_key(key)
            if mistake is not None:
                state.log.add(Row(key, row, Failure(mistake)))
                continue
            shard.rows.append(row)
            shard.known.extend(known.pop(key, ()))
            if len(shard.rows) == size:
                yield shard
                shard = Shard(shard.number + 1, [], [])
    except Exception as error:  # noqa: BLE001 - whatever the rows come from
        failure = StageError(f"the rows could not be read: {described(error)}")
        failure.__cause__ = error
    if shard.rows:
        yield shard
    if failure is not None:
        raise failure


async def _as_async(source: Source[A]) -> AsyncGenerator[A]:
    if isinstance(source, AsyncIterable):
        async for row in source:
            yield row
    else:
        for row in source:
            yield row


async def count_lost(link: Link, folder: Path) -> None:
    """Tell the coordinator what workers had spent that are gone.

    Args:
        link: To the coordinator.
        folder: The state.
    """
    for name in (await link.ask(Message("lost"))).lost:
        used = NO_USAGE
        # Where there is no such file, nothing was spent; or another worker went on with it, and said so.
        with suppress(FileNotFoundError):
            try:
                with locked(folder / name, "it still works"):
                    used = spent_in(folder / name)
            except BusyError:
                continue
        await link.ask(Message("close", name, used=used))


async def _drawn(link: Link, attempt: str, used: TokenUsage, need: TokenUsage, is_busy: bool) -> Grant:
    """Ask for more of the budget; without a coordinator there is none."""
    try:
        reply = await link.ask(Message("draw", attempt, used=used, need=need, is_busy=is_busy))
    except OSError:
        return Grant(is_last=True)
    return reply.grant


async def _entered(stack: AsyncExitStack, provider: LLMProvider) -> LLMProvider:
    """Open a provider that can be opened, and have it closed with the stack."""
    opened: Any = provider
    if hasattr(opened, "__aenter__"):
        await stack.enter_async_context(opened)
    elif callable(getattr(opened, "aclose", None)):
        stack.push_async_callback(opened.aclose)
    return provider
