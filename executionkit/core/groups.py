"""What is in a group of exceptions, however deep it lies, and what led to one.

Nothing is asked of the exceptions themselves: they are foreign, and may raise where they are looked at.
"""

from collections.abc import Iterator
from typing import Any, Final, TypeVar

__all__ = ["is_a", "leaves", "reason", "reasons"]

E = TypeVar("E", bound=BaseException)

_parts: Final[Any] = vars(BaseExceptionGroup)["exceptions"].__get__
_cause: Final[Any] = vars(BaseException)["__cause__"].__get__
_context: Final[Any] = vars(BaseException)["__context__"].__get__


def is_a(raised: object, kind: type | tuple[type, ...]) -> bool:
    """Tell whether an exception is of a class; `isinstance` would ask the exception as well.

    >>> is_a(KeyError("x"), LookupError)
    True
    """
    return issubclass(type(raised), kind)


def leaves(raised: E) -> Iterator[E]:
    """Return the exceptions in a group, in order; an exception that is none alone.

    >>> [*leaves(ExceptionGroup("a", [ValueError(1), ExceptionGroup("b", [KeyError(2)]), OSError(3)]))]
    [ValueError(1), KeyError(2), OSError(3)]
    """
    waiting = [raised]  # no recursion: they may be nested in any depth
    while waiting:
        inner = waiting.pop()
        if is_a(inner, BaseExceptionGroup):
            waiting += reversed(_parts(inner))
        else:
            yield inner


def reason(raised: BaseException) -> BaseException | None:
    """Return what an exception was raised from, or else while what was handled."""
    cause: BaseException | None = _cause(raised)
    context: BaseException | None = _context(raised)
    return context if cause is None else cause


def reasons(raised: BaseException | None) -> Iterator[BaseException]:
    """Return an exception, and all that led to it.

    >>> failure = ValueError("first")
    >>> failure.__cause__, failure.__cause__.__context__ = KeyError("second"), failure
    >>> [*reasons(failure)]
    [ValueError('first'), KeyError('second')]
    """
    seen: set[int] = set()
    while raised is not None and id(raised) not in seen:
        yield raised
        seen.add(id(raised))
        raised = reason(raised)
