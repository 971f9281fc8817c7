"""A run with a journal: what earlier lives of it paid for is taken from there, what this one pays is kept.

The hook is at the logical call, so that retries, back-offs and rate limits are not gone through again. All
that is looked up is in memory; what is written goes to a `Sink`, in order. So whatever is stored is a
beginning of what happened: nobody waits for an outcome to be stored, only for the note that a call is sent.
"""

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from executionkit.core.dialect import Request
from executionkit.core.encoding import json_text
from executionkit.core.frozen import thaw
from executionkit.core.journal import (
    Body,
    Charge,
    Effects,
    Key,
    Kind,
    Place,
    Row,
    cost_of,
    digest_of,
    plain_request,
)
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, JournalError, JournalMismatchError
from executionkit.runtime.journal.entries import Entry, ToolEntry, key_for

__all__ = ["Recorder", "Sink", "Unknown"]

_REST_AFTER = 64
"""Calls replayed in a row before others get a turn of the event loop."""
_QUIET_TURNS = 8
"""Turns of the event loop in which nothing is replayed any more."""


class Sink(Protocol):
    """Where the rows of one run go, in the order in which they are handed over."""

    def put(self, row: Row) -> None:
        """Write a row as it is now, soon; where that fails, the next `commit` says so."""
        ...

    def commit(self, row: Row) -> Awaitable[object] | None:
        """Write a row as it is now.

        Returns:
            What is to be awaited until it is stored; None where it is.

        Raises:
            JournalError: It, or one before it, could not be; also where that is awaited.
        """
        ...

    async def close(self, error: ExecutionKitError | None, *, asks_again: bool) -> None:
        """Store what is on its way and give the run up.

        Args:
            error: What the run failed with; None where it answered.
            asks_again: Whether calls that failed are to be asked again when the run is taken up.

        Raises:
            JournalError: Something could not be stored.
        """
        ...

    def release(self) -> None:
        """Give the run up, after all that is on its way; it was ended from outside."""
        ...


Unknown = Callable[[Key, Mapping[str, Any], Row | None], None]
"""Looks at a call of a model that is to be sent: its key, what it asks, and what it asked before. Raises a
`JournalError` where it must not be."""


class Recorder:
    """The rows of a run under way.

    Args:
        sink: Where they go.
        rows: Those of earlier lives.
        generation: Which version of the pipeline runs.
        nonce: Tells this run from all others; keys of tools are made of it.
        takes_anywhere: Whether a row is taken by what it asked, wherever it stands.
        asks_again: Whether calls that failed in an earlier life are asked again.
        keeps_prompts: Whether to keep what was asked in plain text.
        most_bytes: How long an answer that is kept may be.
        unknown: Looks at each call of a model that is new, as it is sent: a budget may refuse it before.
        keeps_tools: Whether calls of tools are kept; they are made again where not.
        tells: Whether a result says what was replayed.
        ignores: What of whom a request goes to does not count.
        resolve: How a person says what came of a tool's call, up to the call's key.
    """

    def __init__(
        self,
        sink: Sink,
        rows: Iterable[Row] = (),
        *,
        generation: int = 0,
        nonce: str = "",
        takes_anywhere: bool = False,
        asks_again: bool = False,
        keeps_prompts: bool = False,
        most_bytes: int = 2**24,
        unknown: Unknown | None = None,
        keeps_tools: bool = True,
        tells: bool = True,
        ignores: Collection[str] = (),
        resolve: str = "journal.resolve(run_id",
    ) -> None:
        self._sink = sink
        self._generation = generation
        self._takes_anywhere = takes_anywhere
        self.keeps_prompts: bool = keeps_prompts
        self.most_bytes: int = most_bytes
        self.nonce: str = nonce
        self.resolve: str = resolve
        self._unknown = unknown
        self.keeps_tools: bool = keeps_tools
        self.tells: bool = tells
        self._ignores = ignores
        self._rows: dict[int, Row] = {}
        self._current: dict[Key, Row] = {}
        self._anywhere: dict[tuple[Kind, bytes], deque[Row]] = defaultdict(deque)
        self._taken: set[int] = set()
        self._below: dict[Place, list[Row]] | None = None
        self._under: defaultdict[int | str, list[Row]] = defaultdict(list)
        self._last_effect = -1
        self._ended_keys: set[str] = set()
        self._replays = 0
        self._is_over = False
        self.diverged: int = 0
        for row in rows:
            row.lose()
            if asks_again and row.state == "done" and row.body.error is not None:
                row.state, row.body.error = "open", None
                self.put(row)  # for this life may end before it comes to that
            self._add(row)
            if row.generation == generation:
                self._current[row.key] = row
            self._anywhere[row.kind, row.fingerprint].append(row)
            if row.body.effects != "none" and row.body.attempts:
                self._last_effect = max(self._last_effect, row.seq)
            if row.kind == "tool" and row.state == "done":
                self._ended_keys.add(row.body.key)
        self._next = max(self._rows, default=-1) + 1
        self.replayed: TokenUsage = self._cost(self._rows.values())
        """What earlier lives paid."""

    @property
    def lost(self) -> int:
        """Attempts that were under way when a process ended, in all lives."""
        return sum(row.body.lost for row in self._rows.values())

    def unpaid_below(self, path: Place) -> TokenUsage:
        """Return what earlier lives paid below a place, for calls that this one has not come to."""
        if not path:
            return self._cost(row for row in self._rows.values() if row.seq not in self._taken)
        if self._below is None:
            self._below = defaultdict(list)
            for row in self._rows.values():
                for length in range(1, len(row.path) + 1):
                    self._below[row.path[:length]].append(row)
        return self._cost(row for row in self._below.get(path, ()) if row.seq not in self._taken)

    def rest(self) -> list[Charge]:
        """Return what earlier lives paid for calls that this one did not come to, and count it as taken."""
        rows = [row for row in self._rows.values() if row.seq not in self._taken]
        self._taken.update(row.seq for row in rows)
        return [charge for row in rows for charge in row.body.charges]

    def charges_within(self, path: Place) -> list[Charge]:
        """Return what was paid for calls below a place that will not be asked, and count it as taken."""
        rows = [
            row
            for row in self._rows.values()
            if row.kind == "call" and row.path[: len(path)] == path and row.seq not in self._taken
        ]
        self._taken.update(row.seq for row in rows)
        return [charge for row in rows for charge in row.body.charges]

    def forget(self, first: int | str) -> TokenUsage:
        """Let go of all calls whose place begins so: what came of them is kept elsewhere.

        Returns:
            What earlier lives paid for those of them that this one did not come to.
        """
        gone = {row.seq: row for row in self._under.pop(first, ()) if row.path[0] == first}
        unpaid = self._cost(row for seq, row in gone.items() if seq not in self._taken)
        for seq, row in gone.items():
            del self._rows[seq]
            self._taken.discard(seq)
            if self._current.get(row.key) is row:
                del self._current[row.key]
        return unpaid

    @property
    def committed(self) -> TokenUsage:
        """What the calls that this life has come to were charged, and may be for what is under way."""
        rows = [row for row in self._rows.values() if row.seq in self._taken]
        held = [row.body.held for row in rows if row.body.held is not None]
        return cost_of([*(charge for row in rows for charge in row.body.charges), *held])

    @staticmethod
    def _cost(rows: Iterable[Row]) -> TokenUsage:
        return cost_of([charge for row in rows for charge in row.body.charges])

    def call(self, path: Place, ordinal: int, request: Request, identity: Mapping[str, Any]) -> Entry:
        """Return the row of a logical call: an earlier life's, or a new one.

        Raises:
            JournalMismatchError: It asks something else than before, and a tool has had an effect since.
        """
        if self._ignores:
            identity = {name: value for name, value in identity.items() if name not in self._ignores}
        asked = plain_request(request, identity)
        key: Key = ("call", path, ordinal)
        before = self._current.get(key)
        row, is_new = self._row(key, asked, digest_of(asked))
        unknown = self._unknown if is_new else None
        return Entry(self, row, None if unknown is None else partial(unknown, key, asked, before))

    def tool(
        self, kind: Kind, path: Place, name: str, arguments: Mapping[str, Any], effects: Effects
    ) -> ToolEntry:
        """Return the row of a call of a tool, or of the decision on one.

        Raises:
            JournalMismatchError: It is another call than before, and may have had an effect, or one since.
        """
        asked = {"tool": name, "arguments": thaw(arguments)}
        row, _ = self._row((kind, path, 0), asked, digest_of(asked))
        if not row.body.key:
            key = key_for(self.nonce, path)
            if key in self._ended_keys:  # of another call at this place, before the pipeline has changed
                key = key_for(self.nonce, (*path, row.fingerprint.hex()))
            row.body.tool, row.body.effects, row.body.key = name, effects, key
        return ToolEntry(self, row)

    def _row(self, key: Key, asked: Mapping[str, Any], fingerprint: bytes) -> tuple[Row, bool]:
        """Return the row of a call, and whether it is a new one."""
        row = self._current.get(key)
        if row is not None and row.seq not in self._taken and row.fingerprint == fingerprint:
            self._taken.add(row.seq)
            return row, False
        if self._takes_anywhere:
            found = self._take_anywhere(key, fingerprint)
            if found is not None:
                return found, False
        if row is not None:
            self._put_aside(row)
        prompt = json_text(asked) if self.keeps_prompts else None
        row = Row(self._next, self._generation, *key, "open", fingerprint, Body(), prompt)
        self._next += 1
        self._add(row)
        self._current[key] = row
        self._taken.add(row.seq)
        return row, True

    def _add(self, row: Row) -> None:
        self._rows[row.seq] = row
        if row.path:
            self._under[row.path[0]].append(row)

    def _take_anywhere(self, key: Key, fingerprint: bytes) -> Row | None:
        """Take the first row that asked the same and was not taken yet; it moves here."""
        alike = self._anywhere.get((key[0], fingerprint), deque())
        while alike:
            row = alike.popleft()
            if row.seq in self._taken:
                continue
            self._taken.add(row.seq)
            there = self._current.get(key)
            if there is not None and there is not row and there.generation == self._generation:
                there.generation = -1
                self.put(there)
            if self._current.get(row.key) is row:
                del self._current[row.key]
            row.kind, row.path, row.ordinal = key
            row.generation = self._generation
            self._add(row)
            self._current[key] = row
            self.put(row)
            return row
        return None

    def _put_aside(self, row: Row) -> None:
        """Note that a call asks something else than in an earlier life: what that was paid stays counted.

        Raises:
            JournalMismatchError: It may have had an effect, or a tool since.
        """
        if not self._takes_anywhere:
            if self._last_effect >= row.seq:
                raise JournalMismatchError(
                    f"the {row.kind} at {_named(row.key)} asks something else than it did before, and a tool "
                    'may have had an effect since; on_change="reuse" goes on nevertheless',
                    metadata={"path": row.path, "ordinal": row.ordinal},
                )
            self.diverged += 1
            if self.diverged == 1 and self._unknown is None:  # whoever looks at what is new says so
                _log_divergence(row)
        row.generation = -1
        self.put(row)

    def put(self, row: Row) -> None:
        """Store a row soon; not where the run is over: what outlives it counts as lost."""
        if not self._is_over:
            self._sink.put(row)

    def commit(self, row: Row) -> Awaitable[object] | None:
        """Store a row; return what is to be awaited for that, or None where it is stored.

        Raises:
            JournalError: The run is over.
        """
        if self._is_over:
            raise JournalError("not noted, and so not sent: the run of this journal is over")
        return self._sink.commit(row)

    async def close(self, error: ExecutionKitError | None, *, asks_again: bool) -> None:
        """Store what is on its way and give the run up."""
        self._is_over = True
        await self._sink.close(error, asks_again=asks_again)

    def release(self) -> None:
        """Give the run up; it was ended from outside."""
        self._is_over = True
        self._sink.release()

    async def replaying(self) -> None:
        """Count a replay, let a cancellation in, and now and then others have their turn."""
        self._replays += 1
        if self._replays % _REST_AFTER:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()

    async def quiet(self) -> None:
        """Wait until nothing is replayed any more.

        What was broken off in an earlier life, was so mostly because something beside it had failed. That
        failure is replayed in a moment, and then this need not be asked again.
        """
        before, turns = self._replays, 0
        while turns < _QUIET_TURNS:
            await checkpoint()
            turns = turns + 1 if self._replays == before else 0
            before = self._replays


def _named(key: Key) -> str:
    kind, path, ordinal = key
    return f"path {path!r}" if kind == "tool" else f"path {path!r}, ordinal {ordinal}"


def _log_divergence(row: Row) -> None:
    import logging

    logging.getLogger("executionkit").warning(
        "the call at %s asks something else than in an earlier life of the run, so it is paid again; "
        "is there a date, a random id or an unsorted set in its prompt?",
        _named(row.key),
    )
