"""Run a campaign of the suite in its long form: `python scripts/long.py wire`; without a name, list them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CAMPAIGNS: Final[dict[str, tuple[dict[str, str], list[str]]]] = {
    "bounds": ({"EXECUTIONKIT_PIPELINES": "20000"}, ["-s", "tests/test_bounds.py"]),
    "cancel": ({"EXECUTIONKIT_LONG": "1"}, ["tests/faults/test_storm.py"]),
    "dask": ({"EXECUTIONKIT_CLUSTERS": "500 4 0"}, ["-s", "tests/datasets/test_dask.py", "-k", "schedules"]),
    "datasets": (
        {"EXECUTIONKIT_KILLS": "10", "EXECUTIONKIT_ROWS": "10000"},
        ["-s", "tests/datasets/test_mapping.py", "-k", "killed or bad_row"],
    ),
    "faults": (
        {"EXECUTIONKIT_LONG": "1"},
        ["tests/faults", "-k", "handed_in or survives"],
    ),
    "foreign": ({"EXECUTIONKIT_TREES": "5000"}, ["tests/runtime/test_foreign_trees.py"]),
    "gateways": ({"EXECUTIONKIT_GATEWAYS": "1"}, ["-rs", "tests/gateways"]),
    "interrupts": (
        {"EXECUTIONKIT_INTERRUPTS": "500"},
        ["tests/runtime/test_interrupts.py", "tests/runtime/test_raised_interrupts.py"],
    ),
    "journal": (
        {"EXECUTIONKIT_KILLS": "2000", "EXECUTIONKIT_CRASH_POINTS": "1000", "EXECUTIONKIT_EDITS": "500"},
        ["-s", "tests/journal/test_kills.py", "tests/journal/test_changes.py"],
    ),
    "money": (
        {"EXECUTIONKIT_SCHEDULES": "20000", "EXECUTIONKIT_USAGES": "1000"},
        ["tests/runtime/ledger/test_money.py", "tests/test_prices.py"],
    ),
    "otel": ({"EXECUTIONKIT_WATCHED": "1000"}, ["-s", "tests/test_otel_random.py"]),
    "plan": (
        {
            "EXECUTIONKIT_DOCUMENTS": "10000",
            "EXECUTIONKIT_PLANS": "5000",
            "EXECUTIONKIT_DRAWN": "1000",
            "EXECUTIONKIT_MERMAID": str(Path(tempfile.gettempdir()) / "executionkit-mermaid"),
        },
        ["-s", "tests/test_plan.py", "tests/test_drawing.py"],
    ),
    "ray": ({"EXECUTIONKIT_RAY": "20 4 0"}, ["-s", "-rs", "tests/datasets/test_ray.py", "-k", "schedules"]),
    "reviews": ({"EXECUTIONKIT_REVIEWS": "200"}, ["-s", "tests/real/test_datasets.py"]),
    "streaming": (
        {
            "EXECUTIONKIT_STREAMS": "10000",
            "EXECUTIONKIT_STREAMS_OVER_HTTP": "10000",
            "EXECUTIONKIT_DELTAS": "1000000",
        },
        ["-s", "tests/test_streaming_campaign.py"],
    ),
    "watched": (
        {"EXECUTIONKIT_WATCH_ALL": "1"},
        ["-n", "2", "--dist", "loadfile", "--ignore=tests/real", "--ignore=tests/gateways", "tests"],
    ),
    "wire": (
        {"EXECUTIONKIT_MIXTURES": "10000", "EXECUTIONKIT_SHAPES": "20000"},
        ["tests/providers/chat/test_mixtures.py", "tests/providers/chat/test_wire.py"],
    ),
}
"""For each campaign the environment that makes it long, and the tests it runs."""


def main() -> int:
    """Run the campaign that is named first; what follows goes to pytest."""
    name, *more = sys.argv[1:] or [""]
    if name not in CAMPAIGNS:
        print(f"there is no campaign {name!r}; there are: {', '.join(sorted(CAMPAIGNS))}")
        return 2
    environment, tests = CAMPAIGNS[name]
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=3600", *tests, *more]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
