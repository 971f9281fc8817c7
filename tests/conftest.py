"""Both event loops for every async test, a leak check around every test, and the embedded model."""

import gc
import os
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.leaks import collect_garbage, leaving_no_tasks, new_since, open_sockets, running_threads

pytest_plugins = ["pytester"]
settings.register_profile("suite", deadline=None)  # no test asserts how fast it is
settings.load_profile("suite")
if TYPE_CHECKING:
    from executionkit.providers.local import LocalProvider

collect_ignore_glob = ["typing/*"]  # read by the checkers, never run

BARE = os.environ.get("EXECUTIONKIT_BARE") == "1"
"""Set by `just matrix` where extras are left out on purpose: only then may a test skip for want of one."""


def needs(module: str) -> pytest.MarkDecorator:
    """Mark a test that an extra is needed for."""
    missing = find_spec(module) is None
    return pytest.mark.skipif(BARE and missing, reason=f"{module} is not installed")


@pytest.fixture(scope="session", params=["asyncio", pytest.param("trio", marks=needs("trio"))])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both event loops."""
    return str(request.param)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Collect no garbage: an interrupt in what the collector calls, Hypothesis' clock say, goes to nobody."""
    gc.disable()
    yield
    gc.enable()


def pytest_collection_finish() -> None:
    """Keep what collection made out of every later garbage collection: it would take most of the time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have every async test, Hypothesis' included, count the tasks it leaves in its event loop."""
    hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
    if hypothesis is None and iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = leaving_no_tasks(pyfuncitem.obj)
    elif hypothesis is not None and iscoroutinefunction(hypothesis.inner_test):
        hypothesis.inner_test = leaving_no_tasks(hypothesis.inner_test)
    return (yield)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    threads, sockets = running_threads(), open_sockets()
    yield
    complaints = collect_garbage()
    left = {
        "threads": new_since(threads, running_threads),
        "sockets": new_since(sockets, open_sockets),
        "complaints of finalizers": complaints,
    }
    found = [f"{len(what)} {kind}: {', '.join(what)}" for kind, what in left.items() if what]
    assert not found, "the test left behind " + "; ".join(found)


@pytest.fixture(autouse="EXECUTIONKIT_WATCH_ALL" in os.environ)
def _telemetry(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have every run of every test make spans and metrics, and check them; `just long watched` asks for it."""
    from executionkit.runtime import tracing
    from tests.conventions import Apart, Recording

    recording = Recording()
    traces = Apart(recording.otel), recording.events.append
    for trace in traces:
        tracing.install(trace)
    yield
    for trace in traces:
        tracing.uninstall(trace)
    found = recording.deviations()
    recording.close()
    if request.node.get_closest_marker("told_early") is not None:
        found = [each for each in found if not each.startswith("run ")]
    assert found == []


@pytest.fixture(scope="session")
def model() -> Iterator["LocalProvider"]:
    """The embedded model, started once for all tests that talk to it."""
    if BARE and find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    from executionkit.providers.local import LocalProvider

    with LocalProvider(seed=1, context_size=2048) as provider:
        yield provider
