"""Work in a task of its own: what ends it is told to who waits."""

import anyio
import pytest

from executionkit.runtime.tasks.background import Background

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("leaves_open", [False, True])
async def test_an_interrupt_is_kept_for_who_waits(kind: type[BaseException], leaves_open: bool) -> None:
    async def interrupted() -> None:
        if leaves_open:
            anyio.CancelScope().__enter__()
        raise kind

    work = Background(interrupted, "it")
    work.start()
    await work.wait()
    with pytest.raises(kind):
        work.raise_interrupt()
    work.raise_interrupt()  # once
