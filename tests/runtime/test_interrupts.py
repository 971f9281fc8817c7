"""SIGINT at random instants of a run of each kind: the process ends, and buys nothing more."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs

TIMES = int(os.environ.get("EXECUTIONKIT_INTERRUPTS", "20"))
"""Instants a kind, on each event loop."""

ROOT = Path(__file__).parents[2]
LIBRARIES = ["asyncio", pytest.param("trio", marks=needs("trio"))]


def interrupted(*arguments: str) -> "subprocess.CompletedProcess[str]":
    script = ROOT / "tests" / "interrupting.py"
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50 + 2 * TIMES,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a SIGINT")
@pytest.mark.timeout(60 + 3 * TIMES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_interrupt_at_any_instant_ends_the_run_and_buys_nothing(library: str) -> None:
    done = interrupted(library, str(TIMES), str(os.getpid()))
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, Any]] = [run for run in json.loads(done.stdout) if run["ordered"] is not None]
    assert len(runs) > 6 * TIMES  # a few instants lie behind the end
    assert [run for run in runs if run["raised"] != "KeyboardInterrupt"] == []
    assert [run for run in runs if run["sent"] > run["ordered"]] == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a SIGINT")
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_interrupt_before_the_first_await_of_an_evaluator_ends_the_process(library: str) -> None:
    done = interrupted(library, "once")
    assert done.returncode in {-signal.SIGINT, 128 + signal.SIGINT}
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
