"""The package root: light to import, every name where it says, the same to checkers and at run time."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from returns.result import Failure, Success

import executionkit

ROOT = Path(executionkit.__file__)
HEAVY = ["httpx", "h11", "httptools", "ssl", "rich", "jsonschema_rs", "xllamacpp", "anyio", "trio", "asyncio"]


def _seen_by_checkers() -> dict[str, str]:
    nodes = [node for node in ast.walk(ast.parse(ROOT.read_text())) if isinstance(node, ast.ImportFrom)]
    pairs = [(alias.name, node.module or "") for node in nodes for alias in node.names]
    return {name: module for name, module in pairs if module.startswith(("executionkit.", "returns."))}


def _loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_public_names_are_sorted_and_listed() -> None:
    names = executionkit.__all__
    assert len(set(names)) == len(names)
    assert set(names) <= set(dir(executionkit))


def test_what_the_checkers_see_is_what_is_there() -> None:
    seen = _seen_by_checkers()
    assert sorted(seen) == sorted(executionkit.__all__)
    for name, module in seen.items():
        assert getattr(executionkit, name) is getattr(import_module(module), name), name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'consensuss'"):
        getattr(executionkit, "consensuss")  # noqa: B009
    with pytest.raises(AttributeError, match="no attribute 'refines'"):
        getattr(import_module("executionkit.compat"), "refines")  # noqa: B009


@pytest.mark.parametrize("name", ["pipe", "refine_loop", "react_loop"])
def test_a_function_of_the_facade_is_an_import_error_that_says_where_it_is(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(f"from executionkit import {name}")
    message = str(caught.value)
    assert "\n" not in message
    assert f"from executionkit.compat import {name}" in message
    exec(f"from executionkit.compat import {name}")


MOVED = {
    "approval": ["Approve", "Deny", "Edit", "Proposal", "Stop"],
    "errors": ["EvaluationError", "InvalidPromptError", "ProviderClosedError", "StageError", "StoppedError"],
    "patterns.refine": ["Draft"],
    "stage": ["Rule"],
    "events": ["Event", "Trace", "with_content"],
    "plan": ["Amount", "Bounds"],
    "provider": ["Cooldown"],
    "runtime.context": ["MeteredProvider"],
    "voting": ["StoppingRule", "beta", "certain", "forecast", "unanimous_window"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in MOVED for name in MOVED[module]])
def test_a_name_that_has_a_module_of_its_topic_is_there_and_not_here(module: str, name: str) -> None:
    assert name not in executionkit.__all__
    with pytest.raises(ImportError, match=f"from executionkit.{module} import {name}"):
        exec(f"from executionkit import {name}")
    exec(f"from executionkit.{module} import {name}")


def test_the_root_has_what_a_first_program_imports_and_little_more() -> None:
    homes = vars(executionkit)["_HOMES"].items()
    patterns = {name for home, names in homes if home.startswith("patterns.") for name in names}
    beside = set(executionkit.__all__) - patterns
    assert len(beside) <= 50, "a name that is not of a pattern goes into the public module of its topic"
    assert {"Failure", "Success", "as_outcome", "as_result"} <= set(executionkit.__all__)
    assert executionkit.Success is Success
    assert executionkit.Failure is Failure


def test_the_version_is_that_of_the_distribution_and_is_read_when_it_is_asked_for() -> None:
    assert executionkit.__version__ == version("executionkit")
    assert "importlib.metadata" not in _loaded_after("import executionkit")


def test_a_star_import_brings_every_name() -> None:
    found: dict[str, object] = {}
    exec("from executionkit import *", found)
    assert set(executionkit.__all__) <= set(found)


def test_the_import_itself_loads_nothing_heavy() -> None:
    assert not _loaded_after("import executionkit") & {*HEAVY, "msgspec", "returns"}


@pytest.mark.parametrize(
    "statement", ["from executionkit import consensus, refine, react, Tool", "import executionkit.compat"]
)
def test_the_patterns_load_no_http_client_and_no_extra(statement: str) -> None:
    light = {"anyio", "asyncio", "ssl"}  # what anyio brings is what the patterns run on
    assert not _loaded_after(statement) & ({*HEAVY} - light)
