"""Processes that are killed at random instants; the long form is `just long journal`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

KILLS: Final = int(os.environ.get("EXECUTIONKIT_KILLS", "40"))
POINTS: Final = int(os.environ.get("EXECUTIONKIT_CRASH_POINTS", "10"))
AT_MOST: Final = 600 + 3 * max(KILLS, POINTS)
"""Seconds: some 5 in the short form; each life has to be scheduled, and others may want the processor."""


@pytest.mark.timeout(AT_MOST)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("kills", "what"), [(KILLS, ()), (POINTS, ("tools",))], ids=["everything", "tools"])
def test_nothing_that_settled_is_paid_again_and_nothing_happens_twice(
    kills: int, what: tuple[str, ...]
) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", str(kills), "1000", *what],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=AT_MOST,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{counted}")
    assert counted["first"] == []
    assert (counted["kills"], counted["broken"]) == (kills, 0)
    assert counted["runs"] > 0
