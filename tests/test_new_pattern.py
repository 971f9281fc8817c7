"""The walk-through in docs/new-pattern.md works: its files are written into a copy of the package and run."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import executionkit
from tests.conftest import BARE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "new-pattern.md"
_FILE = re.compile(r"^<!-- file: (?P<name>\S+) -->\n```python\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {found["name"]: found["text"] for found in _FILE.finditer(PAGE.read_text(encoding="utf-8"))}
EXPORTS = "executionkit/__init__.py"
ANCHOR = "    from executionkit.patterns.complete import complete\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the walk-through done in it."""
    root = tmp_path_factory.mktemp("walk-through")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(executionkit.__file__).parent, root / "executionkit", ignore=ignored)
    (root / "tests" / "patterns").mkdir(parents=True)
    for name in ("pyproject.toml", "mypy.ini", "tests/conftest.py", "tests/conventions.py", "tests/leaks.py"):
        shutil.copy(ROOT / name, root / name)
    for name, text in FILES.items():
        if name != EXPORTS:
            (root / name).write_text(text, encoding="utf-8")
    export(root / EXPORTS)
    return root


def export(path: Path) -> None:
    """Do what step 3 says: the import, the name in `__all__`, and its home."""
    source = path.read_text(encoding="utf-8")
    for anchor, line in (
        (ANCHOR, f"    {FILES[EXPORTS]}"),
        ('    "complete",\n', '    "best_of",\n'),
        ('    "patterns.complete": ("complete",),\n', '    "patterns.best_of": ("best_of",),\n'),
    ):
        assert source.count(anchor) == 1, anchor
        source = source.replace(anchor, line + anchor)
    path.write_text(source, encoding="utf-8")


def run(root: Path, *command: str) -> None:
    """Run `python -m command` in the copy."""
    python(root, "-m", *command)


def python(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def tool(module: str) -> pytest.MarkDecorator:
    """Mark a test that a checker of the `dev` extra is needed for."""
    return pytest.mark.skipif(BARE and find_spec(module) is None, reason=f"{module} is not installed")


def test_the_page_has_one_file_its_test_and_one_export() -> None:
    assert set(FILES) == {"executionkit/patterns/best_of.py", "tests/patterns/test_best_of.py", EXPORTS}
    assert len(FILES[EXPORTS].splitlines()) == 1


@pytest.mark.timeout(300)
def test_its_test_passes(copy: Path) -> None:
    run(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/patterns/test_best_of.py")


@tool("ruff")
def test_ruff_accepts_it(copy: Path) -> None:
    run(copy, "ruff", "check", "--no-cache", *FILES)
    run(copy, "ruff", "format", "--no-cache", "--check", *FILES)


@tool("importlinter")
def test_it_imports_one_way(copy: Path) -> None:
    python(copy, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache")


@tool("mypy")
@pytest.mark.timeout(300)
def test_mypy_accepts_it(copy: Path) -> None:
    run(copy, "mypy", *FILES)


@tool("pyright")
@pytest.mark.timeout(300)
def test_pyright_accepts_it(copy: Path) -> None:
    run(copy, "pyright", "--pythonpath", sys.executable, *FILES)
