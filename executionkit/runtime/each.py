"""One stage over many inputs: at once, in order, each with an outcome and a cost of its own."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

import anyio
from returns.result import Failure, Success

from executionkit.core.usage import NO_USAGE
from executionkit.errors import BudgetExhaustedError, DeadlineExceededError, ExecutionKitError
from executionkit.events import ItemFinished, ItemStarted
from executionkit.outcome import Outcome, PatternResult
from executionkit.runtime.cancellation import cancellations, stop_if_cancelled
from executionkit.runtime.context import Context, Performer
from executionkit.runtime.frame import Frame
from executionkit.runtime.shared import is_shared
from executionkit.runtime.tracing import Span

__all__ = ["Items"]

A = TypeVar("A")
B = TypeVar("B")

_MARGIN: Final = 0.1
"""The part of the time left, and ..."""
_LONGEST_MARGIN: Final = 0.25
"""... the seconds at most by which the inputs end before the run does: what they gave has to be handed on."""


class Items(Generic[A, B]):
    """The inputs of one run of a stage, and what has become of them.

    Args:
        stage: What is run for each.
        values: The inputs.
        context: The context of the stage that they are inputs of.
        name: What to call an input in traces.
    """

    def __init__(
        self,
        stage: Performer[A, B],
        values: Sequence[A],
        context: Context,
        name: Callable[[A], str] | None,
    ) -> None:
        self._stage = stage
        self._values = values
        self._context = context
        self._frame: Frame = context.provider.frame
        self._name = name
        self._shared: ExecutionKitError | None = None
        self._results: dict[int, PatternResult[B]] = {}
        self._failed = 0
        time_left = context.time_left
        self._ends_at = math.inf
        if time_left < math.inf:
            self._ends_at = anyio.current_time() + time_left - min(_LONGEST_MARGIN, _MARGIN * time_left)

    def achieved(self) -> dict[str, object]:
        """Return how many inputs there are, how many failed, and the results of those that answered."""
        results = tuple([self._results.get(index) for index in range(len(self._values))])
        return {**self.counted(), "results": results}

    def counted(self) -> dict[str, object]:
        """Return how many inputs there are, and how many of them failed."""
        return {"inputs": len(self._values), "failed": self._failed}

    async def collected(self, limit: int) -> list[Outcome[B]]:
        """Return an outcome for each input, in order.

        A failure that all of them share ends it: nothing more is bought, and the rest are that failure.
        """
        try:
            return await self._context.gather(self._outcome, len(self._values), limit)
        finally:
            self._frame.account.halts -= self._shared is not None

    async def all(self, limit: int) -> list[PatternResult[B]]:
        """Return a result for each input, in order; the first failure ends all.

        Raises:
            ExecutionKitError: An input failed; `failed_input` (int) in the metadata is its place.
        """
        return await self._context.gather(self._result, len(self._values), limit)

    async def _result(self, index: int) -> PatternResult[B]:
        part = self._part(index)
        try:
            return await self._ran(index, part)
        except ExecutionKitError as error:
            self._failed += 1
            self._finished(index, part, type(error).__name__)
            raise error.stamped(error.cost, {"failed_input": index}) from error.__cause__

    async def _outcome(self, index: int) -> Outcome[B]:
        if self._shared is not None:
            self._failed += 1
            return Failure(self._shared.stamped(NO_USAGE))
        part = self._part(index)
        failure: ExecutionKitError
        before = cancellations()
        with anyio.CancelScope(deadline=self._ends_at):
            try:
                return Success(await self._ran(index, part))
            except ExecutionKitError as error:
                failure = error
            await stop_if_cancelled(before, failure)
            return self._failure(index, part, failure.stamped(failure.cost))
        late = DeadlineExceededError("the input was not done by the run's deadline")
        return self._failure(index, part, part.stamped(late), is_late=True)

    def _failure(
        self, index: int, part: Frame, error: ExecutionKitError, *, is_late: bool = False
    ) -> Outcome[B]:
        if self._shared is not None and _is_halted(error):
            error = self._shared.stamped(error.cost)
        elif self._shared is None and (is_late or is_shared(error, self._context)):
            self._shared = error
            self._frame.account.halts += 1
        self._failed += 1
        self._finished(index, part, type(error).__name__)
        return Failure(error)

    async def _ran(self, index: int, part: Frame) -> PatternResult[B]:
        result = await Context(part).run(self._stage, self._values[index], at=index)
        self._results[index] = result
        self._finished(index, part, None)
        return result

    def _part(self, index: int) -> Frame:
        """Return the frame of an input, with an account of its own."""
        part = self._frame.below(self._frame.path, is_stage=False)
        if part.span is not None:
            part.span = part.span.below((*self._frame.path, index))
            part.span.send(
                ItemStarted, index=index, total=len(self._values), item=self._named(index), done=self._done
            )
        return part

    def _finished(self, index: int, part: Frame, error: str | None) -> None:
        span: Span | None = part.span
        if span is not None:
            span.send(
                ItemFinished,
                index=index,
                total=len(self._values),
                item=self._named(index),
                done=self._done,
                failed=self._failed,
                duration=span.duration,
                cost=part.account.cost,
                error=error,
            )

    @property
    def _done(self) -> int:
        return len(self._results) + self._failed

    def _named(self, index: int) -> str:
        """Name an input: by its number where there is no name, or none that can be had."""
        if self._name is not None:
            with suppress(Exception):  # foreign code: a name must not cost a paid answer
                return str(self._name(self._values[index]))
        return str(index + 1)


def _is_halted(error: ExecutionKitError) -> bool:
    return isinstance(error, BudgetExhaustedError) and error.metadata.get("halted") is True
