"""A short form of `benchmarks/soak.py`: memory stays flat over many runs, and no descriptor is left."""

from collections.abc import Iterator

import pytest

from benchmarks import server
from benchmarks.soak import TRANSPORTS, WAYS, Bounds, Transport, long_vote, many_runs


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with server.running() as running:
        yield running


def broken(bounds: Bounds) -> dict[str, tuple[float, float]]:
    return {name: (figure, most) for name, (figure, most) in bounds.items() if figure > most}


@pytest.mark.parametrize(("transport", "backend"), WAYS)
def test_nothing_is_left_of_many_runs(port: int, transport: Transport, backend: str) -> None:
    assert broken(many_runs(port, 800, transport, backend)) == {}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_is_left_of_a_long_vote(port: int, transport: Transport) -> None:
    assert broken(long_vote(port, 400, transport)) == {}
