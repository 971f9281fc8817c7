"""A stage run for each of many inputs: `a.each()`."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
from typing_extensions import override

from executionkit.core.bounds import Given, Reach, unbounded
from executionkit.core.checks import check_count, check_function
from executionkit.core.combined_bounds import so_many_at_once
from executionkit.core.drawing import Sketch
from executionkit.errors import InvalidPromptError
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context
from executionkit.runtime.each import Items
from executionkit.stage.base import OnError, Stage
from executionkit.stage.nesting import check_stages

__all__ = ["Each"]

A = TypeVar("A")
T = TypeVar("T")


class Each(Stage[Sequence[A], tuple[T, ...]], Generic[A, T], frozen=True):
    """A stage run for each of many inputs, at most `max_concurrency` at once. `a.each()` makes one.

    The value has an entry for each input, in order. All draw on one budget. With `on_error="collect"` an
    entry is an `Outcome` with a cost of its own, and a failure is one like any other, unless all inputs would
    share it: a status 401, 402, 403 or 404, a used up quota, a server that wants no calls for longer than the
    retries' `max_delay`, a provider that was closed, or the budget or the deadline of the run. That ends it:
    no further call is bought, and the rest are that failure at no cost. So that what is done can be handed
    on, inputs end a tenth of the time, at most 0.25 s, before the deadline. A `JournalError` of an input is
    the run's: it fails.

    With `on_error="fail"` an entry is a value, and the first failure ends all.

    Metadata:
        inputs (int): How many inputs there are.
        failed (int): How many of them failed.
        item_scores, item_metadata, item_costs (tuple): With `"fail"`: an entry for each input.
        results (tuple of PatternResult or None): On an error: what the inputs gave that were done.
        failed_input (int): On an error with `"fail"`: the place of the input that failed, from 0.

    Args:
        stage: The stage.
        max_concurrency: Inputs under way at once.
        on_error: `"collect"` or `"fail"`.
        label: What traces call an input; None for its number.

    Returns (on `run`):
        InvalidPromptError: The input is not a sequence of inputs.
        JournalError: The run cannot go on with its journal.
    """

    stage: Stage[A, Any]
    max_concurrency: int = 8
    on_error: OnError = "collect"
    label: Callable[[A], str] | None = None

    def __post_init__(self) -> None:
        check_stages((self.stage,))
        check_count("max_concurrency", self.max_concurrency)
        if self.on_error not in {"collect", "fail"}:
            raise ValueError(f'on_error must be "collect" or "fail", not {self.on_error!r}')
        if self.label is not None:
            check_function("name", self.label)

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", f"each input, {self.max_concurrency} at once")

    @override
    async def perform(self, value: Sequence[A], context: Context) -> PatternResult[tuple[T, ...]]:
        items: Items[A, Any] = Items(self.stage, _inputs(value), context, self.label)
        context.report(items.achieved)
        if self.on_error == "collect":
            outcomes = await items.collected(self.max_concurrency)
            return PatternResult(cast("tuple[T, ...]", tuple(outcomes)), metadata=items.counted())
        results: list[PatternResult[T]] = await items.all(self.max_concurrency)
        metadata = {
            **items.counted(),
            "item_scores": tuple([result.score for result in results]),
            "item_metadata": tuple([result.metadata for result in results]),
            "item_costs": tuple([result.cost for result in results]),
        }
        return PatternResult(tuple([result.value for result in results]), metadata=metadata)

    @override
    def reach(self, given: Given) -> Reach:
        if given.items is None:
            return unbounded(f"how many inputs {self.name} has")
        by_size = {
            size: self.stage.reach(msgspec.structs.replace(given, value=size, items=None))
            for size in set(given.items)
        }
        whole = so_many_at_once([by_size[size] for size in given.items], self.max_concurrency, given)
        return msgspec.structs.replace(
            whole,
            least_calls=whole.least_calls if self.on_error == "fail" else 0,  # a failure is an answer, too
            least_output=whole.least_output if self.on_error == "fail" else 0,
            value=math.inf,
            why_value=f"the value of {self.name} as text",
        )

    @override
    def unnamed(self) -> Stage[Any, Any]:
        return msgspec.structs.replace(self, label=None)


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _inputs(value: Sequence[A]) -> tuple[A, ...]:
    """Return the inputs as they are now.

    Raises:
        InvalidPromptError: They are not several: a text, or something without an order.
    """
    if not _is_sequence(value):
        raise InvalidPromptError(
            f"each takes a sequence of inputs, not {type(value).__name__}; give it a list"
        )
    return tuple(value)
