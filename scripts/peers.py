"""Compare what this package and four others bring, by looking: install each by itself, and look its names up.

    python scripts/peers.py [--keep FOLDER]

Prints the table of README.md. A cell is a public name that was found; `-` means that no public class and no
public function of the package has a name like it. `--keep` leaves the environments and uses what is there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
PEERS: Final = {
    "ExecutionKit": ([str(ROOT)], "from executionkit import consensus"),
    "pydantic-ai": (["pydantic-ai-slim[openai]"], "from pydantic_ai import Agent"),
    "LangChain": (["langchain", "langchain-openai"], "from langchain.agents import create_agent"),
    "DSPy": (["dspy"], "from dspy import majority"),
    "instructor": (["instructor"], "from instructor import from_provider"),
}
"""What is installed, and how a program begins."""

ROWS: Final = {
    "a vote": (
        r"vot(e|ing)|majority|consensus|self_?consistency",
        {"ExecutionKit": "executionkit:consensus", "DSPy": "dspy:majority"},
    ),
    "draft, score, improve": (
        r"^refine|self_?refine",
        {"ExecutionKit": "executionkit:refine", "DSPy": "dspy:Refine"},
    ),
    "a tool loop": (
        r"^react|^agent$|create_agent",
        {
            "ExecutionKit": "executionkit:react",
            "pydantic-ai": "pydantic_ai:Agent",
            "LangChain": "langchain.agents:create_agent",
            "DSPy": "dspy:ReAct",
        },
    ),
    "a typed answer": (
        r"structured|response_model",
        {
            "ExecutionKit": "executionkit:structured",
            "pydantic-ai": "pydantic_ai:Agent(output_type)",
            "LangChain": "langchain.agents:create_agent(response_format)",
            "DSPy": "dspy:Signature",
            "instructor": "instructor:Instructor.create(response_model)",
        },
    ),
    "a limit on calls": (
        r"usage_?limit|call_?limit|max_?calls",
        {
            "ExecutionKit": "executionkit:TokenUsage(llm_calls)",
            "pydantic-ai": "pydantic_ai:UsageLimits(request_limit)",
            "LangChain": "langchain.agents.middleware:ModelCallLimitMiddleware",
        },
    ),
    "a limit on tokens": (
        r"usage_?limit|token_?limit|budget",
        {
            "ExecutionKit": "executionkit:TokenUsage(output_tokens)",
            "pydantic-ai": "pydantic_ai:UsageLimits(total_tokens_limit)",
            "instructor": "instructor:Instructor.create(token_budget)",
        },
    ),
    "a limit in dollars": (
        r"cost_?limit|max_?cost|spend",
        {
            "ExecutionKit": "executionkit:TokenUsage(usd)",
            "pydantic-ai": "pydantic_ai:UsageLimits(cost_limit)",
        },
    ),
    "what a failed run cost": (
        r"usage|cost",
        {
            "ExecutionKit": "executionkit:ExecutionKitError(cost)",
            "pydantic-ai": "pydantic_ai:Agent.run(usage)",
            "LangChain": "langchain_core.callbacks:get_usage_metadata_callback",
            "DSPy": "dspy:track_usage",
            "instructor": "instructor.core:InstructorRetryException(total_usage)",
        },
    ),
    "prompts found by an optimiser": (r"^(mipro|gepa)|teleprompt|optimi[sz]er", {"DSPy": "dspy:MIPROv2"}),
    "graphs with cycles": (
        r"^(state)?graph$",
        {"pydantic-ai": "pydantic_graph:Graph", "LangChain": "langgraph.graph:StateGraph"},
    ),
}
"""A pattern that names are looked for by, and where the name is that does it."""

INSIDE: Final = """
import ast, importlib, importlib.metadata, inspect, json, os, pathlib, re, subprocess, sys

begins, rows = json.loads(sys.stdin.read())
package = begins.split()[1].partition(".")[0]
root = importlib.import_module(package)
folder = pathlib.Path(root.__file__).parent
names = set()
for file in folder.rglob("*.py"):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names |= {node.name} if not node.name.startswith("_") else set()


def cell(pattern, where):
    if where:
        module, _, rest = where.partition(":")
        path, _, argument = rest.rstrip(")").partition("(")
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        if argument and argument not in inspect.signature(found).parameters:
            raise LookupError(where)
        return rest
    found = sorted(name for name in names if re.search(pattern, name, re.IGNORECASE))
    return "-" if not found else "? " + " ".join(found[:5])


def seconds(program):
    begun = os.times()
    subprocess.run([sys.executable, "-c", program], check=True)
    ended = os.times()
    return ended.children_user + ended.children_system - begun.children_user - begun.children_system


cold = min(seconds(begins) for _ in range(5)) - min(seconds("pass") for _ in range(5))
installed = {each.name for each in importlib.metadata.distributions()} - {"pip", "setuptools"}
print(json.dumps({
    "cells": [cell(pattern, where) for pattern, where in rows],
    "packages": len(installed),
    "import": cold,
    "version": importlib.metadata.version(importlib.metadata.packages_distributions()[package][0]),
}))
"""


def look(name: str, folder: Path) -> dict[str, Any]:
    """Install one package into an environment of its own, unless it is there, and look its names up."""
    wanted, begins = PEERS[name]
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    rows = [(pattern, places.get(name)) for pattern, places in ROWS.values()]
    command: list[str | Path] = [python, "-W", "ignore", "-c", INSIDE]
    done = subprocess.run(
        command, input=json.dumps([begins, rows]), capture_output=True, text=True, check=False, cwd=folder
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", type=Path, help="where the environments are, and stay")
    folder = parser.parse_args().keep or Path(tempfile.mkdtemp())
    found = {name: look(name, folder.resolve()) for name in PEERS}
    lines = [["", *[f"{name} {each['version']}" for name, each in found.items()]], ["---"] * (len(PEERS) + 1)]
    for number, row in enumerate(ROWS):
        lines.append([row, *[shown(each["cells"][number]) for each in found.values()]])
    lines.append(["packages installed", *[str(each["packages"]) for each in found.values()]])
    ours = found["ExecutionKit"]["import"]
    lines.append(
        ["CPU time to import it, ours as 1", *[f"{each['import'] / ours:.0f}" for each in found.values()]]
    )
    print(*[f"| {' | '.join(line)} |" for line in lines], sep="\n")


def shown(cell: str) -> str:
    return cell if cell == "-" else f"`{cell}`"


if __name__ == "__main__":
    main()
