"""Stages, and what combines them: `>>`, `|`, `&`, `.map`, `.each`, `.checked`, `.within`, `.using`, ...

A stage is a frozen value that describes work; nothing runs before `run`. To add a pattern, subclass `Stage`,
make its settings fields, check them in `__post_init__` and implement `perform`.
"""

import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial, reduce
from inspect import isroutine
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    final,
    overload,
)

import msgspec
from returns.result import Failure, Success
from typing_extensions import TypeForm, TypeIs, override

from executionkit.batch import Batch, Key, Source, SyncBatch
from executionkit.core.bounds import Bounds, Given, Reach, budget_text, unbounded
from executionkit.core.budget import tighter
from executionkit.core.checks import check_count, check_function
from executionkit.core.combined_bounds import at_once, chained, either, in_turn, paired, so_many_at_once
from executionkit.core.drawing import Sketch, mermaid_text, notes_of
from executionkit.core.foreign import attribute, function_name
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.core.window import Adaptive
from executionkit.errors import (
    ExecutionKitError,
    InvalidOutputError,
    InvalidPromptError,
    StageError,
    described,
    wrapping,
)
from executionkit.events import Trace
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, checked_provider, opening
from executionkit.retry import RetryConfig, checked_retry
from executionkit.runtime.context import Context, aside, first_position, run_group, tighten, using
from executionkit.runtime.each import Items
from executionkit.runtime.given import asking, given_of
from executionkit.runtime.journal.given import RunJournal
from executionkit.runtime.rules import Rule, broken, check_rule
from executionkit.runtime.run import run_stage
from executionkit.runtime.shared import run_is_over
from executionkit.runtime.tasks.event_loops import in_new_loop
from executionkit.streaming import AHEAD, Streaming, SyncStreaming

__all__ = [
    "BatchSettings",
    "Both",
    "Checked",
    "Each",
    "Fallback",
    "Mapped",
    "Named",
    "OnError",
    "Pipeline",
    "Rule",
    "Stage",
    "Using",
    "WithInput",
    "Within",
    "identity",
]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

OnError: TypeAlias = Literal["collect", "fail"]
"""What `each` does about an input that fails: goes on, or ends."""

Failures: TypeAlias = tuple[type[ExecutionKitError], ...]
"""Classes of failure."""


class _StageMeta(msgspec.StructMeta, ABCMeta):
    """Makes `@abstractmethod` count on a struct."""


class BatchSettings(TypedDict, total=False):
    """The keywords of `Stage.over` that have a default; see there."""

    max_concurrency: int | Adaptive
    on_error: OnError
    ordered: bool
    ahead: int
    max_cost: TokenUsage | None
    retry: RetryConfig | None
    trace: Trace | tuple[Trace, ...] | None
    deadline: float | None
    journal: RunJournal | None


class Stage(
    msgspec.Struct, Generic[In_contra, Out_co], metaclass=_StageMeta, frozen=True, repr_omit_defaults=True
):
    """Work from an `In` to an `Out`, as a value: equal, hashable and picklable where its fields are."""

    @abstractmethod
    async def perform(self, value: In_contra, context: Context) -> PatternResult[Out_co]:
        """Do the work. This is the one method that a pattern implements.

        Args:
            value: The input.
            context: All that the stage may do to the world.

        Returns:
            The value, its score and metadata; the cost is filled in by the caller.

        Raises:
            ExecutionKitError: It failed. Whatever else is raised counts as a `StageError`.
        """
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What traces and messages call this stage."""
        return type(self).__name__

    @property
    def kind(self) -> str:
        """What this stage is, whatever it is called: the name of its class."""
        return type(self).__name__

    @property
    def figures(self) -> tuple[str, ...]:
        """The keys of its results' metadata that hold counts and measures: a trace is told them.

        A pattern names those that show nothing of prompts and answers; by default there are none.
        """
        return ()

    def parts(self) -> "dict[str, Stage[Any, Any]]":
        """Return the stages within this one by name: a field that holds one, or `field.0`, `field.1`, ...

        >>> from executionkit import complete, consensus
        >>> list((complete() >> consensus(3)).parts())
        ['stages.0', 'stages.1']
        """
        found: dict[str, Stage[Any, Any]] = {}
        for field in self.__struct_fields__:
            held: object = getattr(self, field)
            if isinstance(held, Stage):
                found[field] = held
            elif _are_stages(held):
                found.update((f"{field}.{index}", stage) for index, stage in enumerate(held))
        return found

    def settings(self) -> dict[str, Any]:
        """Return the fields that hold no stage, by name. With `parts` they tell all of it; see `rebuilt`."""
        fields = {field: getattr(self, field) for field in self.__struct_fields__}
        return {
            field: held
            for field, held in fields.items()
            if not (isinstance(held, Stage) or _are_stages(held))
        }

    @classmethod
    def rebuilt(cls, settings: Mapping[str, Any], parts: "Mapping[str, Stage[Any, Any]]") -> Self:
        """Return a stage of this class from what `settings` and `parts` of one return.

        >>> from executionkit import complete
        >>> stage = complete() & complete(max_tokens=9)
        >>> type(stage).rebuilt(stage.settings(), stage.parts()) == stage
        True
        """
        fields: dict[str, Any] = dict(settings)
        for name, part in parts.items():
            field, dot, _ = name.partition(".")
            fields[field] = (*fields.get(field, ()), part) if dot else part
        return cls(**fields)

    def sketch(self) -> Sketch:
        """Return what a drawing says of this stage: its name, and settings that are not the default ones."""
        return Sketch(label=self.name, notes=notes_of(self, self.parts()))

    def _repr_mimebundle_(self, **_kinds: object) -> dict[str, str]:
        """Show it in a notebook: as text, and as a drawing where the notebook knows Mermaid."""
        return {"text/plain": repr(self), "text/vnd.mermaid": mermaid_text(self)}

    def unnamed(self) -> "Stage[Any, Any]":
        """Return what this stage is without a name that changes no request and no answer.

        A fingerprint is taken of that. Stages within keep theirs, but where the name alone keeps it apart.
        """
        return self

    @property
    def streams_text(self) -> bool:
        """Whether the text of the answer comes in pieces under `stream`; otherwise it comes once, at the end.

        It does where the last stage asks the model for just that: `complete`, `structured` or `react` (with a
        model that can call tools), also within `>>`, `|`, `.within`, `.using`, `.named` and `.checked`.
        """
        return False

    @property
    def text_is_final(self) -> bool:
        """Whether text of the answer stands once it is handed out, unless the run fails.

        Where it is not, as another option of `|` may answer, `Streaming.text` hands it out at the end only.
        """
        return False

    def reach(self, given: Given) -> Reach:  # noqa: ARG002 - for those who override it
        """Return what this stage takes at the least and at the most, for `bounds`.

        A pattern that states it does so beside its `perform`; of one that does not, nothing is known.

        Args:
            given: What it depends on, such as the length of the value and the price.
        """
        return unbounded(f"what {self.name} asks the model")

    @final
    def bounds(
        self,
        value: In_contra | None = None,
        *,
        provider: LLMProvider | None = None,
        retry: RetryConfig | None = None,
        max_cost: TokenUsage | None = None,
    ) -> Bounds:
        """Return what a run of this stage takes at the least and at the most. Nothing is sent.

        The most holds where servers honour `max_tokens` and count no more tokens than a prompt has bytes.

        Args:
            value: The input; None: of any length.
            provider: The model to be asked, for its price and its retries; None: any, at no known price.
            retry: How transient failures are retried; None: as the provider has it, else `DEFAULT_RETRY`.
            max_cost: The budget of the run.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: A budget is negative.
        """
        limit = checked_budget(max_cost)
        asked = None if provider is None else checked_provider(provider)
        given = given_of(value, asked, checked_retry(retry), is_limited=limit is not None)
        reach = self.reach(given)
        return (reach if limit is None else reach.within(limit, given)).bounds()

    @final
    async def run(
        self,
        provider: LLMProvider,
        value: In_contra,
        /,
        *,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | tuple[Trace, ...] | None = None,
        deadline: float | None = None,
        journal: RunJournal | None = None,
    ) -> Outcome[Out_co]:
        """Run this stage and return its result, or the error that stands in its place.

        Args:
            provider: The model to ask.
            value: The input, a prompt for most stages.
            max_cost: The budget of the whole run; 0 in a field means no limit there.
            retry: How transient failures are retried; `DEFAULT_RETRY` if None.
            trace: Receives a record of each run, stage, call, retry and tool; a tuple for several.
            deadline: Seconds the whole run may take, waits included.
            journal: The journal of this run, `Journal.run(run_id)`: what an earlier life of it paid for is
                not paid again. `replayed` (TokenUsage) in the metadata is what this life did not pay,
                `unsettled_calls` (int) how many attempts were under way when a process ended,
                `diverged_calls` (int) how many calls asked something else than before, where any did, and
                `journal_error` (str) why the end of the run could not be stored, where it could not.

        Returns:
            `Success(PatternResult)` or `Failure(ExecutionKitError)`; both carry the cost.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: A budget is negative, or a deadline not positive; a run within a run has a journal.
        """
        return await run_stage(
            self,
            provider,
            value,
            max_cost=max_cost,
            retry=retry,
            trace=trace,
            deadline=deadline,
            journal=journal,
        )

    @final
    def run_sync(
        self,
        provider: LLMProvider,
        value: In_contra,
        /,
        *,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | tuple[Trace, ...] | None = None,
        deadline: float | None = None,
        journal: RunJournal | None = None,
    ) -> Outcome[Out_co]:
        """Run this stage to the end on an event loop of its own; otherwise like `run`.

        Raises:
            RuntimeError: An event loop is running in this thread; `await stage.run(...)` there.
        """
        return in_new_loop(
            partial(
                self.run,
                provider,
                value,
                max_cost=max_cost,
                retry=retry,
                trace=trace,
                deadline=deadline,
                journal=journal,
            ),
            "run_sync",
            "use `await stage.run(...)` there",
        )

    @final
    def stream(
        self,
        provider: LLMProvider,
        value: In_contra,
        /,
        *,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | tuple[Trace, ...] | None = None,
        deadline: float | None = None,
        journal: RunJournal | None = None,
        ahead: float = AHEAD,
    ) -> Streaming[Out_co]:
        """Run this stage and watch it: `async with stage.stream(...) as run`, `async for event in run`.

        Nothing is sent before the first event is asked for. Leaving the block early ends the run.

        Args:
            provider: The model to ask.
            value: The input, a prompt for most stages.
            max_cost: As in `run`.
            retry: As in `run`. Once a call has handed out text, it is not sent again.
            trace: Receives the same records, in the same order; texts only with `with_content`.
            deadline: As in `run`, from the first event on. It goes on while the reader is slow.
            journal: As in `run`. A text that is replayed comes in one piece.
            ahead: Records that the run may be ahead of the reader before its text waits, and with that the
                server; `math.inf` never to wait.

        Returns:
            The run, to be entered and iterated over; see `Streaming`.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: A budget is negative, a deadline not positive, or `ahead` below 1.
        """
        return Streaming(
            self,
            provider,
            value,
            max_cost=max_cost,
            retry=retry,
            trace=trace,
            deadline=deadline,
            journal=journal,
            ahead=ahead,
            text_is_final=self.text_is_final,
        )

    @final
    def stream_sync(
        self,
        provider: LLMProvider,
        value: In_contra,
        /,
        *,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | tuple[Trace, ...] | None = None,
        deadline: float | None = None,
        journal: RunJournal | None = None,
        ahead: float = AHEAD,
    ) -> SyncStreaming[Out_co]:
        """Run this stage in a thread of its own and watch it: `with stage.stream_sync(...) as run`.

        Otherwise like `stream`; for scripts, where no event loop runs.

        Raises:
            RuntimeError: An event loop is running in this thread; use `stage.stream(...)` there.
        """
        return SyncStreaming(
            self.stream(
                provider,
                value,
                max_cost=max_cost,
                retry=retry,
                trace=trace,
                deadline=deadline,
                journal=journal,
                ahead=ahead,
            )
        )

    @overload
    def over(
        self: "Stage[object, B]",
        rows: Source[A],
        provider: LLMProvider,
        /,
        *,
        key: Callable[[A], Key],
        **settings: Unpack[BatchSettings],
    ) -> Batch[A, B]: ...
    @overload
    def over(
        self: "Stage[A, B]",
        rows: Source[A],
        provider: LLMProvider,
        /,
        *,
        key: Callable[[A], Key],
        **settings: Unpack[BatchSettings],
    ) -> Batch[A, B]: ...
    @final
    def over(
        self: "Stage[Any, Any]",
        rows: Source[Any],
        provider: LLMProvider,
        /,
        *,
        key: Callable[[Any], Key],
        **settings: Unpack[BatchSettings],
    ) -> Batch[Any, Any]:
        """Run this stage for any number of rows, under one budget; see `executionkit.batch.Batch`.

        Rows are pulled one by one as there is room for them, and read as they end; memory does not grow with
        their number, but for 16 to 32 bytes a key. A failure is the outcome of its row, unless all rows would
        share it: that ends the batch, and is its `failure`.

        Args:
            rows: Anything to iterate over, plain or async, also without an end. A generator is closed. What
                it blocks blocks all.
            provider: The model to ask.
            key: What a row is known by: text or a whole number, another one for each row. A row without such
                a key fails with an `InvalidPromptError`.
            max_concurrency: Rows under way at once; `Adaptive`, the default, has as many of them, and calls
                to each server, as the servers allow.
            on_error: `"collect"`, the default, goes on after a row has failed, `"fail"` ends with the first.
            ordered: Whether rows are given in the order in which they came; else as they end.
            ahead: Rows at most that are under way, or over and not read; 1,000 by default.
            max_cost: The budget of all rows.
            retry: How transient failures are retried.
            trace: Receives the records of the run; each row has an `ItemStarted` and an `ItemFinished`.
            deadline: Seconds all rows may take.
            journal: The journal of this run, `Journal.run(run_id)`: what an earlier life of it paid for, by
                the keys of the rows, is not paid again; rows that failed for want of an answer are asked
                again. It holds what all calls of the run were answered in memory.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of range.
        """
        return Batch(self, rows, provider, key=key, **settings)

    @overload
    def over_sync(
        self: "Stage[object, B]",
        rows: Source[A],
        provider: LLMProvider,
        /,
        *,
        key: Callable[[A], Key],
        **settings: Unpack[BatchSettings],
    ) -> SyncBatch[A, B]: ...
    @overload
    def over_sync(
        self: "Stage[A, B]",
        rows: Source[A],
        provider: LLMProvider,
        /,
        *,
        key: Callable[[A], Key],
        **settings: Unpack[BatchSettings],
    ) -> SyncBatch[A, B]: ...
    @final
    def over_sync(
        self: "Stage[Any, Any]",
        rows: Source[Any],
        provider: LLMProvider,
        /,
        *,
        key: Callable[[Any], Key],
        **settings: Unpack[BatchSettings],
    ) -> SyncBatch[Any, Any]:
        """Run this stage for any number of rows without `await`; otherwise like `over`.

        The rows are pulled and run in a thread with an event loop of its own.

        Raises:
            RuntimeError: An event loop is running in this thread; use `over` there.
        """
        return SyncBatch(self.over(rows, provider, key=key, **settings))

    @final
    def __rshift__(self, following: "Stage[Out_co, T]") -> "Stage[In_contra, T]":
        """Feed this stage's value to another stage."""
        if not _is_stage(following):
            _check_joined(">>", following)
            return NotImplemented
        return _chain(self, following)

    @overload
    def __or__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, Out_co | T]": ...
    @overload
    def __or__(self: "Stage[object, B]", other: "Stage[A, T]") -> "Stage[A, B | T]": ...
    @final
    def __or__(self, other: "Stage[Any, Any]") -> "Stage[Any, Any]":
        """Fall back to another stage where this one fails; see `or_else`."""
        if not _is_stage(other):
            _check_joined("|", other)
            return NotImplemented
        return _either(self, other, _ANY_FAILURE)

    @overload
    def or_else(
        self, other: "Stage[In_contra, T]", *, on: Failures = (ExecutionKitError,)
    ) -> "Stage[In_contra, Out_co | T]": ...
    @overload
    def or_else(
        self: "Stage[object, B]", other: "Stage[A, T]", *, on: Failures = (ExecutionKitError,)
    ) -> "Stage[A, B | T]": ...
    @final
    def or_else(self, other: "Stage[Any, Any]", *, on: Failures = (ExecutionKitError,)) -> "Stage[Any, Any]":
        """Have another stage answer where this one fails; what both spent counts. See `Fallback`.

        Args:
            other: The stage that answers then, given the same input.
            on: The classes of failure that lead to it; any other comes back as it is.

        Raises:
            TypeError: It is not a stage, or `on` no tuple of classes of errors.
        """
        return _either(self, other, on)

    @overload
    def __and__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, tuple[Out_co, T]]": ...
    @overload
    def __and__(self: "Stage[object, B]", other: "Stage[A, T]") -> "Stage[A, tuple[B, T]]": ...
    @final
    def __and__(self, other: "Stage[Any, Any]") -> "Stage[Any, Any]":
        """Run this and another stage on the same input at once; the first failure cancels the other."""
        if not _is_stage(other):
            _check_joined("&", other)
            return NotImplemented
        return Both(self, other)

    if TYPE_CHECKING:  # where the left stage takes more than the right one, they take what the right one does

        def __ror__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, T | Out_co]": ...

        def __rand__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, tuple[T, Out_co]]": ...

    @overload
    def each(
        self: "Stage[A, B]",
        *,
        max_concurrency: int = 8,
        on_error: Literal["collect"] = "collect",
        name: Callable[[A], str] | None = None,
    ) -> "Stage[Sequence[A], tuple[Outcome[B], ...]]": ...
    @overload
    def each(
        self: "Stage[A, B]",
        *,
        max_concurrency: int = 8,
        on_error: Literal["fail"],
        name: Callable[[A], str] | None = None,
    ) -> "Stage[Sequence[A], tuple[B, ...]]": ...
    @final
    def each(
        self,
        *,
        max_concurrency: int = 8,
        on_error: OnError = "collect",
        name: Callable[[Any], str] | None = None,
    ) -> "Stage[Sequence[Any], tuple[Any, ...]]":
        """Run this stage for each of many inputs, under one budget; see `Each`.

        Args:
            max_concurrency: Inputs under way at once.
            on_error: `"collect"` gives an `Outcome` for each input, `"fail"` the values, and ends with the
                first failure.
            name: What traces and progress call an input; its number if None, or if it raises.

        Raises:
            TypeError: A setting is of the wrong type.
            ValueError: A setting is out of range.
        """
        stage: Each[Any, Any] = Each(self, max_concurrency, on_error, name)
        return stage

    @final
    def with_input(self: "Stage[A, B]") -> "Stage[A, tuple[A, B]]":
        """Put the input beside the value, as a pair; score and metadata stay."""
        return WithInput(self)

    @final
    def checked(self: "Stage[str, B]", rule: Rule[B], *, output_retries: int = 2) -> "Stage[str, B]":
        """Run this stage again, with the reason below its prompt, while a rule refuses its value.

        Args:
            rule: Looks at the value, plain or async, and returns None, or the reason why it will not do.
            output_retries: Runs after the first.

        Raises:
            TypeError: The rule is not a function.
            ValueError: A setting is out of range.
        """
        return Checked(self, rule, output_retries)

    @final
    def named(self, name: str) -> "Stage[In_contra, Out_co]":
        """Give this stage a name for traces, progress, errors and drawings; it changes nothing else.

        Raises:
            TypeError: The name is not text.
            ValueError: It is empty.
        """
        return Named(self.stage if isinstance(self, Named) else self, name)

    @final
    def map(self, function: Callable[[Out_co], T]) -> "Stage[In_contra, T]":
        """Apply a pure function to the value; score and metadata stay."""
        check_function("map", function)
        known: object = self
        if isinstance(known, Mapped):
            mapped = cast("Mapped[In_contra, Any, T]", known)
            return _extended(copy(mapped), "functions", (*mapped.functions, function))
        return Mapped(self, (function,))

    @final
    def within(self, max_cost: TokenUsage) -> "Stage[In_contra, Out_co]":
        """Give this stage a budget of its own, beside the run's.

        Raises:
            TypeError: It is not a `TokenUsage` of whole numbers.
            ValueError: A field is negative.
        """
        if max_cost is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise TypeError("within takes a TokenUsage; leave it out where there is no budget")
        limit = checked_budget(max_cost) or NO_USAGE
        if isinstance(self, Within):
            return Within(self.stage, tighter(self.max_cost, limit))
        return Within(self, limit)

    @final
    def using(self, provider: LLMProvider) -> "Stage[In_contra, Out_co]":
        """Bind this stage to a provider of its own, whatever the run uses. Where it has one, that stays.

        Raises:
            TypeError: It does not have the shape of a provider.
        """
        bound = checked_provider(provider)
        return self if isinstance(self, Using) else Using(self, bound)


class Pipeline(Stage[A, B], frozen=True):
    """Stages one after the other, each fed the value of the one before. `a >> b` makes one.

    The score is the last stage's. Metadata: the last stage's keys, and `step_count` (int), `step_metadata`
    and `step_costs` (a tuple entry a stage). An error carries these for the stages that were done, and
    `failed_step` (str), the name of the one that failed.

    Args:
        stages: The stages in order. With none, the value comes out as it went in, at no cost.
    """

    stages: "tuple[Stage[Any, Any], ...]"

    def __post_init__(self) -> None:
        _check_stages(self.stages)

    @override
    def sketch(self) -> Sketch:
        return Sketch("chain")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        done: list[PatternResult[Any]] = []
        context.report(lambda: {**_steps(done), **self._failed_step(len(done))})
        last: PatternResult[Any] = PatternResult(value)
        position = first_position(context)
        for stage in self.stages:
            is_answer = len(done) == len(self.stages) - 1
            if _is_pipeline(stage):
                last = await run_group(context, stage, last.value, position, is_answer=is_answer)
                position += _breadth(stage, _is_pipeline)
            else:
                last = await context.run(stage, last.value, at=position, is_answer=is_answer)
                position += 1
            done.append(last)
        return PatternResult(last.value, last.score, metadata={**last.metadata, **_steps(done)})

    @property
    @override
    def streams_text(self) -> bool:
        return bool(self.stages) and self.stages[-1].streams_text

    @property
    @override
    def text_is_final(self) -> bool:
        return bool(self.stages) and self.stages[-1].text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        reaches: list[Reach] = []
        for stage in self.stages:
            reaches.append(stage.reach(given))
            why = reaches[-1].why_value or given.why_value
            given = msgspec.structs.replace(
                given, value=reaches[-1].value, is_text=reaches[-1].is_text, items=None, why_value=why
            )
        if reaches:
            return chained(reaches)
        return Reach(value=given.value, is_text=given.is_text, why_value=given.why_value)

    @override
    def unnamed(self) -> Stage[Any, Any]:
        return reduce(_chain, [_nameless(stage) for stage in self.stages], Pipeline[Any, Any](()))

    def _failed_step(self, done: int) -> dict[str, str]:
        """Name the stage that failed; none did where a `map` after the last one raised."""
        return {"failed_step": self.stages[done].name} if done < len(self.stages) else {}


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
        _check_stages(self.options)
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
            position += _breadth(option, self._is_alike)
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
        options = [each for option in self.options for each in _options(_nameless(option), self.on)]
        return _extended(Fallback(self.options[:1], self.on), "options", tuple(options))

    async def _run_option(
        self, option: Stage[A, B], value: A, position: int, context: Context
    ) -> PatternResult[B]:
        if self._is_alike(option):
            return await run_group(context, option, value, position, is_answer=True)
        return await context.run(option, value, at=position, is_answer=True)

    def _is_alike(self, option: Stage[Any, Any]) -> bool:
        """Tell whether an option is a named group that would be part of this one without its name."""
        group = _group(option)
        return isinstance(group, Fallback) and group.on == self.on


class Both(Stage[A, tuple[T, B]], Generic[A, T, B], frozen=True):
    """Two stages on the same input at once; the value is the pair of theirs. `a & b` makes one.

    Metadata: `branch_scores`, `branch_metadata` and `branch_costs`, each a tuple of two.

    Args:
        left: The stage whose value comes first.
        right: The stage whose value comes second.
    """

    left: Stage[A, T]
    right: Stage[A, B]

    def __post_init__(self) -> None:
        _check_stages((self.left, self.right))

    @override
    def sketch(self) -> Sketch:
        return Sketch("beside")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[tuple[T, B]]:
        branches: tuple[Stage[A, T | B], ...] = (self.left, self.right)
        left, right = await context.gather(lambda index: context.run(branches[index], value, at=index), 2, 2)
        metadata = {
            "branch_scores": (left.score, right.score),
            "branch_metadata": (left.metadata, right.metadata),
            "branch_costs": (left.cost, right.cost),
        }
        return PatternResult((cast("T", left.value), cast("B", right.value)), metadata=metadata)

    @override
    def reach(self, given: Given) -> Reach:
        return at_once([self.left.reach(given), self.right.reach(given)], given)


class Mapped(Stage[A, B], Generic[A, T, B], frozen=True):
    """A stage with pure functions applied to its value, one after the other. `a.map(f)` makes one.

    Args:
        stage: The stage.
        functions: What is applied. If one raises, the stage fails with a `StageError`.
    """

    stage: Stage[A, T]
    functions: tuple[Callable[[Any], Any], ...]

    def __post_init__(self) -> None:
        _check_nesting(self.stage)
        for function in self.functions:
            check_function("map", function)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", then=tuple(map(function_name, self.functions)))

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        result: PatternResult[Any] = await self.stage.perform(value, aside(context))
        for function in self.functions:
            with wrapping(StageError, f"{function_name(function)}, a function of map,"):
                result = result.map(function)
        return result

    @override
    def reach(self, given: Given) -> Reach:
        why = f"what a function makes of the value of {self.name}"
        inner = self.stage.reach(given)
        return msgspec.structs.replace(inner, value=math.inf, why_value=why, least_said=inner.least_output)


class Named(Stage[A, B], frozen=True):
    """A stage with a name of its own. `a.named(name)` makes one.

    Args:
        stage: The stage.
        label: What traces, progress, errors and drawings call it.
    """

    stage: Stage[A, B]
    label: str

    def __post_init__(self) -> None:
        _check_stages((self.stage,))
        if not isinstance(cast("object", self.label), str):
            raise TypeError(f"a name must be text, not {type(self.label).__name__}")
        if not self.label.strip():
            raise ValueError("a name must not be empty")

    @property
    @override
    def name(self) -> str:
        return self.label

    @property
    @override
    def kind(self) -> str:
        return self.stage.kind

    @property
    @override
    def figures(self) -> tuple[str, ...]:
        return self.stage.figures

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", self.label)

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        return await self.stage.perform(value, context)

    @property
    @override
    def streams_text(self) -> bool:
        return self.stage.streams_text

    @property
    @override
    def text_is_final(self) -> bool:
        return self.stage.text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        return self.stage.reach(given)

    @override
    def unnamed(self) -> Stage[Any, Any]:
        return self.stage.unnamed()


class WithInput(Stage[A, tuple[A, B]], Generic[A, B], frozen=True):
    """A stage whose value has the input beside it. `a.with_input()` makes one.

    Args:
        stage: The stage.
    """

    stage: Stage[A, B]

    def __post_init__(self) -> None:
        _check_stages((self.stage,))

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", then=("with the input",))

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[tuple[A, B]]:
        result = await self.stage.perform(value, aside(context))
        return result.map(lambda answer: (value, answer))

    @override
    def reach(self, given: Given) -> Reach:
        inner = self.stage.reach(given)
        before = Reach(value=given.value, is_text=given.is_text, why_value=given.why_value)
        pair = paired([inner, before])
        return msgspec.structs.replace(inner, value=pair.value, is_text=False, why_value=pair.why_value)


class Checked(Stage[str, B], frozen=True):
    """A stage that is run again while a rule refuses its value. `a.checked(rule)` makes one.

    The prompt of the next run has the reason below it. All runs share the ledger.

    Metadata: that of the run that will do, with `attempts` (int), how many runs there were, and `reasons`
    (tuple of str), why the values before the last were refused. On an error also why the last one was, and
    `last_value`, that value.

    Args:
        stage: The stage.
        rule: Looks at the value, plain or async, and returns None, or the reason why it will not do.
        output_retries: Runs after the first.

    Returns (on `run`):
        InvalidOutputError: No value will do, the first and `output_retries` more.
        EvaluationError: The rule raised, or returned neither None nor text.
    """

    stage: Stage[str, B]
    rule: Rule[B]
    output_retries: int = 2

    def __post_init__(self) -> None:
        _check_stages((self.stage,))
        if self.rule is None:
            raise TypeError("checked takes a rule, a function of the value")
        check_rule(self.rule)
        check_count("output_retries", self.output_retries, 0)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch(
            "around", f"checked by {function_name(self.rule)}, at most {1 + self.output_retries} runs"
        )

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[B]:
        opening(value)  # refuses what is not a prompt
        reasons: list[str] = []
        values: list[B] = []
        context.report(lambda: _refused(values, reasons))
        prompt = value
        while len(values) <= self.output_retries:
            result = await context.run(self.stage, prompt, at=len(values), is_answer=True)
            values.append(result.value)
            reason = await broken(self.rule, result.value)
            if reason is None:
                noted = {"attempts": len(values), "reasons": tuple(reasons)}
                return PatternResult(result.value, result.score, metadata={**result.metadata, **noted})
            reasons.append(reason)
            context.void("repair")
            prompt = f"{value}\n\nAn earlier answer could not be used: {reason}"
        raise InvalidOutputError(f"no acceptable value in {len(values)} runs: {reasons[-1]}")

    @property
    @override
    def streams_text(self) -> bool:
        return self.stage.streams_text

    @override
    def reach(self, given: Given) -> Reach:
        first = self.stage.reach(given)
        longer = msgspec.structs.replace(
            given, value=math.inf, why_value=f"the reasons that {self.name} is run again for"
        )
        again = self.stage.reach(longer).if_at_all
        whole = in_turn([first, *[again] * self.output_retries])
        return msgspec.structs.replace(
            whole,
            least_said=first.least_said,
            needs_text=True,
            value=max(first.value, whole.value),
            why_value=first.why_value or whole.why_value,
        )


def _refused(values: list[Any], reasons: list[str]) -> dict[str, object]:
    noted: dict[str, object] = {"attempts": len(values), "reasons": tuple(reasons)}
    return {**noted, "last_value": values[-1]} if values else noted


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
        _check_stages((self.stage,))
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


class Within(Stage[A, B], frozen=True):
    """A stage with a budget of its own. `a.within(max_cost)` makes one.

    Args:
        stage: The stage.
        max_cost: Its budget; 0 in a field means no limit there.
    """

    stage: Stage[A, B]
    max_cost: TokenUsage

    def __post_init__(self) -> None:
        _check_nesting(self.stage)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", f"within {budget_text(self.max_cost)}")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        tighten(context, self.max_cost, self.name)
        return await self.stage.perform(value, context)

    @property
    @override
    def streams_text(self) -> bool:
        return self.stage.streams_text

    @property
    @override
    def text_is_final(self) -> bool:
        return self.stage.text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        if self.max_cost == NO_USAGE:
            return self.stage.reach(given)
        return self.stage.reach(msgspec.structs.replace(given, is_limited=True)).within(self.max_cost, given)


class Using(Stage[A, B], frozen=True):
    """A stage bound to a provider of its own. `a.using(provider)` makes one.

    Args:
        stage: The stage.
        provider: What it asks, and all stages below it.
    """

    stage: Stage[A, B]
    provider: LLMProvider

    def __post_init__(self) -> None:
        _check_nesting(self.stage)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch("around", f"using {_model_of(self.provider)}")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        return await self.stage.perform(value, using(context, self.provider))

    @property
    @override
    def streams_text(self) -> bool:
        return self.stage.streams_text

    @property
    @override
    def text_is_final(self) -> bool:
        return self.stage.text_is_final

    @override
    def reach(self, given: Given) -> Reach:
        return self.stage.reach(asking(given, self.provider))


@overload
def identity(_of: type[T], /) -> Stage[T, T]: ...
@overload
def identity(_of: TypeForm[T], /) -> Stage[T, T]: ...
def identity(_of: TypeForm[Any], /) -> Stage[Any, Any]:
    """Return the stage that hands its input on: the neutral element of `>>`.

    >>> identity(str) >> identity(str) == identity(str)
    True
    """
    return Pipeline(())


def _are_stages(held: object) -> "TypeIs[tuple[Stage[Any, Any], ...]]":
    items = cast("tuple[object, ...]", held) if isinstance(held, tuple) else ()
    return bool(items) and all(isinstance(item, Stage) for item in items)


_S = TypeVar("_S", bound=Stage[Any, Any])


def _is_stage(operand: object) -> bool:
    return isinstance(operand, Stage)


def _check_joined(operator: str, operand: object) -> None:
    """Say where what is no stage belongs, if that is clear; Python says the rest."""
    if isroutine(operand):
        name = getattr(operand, "__name__", "this")
        raise TypeError(
            f"{operator} joins stages, and {name} is a function: call it if it makes a stage, "
            "or else give it to .map"
        )
    if isroutine(attribute(operand, "complete")):
        raise TypeError(f"{operator} joins stages; give a provider to .using, or to run")


def _parts(stage: Stage[Any, Any]) -> tuple[Stage[Any, Any], ...]:
    return stage.stages if isinstance(stage, Pipeline) else (stage,)


def _chain(first: Stage[Any, Any], second: Stage[Any, Any]) -> Stage[Any, Any]:
    stages = _parts(first) + _parts(second)
    if len(stages) == 1:
        return stages[0]
    _check_nesting(*[stage for stage in (first, second) if not isinstance(stage, Pipeline)])
    return _extended(Pipeline[Any, Any](()), "stages", stages)


_ANY_FAILURE: Failures = (ExecutionKitError,)


def _either(one: Stage[Any, Any], other: Stage[Any, Any], on: Failures) -> Stage[Any, Any]:
    options = _options(one, on) + _options(other, on)
    if not (_is_stage(one) and _is_stage(other)):
        _check_stages((one, other))
    _check_nesting(*[stage for stage in (one, other) if not isinstance(stage, Fallback)])
    return _extended(Fallback(options[:1], on), "options", options)


def _options(stage: Stage[A, B], on: Failures) -> tuple[Stage[A, B], ...]:
    return stage.options if isinstance(stage, Fallback) and stage.on == on else (stage,)


def _nameless(stage: Stage[Any, Any]) -> Stage[Any, Any]:
    """Return a part without the name that would keep it apart from the others."""
    return stage.unnamed() if isinstance(stage, Named) else stage


def _group(stage: Stage[Any, Any]) -> Stage[Any, Any] | None:
    """Return what has a name here; None where a stage has none."""
    return stage.stage if isinstance(stage, Named) else None


def _names(kinds: Failures) -> str:
    return ", ".join([kind.__name__ for kind in kinds])


def _model_of(provider: LLMProvider) -> str:
    model: object = attribute(provider, "model")
    return model if isinstance(model, str) and model else type(provider).__name__


def _is_pipeline(stage: Stage[Any, Any]) -> bool:
    """Tell whether a stage is a named pipeline, which would be part of the one around it without its name."""
    # Not `isinstance` for the first: it asks each class of stage anew, since they are abstract.
    kind: object = type(stage)
    return kind is Named and isinstance(_group(stage), Pipeline)


def _breadth(stage: Stage[Any, Any], is_group: Callable[[Stage[Any, Any]], bool]) -> int:
    """Return how many positions a stage takes beside others: a named group one for each of its parts."""
    if not is_group(stage):
        return 1
    return sum([_breadth(part, is_group) for part in _group_parts(_group(stage))])


def _group_parts(group: Stage[Any, Any] | None) -> tuple[Stage[Any, Any], ...]:
    match group:
        case Pipeline():
            return group.stages
        case Fallback():
            return group.options
        case _:
            return ()


def _check_failures(on: object) -> None:
    if not isinstance(on, tuple):
        raise TypeError(f"on must be a tuple of classes of errors, not {type(on).__name__}")
    for kind in cast("tuple[object, ...]", on):
        if not (isinstance(kind, type) and issubclass(kind, ExecutionKitError)):
            raise TypeError(f"a stage fails with an ExecutionKitError, so `on` cannot name {kind!r:.80}")


def _steps(done: list[PatternResult[Any]]) -> dict[str, object]:
    return {
        "step_count": len(done),
        "step_metadata": tuple([result.metadata for result in done]),
        "step_costs": tuple([result.cost for result in done]),
    }


def _check_stages(stages: object) -> None:
    if not isinstance(stages, tuple):
        raise TypeError(f"stages come as a tuple, not {type(stages).__name__}")
    for stage in cast("tuple[object, ...]", stages):
        if not isinstance(stage, Stage):
            raise TypeError(f"a stage is wanted, not {type(stage).__name__}")
    _check_nesting(*cast("tuple[Stage[Any, Any], ...]", stages))


MOST_NESTED: Final = 210
"""Levels of stages within stages; each takes up to four of the thousand frames that Python allows a task."""


def _check_nesting(*stages: Stage[Any, Any]) -> None:
    """Check that one more stage may be put around these.

    Raises:
        ValueError: They are nested too deeply to be run, hashed or pickled.
    """
    level: Iterable[Stage[Any, Any]] = stages
    for _ in range(MOST_NESTED):
        # Each once, however often it is used: `a & a` would double it from level to level.
        level = {id(part): part for stage in level for part in _stages_in(stage)}.values()
        if not level:
            return
    raise ValueError(
        f"stages are nested more than {MOST_NESTED} levels deep; put them side by side with >> or |, "
        "or make one function of several"
    )


def _stages_in(stage: Stage[Any, Any]) -> Iterator[Stage[Any, Any]]:
    """Return the stages that are fields of a stage, or stand in a tuple or list that is one."""
    for name in stage.__struct_fields__:
        field: object = getattr(stage, name)
        if isinstance(field, Stage):
            yield field
        elif isinstance(field, tuple | list):
            yield from [part for part in cast("Sequence[object]", field) if isinstance(part, Stage)]


def _extended(stage: _S, field: str, value: tuple[object, ...]) -> _S:
    """Set a field that is made of what was checked before: to check all again takes the square of it."""
    msgspec.structs.force_setattr(stage, field, value)
    return stage


def _tried(failures: list[ExecutionKitError]) -> dict[str, object]:
    return {
        "option_failures": tuple(map(described, failures)),
        "option_metadata": tuple([failure.metadata for failure in failures]),
        "option_costs": tuple([failure.cost for failure in failures]),
    }
