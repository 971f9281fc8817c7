"""One stage over one of many inputs: its outcome with a cost of its own, and the end that all may share."""

import math
from typing import Final, Generic, TypeVar

import anyio
from returns.result import Failure, Success

from executionkit.errors import BudgetExhaustedError, DeadlineExceededError, ExecutionKitError
from executionkit.errors.handling import with_last_failure
from executionkit.outcome import Outcome
from executionkit.runtime.context import Context, Performer, run_input
from executionkit.runtime.frame import Frame
from executionkit.runtime.shared import is_shared
from executionkit.runtime.tasks.cancellation import cancellations, stop_if_cancelled

__all__ = ["Inputs"]

A = TypeVar("A")
B = TypeVar("B")

_MARGIN: Final = 0.1
"""The part of the time left, and ..."""
_LONGEST_MARGIN: Final = 0.25
"""... the seconds at most by which the inputs end before the run does: what they gave has to be handed on."""


class Inputs(Generic[A, B]):
    """Runs a stage for many inputs, each on an account of its own; a failure that all share ends them.

    Args:
        stage: What is run for each.
        context: The context of the stage that they are inputs of.
    """

    __slots__ = ("_context", "_ends_at", "_failed_last", "_frame", "_stage", "shared")

    def __init__(self, stage: Performer[A, B], context: Context) -> None:
        self._stage = stage
        self._context = context
        self._frame: Frame = context.provider.frame
        self._ends_at = math.inf
        self.shared: ExecutionKitError | None = None
        """The failure that all inputs share; after it nothing is bought any more."""
        self._failed_last: ExecutionKitError | None = None
        """The failure of the input that was over last; None where that one answered."""
        time_left = context.time_left
        if time_left < math.inf:
            self._ends_at = anyio.current_time() + time_left - min(_LONGEST_MARGIN, _MARGIN * time_left)

    def part(self) -> Frame:
        """Return the frame of an input, with an account of its own."""
        return self._frame.below(self._frame.path, is_stage=False)

    async def outcome(self, value: A, at: int | str, part: Frame) -> Outcome[B]:
        """Run the stage for an input.

        Args:
            value: The input.
            at: Where it is below the stage, whatever the order in which inputs are run.
            part: The frame of this input.
        """
        failure: ExecutionKitError
        before = cancellations()
        with anyio.CancelScope(deadline=self._ends_at):
            try:
                answered = Success(await run_input(self._stage, value, at, part))
                self._failed_last = None
                return answered
            except ExecutionKitError as error:
                failure = error
            await stop_if_cancelled(before, failure)
            return self._failure(failure.stamped(failure.cost))
        late = DeadlineExceededError("the input was not done by the run's deadline")
        return self._failure(part.stamped(late), is_late=True)

    def end(self, error: ExecutionKitError) -> None:
        """Let nothing more be bought for any input: they would fail as this one did."""
        if self.shared is None:
            self.shared = error
            self._frame.account.halts += 1

    def resume(self) -> None:
        """Let others who pay with the same account buy again, once all inputs are over."""
        self._frame.account.halts -= self.shared is not None

    def _failure(self, error: ExecutionKitError, *, is_late: bool = False) -> Outcome[B]:
        if isinstance(self.shared, BudgetExhaustedError):
            # An attempt that was under way when the budget was spent has failed, too.
            self.shared = with_last_failure(self.shared, [error])
        if self.shared is not None and _is_halted(error):
            return Failure(self.shared.stamped(error.cost))
        if isinstance(error, BudgetExhaustedError):
            error = with_last_failure(error, [self._failed_last])
        self._failed_last = error
        if is_late or is_shared(error, self._context):
            self.end(error)
        return Failure(error)


def _is_halted(error: ExecutionKitError) -> bool:
    return isinstance(error, BudgetExhaustedError) and error.metadata.get("halted") is True
