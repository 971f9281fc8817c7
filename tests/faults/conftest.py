"""The fault servers for all tests of this directory."""

from collections.abc import Iterator

import pytest

from tests.faults.certificates import serving
from tests.faults.server import FaultServer, fault_server


@pytest.fixture(scope="session")
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture
def named(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Return the fault server under its host's name."""
    monkeypatch.setattr(server, "host", "localhost")
    return server


@pytest.fixture(scope="session")
def tls_server() -> Iterator[FaultServer]:
    with fault_server(serving()) as running:
        yield running
