"""One fault server for all tests of this directory."""

from collections.abc import Iterator

import pytest

from tests.faults.server import FaultServer, fault_server


@pytest.fixture(scope="session")
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running
