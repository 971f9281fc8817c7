"""What a run returns: a `PatternResult`, or the error that stands in its place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeAlias, TypeVar

from returns.result import Failure, Result, Success
from typing_extensions import TypeIs

from executionkit.core.frozen import EMPTY, Metadata, freeze_mapping, hash_frozen, thaw
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import ExecutionKitError

__all__ = ["Outcome", "PatternResult", "as_outcome", "as_result", "is_failure", "is_success"]

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)

_set = object.__setattr__


@dataclass(frozen=True, init=False)
class PatternResult(Generic[T_co]):
    """An answer and what it took to get it. Frozen: safe to cache, share, compare, copy and pickle.

    Args:
        value: The answer.
        score: Its quality, where the pattern knows one.
        cost: Tokens and calls spent.
        metadata: Pattern-specific keys. Copied into a read-only mapping; nested lists become tuples.

    >>> result = PatternResult("Paris", score=0.8, metadata={"votes": ["Paris", "Rome"]})
    >>> str(result), result.metadata["votes"]
    ('Paris', ('Paris', 'Rome'))
    """

    # By hand: `slots=True` makes a second class, and `PatternResult[str](...)` would raise on 3.11.
    __slots__ = ("cost", "metadata", "score", "value")

    value: T_co
    score: float | None
    cost: TokenUsage
    metadata: Metadata

    def __init__(
        self,
        value: T_co,
        score: float | None = None,
        cost: TokenUsage = NO_USAGE,
        metadata: Mapping[str, Any] = EMPTY,
    ) -> None:
        _set(self, "value", value)
        _set(self, "score", score)
        _set(self, "cost", cost)
        _set(self, "metadata", freeze_mapping(metadata))

    def map(self, function: Callable[[T_co], U]) -> "PatternResult[U]":
        """Return this result with `function` applied to its value.

        >>> PatternResult("3", score=1.0).map(int)
        PatternResult(value=3, score=1.0, cost=TokenUsage(...), metadata=mappingproxy({}))
        """
        return PatternResult(function(self.value), self.score, self.cost, self.metadata)

    def stamped(self, cost: TokenUsage, metadata: Mapping[str, object] = EMPTY) -> Self:
        """Return a copy with this cost; `metadata` adds keys, or replaces what a part of the work said."""
        copy = object.__new__(type(self))
        _set(copy, "value", self.value)
        _set(copy, "score", self.score)
        _set(copy, "cost", cost)
        _set(copy, "metadata", freeze_mapping({**self.metadata, **metadata}) if metadata else self.metadata)
        return copy

    def __str__(self) -> str:
        return str(self.value)

    def __hash__(self) -> int:
        return hash((self.value, self.score, self.cost, hash_frozen(self.metadata)))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.value, self.score, self.cost, thaw(self.metadata))


Outcome: TypeAlias = Success[PatternResult[T]] | Failure[ExecutionKitError]
"""A `Result[PatternResult[T], ExecutionKitError]`, spelled so that `match` narrows in both checkers."""


def is_success(outcome: Outcome[T]) -> TypeIs[Success[PatternResult[T]]]:
    """Tell whether a run answered.

    >>> is_success(Success(PatternResult("Paris")))
    True
    """
    return isinstance(outcome, Success)


def is_failure(outcome: Outcome[T]) -> TypeIs[Failure[ExecutionKitError]]:
    """Tell whether a run failed.

    >>> is_failure(Failure(ExecutionKitError("no answer")))
    True
    """
    return isinstance(outcome, Failure)


def as_outcome(result: Result[PatternResult[T], ExecutionKitError]) -> Outcome[T]:
    """Narrow a plain `Result`, as `.bind` and friends return it, to the two cases it can be.

    >>> as_outcome(Success(PatternResult("Paris")).bind(Success)).unwrap().value
    'Paris'
    """
    match result:
        case Success(value):
            return Success(value)
        case Failure(error):
            return Failure(error)
        case _:
            raise TypeError(f"expected a Success or a Failure, not {type(result).__name__}")


def as_result(outcome: Outcome[T]) -> Result[PatternResult[T], ExecutionKitError]:
    """Widen an outcome to the plain `Result` that it is, so that `.map`, `.alt` and `.value_or` are typed.

    >>> as_result(Success(PatternResult("Paris"))).map(str).value_or("no answer")
    'Paris'
    """
    return outcome
