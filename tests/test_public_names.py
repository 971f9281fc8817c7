"""Exported names: each exists, is documented, and stands in its place."""

import importlib
import inspect
import pkgutil

import pytest

import executionkit
from executionkit import compat
from tests.conftest import needs

TWINS = {"consensus_sync", "refine_loop_sync", "react_loop_sync", "pipe_sync", "structured_sync"}
FACADE = {"consensus", "refine_loop", "react_loop", "pipe", "structured"} | TWINS


NEEDS = {
    "executionkit.mcp": [needs("mcp")],
    "executionkit.providers.http.aiohttp_transport": [needs("aiohttp")],
    "executionkit.providers.http.trio_sockets": [needs("trio")],
}


def needed(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a module that an extra is needed for: it, or the package that it is in."""
    return NEEDS.get(name) or NEEDS.get(name.rpartition(".")[0], [])


def publishes(module: pkgutil.ModuleInfo) -> bool:
    """Tell whether a module has names to offer; of a package that needs an extra it is known."""
    is_known = not module.ispkg or module.name in NEEDS
    return is_known or hasattr(importlib.import_module(module.name), "__all__")


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(executionkit.__path__, "executionkit.")
    if publishes(module)
)
ALL = [pytest.param(name, marks=needed(name)) for name in ("executionkit", *MODULES)]


@pytest.mark.parametrize("name", ALL)
def test_exports_are_there_and_sorted(name: str) -> None:
    module = importlib.import_module(name)
    exported = list(module.__all__)
    assert len(set(exported)) == len(exported)
    assert exported == sorted(exported, key=_order)
    assert [item for item in exported if not hasattr(module, item)] == []


def _order(name: str) -> tuple[int, str]:
    """Sort as ruff does: constants, then classes, then the rest."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("name", ALL)
def test_what_is_exported_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    exported = [getattr(module, item) for item in module.__all__]
    own = [item for item in exported if inspect.isclass(item) or inspect.isfunction(item)]
    assert [item.__qualname__ for item in own if not inspect.getdoc(item)] == []


VALUES = {
    *("PatternResult", "TokenUsage", "RetryConfig", "DEFAULT_RETRY", "VotingStrategy", "Tool", "CostTracker"),
    *("LLMProvider", "ToolCallingProvider", "LLMResponse", "ToolCall", "Provider"),
    *("ExecutionKitError", "LLMError", "RateLimitError", "PermanentError", "ProviderError", "PatternError"),
    *("BudgetExhaustedError", "ConsensusFailedError", "MaxIterationsError"),
}


@pytest.mark.parametrize("name", sorted(FACADE | VALUES))
def test_the_contract_is_importable_from_the_facade(name: str) -> None:
    assert getattr(compat, name)


@pytest.mark.parametrize("name", sorted(TWINS | VALUES))
def test_twins_values_and_errors_are_in_the_root_too(name: str) -> None:
    assert name in executionkit.__all__
    assert getattr(executionkit, name)


def test_in_the_root_consensus_is_the_native_stage() -> None:
    assert executionkit.consensus.__module__ == "executionkit.patterns.consensus.vote"
    assert isinstance(executionkit.consensus(n=3), executionkit.Stage)
