"""What is handed over to a script: an interrupt ends the thread, whenever it comes."""

import signal
import sys
import threading
from types import TracebackType

import anyio
import pytest

from executionkit.runtime.tasks.handover import Handover


class Source:
    """Interrupts the main thread while it is entered."""

    def __init__(self) -> None:
        self.is_left = False

    async def __aenter__(self) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await anyio.sleep(0.1)  # the script waits meanwhile

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.is_left = True


async def several() -> list[str]:
    return ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a SIGINT")
def test_an_interrupt_while_it_is_entered_ends_the_thread() -> None:
    source, before = Source(), set(threading.enumerate())
    handover = Handover(source, several, what="stream", method="stream_sync")
    with pytest.raises(KeyboardInterrupt):
        handover.enter()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert source.is_left
