"""The base class of stages: what each of them is, how it is run, and how it is combined with others.

A stage is a frozen value that describes work; nothing runs before `run`. To add a pattern, subclass `Stage`,
make its settings fields, check them in `__post_init__` and implement `perform`.

A combinator is a stage itself and has a module of its own beside this one. The method that makes it imports
that module when it is called, for the module needs this one.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import isroutine
from typing import (
    TYPE_CHECKING,
    Any,
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
from typing_extensions import TypeIs

from executionkit.batch import Batch, Key, Source, SyncBatch
from executionkit.core.bounds import Bounds, Given, Reach, unbounded
from executionkit.core.drawing import Sketch, mermaid_text, notes_of
from executionkit.core.foreign import attribute
from executionkit.core.usage import TokenUsage, checked_budget
from executionkit.core.window import Adaptive
from executionkit.errors import ExecutionKitError
from executionkit.events import Trace
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import RetryConfig, checked_retry
from executionkit.runtime.context import Context
from executionkit.runtime.given import given_of
from executionkit.runtime.journal.given import RunJournal
from executionkit.runtime.rules import Rule
from executionkit.runtime.run import run_stage
from executionkit.runtime.tasks.event_loops import in_new_loop
from executionkit.streaming import AHEAD, Streaming, SyncStreaming

__all__ = ["BatchSettings", "Failures", "OnError", "Stage"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

OnError: TypeAlias = Literal["collect", "fail"]
"""What `each` does about an input that fails: goes on, or ends."""

Failures: TypeAlias = tuple[type[ExecutionKitError], ...]
"""The classes of failure after which `or_else` goes on to the next stage."""


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
        from executionkit.stage.pipeline import chain

        return chain(self, following)

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
        return self.or_else(other)

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
        from executionkit.stage.fallback import or_else

        return or_else(self, other, on)

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
        from executionkit.stage.both import Both

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
        from executionkit.stage.each import Each

        stage: Each[Any, Any] = Each(self, max_concurrency, on_error, name)
        return stage

    @final
    def with_input(self: "Stage[A, B]") -> "Stage[A, tuple[A, B]]":
        """Put the input beside the value, as a pair; score and metadata stay."""
        from executionkit.stage.with_input import WithInput

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
        from executionkit.stage.checked import Checked

        return Checked(self, rule, output_retries)

    @final
    def named(self, name: str) -> "Stage[In_contra, Out_co]":
        """Give this stage a name for traces, progress, errors and drawings; it changes nothing else.

        Raises:
            TypeError: The name is not text.
            ValueError: It is empty.
        """
        from executionkit.stage.named import named

        return named(self, name)

    @final
    def map(self, function: Callable[[Out_co], T]) -> "Stage[In_contra, T]":
        """Apply a pure function to the value; score and metadata stay."""
        from executionkit.stage.mapped import mapped

        return mapped(self, function)

    @final
    def within(self, max_cost: TokenUsage) -> "Stage[In_contra, Out_co]":
        """Give this stage a budget of its own, beside the run's.

        Raises:
            TypeError: It is not a `TokenUsage` of whole numbers.
            ValueError: A field is negative.
        """
        from executionkit.stage.within import within

        return within(self, max_cost)

    @final
    def using(self, provider: LLMProvider) -> "Stage[In_contra, Out_co]":
        """Bind this stage to a provider of its own, whatever the run uses. Where it has one, that stays.

        Raises:
            TypeError: It does not have the shape of a provider.
        """
        from executionkit.stage.using import bound

        return bound(self, provider)


def _are_stages(held: object) -> "TypeIs[tuple[Stage[Any, Any], ...]]":
    items = cast("tuple[object, ...]", held) if isinstance(held, tuple) else ()
    return bool(items) and all(isinstance(item, Stage) for item in items)


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
