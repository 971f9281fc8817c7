"""A key that does not show."""

import hmac
import os
from collections.abc import Callable
from typing import Self

__all__ = ["Secret"]


class Secret:
    """A key whose value is in no repr, no log, no traceback and no pickle.

    Equal and hashable by value. A secret made from a literal refuses to be pickled; one made with
    `Secret.from_env` pickles as the name of its variable.

    Args:
        value: The key: printable ASCII without spaces at its ends, or empty for none.

    Raises:
        TypeError: It is not a `str`.
        ValueError: It could not be sent in a header. The message does not quote it.

    >>> Secret("sk-123")
    ***
    >>> Secret("sk-123") == Secret("sk-123")
    True
    """

    __slots__ = ("__weakref__", "_read", "_variable")

    def __init__(self, value: str) -> None:
        problem = _problem_of(value)
        self._read: Callable[[], str] = _Literal(value)
        self._variable: str | None = None
        del value  # A traceback that shows local variables must not show this one.
        if problem is not None:
            self._read = _Literal("")
            raise problem

    @classmethod
    def from_env(cls, variable: str) -> Self:
        """Return the secret that the environment variable holds, read anew at each use.

        >>> Secret.from_env("OPENAI_API_KEY")
        Secret.from_env('OPENAI_API_KEY')
        """
        secret = cls("")
        secret._variable = variable
        secret._read = _Variable(variable)
        return secret

    def reveal(self) -> str:
        """Return the value itself.

        Raises:
            LookupError: The environment variable is not set.
            ValueError: The variable holds something that could not be sent in a header.
        """
        return self._read()

    def __bool__(self) -> bool:
        return self._variable is not None or bool(self._read())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        if self._variable is not None or other._variable is not None:
            return self._variable == other._variable
        return hmac.compare_digest(self._read(), other._read())

    def __hash__(self) -> int:
        return hash((Secret, self._variable if self._variable is not None else self._read()))

    def __repr__(self) -> str:
        return "***" if self._variable is None else f"Secret.from_env({self._variable!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        if self._variable is not None:
            return Secret.from_env, (self._variable,)
        if not self._read():
            return Secret, ("",)
        raise TypeError("a key given as a literal is not pickled; use Secret.from_env('NAME') instead")


class _Literal:
    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self) -> str:
        return self._value


class _Variable:
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self) -> str:
        if self._name not in os.environ:
            raise LookupError(f"the environment variable {self._name} is not set; it should hold the key")
        problem = _problem_of(os.environ[self._name])
        if problem is not None:
            raise ValueError(f"the environment variable {self._name}: {problem}")
        return os.environ[self._name]


def _problem_of(value: object) -> Exception | None:
    if not isinstance(value, str):
        return TypeError(f"a key must be a str or a Secret, not {type(value).__name__}")
    if not (value.isascii() and value.isprintable()):
        return ValueError("a key must be printable ASCII; look for a line break or a pasted character in it")
    if value != value.strip():
        return ValueError("a key must not begin or end with a space")
    return None
