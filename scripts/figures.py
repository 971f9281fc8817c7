"""Print the figures of the house: modules, lines, names, short functions, casts.

`python scripts/figures.py [FOLDER]` counts the checkout in FOLDER, so that two commits can be compared.
"""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function) -> int:
    """Count the lines of a body, its docstring aside."""
    body = function.body
    has_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    rest = body[1:] if has_docstring else body
    return sum((statement.end_lineno or statement.lineno) - statement.lineno + 1 for statement in rest)


def functions_in(trees: list[ast.Module]) -> Iterator[Function]:
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def public_names(root: Path) -> int:
    tree = ast.parse((root / "executionkit" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return len(ast.literal_eval(node.value))
    return 0


def figures(root: Path) -> dict[str, float]:
    modules = sorted((root / "executionkit").rglob("*.py"))
    texts = [module.read_text(encoding="utf-8") for module in modules]
    trees = list(map(ast.parse, texts))
    lines = [len(text.splitlines()) for text in texts]
    tests = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py")]
    functions = list(functions_in(trees))
    words = Counter(re.findall(r"\w+", "\n".join(texts)))
    short = [
        function
        for function in functions
        if function.name.startswith("_")
        and not function.name.startswith("__")
        and words[function.name] == 2
        and body_lines(function) <= 3
    ]
    code = sum(lines)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "modules": len(modules),
        "lines of code": code,
        "lines of tests": sum(len(text.splitlines()) for text in tests),
        "public names at the root": public_names(root),
        "functions": len(functions),
        "functions used once, at most three lines long": len(short),
        "casts": len(re.findall(r"\bcast\(", "\n".join(texts))),
        "Any a thousand lines": round(1000 * words["Any"] / code, 1),
        "base dependencies": len(project["dependencies"]),
        "median lines of a module": median(lines),
        "median lines of a function's body": median(map(body_lines, functions)),
        "modules above 400 lines": sum(count > 400 for count in lines),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    for name, figure in figures(folder).items():
        print(f"{name:<48}{figure:>10g}")
