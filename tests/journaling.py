"""A store in memory whose process can die at any write, and models that answer by the place of a call."""

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from typing_extensions import override

from executionkit import LLMResponse, PermanentError, ProviderError, ToolCall
from executionkit.core.journal import Row, as_bytes, from_bytes, sealed, unpacked
from executionkit.errors import RunBusyError
from executionkit.journal import Journal, RunInfo
from executionkit.journal.ownership import Owner
from executionkit.journal.store import Ended, Opened, Store, Write
from executionkit.provider import Message
from executionkit.runtime.calls.open_call import call_under_way


def row_of(data: bytes) -> Row:
    """Return the row that was packed."""
    (row,) = unpacked(sealed([data], b""), b"")
    return row


class MemoryStore:
    """A store that keeps what was written as bytes, and dies where it is told to.

    Once it has died nothing is stored any more and nobody learns of it: so it is with a process that was
    killed. What was written before is what the next life finds.
    """

    def __init__(self) -> None:
        self.kept: dict[str, RunInfo] = {}
        self.stored: dict[tuple[int, int], tuple[Row, bytes]] = {}
        self.cached: dict[bytes, bytes] = {}
        self.owners: dict[int, str] = {}
        self.writes = 0
        self.offers = 0
        self.dies_after: int | None = None
        self.on_death: Callable[[], None] = lambda: None
        self.is_dead = False

    def revive(self) -> None:
        """Begin another life: whoever had a run is gone."""
        self.owners.clear()
        self.writes, self.dies_after, self.is_dead = 0, None, False

    def open_run(self, name: str, owner: Owner) -> Opened:
        found = self.kept.get(name)
        if found is None:
            number = len(self.kept) + 1
            found = RunInfo(
                number, name, f"nonce {name}", "", b"", b"", -1, 0, "running", "", False, 0.0, 0.0
            )
        if found.number in self.owners:
            raise RunBusyError("it is under way", metadata={"owner": "another"})
        self.owners[found.number] = token = f"{name} {found.lives}"
        self.kept[name] = replace(found, lives=found.lives + 1, ended="running")
        return Opened(found, token)

    def begin_life(
        self, run: int, token: str, pipeline: str, plan: bytes, given: bytes, generation: int
    ) -> None:
        self._change(run, pipeline=pipeline, plan=plan, input=given, generation=generation)

    def _change(self, run: int, **fields: Any) -> None:
        (found,) = [info for info in self.kept.values() if info.number == run]
        self.kept[found.name] = replace(found, **fields)

    def rows(self, run: int) -> Iterable[Row]:
        for (number, _), (row, body) in sorted(self.stored.items(), key=lambda item: item[0]):
            if number == run:
                again = row.copy()
                again.body = from_bytes(body, b"")
                yield again

    def write(self, rows: Sequence[Write]) -> None:
        for run, token, data in rows:
            if self.dies_after is not None and self.writes >= self.dies_after and not self.is_dead:
                self.is_dead = True
                self.on_death()
            self.writes += 1
            if self.is_dead:
                continue
            if self.owners.get(run) != token:
                raise RunBusyError("it was taken over")
            row = row_of(data)
            self.stored[run, row.seq] = (row, as_bytes(row.body, b""))

    def write_at_once(self, rows: Sequence[Write]) -> bool:
        """Write them, but every third time leave that to the thread."""
        self.offers += 1
        if self.offers % 3 == 0:
            return False
        self.write(rows)
        return True

    def tidy(self) -> None: ...

    def renew(self, tokens: Sequence[str]) -> None: ...

    def close_run(self, run: int, token: str, ended: Ended, error: str, asks_again: bool) -> None:
        if not self.is_dead and self.owners.get(run) == token:
            del self.owners[run]
            self._change(run, ended=ended, error=error, asks_again=asks_again)

    def runs(self, name: str | None = None) -> Sequence[RunInfo]:
        return [info for info in self.kept.values() if name in (None, info.name)]

    def look_up(self, key: bytes) -> bytes | None:
        return self.cached.get(key)

    def keep(self, key: bytes, value: bytes) -> None:
        self.cached[key] = value

    def close(self) -> None: ...


class InMemory(Journal):
    """A journal on a store in memory."""

    def __init__(self, store: Store, **settings: Any) -> None:
        super().__init__(Path("memory"), **settings)
        self._given = store

    @override
    def _open(self) -> Store:
        return self._given


Place = tuple[tuple[int | str, ...], int]


class Worldly:
    """A model whose answers, faults and delays depend on the place of a call and nothing else.

    Args:
        seed: Of answers and faults.
        ticks: Turns of the event loop that an answer takes at most.
        refuses_schemas: Whether it takes no `json_schema`.
    """

    supports_tools = True

    def __init__(self, seed: int = 0, ticks: int = 3, *, refuses_schemas: bool = False) -> None:
        self._seed = seed
        self._ticks = ticks
        self._refuses_schemas = refuses_schemas
        self.asked: Counter[Place] = Counter()
        self.answered: Counter[Place] = Counter()
        self.sent = 0
        self.in_flight = 0
        self.is_cut_off = False
        """Whether the process that asks is dead: what it still does is not heard of."""

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        call = call_under_way.get()
        assert call is not None
        place = call.place
        while self.is_cut_off:
            await checkpoint()
        self.asked[place] += 1
        self.sent += 1
        self.in_flight += 1
        fate = Random(f"{self._seed} {place} {digest(messages)}")
        ticks, is_busy = fate.randrange(self._ticks + 1), fate.random() < 0.15
        try:
            for _ in range(ticks):
                await checkpoint()
            if self._refuses_schemas and "json_schema" in str(options.get("response_format")):
                raise PermanentError("response_format json_schema is not supported", metadata={"status": 400})
            if self.asked[place] == 1 and is_busy:
                raise ProviderError("busy")
        finally:
            self.in_flight -= 1
        self.answered[place] += 1
        usage = {"prompt_tokens": 3 + fate.randrange(9), "completion_tokens": 2 + fate.randrange(9)}
        if options.get("tools") and fate.random() < 0.7:
            calls = tuple([ToolCall(f"c{at}", "pay", {"amount": fate.randrange(9)}) for at in range(2)])
            return LLMResponse("", calls, "tool_calls", usage)
        if "response_format" in options:
            text = '{"n": "x"}' if fate.random() < 0.3 else f'{{"n": {fate.randrange(2)}}}'
            return LLMResponse(text, usage=usage)
        return LLMResponse(f"Response {fate.randrange(3)} Score: {fate.randrange(10)}", usage=usage)


class Unseen:
    """State that no fingerprint sees, as that of an open connection: what it is pickled as would count."""

    @override
    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("it cannot be pickled")


_numbers = itertools.count()


def numbered(text: str) -> str:
    """Make another text each time, as one does who puts the time into a prompt."""
    return f"{text} {next(_numbers)}"


def digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until something is so; the time is a safety net."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.002)
    return True
