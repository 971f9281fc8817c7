"""A run with a journal: what earlier lives of it paid for is taken from there, what this one pays is kept.

The hook is at the logical call, so that retries, back-offs and rate limits are not gone through again. All
that is looked up is in memory; what is written goes to a `Sink`, in order. So whatever is stored is a
beginning of what happened: nobody waits for an outcome to be stored, only for the note that a call is sent.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from executionkit.core.dialect import Request, ResponseFormat
from executionkit.core.encoding import json_text
from executionkit.core.frozen import thaw
from executionkit.core.journal import (
    Body,
    Charge,
    Effects,
    Key,
    Kind,
    Place,
    Reply,
    Row,
    digest_of,
    plain_request,
    total_of,
)
from executionkit.core.money import dollars
from executionkit.core.portable import from_plain, to_plain
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, JournalMismatchError, UnsettledToolError
from executionkit.provider import LLMProvider, LLMResponse, ToolCall

__all__ = [
    "CallCache",
    "Entry",
    "Kept",
    "Recorder",
    "RecordsRuns",
    "RunJournal",
    "Sink",
    "ToolEntry",
    "Unknown",
    "as_reply",
    "as_response",
    "cost_of",
    "key_for",
]

_REST_AFTER = 64
"""Calls replayed in a row before others get a turn of the event loop."""
_QUIET_TURNS = 8
"""Turns of the event loop in which nothing is replayed any more."""


class Sink(Protocol):
    """Where the rows of one run go, in the order in which they are handed over."""

    def put(self, row: Row) -> None:
        """Write a row soon; where that fails, the next `commit` says so."""
        ...

    async def commit(self, row: Row) -> None:
        """Write a row, and return once it is stored.

        Raises:
            JournalError: It, or one before it, could not be.
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
"""Looks at a call that is to be made: its key, what it asks, and what it asked before. Raises a
`JournalError` where it must not be made."""


class RunJournal(Protocol):
    """The journal of one run: what `journal=` takes. `Journal.run(run_id)` makes one."""

    async def open(self, stage: object, value: object) -> "Recorder":
        """Take the run up, or begin it.

        Raises:
            JournalError: It cannot be.
        """
        ...


class RecordsRuns(Protocol):
    """A provider all of whose runs have a journal, whoever begins them; `records_runs` is True."""

    @property
    def provider(self) -> LLMProvider:
        """Whom the runs ask."""
        ...

    def next_run(self) -> RunJournal:
        """Return the journal of the next run."""
        ...


class Kept(msgspec.Struct, frozen=True):
    """An answer out of a cache.

    Args:
        response: The answer; it cost nothing.
        form: Who was to hold it to its form.
    """

    response: LLMResponse
    form: ResponseFormat


class CallCache(Protocol):
    """A provider of answers paid before, asked before a call is reserved; `caches_calls` is True."""

    @property
    def provider(self) -> LLMProvider:
        """Who answers what is not in it."""
        ...

    def admits(self, request: Request) -> bool:
        """Tell whether a request may be answered by it."""
        ...

    async def recall(self, key: bytes) -> Kept | None:
        """Return the answer under a key, if there is one."""
        ...

    def keep(self, key: bytes, response: LLMResponse, form: ResponseFormat, *, raw: bool) -> None:
        """Keep an answer; `raw` says that the provider's own is read later on."""
        ...


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
        unknown: Looks at each call that is to be made.
        keeps_tools: Whether calls of tools are kept; they are made again where not.
        tells: Whether a result says what was replayed.
        ignores: What of whom a request goes to does not count.
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
    ) -> None:
        self._sink = sink
        self._generation = generation
        self._takes_anywhere = takes_anywhere
        self.keeps_prompts: bool = keeps_prompts
        self.most_bytes: int = most_bytes
        self.nonce: str = nonce
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
        self._replays = 0
        self.diverged: int = 0
        for row in rows:
            row.lose()
            if asks_again and row.state == "done" and row.body.error is not None:
                row.state, row.body.error = "open", None
            self._add(row)
            if row.generation == generation:
                self._current[row.key] = row
            self._anywhere[row.kind, row.fingerprint].append(row)
            if row.body.effects != "none":
                self._last_effect = max(self._last_effect, row.seq)
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

    def call(self, path: Place, ordinal: int, request: Request, identity: Mapping[str, Any]) -> "Entry":
        """Return the row of a logical call: an earlier life's, or a new one.

        Raises:
            JournalMismatchError: It asks something else than before, and a tool has had an effect since.
        """
        if self._ignores:
            identity = {name: value for name, value in identity.items() if name not in self._ignores}
        asked = plain_request(request, identity)
        return Entry(self, self._row(("call", path, ordinal), asked, digest_of(asked)))

    def tool(
        self, kind: Kind, path: Place, name: str, arguments: Mapping[str, Any], effects: Effects
    ) -> "ToolEntry":
        """Return the row of a call of a tool, or of the decision on one.

        Raises:
            JournalMismatchError: It is another call than before, and a tool has had an effect since.
        """
        asked = {"tool": name, "arguments": thaw(arguments)}
        row = self._row((kind, path, 0), asked, digest_of(asked))
        if not row.body.key:
            row.body.tool, row.body.effects, row.body.key = name, effects, key_for(self.nonce, path)
        return ToolEntry(self, row)

    def _row(self, key: Key, asked: Mapping[str, Any], fingerprint: bytes) -> Row:
        row = self._current.get(key)
        if row is not None and row.seq not in self._taken and row.fingerprint == fingerprint:
            self._taken.add(row.seq)
            return row
        if self._takes_anywhere:
            found = self._take_anywhere(key, fingerprint)
            if found is not None:
                return found
        if self._unknown is not None:
            self._unknown(key, asked, row)
        if row is not None:
            self._put_aside(row)
        prompt = json_text(asked) if self.keeps_prompts else None
        row = Row(self._next, self._generation, *key, "open", fingerprint, Body(), prompt)
        self._next += 1
        self._add(row)
        self._current[key] = row
        self._taken.add(row.seq)
        return row

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
            JournalMismatchError: A tool has had an effect since.
        """
        if not self._takes_anywhere:
            if self._last_effect > row.seq:
                raise JournalMismatchError(
                    f"the {row.kind} at {_named(row.key)} asks something else than it did before, and a tool "
                    'has had an effect since; on_change="reuse" goes on nevertheless',
                    metadata={"path": row.path, "ordinal": row.ordinal},
                )
            self.diverged += 1
            if self.diverged == 1:
                _log_divergence(row)
        row.generation = -1
        self.put(row)

    def put(self, row: Row) -> None:
        """Store a row soon."""
        self._sink.put(row.copy())

    async def commit(self, row: Row) -> None:
        """Store a row and wait for that."""
        await self._sink.commit(row.copy())

    async def close(self, error: ExecutionKitError | None, *, asks_again: bool) -> None:
        """Store what is on its way and give the run up."""
        await self._sink.close(error, asks_again=asks_again)

    def release(self) -> None:
        """Give the run up; it was ended from outside."""
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


class Entry:
    """A logical call and its row.

    Args:
        recorder: The run's.
        row: The row.
    """

    __slots__ = ("_recorder", "_row", "is_known")

    def __init__(self, recorder: Recorder, row: Row) -> None:
        self._recorder = recorder
        self._row = row
        body = row.body
        self.is_known: bool = row.state == "done" or bool(body.charges) or body.attempts > 0
        """Whether an earlier life has been here."""

    @property
    def is_done(self) -> bool:
        """Whether it is settled."""
        return self._row.state == "done"

    @property
    def body(self) -> Body:
        """What is known of it."""
        return self._row.body

    def outcome(self) -> LLMResponse | ExecutionKitError:
        """Return what came of it."""
        body = self._row.body
        return (
            as_response(body.reply)
            if body.reply is not None
            else ExecutionKitError.from_dict(body.error or {})
        )

    async def send(self, held: Charge) -> None:
        """Note that an attempt is about to be sent, and wait until that is stored.

        Raises:
            JournalError: It cannot be stored, so that nothing may be sent.
        """
        row = self._row
        row.state, row.body.held = "sent", held
        row.body.attempts += 1
        try:
            await self._recorder.commit(row)
        except BaseException:
            row.state, row.body.held = "open", None
            row.body.attempts -= 1
            self._recorder.put(row)  # it may have been stored all the same
            raise

    def paid(self, charge: Charge, lesson: Mapping[str, Any] | None = None) -> None:
        """Note what an attempt was charged, and what it taught. An outcome, or `keep`, stores it."""
        body = self._row.body
        body.charges = [*body.charges, charge]
        body.held = None
        self._row.state = "open"
        if lesson:
            body.lessons = {**body.lessons, **lesson}

    def keep(self, retries: int, *, left_out: bool) -> None:
        """Store what is known so far, and how the next attempt is made."""
        self._row.body.retries, self._row.body.left_out = retries, left_out
        self._recorder.put(self._row)

    def cached(self, kept: Kept, *, raw: bool) -> None:
        """Note an answer that came out of a cache."""
        self._row.body.cached = True
        self.answered(kept.response, kept.form, (), raw=raw)

    def answered(
        self, response: LLMResponse, form: ResponseFormat, proven: Iterable[str], *, raw: bool
    ) -> None:
        """Note the answer.

        Args:
            response: The answer.
            form: Who was to hold it to its form.
            proven: Optional fields that the server took.
            raw: Whether the provider's own answer is read later on.
        """
        body, row = self._row.body, self._row
        reply = as_reply(response, raw=raw)
        body.form, body.proven = form, sorted(proven)
        size = len(reply.content) + len(reply.reasoning)
        if size > self._recorder.most_bytes or (
            reply.raw is not None and size * 2 > self._recorder.most_bytes
        ):
            row.state = "open"  # it is charged as it is, and asked again
        else:
            body.reply, row.state = reply, "done"
        self._recorder.put(row)

    def failed(self, error: ExecutionKitError) -> None:
        """Note the failure."""
        self._row.body.error = error.to_dict()
        self._row.state = "done"
        self._recorder.put(self._row)


class ToolEntry:
    """A call of a tool, or the decision on one, and its row.

    Args:
        recorder: The run's.
        row: The row.
    """

    __slots__ = ("_recorder", "_row")

    def __init__(self, recorder: Recorder, row: Row) -> None:
        self._recorder = recorder
        self._row = row

    @property
    def key(self) -> str:
        """The idempotency key."""
        return self._row.body.key

    @property
    def was_begun(self) -> bool:
        """Whether an earlier life has begun it."""
        return self._row.body.attempts > 0

    @property
    def result(self) -> tuple[str, str | None] | None:
        """What came of it, and the class of what went wrong; None where it has not ended."""
        body = self._row.body
        return None if self._row.state != "done" or body.text is None else (body.text, body.fault)

    async def begin(self, *, may_repeat: bool) -> None:
        """Note that it is about to be made, and wait until that is stored.

        Args:
            may_repeat: Whether it may be made a second time.

        Raises:
            UnsettledToolError: An earlier life began it, nobody knows how it ended, and it may not.
            JournalError: It cannot be stored, so that nothing may be done.
        """
        body = self._row.body
        if body.attempts and not may_repeat:
            raise UnsettledToolError(
                f"the tool {body.tool} was under way when the process ended, and nobody knows whether it had "
                "its effect; find out, then tell the journal: "
                f"journal.resolve(run_id, {body.key!r}, observation)",
                metadata={"tool": body.tool, "key": body.key, "path": self._row.path},
            )
        body.attempts += 1
        await self._recorder.commit(self._row)

    def ended(self, text: str, fault: str | None) -> None:
        """Note what came of it."""
        body = self._row.body
        body.text, body.fault = text, fault
        self._row.state = "done"
        self._recorder.put(self._row)


def cost_of(charges: Sequence[Charge]) -> TokenUsage:
    """Return what charges come to, in money too where any price was known."""
    cost, usd = total_of(charges)
    return cost if usd is None else cost + TokenUsage(usd=dollars(usd))


def key_for(nonce: str, path: Sequence[int | str]) -> str:
    """Return the idempotency key of a tool's call: the same one in every life of a run."""
    text = json_text([nonce, *path])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def as_reply(response: LLMResponse, *, raw: bool) -> Reply:
    """Return the form of an answer that is kept.

    Args:
        response: The answer.
        raw: Whether the provider's own answer is read later on, and so kept as well.
    """
    told = (response.id, response.model, response.request_id, response.status)
    return Reply(
        response.content,
        [cast("dict[str, Any]", to_plain(_call_fields(call))) for call in response.tool_calls],
        response.finish_reason,
        to_plain(thaw(response.usage)),
        to_plain(thaw(response.extra)),
        response.reasoning,
        to_plain(response.raw) if raw else None,
        *told,
    )


def _call_fields(call: ToolCall) -> dict[str, object]:
    fields = {"id": call.id, "name": call.name, "arguments": thaw(call.arguments)}
    return {**fields, "extra": thaw(call.extra)} if call.extra else fields


def as_response(reply: Reply) -> LLMResponse:
    """Return the answer that `as_reply` made a form of."""
    calls = [cast("dict[str, Any]", from_plain(call)) for call in reply.tool_calls]
    return LLMResponse(
        reply.content,
        tuple([ToolCall(**call) for call in calls]),
        reply.finish_reason,
        cast("dict[str, Any]", from_plain(reply.usage)),
        _listed(from_plain(reply.raw)),
        cast("dict[str, Any]", from_plain(reply.extra)),
        reply.reasoning,
        reply.id,
        reply.model,
        reply.request_id,
        reply.status,
    )


def _listed(value: object) -> Any:
    """Return JSON's shapes as a server sends them: `from_plain` makes tuples of lists."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, tuple):
        return [_listed(item) for item in cast("tuple[object, ...]", value)]
    return value


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
