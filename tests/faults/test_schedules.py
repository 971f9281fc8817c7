"""Random schedules of faults, with budgets, retries, deadlines and cancellation: the promises of a run.

`EXECUTIONKIT_SEEDS` says how many seeds each way and event loop plays: 100 in the suite, more in a soak.
"""

import os

import pytest

from tests.faults.schedules import play_all
from tests.faults.server import FaultServer
from tests.faults.ways import OURS, Way, on_each_loop

SEEDS = int(os.environ.get("EXECUTIONKIT_SEEDS", "100"))

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + SEEDS // 5)]


@on_each_loop(*OURS)
async def test_random_schedules(way: Way, anyio_backend: str, server: FaultServer) -> None:
    async with way.settings() as settings:
        await play_all(f"{way.name}-{anyio_backend}", SEEDS, server, **settings)
