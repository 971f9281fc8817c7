"""Have mypy and pyright, strict, read the Python blocks of README.md and docs/: `python scripts/pages.py`.

A page becomes a module of one function, so that its blocks share their names and may `await`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import Final

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.test_docs import PAGES, Block, blocks  # noqa: E402 - the root has to be on the path first

_HEAD: Final = "async def page() -> None:\n"
_STRICT: Final = ("--strict", "--allow-redefinition", "--config-file=")
_SHOWN: Final = (
    *("reportUnusedClass", "reportUnusedFunction", "reportUnusedImport", "reportUnusedVariable"),
    *("reportPrivateUsage", "reportRedeclaration", "reportUnusedExpression"),
    "reportUnknownVariableType",  # what is imported from a library without types
)
"""Rules of pyright that a page breaks because it shows things: unused names, a name that is used again."""


def main() -> None:
    """Write each page as a module, and have the checkers read them all."""
    with TemporaryDirectory() as folder:
        for page in PAGES:
            text = "".join(_lines_of(page))
            module = Path(folder) / f"{page.stem.replace('-', '_')}_page.py"
            module.write_text(f"{_HEAD}{indent(text, '    ')}    return None\n", encoding="utf-8")
        rules = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], **dict.fromkeys(_SHOWN, "none")}
        (Path(folder) / "pyrightconfig.json").write_text(json.dumps(rules), encoding="utf-8")
        codes = [
            subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
            for command in (
                ("mypy", *_STRICT, folder),
                ("pyright", "--pythonpath", sys.executable, "--project", folder),
            )
        ]
    sys.exit(max(codes))


def _lines_of(page: Path) -> Iterator[str]:
    for block in filter(_is_read, blocks(page)):
        yield f"# line {block.line} of {page.name}\n"
        lines = block.text.splitlines()
        if any(line.startswith(">>> ") for line in lines):
            lines = [line[4:] for line in lines if line.startswith((">>> ", "... "))]
        yield from [f"{line}\n" for line in lines]


def _is_read(block: Block) -> bool:
    """Leave out the files of the walk-through, which a test checks, and what is of other libraries."""
    return block.language == "python" and block.mark != "file" and "to be replaced" not in block.note


if __name__ == "__main__":
    main()
