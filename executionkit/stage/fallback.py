"""Stages tried in turn until one answers: `a | b`."""

from functools import partial
from typing import Any, Final, TypeVar, cast

from returns.result import Failure, Success
from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.combined_bounds import either
from executionkit.core.drawing import Sketch
from executionkit.core.foreign import described
from executionkit.errors import ExecutionKitError
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context, first_position, run_group
from executionkit.runtime.shared import run_is_over
from executionkit.stage.base import Failures, Stage
from executionkit.stage.named import breadth, group_of, nameless
from executionkit.stage.nesting import check_nesting, check_stage, check_stages, extended

__all__ = ["Fallback", "or_else"]

A = TypeVar("A")
B = TypeVar("B")

_ANY_FAILURE: Final[Failures] = (ExecutionKitError,)


class Fallback(Stage[A, B], frozen=True):
    """Stages tried in turn until one answers. `a | b` and `a.or_else(b)` make one.

    The next is tried only after a failure of a class in `on`, and never when the budget or the deadline of
    the run itself is spent; a budget of `within` that is spent is a failure like any other.

    Score and metadata are those of the stage that answered, with `option_failures` (tuple of str), what
    became of those before it, `option_metadata` (tuple of mappings), what they had achieved, and
    `option_costs` (tuple of TokenUsage), what they cost. The last error carries all three.

    Args:
        options: The stages in order, at least one.
        on: The classes of failure after which the next is tried.
    """

    options: "tuple[Stage[A, B], ...]"
    on: Failures = (ExecutionKitError,)

    def __post_init__(self) -> None:
        check_stages(self.options)
        _check_failures(self.on)
        if not self.options:
            raise ValueError("a fallback needs a stage to try")

    @override
    def sketch(self) -> Sketch:
        return Sketch("either", "" if self.on == _ANY_FAILURE else f"on {_names(self.on)}")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        failures: list[ExecutionKitError] = []
        context.report(lambda: _tried(failures) if failures else {})
        position = first_position(context)
        for option in self.options:
            outcome = await context.attempt(partial(self._run_option, option, value, position))
            position += breadth(option, self._is_alike)
            match outcome:
                case Success(result):
                    metadata = {**result.metadata, **_tried(failures)}
                    return PatternResult(result.value, result.score, metadata=metadata)
                case Failure(error):
                    if not isinstance(error, self.on) or run_is_over(error, context):
                        raise error
                    context.void("failed")
                    failures.append(error)
        raise failures.pop()

    @property
    @override
    def streams_text(self) -> bool:
        return all(option.streams_text for option in self.options)

    @property
    @override
    def text_is_final(self) -> bool:
        return len(self.options) == 1 and self.options[0].text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        return either([option.reach(given) for option in self.options])

    @override
    def unnamed(self) -> Stage[Any, Any]:
        options = [each for option in self.options for each in _options(nameless(option), self.on)]
        return extended(Fallback(self.options[:1], self.on), "options", tuple(options))

    async def _run_option(
        self, option: Stage[A, B], value: A, position: int, context: Context
    ) -> PatternResult[B]:
        if self._is_alike(option):
            return await run_group(context, option, value, position, is_answer=True)
        return await context.run(option, value, at=position, is_answer=True)

    def _is_alike(self, option: Stage[Any, Any]) -> bool:
        """Tell whether an option is a named group that would be part of this one without its name."""
        group = group_of(option)
        return isinstance(group, Fallback) and group.on == self.on


def or_else(one: Stage[Any, Any], other: Stage[Any, Any], on: Failures) -> Stage[Any, Any]:
    """Return the fallback from one to the other; options of one with the same `on` are options of it."""
    check_stage(other)
    options = _options(one, on) + _options(other, on)
    check_nesting(*[stage for stage in (one, other) if not isinstance(stage, Fallback)])
    return extended(Fallback(options[:1], on), "options", options)


def _options(stage: Stage[A, B], on: Failures) -> tuple[Stage[A, B], ...]:
    return stage.options if isinstance(stage, Fallback) and stage.on == on else (stage,)


def _check_failures(on: object) -> None:
    if not isinstance(on, tuple):
        raise TypeError(f"on must be a tuple of classes of errors, not {type(on).__name__}")
    for kind in cast("tuple[object, ...]", on):
        if not (isinstance(kind, type) and issubclass(kind, ExecutionKitError)):
            raise TypeError(f"a stage fails with an ExecutionKitError, so `on` cannot name {kind!r:.80}")


def _names(kinds: Failures) -> str:
    return ", ".join([kind.__name__ for kind in kinds])


def _tried(failures: list[ExecutionKitError]) -> dict[str, object]:
    return {
        "option_failures": tuple(map(described, failures)),
        "option_metadata": tuple([failure.metadata for failure in failures]),
        "option_costs": tuple([failure.cost for failure in failures]),
    }
