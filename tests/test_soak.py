"""A short form of `benchmarks/soak.py`: memory stays flat over many runs, and no descriptor is left."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import server
from benchmarks.soak import TRANSPORTS, WAYS, Bounds, Transport

ROOT = Path(__file__).parents[1]
MEASURE = """
import json, sys
from benchmarks import soak
print(json.dumps(getattr(soak, sys.argv[1])(*json.loads(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with server.running() as running:
        yield running


def broken(bounds: Bounds) -> dict[str, tuple[float, float]]:
    return {name: (figure, most) for name, (figure, most) in bounds.items() if figure > most}


def measured(name: str, *settings: object) -> Bounds:
    """Measure in a process of its own: what other tests have left in this one would be counted as well."""
    command = [sys.executable, "-c", MEASURE, name, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    bounds: Bounds = json.loads(done.stdout)
    assert bounds
    return bounds


@pytest.mark.timeout(330)
@pytest.mark.parametrize(("transport", "backend"), WAYS)
def test_nothing_is_left_of_many_runs(port: int, transport: Transport, backend: str) -> None:
    assert broken(measured("many_runs", port, 800, transport, backend)) == {}


@pytest.mark.timeout(330)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_is_left_of_a_long_vote(port: int, transport: Transport) -> None:
    assert broken(measured("long_vote", port, 400, transport)) == {}
