"""What a test may not leave behind: threads, sockets, tasks, coroutines nobody awaited."""

import gc
import socket
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import anyio
from anyio.lowlevel import checkpoint

P = ParamSpec("P")

_DESCRIPTORS = Path("/proc/self/fd")
_GRACE = 1.0
"""Seconds that a server in this process gets to notice that its client hung up."""


def open_sockets() -> frozenset[str]:
    """Name the sockets that are open: every one of the process on Linux, Python's own elsewhere."""
    if not _DESCRIPTORS.exists():
        found = (item for item in gc.get_objects() if isinstance(item, socket.socket))
        return frozenset(repr(item) for item in found if item.fileno() != -1)
    return frozenset(
        name for entry in _DESCRIPTORS.iterdir() if (name := _target(entry)).startswith("socket:")
    )


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:  # closed since it was listed
        return ""


def running_threads() -> frozenset[str]:
    """Name the threads that run. Trio keeps idle workers for ten seconds by design; they do not count."""
    return frozenset(
        f"{thread.name} ({thread.ident})"
        for thread in threading.enumerate()
        if not thread.name.startswith(("Trio", "trio"))
    )


async def running_tasks(known: frozenset[int] = frozenset()) -> dict[int, str]:
    """Name the tasks of this event loop that are not in `known`, after they had a moment to end."""
    tasks: dict[int, str] = {}
    for _ in range(5):
        tasks = {task.id: repr(task) for task in anyio.get_running_tasks() if task.id not in known}
        if not tasks:
            break
        await checkpoint()
    return tasks


def leaving_no_tasks(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Return `test` with a last step: fail if its event loop runs tasks that it did not run before."""

    @wraps(test)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        known = frozenset(await running_tasks())
        await test(*args, **kwargs)
        left = list((await running_tasks(known)).values())
        assert not left, f"the test left {len(left)} tasks running: {', '.join(left)}"

    return guarded


def new_since(before: frozenset[str], probe: Callable[[], frozenset[str]]) -> list[str]:
    """Return what `probe` finds that was not there `before` and does not go away by itself."""
    give_up = time.monotonic() + _GRACE
    while (left := probe() - before) and time.monotonic() < give_up:
        time.sleep(0.005)
    return sorted(left)


def collect_garbage() -> list[str]:
    """Collect what the test left in reference cycles and return the complaints of its finalizers.

    What is alive after it (modules, fixtures, reports) is kept out of later collections: going through that
    after each of ten thousand tests would take a third of the suite's time.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    gc.freeze()
    return [f"{warning.category.__name__}: {warning.message}" for warning in caught]
