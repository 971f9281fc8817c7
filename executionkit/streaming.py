"""A run that can be watched: its records, its text and its elements, as they come in.

`Stage.stream` makes a `Streaming`, `Stage.stream_sync` a `SyncStreaming`. What they yield is in
`executionkit.events`.
"""

import math
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

from anyio.lowlevel import checkpoint_if_cancelled
from returns.result import Failure, Success

from executionkit.core.encoding import json_text
from executionkit.core.schema.partial import begins_with
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import InvalidOutputError, StageError, StoppedError
from executionkit.events import Answered, Element, Event, TextDelta, TextVoided, Trace
from executionkit.outcome import Outcome
from executionkit.provider import LLMProvider
from executionkit.retry import RetryConfig
from executionkit.runtime.backlog import Backlog
from executionkit.runtime.context import Performer
from executionkit.runtime.frame import Frame
from executionkit.runtime.journal.given import RunJournal
from executionkit.runtime.run import check_run, leave_behind, run_stage
from executionkit.runtime.tasks.background import Background, read_in_one_piece
from executionkit.runtime.tasks.cancellation import is_cancellation
from executionkit.runtime.tasks.handover import Handover

__all__ = ["AHEAD", "Streaming", "SyncStreaming"]

In = TypeVar("In")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Out_co = TypeVar("Out_co", covariant=True)

AHEAD: Final = 64
"""Records that a run may be ahead of its reader."""


class Streaming(Generic[Out_co]):
    """A run that is watched; `Stage.stream` makes one.

    An async context manager, and within that an async iterator of `Event`, whose last one is
    `Answered(outcome)`. Nothing is sent before the first is asked for. The run has a task of its own: a pull
    that is cancelled, by a time-out of the reader's say, ends nothing and loses nothing. Leaving the block
    ends the run: its exchanges with servers are broken off, what arrived is settled, and no task is left.

    ::

        async with pipeline.stream(provider, "Explain TCP.") as run:
            async for event in run:
                match event:
                    case TextDelta(text=text, is_answer=True):
                        print(text, end="")
                    case Answered(outcome):
                        ...
        print(run.cost)

    One task may read at a time; any may close.
    """

    def __init__(
        self,
        stage: Performer[In, Out_co],
        provider: LLMProvider,
        value: In,
        *,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | tuple[Trace, ...] | None = None,
        deadline: float | None = None,
        journal: RunJournal | None = None,
        ahead: float = AHEAD,
        text_is_final: bool = False,
    ) -> None:
        check_run(provider, max_cost, retry, trace, deadline)
        _check_ahead(ahead)
        backlog = Backlog(ahead)

        async def run(opened: Callable[[Frame], None]) -> Outcome[Out_co]:
            return await run_stage(
                stage,
                provider,
                value,
                max_cost=max_cost,
                retry=retry,
                trace=trace,
                deadline=deadline,
                journal=journal,
                backlog=backlog,
                opened=opened,
            )

        self._run: _Run[Out_co] = _Run(run, backlog)
        self._task: Background | None = None
        self._name = f"the stream of {type(stage).__name__}"
        self.text_is_final: Final = text_is_final
        """As `Stage.text_is_final`."""
        self._is_reading = False
        self._is_left = False

    @property
    def cost(self) -> TokenUsage:
        """What the run has spent so far; after the block what it has spent in all."""
        frame = self._run.frame
        return NO_USAGE if frame is None else frame.account.cost

    @property
    def outcome(self) -> Outcome[Out_co]:
        """What came of the run, as `run` would have returned it; `Failure(StoppedError)` where it was left.

        Raises:
            RuntimeError: It has not ended.
        """
        if self._run.outcome is None:
            raise RuntimeError("the run has not ended: read it to its end, or leave its block first")
        return self._run.outcome

    def text(self) -> AsyncIterator[str]:
        """Iterate over the text of the answer, in pieces as far as it is sure to stand.

        Where it may yet be superseded (by another option of `|`, a repair, or since a tool loop goes on) it
        is held back to the end, and where no last stage streams it comes in one piece there:
        `Stage.text_is_final` and `Stage.streams_text` say so beforehand. An answer that is not text is given
        as JSON, or as the model wrote it. Where the run fails the text ends; see `outcome`.
        """
        return _Folded(self, _Texts(self.text_is_final))

    def elements(self: "Streaming[Sequence[T]]") -> AsyncIterator[T]:
        """Iterate over the elements of an answer that is a list, each whole and of its type.

        They come as they are complete where nothing is asked again, as with `structured(list[T],
        output_retries=0)`; otherwise at the end. See `Element` for those that may be superseded.

        Raises, while it is iterated:
            InvalidOutputError: The model wrote another list after the one whose elements were handed out, and
                that is the answer; `outcome` has it.
        """
        return _Folded(self, _Elements[T](self.text_is_final))

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a stream is entered once; make another with `stage.stream(...)`")
        read_in_one_piece(Streaming)
        read_in_one_piece(_Folded)
        self._task = Background(self._run.work, self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run, if it has not ended. Leaving the block does this."""
        self._is_left = True
        task, run = self._task, self._run
        if run.outcome is None:
            run.stop()
            if task is not None:
                await task.stop()
            run.note_stopped()
        run.backlog.leave()
        if task is not None:
            task.raise_interrupt()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Answered[Out_co]:
        records = self._run.backlog.records
        if not records:
            await self._arrival()
        record: Event | Answered[Out_co] = self._run.backlog.take()
        return record

    async def _arrival(self) -> None:
        """Wait for the next record.

        Raises:
            StopAsyncIteration: There is none.
        """
        task = self._task
        if task is None:
            raise RuntimeError("enter the stream first: `async with stage.stream(...) as run`")
        if self._is_left:
            raise StopAsyncIteration
        if self._is_reading:
            raise RuntimeError("another task is reading this stream; one at a time may")
        if not task.is_started:
            task.start()
        self._is_reading = True
        try:
            # A task that is woken again and again is never found waiting, so that no scope cancels it.
            await checkpoint_if_cancelled()
            if await self._run.backlog.arrival(task.waiter):
                return
        finally:
            self._is_reading = False
        task.raise_interrupt()
        raise StopAsyncIteration

    async def batch(self) -> "list[Event | Answered[Out_co]]":
        """Return the records that are there, at least one; none after the last."""
        backlog = self._run.backlog
        if not backlog.records:
            try:
                await self._arrival()
            except StopAsyncIteration:
                return []
        return [backlog.take() for _ in range(len(backlog.records))]

    def __del__(self) -> None:
        task = getattr(self, "_task", None)
        if task is not None and task.stop_soon():
            warnings.warn(
                f"{self._name} was dropped before it was closed; use `async with`",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class _Run(Generic[T]):
    """The run behind a stream. It does not know its reader, so that one who is dropped can be collected."""

    __slots__ = ("_is_stopped", "_start", "backlog", "frame", "outcome")

    def __init__(self, start: Callable[[Callable[[Frame], None]], Any], backlog: Backlog) -> None:
        self._start = start
        self._is_stopped = False
        self.backlog: Backlog = backlog
        self.frame: Frame | None = None
        self.outcome: Outcome[T] | None = None

    async def work(self) -> None:
        try:
            outcome: Outcome[T] = await self._start(self._opened)
            self._end(outcome)
        except BaseException as raised:
            if not is_cancellation(raised):
                raise
            self._end(Failure(self._stamped(StageError("the run's task was cancelled by somebody else"))))
        finally:
            self.backlog.end()

    def _opened(self, frame: Frame) -> None:
        self.frame = frame

    def _end(self, outcome: Outcome[T]) -> None:
        if self._is_stopped and isinstance(outcome, Failure):
            return  # what it made of being stopped
        self.outcome = outcome
        self.backlog.add(Answered(outcome))

    def stop(self) -> None:
        """Let it buy nothing more, from this very moment on."""
        self._is_stopped = True
        self.backlog.leave()
        if self.frame is not None:
            self.frame.account.halts += 1

    def note_stopped(self) -> None:
        """Say that it was left, unless it has answered meanwhile, and what it has cost."""
        if self.frame is not None:
            leave_behind(self.frame)
        if self.outcome is None:
            error = StoppedError("the stream was left before its run had ended")
            self.outcome = Failure(self._stamped(error))

    def _stamped(self, error: Any) -> Any:
        return error if self.frame is None else self.frame.stamped(error)


class _Texts:
    """Makes text of records."""

    def __init__(self, is_final: bool) -> None:
        self._is_final = is_final
        self._held: dict[int, list[str]] = {}
        self._has_text = False

    def feed(self, event: Event | Answered[Any]) -> Sequence[str]:
        """Take a record, return the text that can be handed out by it."""
        match event:
            case TextDelta(kind="text", is_answer=True):
                if self._is_final:
                    self._has_text = True
                    return (event.text,)
                self._held.setdefault(event.id, []).append(event.text)
            case TextVoided():
                self._held.pop(event.id, None)
            case Answered(Success(result)) if not self._has_text:
                held = ["".join(pieces) for pieces in self._held.values()]
                value: object = result.value
                return held or (value if isinstance(value, str) else json_text(value),)
            case _:
                pass
        return ()


class _Elements(Generic[T]):
    """Makes elements of records."""

    def __init__(self, is_final: bool) -> None:
        self._is_final = is_final
        self._handed_out: list[object] = []
        self._was_voided = False

    def feed(self, event: Event | Answered[Any]) -> Sequence[T]:
        """Take a record, return the elements that can be handed out by it.

        Raises:
            InvalidOutputError: Those that were handed out do not begin the answer.
        """
        match event:
            case Element(is_answer=True) if self._is_final and event.index == len(self._handed_out):
                self._handed_out.append(event.value)
                return (cast("T", event.value),)
            case TextVoided():
                self._was_voided = True
                return ()
            case Answered(Success(result)):
                value, count = cast("Sequence[T]", result.value), len(self._handed_out)
                if not self._was_voided or begins_with(value, self._handed_out):
                    return value[count:]
                raise InvalidOutputError(
                    "the model wrote another list after the one whose elements were handed out, and that "
                    "is the answer; `outcome` has it",
                    cost=result.cost,
                    metadata={"handed_out": count},
                )
            case _:
                return ()


class _Folded(AsyncIterator[T]):
    """What is made of the records of a stream, one by one.

    No generator: one that is left in the middle would have to be closed by the event loop.
    """

    def __init__(self, run: Streaming[Any], fold: Any) -> None:
        self._run = run
        self._feed: Callable[[Any], Sequence[T]] = fold.feed
        self._ready: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self._ready:
            self._ready.extend(self._feed(await anext(self._run)))
        return self._ready.popleft()


class SyncStreaming(Generic[Out_co]):
    """A run that is watched from a script, without `await`; `Stage.stream_sync` makes one.

    A context manager, and within that an iterator: otherwise like `Streaming`. The run has an event loop in a
    thread of its own, which ends with the block.

    Raises:
        RuntimeError: An event loop runs in this thread.
    """

    def __init__(self, run: Streaming[Out_co]) -> None:
        self._run = run
        self._records: Handover[Event | Answered[Out_co]] = Handover(
            run, run.batch, what="stream", method="stream_sync"
        )

    @property
    def cost(self) -> TokenUsage:
        """As in `Streaming`."""
        return self._run.cost

    @property
    def outcome(self) -> Outcome[Out_co]:
        """As in `Streaming`.

        Raises:
            RuntimeError: The run has not ended.
        """
        return self._run.outcome

    def text(self) -> Iterator[str]:
        """As in `Streaming`."""
        texts = _Texts(self._run.text_is_final)
        for event in self:
            yield from texts.feed(event)

    def elements(self: "SyncStreaming[Sequence[T]]") -> Iterator[T]:
        """As in `Streaming`."""
        elements = _Elements[T](self._run.text_is_final)
        for event in self:
            yield from elements.feed(event)

    def __enter__(self) -> Self:
        self._records.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._records.leave()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event | Answered[Out_co]:
        return self._records.take()


def _check_ahead(ahead: object) -> None:
    if not isinstance(ahead, int | float) or isinstance(ahead, bool):
        raise TypeError(f"ahead is a number of records, not {type(ahead).__name__}")
    if math.isnan(ahead) or ahead < 1:
        raise ValueError(f"ahead must be at least 1, not {ahead}")
