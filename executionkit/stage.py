"""Stages, and what combines them: `>>`, `|`, `&`, `.map`, `.within`, `.using`.

A stage is a frozen value that describes work; nothing runs before `run`. To add a pattern, subclass `Stage`,
make its settings fields, check them in `__post_init__` and implement `perform`.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, final, overload

import msgspec
from returns.result import Failure, Success
from typing_extensions import TypeForm, TypeIs, override

from executionkit.core.budget import tighter
from executionkit.core.checks import check_function
from executionkit.core.usage import NO_USAGE, TokenUsage, checked_budget
from executionkit.errors import ExecutionKitError, described
from executionkit.events import Trace
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, checked_provider
from executionkit.retry import RetryConfig
from executionkit.runtime.context import Context, tighten, using
from executionkit.runtime.run import in_new_loop, run_stage

__all__ = ["Both", "Fallback", "Mapped", "Pipeline", "Stage", "Using", "Within", "identity"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class _StageMeta(msgspec.StructMeta, ABCMeta):
    """Makes `@abstractmethod` count on a struct."""


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

    @final
    async def run(
        self,
        provider: LLMProvider,
        value: In_contra,
        /,
        *,
        max_cost: TokenUsage | None = None,
        retry: RetryConfig | None = None,
        trace: Trace | None = None,
        deadline: float | None = None,
    ) -> Outcome[Out_co]:
        """Run this stage and return its result, or the error that stands in its place.

        Args:
            provider: The model to ask.
            value: The input, a prompt for most stages.
            max_cost: The budget of the whole run; 0 in a field means no limit there.
            retry: How transient failures are retried; `DEFAULT_RETRY` if None.
            trace: Receives a record of each run, stage, call, retry and tool.
            deadline: Seconds the whole run may take, waits included.

        Returns:
            `Success(PatternResult)` or `Failure(ExecutionKitError)`; both carry the cost.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: A budget is negative, or a deadline not positive.
        """
        return await run_stage(
            self, provider, value, max_cost=max_cost, retry=retry, trace=trace, deadline=deadline
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
        trace: Trace | None = None,
        deadline: float | None = None,
    ) -> Outcome[Out_co]:
        """Run this stage to the end on an event loop of its own; otherwise like `run`.

        Raises:
            RuntimeError: An event loop is running in this thread; `await stage.run(...)` there.
        """
        return in_new_loop(
            partial(
                self.run, provider, value, max_cost=max_cost, retry=retry, trace=trace, deadline=deadline
            ),
            "run_sync",
        )

    @final
    def __rshift__(self, following: "Stage[Out_co, T]") -> "Stage[In_contra, T]":
        """Feed this stage's value to another stage."""
        if not _is_stage(following):
            return NotImplemented
        return _chain(self, following)

    @overload
    def __or__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, Out_co | T]": ...
    @overload
    def __or__(self: "Stage[object, B]", other: "Stage[A, T]") -> "Stage[A, B | T]": ...
    @final
    def __or__(self, other: "Stage[Any, Any]") -> "Stage[Any, Any]":
        """Fall back to another stage where this one fails; what both spent counts."""
        if not _is_stage(other):
            return NotImplemented
        options: tuple[Stage[Any, Any], ...] = _options(self) + _options(other)
        _check_nesting(*[stage for stage in (self, other) if not isinstance(stage, Fallback)])
        return _extended(Fallback(options[:1]), "options", options)

    @overload
    def __and__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, tuple[Out_co, T]]": ...
    @overload
    def __and__(self: "Stage[object, B]", other: "Stage[A, T]") -> "Stage[A, tuple[B, T]]": ...
    @final
    def __and__(self, other: "Stage[Any, Any]") -> "Stage[Any, Any]":
        """Run this and another stage on the same input at once; the first failure cancels the other."""
        if not _is_stage(other):
            return NotImplemented
        return Both(self, other)

    if TYPE_CHECKING:  # where the left stage takes more than the right one, they take what the right one does

        def __ror__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, T | Out_co]": ...

        def __rand__(self, other: "Stage[In_contra, T]") -> "Stage[In_contra, tuple[T, Out_co]]": ...

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
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        done: list[PatternResult[Any]] = []
        context.report(lambda: {**_steps(done), **self._failed_step(len(done))})
        last: PatternResult[Any] = PatternResult(value)
        for position, stage in enumerate(self.stages):
            last = await context.run(stage, last.value, at=position)
            done.append(last)
        return PatternResult(last.value, last.score, metadata={**last.metadata, **_steps(done)})

    def _failed_step(self, done: int) -> dict[str, str]:
        """Name the stage that failed; none did where a `map` after the last one raised."""
        return {"failed_step": self.stages[done].name} if done < len(self.stages) else {}


class Fallback(Stage[A, B], frozen=True):
    """Stages tried in turn until one answers. `a | b` makes one.

    Score and metadata are those of the stage that answered, with `option_failures` (tuple of str), what
    became of those before it, and `option_costs` (tuple of TokenUsage), what they cost. The last error
    carries both.

    Args:
        options: The stages in order, at least one.
    """

    options: "tuple[Stage[A, B], ...]"

    def __post_init__(self) -> None:
        _check_stages(self.options)
        if not self.options:
            raise ValueError("a fallback needs a stage to try")

    @override
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        failures: list[ExecutionKitError] = []
        context.report(lambda: _tried(failures))
        for position, option in enumerate(self.options):
            outcome = await context.attempt(partial(_run_option, option, value, position))
            match outcome:
                case Success(result):
                    metadata = {**result.metadata, **_tried(failures)}
                    return PatternResult(result.value, result.score, metadata=metadata)
                case Failure(error):
                    failures.append(error)
        raise failures.pop()


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
    async def perform(self, value: A, context: Context) -> PatternResult[tuple[T, B]]:
        branches: tuple[Stage[A, T | B], ...] = (self.left, self.right)
        left, right = await context.gather(lambda index: context.run(branches[index], value, at=index), 2, 2)
        metadata = {
            "branch_scores": (left.score, right.score),
            "branch_metadata": (left.metadata, right.metadata),
            "branch_costs": (left.cost, right.cost),
        }
        return PatternResult((cast("T", left.value), cast("B", right.value)), metadata=metadata)


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
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        result: PatternResult[Any] = await self.stage.perform(value, context)
        for function in self.functions:
            result = result.map(function)
        return result


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
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        tighten(context, self.max_cost)
        return await self.stage.perform(value, context)


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
    async def perform(self, value: A, context: Context) -> PatternResult[B]:
        return await self.stage.perform(value, using(context, self.provider))


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


def _parts(stage: Stage[Any, Any]) -> tuple[Stage[Any, Any], ...]:
    return stage.stages if isinstance(stage, Pipeline) else (stage,)


def _chain(first: Stage[Any, Any], second: Stage[Any, Any]) -> Stage[Any, Any]:
    stages = _parts(first) + _parts(second)
    if len(stages) == 1:
        return stages[0]
    _check_nesting(*[stage for stage in (first, second) if not isinstance(stage, Pipeline)])
    return _extended(Pipeline[Any, Any](()), "stages", stages)


def _options(stage: Stage[A, B]) -> tuple[Stage[A, B], ...]:
    return stage.options if isinstance(stage, Fallback) else (stage,)


async def _run_option(option: Stage[A, B], value: A, position: int, context: Context) -> PatternResult[B]:
    return await context.run(option, value, at=position)


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
        "option_costs": tuple([failure.cost for failure in failures]),
    }
