"""Both event loops for every async test, a leak check around every test, and the embedded model."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec

import pytest

from tests.leaks import collect_garbage, new_since, open_sockets, running_tasks, running_threads

collect_ignore_glob = ["typing/*"]  # read by the checkers, never run

BARE = os.environ.get("EXECUTIONKIT_BARE") == "1"
"""Set by `just matrix` where the extras are left out on purpose: only then may a test skip for want of one."""


def needs(module: str) -> pytest.MarkDecorator:
    """Mark a test that an extra is needed for."""
    missing = find_spec(module) is None
    return pytest.mark.skipif(BARE and missing, reason=f"{module} is not installed")


@pytest.fixture(scope="session", params=["asyncio", pytest.param("trio", marks=needs("trio"))])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both event loops."""
    return str(request.param)


def pytest_collection_finish() -> None:
    """Keep what collection made out of every later garbage collection: it would take most of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    threads, sockets = running_threads(), open_sockets()
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_no_tasks_left")
    yield
    complaints = collect_garbage()
    left = {
        "threads": new_since(threads, running_threads),
        "sockets": new_since(sockets, open_sockets),
        "complaints of finalizers": complaints,
    }
    found = [f"{len(what)} {kind}: {', '.join(what)}" for kind, what in left.items() if what]
    assert not found, "the test left behind " + "; ".join(found)


@pytest.fixture
async def _no_tasks_left(anyio_backend: str) -> AsyncIterator[None]:
    known = frozenset(await running_tasks())
    yield
    left = await running_tasks(known)
    assert not left, f"the test left {len(left)} tasks running on {anyio_backend}: {', '.join(left.values())}"
