"""Every kind of fault against every pattern: an outcome, its cost what the server counted and reported."""

import pytest

from tests.faults.kinds import NOT_KEPT, UNANNOUNCED
from tests.faults.patterns import KINDS, PATTERNS, play_all
from tests.faults.playing import LONG
from tests.faults.server import FaultServer
from tests.faults.ways import HANDED_IN, OURS, Way, on_each_loop

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", PATTERNS)
@on_each_loop(*OURS)
async def test_a_pattern_survives_every_fault(
    name: str, way: Way, anyio_backend: str, server: FaultServer
) -> None:
    await survive(name, way, anyio_backend, server, every=1)


@pytest.mark.parametrize("name", PATTERNS)
@on_each_loop(*HANDED_IN)
async def test_a_pattern_survives_it_on_what_is_handed_in(
    name: str, way: Way, anyio_backend: str, server: FaultServer
) -> None:
    await survive(name, way, anyio_backend, server, every=1 if LONG else 16)


async def survive(name: str, way: Way, loop: str, server: FaultServer, every: int) -> None:
    first = [*PATTERNS].index(name) % every  # of each pattern others are played
    faults = [fault for fault in KINDS[first::every] if fault.name not in NOT_KEPT.get(way.name, {})]
    # A connection may be handed out that the server has just closed: in vain, but an attempt.
    await play_all(name, f"{way.name}-{loop}", faults, server, way, UNANNOUNCED)
