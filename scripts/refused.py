"""Have pyrefly read tests/typing/rejected.py without its ignores, and print each line that it lets pass.

mypy and pyright say themselves where an ignore is not needed; pyrefly is asked here.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
REJECTED = ROOT / "tests" / "typing" / "rejected.py"
_IGNORES = re.compile(r"  # (?:type|pyright): ignore.*$", re.MULTILINE)


def main() -> int:
    source = REJECTED.read_text(encoding="utf-8")
    wrong = {number for number, line in enumerate(source.splitlines(), 1) if "  # type: ignore[" in line}
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "rejected.py"
        bare.write_text(_IGNORES.sub("", source), encoding="utf-8")
        command = ["pyrefly", "check", "--config", str(ROOT / "pyproject.toml"), "--output-format", "json"]
        found = subprocess.run([*command, str(bare)], capture_output=True, text=True, check=False)
    refused = {
        error["line"]
        for error in json.loads(found.stdout)["errors"]
        if error["severity"] in {"error", "warn"}
    }
    for number in sorted(wrong - refused):
        print(f"pyrefly lets pass {REJECTED.name}:{number}: {source.splitlines()[number - 1].strip()}")
    print(f"pyrefly refuses {len(wrong & refused)} of {len(wrong)} wrong lines")
    return int(bool(wrong - refused))


if __name__ == "__main__":
    sys.exit(main())
