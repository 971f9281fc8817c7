"""What the checkers must infer of a journal, and of what is run with one."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, assert_type

from executionkit import LLMProvider, Outcome, TokenUsage, Tool, complete, consensus
from executionkit.batch import Batch, SyncBatch
from executionkit.core.journal import Row
from executionkit.errors import ExecutionKitError
from executionkit.journal import (
    Cached,
    Journal,
    JournalError,
    JournalMismatchError,
    JournalRun,
    OnChange,
    PastRuns,
    RunBusyError,
    RunInfo,
    Store,
    UnsettledToolError,
)
from executionkit.journal.recording import Recorded
from executionkit.journal.sqlite import SQLiteStore
from executionkit.progress import Progress
from executionkit.runtime.journal.given import CallCache, RecordsRuns, RunJournal
from executionkit.streaming import Streaming, SyncStreaming
from executionkit.tools import IdempotencyKey, tool
from tests.typing.stages import Count


async def runs(provider: LLMProvider, on_change: OnChange, limit: TokenUsage) -> None:
    """A journal changes the type of nothing that is run with it."""
    async with Journal("runs.db", prompts=True, power=True, most_bytes=10) as journal:
        assert_type(journal, Journal)
        assert_type(journal.run("a"), JournalRun)
        run: RunJournal = journal.run("a", on_change=on_change)
        assert_type(await Count().run(provider, "x", journal=run, max_cost=limit), Outcome[int])
        assert_type(complete().stream(provider, "x", journal=run), Streaming[str])
        assert_type(Count().over(["a"], provider, key=str, journal=run), Batch[str, int])


def scripts(provider: LLMProvider) -> None:
    """The same without an event loop; what a file holds."""
    with Journal("runs.db") as journal:
        assert_type(journal, Journal)
        run = journal.run("a", on_change="reuse")
        assert_type(Count().run_sync(provider, "x", journal=run), Outcome[int])
        assert_type(complete().stream_sync(provider, "x", journal=run), SyncStreaming[str])
        assert_type(Count().over_sync(["a"], provider, key=str, journal=run), SyncBatch[str, int])
        assert_type(journal.runs(), Sequence[RunInfo])
        assert_type([(each.name, each.lives) for each in journal.runs()], list[tuple[str, int]])
        assert_type(journal.rows("a"), Sequence[Row])
        assert_type(run.on_change, OnChange)
        past = journal.past_runs(Count(), most=10)
        assert_type(past, PastRuns)
        assert_type((past.answered, past.least, past.most.usd), tuple[int, TokenUsage, Decimal | None])
        assert_type(journal.past_runs("ek1:0"), PastRuns)
        Progress(bounds=Count().bounds("a"), past=past)
        journal.resolve("a", "key", "paid")


def providers(provider: LLMProvider, recorded: Callable[[LLMProvider], LLMProvider], own: Recorded) -> None:
    """What caches and what records is a provider like any other."""
    with Journal("answers.db") as journal:
        cached: LLMProvider = Cached(provider, journal, temperature_at_most=0.2)
        cache: CallCache = Cached(provider, journal)
        assert_type(consensus().run_sync(cached, "x"), Outcome[str])
        assert_type(complete().run_sync(recorded(cached), "x"), Outcome[str])
        records: RecordsRuns = own
        assert_type((cache.provider, records.provider), tuple[LLMProvider, LLMProvider])


def stores(sqlite: SQLiteStore) -> Store:
    """What keeps a file is a store, without deriving from anything."""
    return sqlite


def failures(error: JournalMismatchError | RunBusyError | UnsettledToolError) -> ExecutionKitError:
    """What goes wrong with a journal is one kind of failure, and a failure like any other."""
    journals: JournalError = error
    return journals


@tool(effects="once")
async def pay(amount: int, key: Annotated[str, IdempotencyKey]) -> str:
    """Pay once."""
    return f"{amount} under {key}"


@tool(effects="none")
def look(name: str) -> str:
    """Look something up, as often as one likes."""
    return name


assert_type(pay, Tool)
assert_type(look, Tool)
