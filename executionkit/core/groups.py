"""What is in a group of exceptions, however deep it lies."""

from collections.abc import Iterator
from typing import Any, TypeVar, cast

__all__ = ["leaves"]

E = TypeVar("E", bound=BaseException)


def leaves(raised: E) -> Iterator[E]:
    """Return the exceptions in a group, in order; an exception that is none alone.

    >>> [*leaves(ExceptionGroup("a", [ValueError(1), ExceptionGroup("b", [KeyError(2)]), OSError(3)]))]
    [ValueError(1), KeyError(2), OSError(3)]
    """
    waiting = [raised]  # no recursion: they may be nested in any depth
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, BaseExceptionGroup):
            waiting += reversed(cast("tuple[E, ...]", cast("Any", inner).exceptions))
        else:
            yield inner
