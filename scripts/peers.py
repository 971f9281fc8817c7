"""Compare what this package and four others bring, by looking: install each by itself, and look its names up.

    python scripts/peers.py [--keep FOLDER]

Prints the table of README.md. A cell is a public name that was found; `-` means that no class and no function
anywhere in the package has a name like it. `--keep` leaves the environments there and uses what is there.
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
    "ExecutionKit": ([str(ROOT)], "executionkit"),
    "pydantic-ai": (["pydantic-ai-slim[openai]"], "pydantic_ai"),
    "LangChain": (["langchain", "langchain-openai"], "langchain"),
    "DSPy": (["dspy"], "dspy"),
    "instructor": (["instructor"], "instructor"),
}
"""What is installed, and what is imported."""

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
        r"usage_?limit|call_?limit|budget",
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
        },
    ),
    "a limit in dollars": (r"cost_?limit|max_?cost|budget", {"ExecutionKit": "executionkit:TokenUsage(usd)"}),
    "what a failure cost": (
        r"!usage|cost",
        {
            "ExecutionKit": "executionkit:ExecutionKitError(cost)",
            "instructor": "instructor.core:InstructorRetryException(total_usage)",
        },
    ),
    "prompts found by an optimiser": (r"mipro|gepa|teleprompt|optimi[sz]er", {"DSPy": "dspy:MIPROv2"}),
    "graphs with cycles": (
        r"^(state)?graph$",
        {"pydantic-ai": "pydantic_graph:Graph", "LangChain": "langgraph.graph:StateGraph"},
    ),
}
"""A pattern of names, and where a name is; a pattern after `!` is of the arguments of exceptions."""

INSIDE: Final = """
import ast, importlib, importlib.metadata, inspect, json, pathlib, re, subprocess, sys, time

package, rows = json.loads(sys.stdin.read())
root = importlib.import_module(package)
folder = pathlib.Path(root.__file__).parent
names, arguments = set(), set()
for file in folder.rglob("*.py"):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        bases = " ".join(map(ast.unparse, getattr(node, "bases", ())))
        if re.search("rror|xception", bases):
            made = [inner for inner in node.body if getattr(inner, "name", "") == "__init__"]
            arguments |= {each.arg for inner in made for each in inner.args.args + inner.args.kwonlyargs}


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
    among = arguments if pattern.startswith("!") else names
    found = sorted(name for name in among if re.search(pattern.lstrip("!"), name, re.IGNORECASE))
    return "-" if not found else "? " + " ".join(found[:5])


def seconds(program):
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - begun


cold = min(seconds(f"import {package}") for _ in range(5)) - min(seconds("pass") for _ in range(5))
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
    wanted, package = PEERS[name]
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    rows = [(pattern, places.get(name)) for pattern, places in ROWS.values()]
    command = [python, "-W", "ignore", "-c", INSIDE]
    done = subprocess.run(
        command, input=json.dumps([package, rows]), capture_output=True, text=True, check=False, cwd=folder
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
    lines.append(["`import`, seconds", *[f"{each['import']:.1f}" for each in found.values()]])
    print(*[f"| {' | '.join(line)} |" for line in lines], sep="\n")


def shown(cell: str) -> str:
    return cell if cell == "-" else f"`{cell}`"


if __name__ == "__main__":
    main()
