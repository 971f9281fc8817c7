"""The tree is what its docstring draws, and every error in it is a value."""

import copy
import pickle
import re
from types import MappingProxyType
from typing import Any, Self, cast

import pytest

import executionkit.errors
from executionkit.core.usage import TokenUsage
from executionkit.errors import (
    ExecutionKitError,
    LLMError,
    PatternError,
    ProviderError,
    RateLimitError,
    StageError,
)
from tests.errors.awkward import AwkwardError


def tree(root: type[ExecutionKitError]) -> list[type[ExecutionKitError]]:
    """List the classes that this module defines, depth first."""
    below = [kind for kind in root.__subclasses__() if kind.__module__ == root.__module__]
    return [root, *(kind for child in below for kind in tree(child))]


CLASSES = tree(ExecutionKitError)
COST = TokenUsage(10, 5, 2)


def drawn() -> dict[str, str]:
    """Read the tree in the docstring: each class and the one above it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (executionkit.errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_docstring_draws_the_tree() -> None:
    assert drawn() == {kind.__name__: cast("Any", kind.__base__).__name__ for kind in CLASSES}


def test_every_class_is_exported() -> None:
    assert {kind.__name__ for kind in CLASSES} <= set(executionkit.errors.__all__)
    assert all(kind.__doc__ for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
class TestEveryClass:
    def test_is_a_value(self, kind: type[ExecutionKitError]) -> None:
        error = kind("no", cost=COST, metadata={"votes": ["a", {"b": 1}]})
        for twin in (
            copy.copy(error),
            copy.deepcopy(error),
            pickle.loads(pickle.dumps(error)),
            kind("no", cost=COST, metadata={"votes": ["a", {"b": 1}]}),
        ):
            assert type(twin) is kind
            assert twin == error
            assert hash(twin) == hash(error)
            assert isinstance(twin.metadata, MappingProxyType)
        assert error != kind("other", cost=COST)
        assert error != kind("no")
        assert {error, copy.copy(error)} == {error}

    def test_freezes_and_copies_its_metadata(self, kind: type[ExecutionKitError]) -> None:
        given: dict[str, Any] = {"votes": ["a"], "nested": {"deep": [1]}}
        error = kind("no", metadata=given)
        given["votes"].append("b")
        given["nested"]["deep"].append(2)
        given["more"] = 1
        assert error.metadata == {"votes": ("a",), "nested": {"deep": (1,)}}
        with pytest.raises(TypeError):
            error.metadata["votes"] = ()  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
        with pytest.raises(TypeError):
            error.metadata["nested"]["deep"] = ()

    def test_defaults(self, kind: type[ExecutionKitError]) -> None:
        error = kind("no")
        assert (str(error), error.message, error.cost) == ("no", "no", TokenUsage())
        assert error.metadata == {}
        assert kind().args == ("",)
        with pytest.raises(kind):
            raise error

    def test_is_stamped_as_a_copy(self, kind: type[ExecutionKitError]) -> None:
        error = kind("no", metadata={"own": 1, "usage_estimated": 1})
        error.__cause__ = KeyError("x")
        stamped = error.stamped(COST, {"own": 2, "more": [3]}, {"usage_estimated": 4})
        assert stamped.metadata == {"own": 2, "more": (3,), "usage_estimated": 4, "inner": {"own": 1}}
        assert (stamped.cost, error.cost) == (COST, TokenUsage())
        assert stamped.__cause__ is error.__cause__
        assert error.metadata == {"own": 1, "usage_estimated": 1}
        assert stamped.__traceback__ is None


def test_classes_differ() -> None:
    assert len({kind("no") for kind in CLASSES}) == len(CLASSES)
    assert ExecutionKitError("no") != PatternError("no")
    assert ExecutionKitError("no") != "no"


def test_what_a_server_asked_for_is_kept() -> None:
    error = RateLimitError("busy", retry_after=7.5, retryable=False, cost=COST)
    for twin in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error), error.stamped(COST)):
        assert (twin.retry_after, twin.retryable) == (7.5, False)
    assert RateLimitError("busy").retry_after == 1.0
    assert LLMError("x").retry_after is None
    assert RateLimitError("busy") != RateLimitError("busy", retry_after=1.0)


def test_who_is_retryable() -> None:
    assert {kind.__name__ for kind in CLASSES if kind("x").retryable} == {"RateLimitError", "ProviderError"}
    assert not ProviderError("x", retryable=False).retryable


def test_a_foreign_cause_keeps_no_error_from_being_pickled_or_copied() -> None:
    error = ProviderError("wrapped")
    error.__cause__ = AwkwardError(1, 2)
    assert pickle.loads(pickle.dumps(error)) == error
    assert copy.deepcopy(error) == error


class WantsMore(ProviderError):
    """A class with a `__new__` of its own."""

    def __new__(cls, host: str, port: int) -> Self:
        return super().__new__(cls, f"{host}:{port}")

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port} is down")
        self.port = port


class Slotted(ProviderError):
    __slots__ = ("port",)

    def __init__(self, port: int) -> None:
        super().__init__("down")
        self.port = port


class ReadOnly(PatternError):
    """Refuses every change."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "cost" and value != TokenUsage():
            raise AttributeError("read-only")
        super().__setattr__(name, value)


class System(PatternError, OSError):
    """Has a layout that is not `Exception`'s."""


@pytest.mark.parametrize("error", [WantsMore("host", 80), Slotted(80)])
def test_a_copy_keeps_the_class_and_its_state(error: Any) -> None:
    stamped = error.stamped(COST, {"a": 1})
    assert (type(stamped), stamped.port, stamped.cost) == (type(error), 80, COST)
    assert (stamped.args, stamped.metadata) == (error.args, {"a": 1})


def test_a_copy_keeps_a_layout_of_its_own() -> None:
    stamped = System("down").stamped(COST)
    assert (type(stamped), stamped.cost, str(stamped)) == (System, COST, "down")


def test_an_error_with_a_new_of_its_own_pickles() -> None:
    error = pickle.loads(pickle.dumps(WantsMore("host", 80)))
    assert (type(error), error.port) == (WantsMore, 80)


def odd(metadata: object, kind: type[ExecutionKitError] = StageError) -> ExecutionKitError:
    error = kind("no")
    error.metadata = metadata  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    return error


def endless() -> dict[str, object]:
    metadata: dict[str, object] = {}
    metadata["self"] = metadata
    return metadata


class Incomparable:
    """Raises when it is compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    def __hash__(self) -> int:
        raise TypeError("unhashable")


@pytest.mark.parametrize(
    "error",
    [
        ReadOnly("no"),
        odd(5),
        odd(None),
        odd(endless()),
        odd(MappingProxyType({"a": Incomparable()})),
    ],
)
def test_an_error_that_does_not_copy_keeps_the_cost(error: ExecutionKitError) -> None:
    stamped = error.stamped(COST, {"a": 1}, {"usage_estimated": 2})
    assert isinstance(stamped, StageError)
    assert stamped.__cause__ is error
    assert (stamped.cost, stamped.metadata["a"], stamped.metadata["usage_estimated"]) == (COST, 1, 2)
    assert type(stamped.metadata) is MappingProxyType
    assert "no" in str(stamped)


@pytest.mark.parametrize("retryable", [True, False])
def test_a_provider_error_that_does_not_copy_is_as_worth_a_retry_as_before(retryable: bool) -> None:
    error = ProviderError("busy", retryable=retryable)
    error.metadata = 5  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    stamped: Any = error.stamped(COST)
    assert (type(stamped), stamped.retryable, stamped.cost) == (ProviderError, retryable, COST)


def test_what_was_put_into_an_error_may_be_incomparable_and_unhashable() -> None:
    error, twin = (StageError(Incomparable()) for _ in range(2))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert error != twin
    assert hash(error) == hash(twin)
    assert hash(StageError([1])) == hash(StageError([1]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
