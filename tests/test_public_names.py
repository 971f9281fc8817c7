"""Exported names: each exists, is sorted, is documented; no module exports what it does not define or mean to."""

import importlib
import inspect
import pkgutil

import pytest

import executionkit
from executionkit import compat

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(executionkit.__path__, "executionkit.")
    if not module.ispkg
)

TWINS = {"consensus_sync", "refine_loop_sync", "react_loop_sync", "pipe_sync"}
FACADE = {"consensus", "refine_loop", "react_loop", "pipe"} | TWINS


@pytest.mark.parametrize("name", ["executionkit", *MODULES])
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


@pytest.mark.parametrize("name", ["executionkit", *MODULES])
def test_what_is_exported_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    exported = [getattr(module, item) for item in module.__all__]
    own = [item for item in exported if inspect.isclass(item) or inspect.isfunction(item)]
    assert [item.__qualname__ for item in own if not inspect.getdoc(item)] == []


def test_the_contract_is_importable_from_the_facade() -> None:
    values = {"PatternResult", "TokenUsage", "RetryConfig", "DEFAULT_RETRY", "VotingStrategy", "Tool", "CostTracker"}
    shapes = {"LLMProvider", "ToolCallingProvider", "LLMResponse", "ToolCall", "Provider"}
    errors = {
        "ExecutionKitError", "LLMError", "RateLimitError", "PermanentError", "ProviderError", "PatternError",
        "BudgetExhaustedError", "ConsensusFailedError", "MaxIterationsError",
    }  # fmt: skip
    assert (FACADE | values | shapes | errors) - set(dir(compat)) == set()
    assert (TWINS | values | shapes | errors) - set(executionkit.__all__) == set()


def test_in_the_root_consensus_is_the_native_stage() -> None:
    assert executionkit.consensus is not compat.consensus
    assert isinstance(executionkit.consensus(n=3), executionkit.Stage)
