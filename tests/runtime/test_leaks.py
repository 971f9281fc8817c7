"""The leak check itself: each kind of leak fails the test that made it, with a text that names it."""

import socket
import threading
from pathlib import Path

import anyio
import pytest

from tests.leaks import collect_garbage, new_since, open_sockets, running_tasks, running_threads


def test_a_thread_is_seen_until_it_ends() -> None:
    before = running_threads()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    try:
        seen = running_threads() - before
    finally:
        stop.set()
        thread.join()
    assert [name.split()[0] for name in seen] == ["forgotten"]
    assert new_since(before, running_threads) == []


def test_a_socket_is_seen_until_it_is_closed() -> None:
    before = open_sockets()
    with socket.socket():
        assert len(open_sockets() - before) == 1
    assert new_since(before, open_sockets) == []


def test_a_coroutine_in_a_cycle_is_complained_about() -> None:
    async def forgotten() -> None: ...

    cycle: list[object] = [forgotten()]
    cycle.append(cycle)
    del cycle
    (complaint,) = collect_garbage()
    assert "forgotten' was never awaited" in complaint


@pytest.mark.anyio
async def test_a_task_is_seen_until_it_ends() -> None:
    known = frozenset(await running_tasks())
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever, name="forgotten")
        (seen,) = (await running_tasks(known)).values()
        assert "forgotten" in seen
        group.cancel_scope.cancel()
    assert await running_tasks(known) == {}


ROOT = Path(__file__).parents[2]

LEAKY = """
import asyncio, socket, threading, pytest

kept = []

def test_thread():
    threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

def test_socket():
    kept.append(socket.socket())

async def forgotten(): ...

def test_coroutine():
    cycle = [forgotten()]
    cycle.append(cycle)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_task(anyio_backend):
    kept.append(asyncio.create_task(asyncio.sleep(60)))
"""


def test_each_leak_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import _no_leaks, pytest_pyfunc_call  # noqa")
    pytester.makepyfile(LEAKY)
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", f"pythonpath={ROOT}")
    outcome.assert_outcomes(passed=3, errors=3, failed=1)
    outcome.stdout.fnmatch_lines_random(
        [
            "*the test left behind 1 threads: forgotten (*",
            "*the test left behind 1 sockets: socket:*",
            "*RuntimeWarning: coroutine 'forgotten' was never awaited*",
            "*the test left 1 tasks running: *",
        ]
    )
