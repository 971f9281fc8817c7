"""What a run returns: a `PatternResult`, or the error that stands in its place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast, get_args, get_origin, overload

from returns.result import Failure, Result, Success
from typing_extensions import TypeForm, TypeIs

from executionkit.core.frozen import EMPTY, Metadata, freeze_mapping, hash_frozen, thaw
from executionkit.core.html import html_table
from executionkit.core.portable import (
    from_plain,
    know,
    plain_usage,
    plain_value,
    read_value,
    to_plain,
    usage_from,
)
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

    def to_dict(self) -> dict[str, Any]:
        """Return this result as JSON's shapes, for a file, a queue or a log; `from_dict` reads it back.

        Raises:
            TypeError: The value has no form in JSON.

        >>> PatternResult("Paris", 0.8).to_dict()["value"]
        'Paris'
        """
        return {
            "value": plain_value(self.value),
            "score": to_plain(self.score),
            "cost": plain_usage(self.cost),
            "metadata": to_plain(self.metadata),
        }

    @overload
    @staticmethod
    def from_dict(data: Mapping[str, Any], output_type: type[T]) -> "PatternResult[T]": ...
    @overload
    @staticmethod
    def from_dict(data: Mapping[str, Any], output_type: TypeForm[T]) -> "PatternResult[T]": ...
    @staticmethod
    def from_dict(data: Mapping[str, Any], output_type: object) -> "PatternResult[Any]":
        """Return the result that `to_dict` wrote.

        Args:
            data: What it wrote, also after a way through JSON.
            output_type: The type of the value.

        Raises:
            ValueError: It is not of that form, or the value not of that type.

        >>> PatternResult.from_dict(PatternResult((1, 2), 0.5).to_dict(), tuple[int, ...]).value
        (1, 2)
        """
        try:
            value = read_value(data["value"], output_type, _read_outcome)
            score = from_plain(data["score"])
            cost, metadata = usage_from(data["cost"]), from_plain(data["metadata"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the form of a result: {data!s:.80}") from error
        if not (score is None or isinstance(score, (int, float))) or not isinstance(metadata, dict):
            raise ValueError(f"not the form of a result: {data!s:.80}")
        return PatternResult(value, score, cost, cast("dict[str, Any]", metadata))

    def _repr_html_(self) -> str:
        """Show the result in a notebook: value, score, cost and votes."""
        return html_table(
            {
                "value": self.value,
                "score": None if self.score is None else f"{self.score:.2f}",
                "cost": _spent(self.cost),
                "votes": self.metadata.get("vote_counts"),
            }
        )

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


def _spent(cost: TokenUsage) -> str:
    calls = "1 call" if cost.llm_calls == 1 else f"{cost.llm_calls:,} calls"
    money = "" if cost.usd is None else f", ${cost.usd}"
    return f"{calls}, {cost.input_tokens:,} + {cost.output_tokens:,} tokens{money}"


def _written(result: PatternResult[Any]) -> dict[str, Any]:
    """Return the form of a result among other values, where no type tells how to read its own."""
    try:
        return result.to_dict()
    except TypeError:
        return PatternResult(None, result.score, result.cost, result.metadata).to_dict() | {
            "value": to_plain(result.value)
        }


def _read(form: Any) -> PatternResult[Any]:
    plain = PatternResult.from_dict({**form, "value": None}, type(None))
    return PatternResult(from_plain(form["value"]), plain.score, plain.cost, plain.metadata)


def _written_success(outcome: Success[Any]) -> Any:
    return to_plain(outcome.unwrap())


def _written_failure(outcome: Failure[Any]) -> Any:
    return to_plain(outcome.failure())


def _read_success(form: Any) -> object:
    return Success(from_plain(form))


def _read_failure(form: Any) -> object:
    return Failure(from_plain(form))


def _read_outcome(form: Mapping[str, Any], kinds: tuple[object, ...]) -> object:
    """Return an outcome of a form that was written, its value of the type that is asked for."""
    if form["$"] == "failure":
        return from_plain(form)
    (result_type,) = [get_args(kind)[0] for kind in kinds if get_origin(kind) is Success]
    (value_type,) = get_args(result_type)
    return Success(PatternResult.from_dict(form["value"]["value"], value_type))


know("result", PatternResult, _written, _read)
know("success", Success, _written_success, _read_success)
know("failure", Failure, _written_failure, _read_failure)
