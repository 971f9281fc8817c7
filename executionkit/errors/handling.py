"""What is done about failures: to make foreign ones ours, and to find ours within foreign ones."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import cast

from executionkit.core.foreign import described
from executionkit.core.frozen import EMPTY
from executionkit.core.groups import leaves
from executionkit.errors import BudgetExhaustedError, ExecutionKitError, LLMError, PatternError

__all__ = ["unwrapped", "with_last_failure", "wrapping"]


def with_last_failure(
    error: BudgetExhaustedError, failures: Iterable[BaseException | None]
) -> BudgetExhaustedError:
    """Return a spent budget's error that tells of the first of these failures that came from a model.

    Failed attempts spend a budget, too. Somebody who is told of the budget alone would raise it in vain.
    """
    if "last_failure" in error.metadata:
        return error
    for failure in failures:
        last: object = None
        if isinstance(failure, LLMError):
            last = described(failure)
        elif isinstance(failure, ExecutionKitError):
            last = failure.metadata.get("last_failure")
        if isinstance(last, str):
            telling = error.stamped(error.cost, {"last_failure": last})
            telling.args = (f"{error}; the last attempt failed: {last}",)
            return telling
    return error


@contextmanager
def wrapping(kind: type[PatternError], what: str) -> Generator[None, None, None]:
    """Turn a foreign exception into `kind`, with the original as its cause; ours pass through."""
    try:
        yield
    except ExecutionKitError:
        raise
    except Exception as raised:
        error = unwrapped(raised)
        if isinstance(error, ExecutionKitError):
            raise error from error.__cause__
        raise kind(f"{what} raised {described(error)}") from error


def unwrapped(error: Exception) -> Exception:
    """Return the failure that an `unwrap()` met, a copy to raise, where that is what an exception is about.

    `outcome.unwrap()` raises an error of its own that says nothing of what failed, and a group of tasks one
    that says that there was one. Of several in a group the first that is ours counts; `other_failures` in its
    metadata names the rest.

    >>> from returns.result import Failure
    >>> from executionkit import PermanentError
    >>> try:
    ...     Failure(PermanentError("the server answered 401")).unwrap()
    ... except Exception as raised:
    ...     unwrapped(raised)
    PermanentError('the server answered 401', cost=TokenUsage(...))
    """
    if not _is_honest(error):
        return RuntimeError(f"{type(error).__name__} was raised, which does not say what it is")
    halted: object = None
    with suppress(Exception):
        halted = getattr(error, "halted_container", None)
    if isinstance(error, ExceptionGroup):
        return _first_of(cast("ExceptionGroup[Exception]", error))
    if halted is None:
        return error
    from returns.primitives.exceptions import UnwrapFailedError
    from returns.result import Failure

    if not (isinstance(error, UnwrapFailedError) and isinstance(halted, Failure)):
        return error
    failure = cast("object", halted.failure())
    if isinstance(failure, ExecutionKitError):
        return failure.stamped(failure.cost)
    return unwrapped(failure) if isinstance(failure, Exception) else error


def _is_honest(error: Exception) -> bool:
    """Tell whether an exception is of the class that it says, as every `isinstance` asks it."""
    try:
        return error.__class__ is type(error)
    except Exception:
        return False


def _first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first failure of ours in a group; the group itself where there is none."""
    found = [unwrapped(leaf) for leaf in leaves(cast("Exception", group))]
    first = next((error for error in found if isinstance(error, ExecutionKitError)), None)
    if first is None:
        return group
    others = [described(error) for error in found if error is not first]
    known: tuple[str, ...] = first.metadata.get("other_failures", ())
    noted = (*known, *others)
    return first.stamped(first.cost, totals={"other_failures": noted} if noted else EMPTY)
