"""Many rows through one stage: pulled as there is room, run at once, handed over as they end."""

import time
from collections import Counter, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from contextlib import suppress
from types import AsyncGeneratorType, GeneratorType
from typing import Generic, Literal, TypeAlias, TypeVar, cast

import anyio
import msgspec
from returns.result import Failure

from executionkit.core.durations import Durations
from executionkit.core.foreign import described, returned_at_once
from executionkit.core.seen import Seen
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import ExecutionKitError, InvalidPromptError, LLMError, StageError
from executionkit.events import ItemFinished, ItemStarted
from executionkit.outcome import Outcome, PatternResult
from executionkit.runtime.calls.windows import Windows
from executionkit.runtime.context import Context, Performer
from executionkit.runtime.frame import Frame
from executionkit.runtime.inputs import Inputs
from executionkit.runtime.run import leave_behind
from executionkit.runtime.tasks.cancellation import AnyWaiter, taken_as
from executionkit.runtime.tasks.gather import gather

__all__ = ["Key", "Row", "Rows", "Source", "key_of", "used_key"]

A = TypeVar("A")
B = TypeVar("B")

Key: TypeAlias = int | str
"""What tells a row from all others, in this run and in those to come."""

Source: TypeAlias = Iterable[A] | AsyncIterable[A]
"""Where rows come from: anything to iterate over, also without an end."""


class Row(msgspec.Struct, Generic[A, B], frozen=True):
    """One row of a batch that is over.

    Args:
        key: What it is known by.
        value: What went in.
        outcome: What came out, with a cost of its own.
    """

    key: Key
    value: A
    outcome: Outcome[B]


def used_key(key: Key) -> InvalidPromptError:
    """Return the error of a row whose key an earlier one has."""
    return InvalidPromptError(f"it has the key of an earlier row, {key!r:.80}; keys must be unique")


def key_of(number: int, value: A, key: Callable[[A], Key]) -> tuple[Key, InvalidPromptError | None]:
    """Return what a row is known by; where its key cannot be used, what stands for it, and why.

    Args:
        number: Of the row, from 0.
        value: The row.
        key: Tells its key.
    """
    stand_in = f"row {number}"
    try:
        found: object = returned_at_once(key(value))
    except BaseException as raised:
        error = taken_as(raised)
        if not isinstance(error, Exception):
            raise error from error.__cause__
        failure = InvalidPromptError(f"the key of row {number} (from 0) raised {described(error)}")
        failure.__cause__ = error
        return stand_in, failure
    if type(found) is not int and not isinstance(found, str):
        kind = type(found).__name__
        what = f"the key of row {number} (from 0) is {kind}; it must be text or a whole number"
        return stand_in, InvalidPromptError(what)
    return found, None


class Rows(Generic[A, B]):
    """Runs a stage for one row after another, and keeps those that are over until they are read.

    At most `ahead` rows are held, whether they are under way, over but not read, or waiting for an earlier
    one: so a reader that is slow keeps rows from being pulled.

    Args:
        stage: What is run for each.
        source: The rows.
        key: What a row is known by.
        limit: Rows under way at once.
        windows: Says so in its place, where it is adapted.
        on_error: Whether the first failure ends it.
        ordered: Whether rows are handed over in the order in which they came.
        ahead: Rows held at most.
        keep: Called with each row at the moment it is over; what it raises ends all.
    """

    def __init__(
        self,
        stage: Performer[A, B],
        source: Source[A],
        key: Callable[[A], Key],
        *,
        limit: int,
        windows: Windows | None,
        on_error: Literal["collect", "fail"],
        ordered: bool,
        ahead: int,
        keep: Callable[[Row[A, B]], None] | None,
    ) -> None:
        self._stage = stage
        self._source = source
        self._key = key
        self._limit = limit
        self._windows = windows
        self._ends_on_failure = on_error == "fail"
        self._ordered = ordered
        self._ahead = ahead
        self._keep = keep
        self._seen = Seen()
        self._iterator: Iterator[A] | None = None
        self._iterator_async: AsyncIterator[A] | None = None
        self._turn_to_pull: anyio.Lock | None = None
        self._pulling: anyio.CancelScope | None = None
        self._pulled = self._running = self._places = self._handed_over = 0
        self._spare: deque[anyio.Event] = deque()
        self._held: dict[int, Row[A, B]] = {}
        self._arrived: AnyWaiter | None = None
        self._is_over = False
        self._failure: ExecutionKitError | None = None
        self.has_failed_calls: bool = False
        """Whether a row failed since a model could not be asked, or did not answer."""
        self.resumed: int = 0
        """Rows that an earlier life of the run has paid for."""
        self.context: Context | None = None
        self.ready: deque[Row[A, B]] = deque()
        self.failures: Counter[str] = Counter()
        self.durations: Durations = Durations()
        self.total: int | None = len(cast("Sized", source)) if isinstance(source, Sized) else None

    @property
    def name(self) -> str:
        """What traces call it."""
        return f"{self._stage.name} over rows"

    @property
    def kind(self) -> str:
        """What traces take it for."""
        return type(self).__name__

    @property
    def figures(self) -> tuple[str, ...]:
        """The keys of its metadata that traces are told: none."""
        return ()

    @property
    def cost(self) -> TokenUsage:
        """What all rows have cost so far."""
        return NO_USAGE if self.context is None else self.context.cost

    @property
    def failed(self) -> int:
        """How many rows failed."""
        return sum(self.failures.values())

    def take(self) -> Row[A, B]:
        """Return the row that has waited longest; there must be one."""
        row = self.ready.popleft()
        self._places -= 1
        if self._spare and self._places <= self._ahead // 2:
            self._let_on()
        return row

    async def arrival(self, waiter: AnyWaiter) -> None:
        """Wait until a row is ready, or `tell` is called."""
        self._arrived = waiter
        await waiter

    def tell(self) -> None:
        """Wake whoever waits for a row."""
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.end()

    async def perform(self, value: None, context: Context) -> PatternResult[None]:  # noqa: ARG002
        """Run all rows; what ends them before the last is raised.

        Raises:
            ExecutionKitError: Rows could not be read, or failed in a way that all share.
        """
        self.context = context
        inputs: Inputs[A, B] = Inputs(self._stage, context)
        context.report(self.counted)
        if isinstance(self._source, AsyncIterable):
            self._iterator_async, self._turn_to_pull = aiter(self._source), anyio.Lock()
        else:
            self._iterator = iter(self._source)
        try:
            await gather(lambda _: self._work(inputs), self._limit, self._limit)
        finally:
            await self._close()
        failure = self._failure or inputs.shared
        if failure is not None:
            raise failure.stamped(failure.cost) from failure.__cause__
        return PatternResult(None, metadata=self.counted())

    def halt(self) -> None:
        """Let nothing more be bought for any row."""
        self._is_over = True
        if self.context is not None:
            self.context.frame.account.halts += 1

    def leave_behind(self) -> None:
        """Let the cost be final, whatever rows are still under way."""
        if self.context is not None:
            leave_behind(self.context.frame)

    def counted(self) -> dict[str, object]:
        """Return how many rows are over, and how many of them failed."""
        return {"rows": self.durations.count, "failed": self.failed}

    async def _work(self, inputs: Inputs[A, B]) -> None:
        """Run one row after the other, as long as there are rows and room for them."""
        while await self._admitted():
            try:
                pulled = await self._pull()
                if not pulled:
                    self._places -= 1
                    return
                self._pulled += 1
                await self._run(self._pulled - 1, pulled[0], inputs)
                if inputs.shared is not None:
                    self._end()
            finally:
                self._running -= 1

    async def _admitted(self) -> bool:
        """Wait for room for a row and take it; False where no more are to be run."""
        while not self._is_over:
            if self._has_room:
                self._running += 1
                self._places += 1
                if self._spare and self._has_room:
                    self._let_on()
                return True
            turn = anyio.Event()
            self._spare.append(turn)
            await turn.wait()
        return False

    @property
    def _has_room(self) -> bool:
        limit = self._limit if self._windows is None else self._windows.size
        return self._running < limit and self._places < self._ahead

    def _let_on(self) -> None:
        """Have one worker look for room; it has the next one look, if there is more."""
        self._spare.popleft().set()

    def _end(self) -> None:
        """Pull no more rows."""
        self._is_over = True
        if self._pulling is not None:
            self._pulling.cancel()
        while self._spare:
            self._let_on()

    async def _pull(self) -> tuple[A] | tuple[()]:
        """Return the next row; nothing where there is none."""
        try:
            pulled = await self._pull_async() if self._iterator is None else self._pull_plain()
            if pulled:
                return pulled
        except BaseException as raised:
            error = taken_as(raised)
            if not isinstance(error, Exception):
                raise error from error.__cause__
            self._failure = StageError(f"the rows could not be read: {described(error)}")
            self._failure.__cause__ = error
        self._end()
        return ()

    def _pull_plain(self) -> tuple[A] | tuple[()]:
        try:
            return () if self._iterator is None else (next(self._iterator),)
        except StopIteration:
            return ()

    async def _pull_async(self) -> tuple[A] | tuple[()]:
        """Return the next row of an async source, which takes one pull at a time."""
        if self._iterator_async is None or self._turn_to_pull is None:
            return ()
        async with self._turn_to_pull:
            if not self._is_over:
                with anyio.CancelScope() as self._pulling, suppress(StopAsyncIteration):
                    return (await anext(self._iterator_async),)
        return ()

    async def _close(self) -> None:
        """Close a generator that rows came from: nobody else will go on with it."""
        pulled: object = self._iterator_async or self._iterator
        if isinstance(pulled, GeneratorType):
            cast("GeneratorType[object, object, object]", pulled).close()
        elif isinstance(pulled, AsyncGeneratorType):
            with anyio.CancelScope(shield=True):
                await cast("AsyncGeneratorType[object, object]", pulled).aclose()

    async def _run(self, number: int, value: A, inputs: Inputs[A, B]) -> None:
        key, mistake = self._key_of(number, value)
        part = self._part(number, key, inputs)
        began = time.perf_counter()
        outcome = Failure(mistake) if mistake is not None else await inputs.outcome(value, key, part)
        self.durations.add(time.perf_counter() - began)
        if isinstance(outcome, Failure):
            error = outcome.failure()
            self.failures[type(error).__name__] += 1
            self.has_failed_calls |= isinstance(error, LLMError)
            if self._ends_on_failure:
                inputs.end(error)
        account = part.account
        is_resumed = 0 < account.spent.call_count == account.caveats.replayed
        self.resumed += is_resumed
        self._finished(number, key, part, outcome, is_resumed=is_resumed)
        row = Row(key, value, outcome)
        if self._keep is not None:
            self._keep(row)
        self._held[number if self._ordered else self._handed_over] = row
        while self._handed_over in self._held:
            self.ready.append(self._held.pop(self._handed_over))
            self._handed_over += 1
            self.tell()

    def _key_of(self, number: int, value: A) -> tuple[Key, ExecutionKitError | None]:
        """Return what a row is known by, and why it cannot be run, where that cannot be used."""
        key, mistake = key_of(number, value, self._key)
        if mistake is None and not self._seen.add(key):
            mistake = used_key(key)
        return key, mistake

    def _part(self, number: int, key: Key, inputs: Inputs[A, B]) -> Frame:
        part = inputs.part()
        if part.span is not None:
            part.span = part.span.below((*part.path, key))
            part.span.send(
                ItemStarted, index=number, total=self.total, item=str(key), done=self.durations.count
            )
        return part

    def _finished(self, number: int, key: Key, part: Frame, outcome: Outcome[B], *, is_resumed: bool) -> None:
        if part.span is not None:
            part.span.send(
                ItemFinished,
                index=number,
                total=self.total,
                item=str(key),
                done=self.durations.count,
                failed=self.failed,
                duration=part.span.duration,
                cost=part.account.cost,
                error=type(outcome.failure()).__name__ if isinstance(outcome, Failure) else None,
                resumed=is_resumed,
            )
