"""The files under `tests/typing` are read by the checkers, never run; here they are only counted.

`just check` holds each line to its word: an inference that changed fails `assert_type`, a wrong program that
became right leaves ignores that are not needed, and mypy and pyright are told to complain of those. pyrefly reads
the right programs as they are, and the wrong ones without their ignores (`scripts/refused.py`).
"""

import ast
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted((HERE / "typing").glob("*.py"))
REJECTED = HERE / "typing" / "rejected.py"
BOTH = re.compile(r"  # type: ignore\[[a-z-]+(, [a-z-]+)*\]  # pyright: ignore\[report\w+(, report\w+)*\]$")


def _assertions(file: Path) -> int:
    calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return sum(isinstance(call.func, ast.Name) and call.func.id == "assert_type" for call in calls)


def _ignoring(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if re.search(r"# (type|pyright): ignore", line)]


def test_at_least_forty_inferences_are_pinned() -> None:
    assert sum(map(_assertions, FILES)) >= 40


def test_at_least_twenty_five_wrong_programs_are_refused_by_both_checkers() -> None:
    assert sum(BOTH.search(line) is not None for line in _ignoring(REJECTED)) >= 25


def test_a_wrong_program_names_why_each_checker_refuses_it() -> None:
    others = [line.strip() for line in _ignoring(REJECTED) if not BOTH.search(line)]
    # mypy says this of the function, pyright of the match as well.
    assert others == ["match outcome:  # pyright: ignore[reportMatchNotExhaustive]"]


@pytest.mark.parametrize("file", [file for file in FILES if file != REJECTED], ids=lambda file: file.stem)
def test_what_is_right_needs_no_ignore(file: Path) -> None:
    assert not _ignoring(file)


def test_an_ignore_that_is_not_needed_is_an_error() -> None:
    mypy = ConfigParser()
    mypy.read(HERE.parent / "mypy.ini")
    assert mypy.getboolean("mypy", "strict")  # strict warns of unused ignores
    assert "ignore-without-code" in mypy["mypy"]["enable_error_code"]
    pyright = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["pyright"]
    assert pyright["typeCheckingMode"] == "strict"
    assert pyright["reportUnnecessaryTypeIgnoreComment"] is True
    assert pyright["enableTypeIgnoreComments"] is False  # else mypy's ignore would silence pyright too
    assert {"tests"} <= set(pyright["include"])
    assert "tests" in mypy["mypy"]["files"]


def test_pyrefly_reads_the_package_the_examples_and_both_kinds_of_programs() -> None:
    pyrefly = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["pyrefly"]
    assert {"executionkit", "examples", "tests/typing"} <= set(pyrefly["project-includes"])
    check = (HERE.parent / "justfile").read_text().partition("\ncheck: ")[2].partition("\n\n")[0].splitlines()
    assert {"    pyrefly check", "    python scripts/refused.py"} <= set(check)
