"""Every failure of ExecutionKit, in one tree.

::

    ExecutionKitError
    ├── LLMError                      a model could not be asked, or did not answer
    │   ├── RateLimitError            429; knows how long the server asks to wait
    │   ├── PermanentError            the same request would fail again (400, 401, 404, ...)
    │   │   └── ProviderClosedError   the provider was closed before the call
    │   └── ProviderError             anything else that came back, or did not
    └── PatternError                  the calls worked, the pattern did not
        ├── BudgetExhaustedError      the next call no longer fits the budget
        ├── DeadlineExceededError     the run took longer than its `deadline`
        ├── ConsensusFailedError      the vote has no winner
        ├── MaxIterationsError        a loop ended without an answer
        ├── EvaluationError           an evaluator or judge gave no usable score
        ├── InvalidOutputError        an answer that does not decode to the asked type
        ├── InvalidPromptError        a prompt that is empty or not text (also a `ValueError`)
        ├── StoppedError              an approval hook ended the loop
        ├── StageError                a function of the caller's raised inside a stage
        └── JournalError              a journal cannot be read or written, so nothing was sent
            ├── JournalMismatchError  the pipeline, or its input, is not the one the run began with
            ├── RunBusyError          another process, or another task, has the run
            └── UnsettledToolError    a tool was under way at a crash; a person has to find out

Each carries `cost`, the `TokenUsage` up to the failure, and `metadata`, a read-only mapping of what was
achieved. Errors are values: they compare by value, hash, copy and pickle.
"""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

from executionkit.core.copies import bare, bare_copy
from executionkit.core.foreign import described
from executionkit.core.frozen import EMPTY, Metadata, freeze_mapping, thaw
from executionkit.core.portable import from_plain, know, plain_usage, to_plain, usage_from
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = [
    "BudgetExhaustedError",
    "ConsensusFailedError",
    "DeadlineExceededError",
    "EvaluationError",
    "ExecutionKitError",
    "InvalidOutputError",
    "InvalidPromptError",
    "JournalError",
    "JournalMismatchError",
    "LLMError",
    "MaxIterationsError",
    "PatternError",
    "PermanentError",
    "ProviderClosedError",
    "ProviderError",
    "RateLimitError",
    "RunBusyError",
    "StageError",
    "StoppedError",
    "UnsettledToolError",
]


class ExecutionKitError(Exception):
    """The root of every failure.

    Args:
        message: What went wrong and what to do about it.
        cost: Everything spent up to the failure.
        metadata: What was achieved up to the failure, frozen on construction.
    """

    retryable_by_default: ClassVar[bool] = False
    """Whether errors of this class are worth another attempt unless they say otherwise."""

    # On the class too: a subclass with an `__init__` of its own may not call this one.
    cost: TokenUsage = NO_USAGE
    metadata: Metadata = EMPTY

    def __init__(
        self,
        message: str = "",
        *,
        cost: TokenUsage | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        # Of a class derived from text what it holds: its own `__str__` is foreign code.
        super().__init__(str.__str__(message) if isinstance(cast("object", message), str) else message)
        self.cost = NO_USAGE if cost is None else cost
        self.metadata = freeze_mapping(metadata or {})

    @property
    def message(self) -> str:
        """The text given on construction."""
        return str(self)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if sent again."""
        return self.retryable_by_default

    def stamped(
        self,
        cost: TokenUsage,
        metadata: Mapping[str, object] = EMPTY,
        totals: Mapping[str, object] = EMPTY,
    ) -> Self:
        """Return a copy with this cost.

        Args:
            cost: Everything spent up to the failure.
            metadata: Keys to add. What the error has under such a key already is kept below `inner`.
            totals: Keys that count what the error's own metadata knows in part; they replace it.
        """
        try:
            return self._stamped(cost, metadata, totals)
        except Exception:
            return self._wrapped(cost, metadata, totals)

    def _stamped(
        self, cost: TokenUsage, metadata: Mapping[str, object], totals: Mapping[str, object]
    ) -> Self:
        copy = bare_copy(self)
        copy.cost = cost
        if metadata or totals:
            copy.metadata = freeze_mapping({**_with_inner(self.metadata, metadata), **totals})
        elif type(copy.metadata) is not MappingProxyType:  # it was put there afterwards
            copy.metadata = freeze_mapping(self.metadata)
        copy.__cause__ = self.__cause__
        return copy

    def _wrapped(
        self, cost: TokenUsage, metadata: Mapping[str, object], totals: Mapping[str, object]
    ) -> Self:
        """Return an error that stands for this one, of a class that cannot be copied or with odd metadata.

        It is one of ours, a `ProviderError` for an `LLMError` and a `StageError` for the rest, whatever the
        signature says: what was spent counts for more than the class.
        """
        kind = ProviderError if isinstance(self, LLMError) else StageError
        wrapped = kind(described(self), cost=cost)
        with suppress(Exception):
            wrapped.metadata = freeze_mapping(self.metadata)
        for added in (metadata, totals):
            with suppress(Exception):
                wrapped.metadata = freeze_mapping({**wrapped.metadata, **added})
        if isinstance(wrapped, ProviderError):
            with suppress(Exception):
                wrapped.retry_hint = bool(self.retryable)
        wrapped.__cause__ = self
        return cast("Self", wrapped)

    def to_dict(self) -> dict[str, Any]:
        """Return this error as JSON's shapes, for a file, a queue or a log; `from_dict` reads it back.

        The cause stays behind. Values of types that JSON does not know become plain data.
        """
        kinds = [kind.__name__ for kind in type(self).__mro__ if issubclass(kind, ExecutionKitError)]
        return {
            "error": kinds[0],
            "kinds": kinds,
            "message": str(self),
            "cost": plain_usage(self.cost),
            "metadata": to_plain(self.metadata),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "ExecutionKitError":
        """Return the error that `to_dict` wrote: of its class, or the nearest one that is known here.

        Raises:
            ValueError: It is not of that form.
        """
        try:
            kind = _known_kind(data["kinds"])
            error = kind.__new__(kind, data["message"])
            error.args = (str(data["message"]),)
            error.cost = usage_from(data["cost"])
            metadata = cast("dict[str, object]", from_plain(data["metadata"]))
            error.metadata = freeze_mapping(metadata)
            if isinstance(error, LLMError):
                error.requested_delay = _seconds(data.get("retry_after"))
                error.retry_hint = data.get("retryable")
        except (KeyError, TypeError, AttributeError, StopIteration) as broken:
            raise ValueError(f"not the form of an error: {data!s:.80}") from broken
        return error

    def __repr__(self) -> str:
        with suppress(Exception):  # a class of somebody else may have a `__str__` that fails
            return f"{type(self).__name__}({str(self)!r}, cost={self.cost!r})"
        return f"{type(self).__name__}(cost={self.cost!r})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        with suppress(Exception):  # what was put into it may compare in any way
            return bool(self.args == other.args and self.__dict__ == other.__dict__)
        return False

    def __hash__(self) -> int:
        with suppress(Exception):
            return hash((type(self), self.args, self.cost))
        return hash(type(self))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, {**self.__dict__, "metadata": thaw(self.metadata)})


def _known_kind(names: list[str]) -> type[ExecutionKitError]:
    """Return the first of these classes that there is."""
    level: list[type[ExecutionKitError]] = [ExecutionKitError]
    known: dict[str, type[ExecutionKitError]] = {}
    while level:
        for kind in level:
            known.setdefault(kind.__name__, kind)
        level = [below for kind in level for below in kind.__subclasses__()]
    return next(known[name] for name in names if name in known)


def _with_inner(own: Mapping[str, object], outer: Mapping[str, object]) -> dict[str, object]:
    """Add the outer keys; what stood under them, or under an `inner` before, moves below `inner`."""
    hidden = {key: own[key] for key in outer if key in own}
    if all(hidden[key] == outer[key] for key in hidden):
        return {**own, **outer}
    if "inner" in own:
        hidden["inner"] = own["inner"]
    return {**own, **outer, "inner": hidden}


def _rebuild(
    cls: type[ExecutionKitError], args: tuple[object, ...], state: dict[str, object]
) -> ExecutionKitError:
    """Undo `__reduce__`; the cause stays behind, as with every exception that is pickled."""
    error = bare(cls, args)
    error.__dict__.update(state)
    error.metadata = freeze_mapping(error.metadata)
    return error


def _seconds(asked: object) -> float | None:
    """Return how long to wait as a number; None where it is none, such as a date that somebody passed on.

    >>> [_seconds(asked) for asked in (5, "5", "Tue, 01 Dec 2026 12:00:00 GMT", 10**400)]
    [5, 5.0, None, inf]
    """
    if asked is None or type(asked) is float:
        return asked
    try:
        seconds = float(cast("Any", asked))
    except OverflowError:
        return float("inf")
    except Exception:
        return None
    return asked if type(asked) is int else seconds


class LLMError(ExecutionKitError):
    """A model could not be asked, or did not answer.

    `metadata["attempts"]` (int) says how many attempts were made; `"status"` (int) and `"request_id"` (str)
    stand beside it where a server answered.

    Args:
        message: What went wrong and what to do about it.
        cost: Everything spent up to the failure.
        metadata: What was achieved up to the failure, frozen on construction.
        retry_after: Seconds the server asked to wait; None where it did not say.
        retryable: Overrides what the class says about another attempt.
    """

    requested_delay: float | None = None
    retry_hint: bool | None = None

    def __init__(
        self,
        message: str = "",
        *,
        cost: TokenUsage | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, cost=cost, metadata=metadata)
        self.requested_delay = _seconds(retry_after)
        self.retry_hint = retryable

    def to_dict(self) -> dict[str, Any]:
        """Return this error as JSON's shapes, with what it says of another attempt."""
        return {**super().to_dict(), "retry_after": self.requested_delay, "retryable": self.retry_hint}

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before another attempt, where that is known."""
        return self.requested_delay

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if sent again."""
        return self.retryable_by_default if self.retry_hint is None else self.retry_hint


class RateLimitError(LLMError):
    """The server asks for fewer requests (HTTP 429). `retry_after` is 1.0 s where it did not say."""

    retryable_by_default = True

    @property
    def retry_after(self) -> float:
        """Seconds to wait before another attempt."""
        return 1.0 if self.requested_delay is None else self.requested_delay


class PermanentError(LLMError):
    """The same request would fail again: a wrong key, model, address or request."""


class ProviderClosedError(PermanentError):
    """The provider was closed before the call; open it again with `async with`."""


class ProviderError(LLMError):
    """Any other failure of a provider: no connection, a 5xx, a time-out, an unreadable answer."""

    retryable_by_default = True


class PatternError(ExecutionKitError):
    """The calls worked, the pattern did not."""


class BudgetExhaustedError(PatternError):
    """The next call no longer fits the budget; nothing of it was sent.

    Where failed attempts have spent it, the message ends with the last failure, and
    `metadata["last_failure"]` (str) is its class and text. Where the call was to be a retry, that failure is
    `__cause__`. `metadata["is_unpriced"]` is True where the budget is in money and no price is known.
    """


class DeadlineExceededError(PatternError):
    """The run took longer than its `deadline`."""


class ConsensusFailedError(PatternError):
    """The vote has no winner; `metadata["votes"]` (tuple of str) holds the samples."""


class MaxIterationsError(PatternError):
    """A loop ended without an answer; `metadata` holds its counts, `"rounds"` (int) among them."""


class EvaluationError(PatternError):
    """An evaluator or judge raised, or gave no score between 0 and 1.

    What it raised is `__cause__`; `metadata["best_draft"]` (str) of a refinement is the best draft so far.
    """


class InvalidOutputError(PatternError):
    """An answer that could not be decoded into the asked type."""


class InvalidPromptError(PatternError, ValueError):
    """A prompt that is empty or not text."""


class StoppedError(PatternError):
    """An approval hook ended a tool loop; `metadata["transcript"]` holds the conversation up to there."""


class StageError(PatternError):
    """A function of the caller's (a `map`, a step) raised inside a stage; the original is `__cause__`."""


class JournalError(PatternError):
    """A journal that cannot be opened, read or written; nothing is sent that could not be noted."""


class JournalMismatchError(JournalError):
    """The pipeline or its input is not the one that a run began with.

    `metadata["changes"]` (tuple of str) says what is different, where that is known.
    """


class RunBusyError(JournalError):
    """Another process, or another task of this one, has the run; `metadata["owner"]` (str) says who."""


class UnsettledToolError(JournalError):
    """A tool that must not be called twice was under way when a process ended.

    `metadata["tool"]` and `metadata["key"]` (str) name the call. Find out whether it had its effect, then
    call `journal.resolve(run_id, key, observation)`, after `map_dataset`
    `executionkit.datasets.resolve(state, key, observation)`, and run again.
    """


know("error", ExecutionKitError, ExecutionKitError.to_dict, ExecutionKitError.from_dict)
