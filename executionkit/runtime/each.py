"""One stage over many inputs: at once, in order, each with an outcome and a cost of its own."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from returns.result import Failure

from executionkit.core.foreign import returned_at_once
from executionkit.core.usage import NO_USAGE
from executionkit.errors import ExecutionKitError, JournalError
from executionkit.events import ItemFinished, ItemStarted
from executionkit.outcome import Outcome, PatternResult, is_success
from executionkit.runtime.context import Context, Performer, run_input
from executionkit.runtime.frame import Frame
from executionkit.runtime.inputs import Inputs
from executionkit.runtime.tracing import Span

__all__ = ["Items"]

A = TypeVar("A")
B = TypeVar("B")


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
        self._inputs: Inputs[A, B] = Inputs(stage, context)
        self._results: dict[int, PatternResult[B]] = {}
        self._failed = 0

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

        Raises:
            JournalError: Of an input: the run has a journal that it cannot go on with, and fails with it.
        """
        try:
            outcomes = await self._context.gather(self._outcome, len(self._values), limit)
        finally:
            self._inputs.resume()
        if isinstance(self._inputs.shared, JournalError):
            raise self._inputs.shared
        return outcomes

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
        shared = self._inputs.shared
        if shared is not None:
            self._failed += 1
            return Failure(shared.stamped(NO_USAGE))
        part = self._part(index)
        outcome = await self._inputs.outcome(self._values[index], index, part)
        if is_success(outcome):
            self._results[index] = outcome.unwrap()
            self._finished(index, part, None)
        else:
            self._failed += 1
            self._finished(index, part, type(outcome.failure()).__name__)
        return outcome

    async def _ran(self, index: int, part: Frame) -> PatternResult[B]:
        result = await run_input(self._stage, self._values[index], index, part)
        self._results[index] = result
        self._finished(index, part, None)
        return result

    def _part(self, index: int) -> Frame:
        """Return the frame of an input, with an account of its own."""
        part = self._inputs.part()
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
                return str(returned_at_once(self._name(self._values[index])))
        return str(index + 1)
