"""What a journal needs of a store: a few synchronous methods, of which one is called at a time.

`SQLiteStore` is one. Another (a database server) has these methods, and nothing of event loops.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from executionkit.core.journal import Row
from executionkit.errors import JournalError
from executionkit.journal.ownership import Owner

__all__ = ["DAMAGED", "Ended", "Opened", "RunInfo", "Store", "Write", "damaged"]

DAMAGED: Final = "the file is damaged, or none of ours; take another, or a copy"

Ended: TypeAlias = Literal["running", "answered", "failed", "stopped"]
"""What became of a run: under way (or its process ended), or how its last life ended."""

Write: TypeAlias = tuple[int, str, bytes]
"""A row to be stored: the run's number, the token of its owner, and the row, packed."""


def damaged(path: Path, error: Exception) -> JournalError:
    """Return what to raise where something in a file is not as it was written."""
    return JournalError(f"the journal {path}: {error} ({DAMAGED})")


class RunInfo(msgspec.Struct, frozen=True):
    """What a store knows of a run.

    Args:
        number: Its number in the store.
        name: What the user calls it.
        nonce: Tells it from all other runs, also of that name.
        pipeline: The fingerprint of its pipeline; empty where it has none.
        plan: The pipeline as it can be compared; empty where it cannot.
        input: The fingerprint of its input; empty where it has none.
        generation: How often the pipeline has changed; -1 before its first life has begun.
        lives: How often it was opened.
        ended: What became of it.
        error: The class of the error that it ended with; empty for none.
        asks_again: Whether the calls that failed are to be asked again.
        began: When it began, in seconds since 1970.
        changed: When it was opened or ended last.
    """

    number: int
    name: str
    nonce: str
    pipeline: str
    plan: bytes
    input: bytes
    generation: int
    lives: int
    ended: Ended
    error: str
    asks_again: bool
    began: float
    changed: float


class Opened(msgspec.Struct, frozen=True):
    """A run that was taken up, or begun.

    Args:
        info: The run as it was before.
        token: What tells this owner from any other; each write shows it.
    """

    info: RunInfo
    token: str


class Store(Protocol):
    """Where runs are kept. Every method raises `JournalError` where the store cannot do its work."""

    def open_run(self, name: str, owner: Owner) -> Opened:
        """Take up a run, or begin it, by compare-and-set.

        Raises:
            RunBusyError: Another owner has it.
        """
        ...

    def begin_life(
        self, run: int, token: str, pipeline: str, plan: bytes, given: bytes, generation: int
    ) -> None:
        """Note which pipeline runs from now on, and on which input.

        Raises:
            RunBusyError: Another owner has taken the run over.
        """
        ...

    def rows(self, run: int) -> Iterable[Row]:
        """Return the rows of a run, in the order in which they were begun."""
        ...

    def write(self, rows: Sequence[Write]) -> None:
        """Store rows, all or none, in their order; a row that is there already is replaced.

        Raises:
            RunBusyError: Another owner has taken one of the runs over.
        """
        ...

    def write_at_once(self, rows: Sequence[Write]) -> bool:
        """Store rows as `write` does, if that takes no longer than an event loop can wait: some microseconds.

        Returns:
            Whether they are stored. False where it may take longer: they are many or long, another process
            writes, the disk is slow, or the store is at the other end of a network.

        Raises:
            RunBusyError: Another owner has taken one of the runs over.
        """
        ...

    def tidy(self) -> None:
        """Do what is due now and then, where nobody waits for it."""
        ...

    def renew(self, tokens: Sequence[str]) -> None:
        """Say that the owners of these runs still live."""
        ...

    def close_run(self, run: int, token: str, ended: Ended, error: str, asks_again: bool) -> None:
        """Give a run up."""
        ...

    def runs(self, name: str | None = None) -> Sequence[RunInfo]:
        """Return all runs, or the one of a name, without opening it."""
        ...

    def look_up(self, key: bytes) -> bytes | None:
        """Return what the cache has under a key."""
        ...

    def keep(self, key: bytes, value: bytes) -> None:
        """Put something into the cache."""
        ...

    def close(self) -> None:
        """Close it."""
        ...
