"""One logical call, or one call of a tool, and the row that a journal has of it."""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from executionkit.core.dialect import ResponseFormat
from executionkit.core.encoding import json_text
from executionkit.core.frozen import EMPTY
from executionkit.core.journal import Body, Charge, Row, Taught
from executionkit.errors import ExecutionKitError, UnsettledToolError
from executionkit.provider import LLMResponse
from executionkit.runtime.journal.replies import Kept, as_reply, as_response, size_of

__all__ = ["Entry", "Keeper", "ToolEntry", "key_for"]


class Keeper(Protocol):
    """Stores the rows of a run."""

    @property
    def most_bytes(self) -> int:
        """How long an answer that is kept may be."""
        ...

    @property
    def resolve(self) -> str:
        """How a person says what came of a tool's call, up to the call's key."""
        ...

    def put(self, row: Row) -> None:
        """Store a row soon."""
        ...

    def commit(self, row: Row) -> Awaitable[object] | None:
        """Store a row; return what is to be awaited for that, or None where it is stored.

        Raises:
            JournalError: It cannot be stored; also where that is awaited.
        """
        ...

    async def quiet(self) -> None:
        """Wait until nothing is replayed any more."""
        ...


class Entry:
    """A logical call and its row.

    Args:
        keeper: Stores the rows of the run.
        row: The row.
        check: Raises a `JournalError` where it must not be sent.
    """

    __slots__ = ("_check", "_keeper", "_row", "is_known")

    def __init__(self, keeper: Keeper, row: Row, check: Callable[[], None] | None = None) -> None:
        self._keeper = keeper
        self._row = row
        self._check = check
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
            JournalError: It cannot be stored, so that nothing may be sent; or it must not be sent.
        """
        if self._check is not None:
            await self._keeper.quiet()  # what fails beside it may end it, as it did before
            self._check()
        row = self._row
        row.state, row.body.held = "sent", held
        row.body.attempts += 1
        try:
            stored = self._keeper.commit(row)
            if stored is not None:
                await stored
        except BaseException:
            self.take_back()  # it may have been stored all the same
            raise

    def take_back(self) -> None:
        """Note that the attempt is not sent after all: nothing is to be charged for it."""
        row = self._row
        row.state, row.body.held = "open", None
        row.body.attempts -= 1
        self._keeper.put(row)

    def paid(self, charge: Charge) -> None:
        """Note what an attempt was charged. An outcome, or `keep`, stores it."""
        body = self._row.body
        body.charges = [*body.charges, charge]
        body.held = None
        self._row.state = "open"

    def learned(
        self, member: int | None, lessons: Mapping[str, Any] = EMPTY, proven: Collection[str] = ()
    ) -> None:
        """Note what an attempt taught of a server. An outcome, or `keep`, stores it.

        Args:
            member: Which member of a pool was asked, 0 for a provider alone; None where nobody can tell.
            lessons: The fields of its dialect that a refusal changed.
            proven: Optional fields that it took.
        """
        if member is None or not (lessons or proven):
            return
        body, names = self._row.body, sorted(proven)
        known = body.taught.get(member, Taught())
        body.taught = {**body.taught, member: Taught({**known.lessons, **lessons}, names or known.proven)}

    def keep(self, retries: int, *, left_out: bool) -> None:
        """Store what is known so far, and how the next attempt is made."""
        self._row.body.retries, self._row.body.left_out = retries, left_out
        self._keeper.put(self._row)

    def cached(self, kept: Kept, *, raw: bool) -> None:
        """Note an answer that came out of a cache."""
        self._row.body.cached = True
        self.answered(kept.response, kept.form, raw=raw)

    def answered(self, response: LLMResponse, form: ResponseFormat, *, raw: bool) -> None:
        """Note the answer.

        Args:
            response: The answer.
            form: Who was to hold it to its form.
            raw: Whether the provider's own answer is read later on.
        """
        body, row = self._row.body, self._row
        reply = as_reply(response, raw=raw)
        body.form = form
        if size_of(reply) > self._keeper.most_bytes:
            row.state = "open"  # it is charged as it is, and asked again
        else:
            body.reply, row.state = reply, "done"
        self._keeper.put(row)

    def failed(self, error: ExecutionKitError) -> None:
        """Note the failure."""
        self._row.body.error = error.to_dict()
        self._row.state = "done"
        self._keeper.put(self._row)


class ToolEntry:
    """A call of a tool, or the decision on one, and its row.

    Args:
        keeper: Stores the rows of the run.
        row: The row.
    """

    __slots__ = ("_keeper", "_row")

    def __init__(self, keeper: Keeper, row: Row) -> None:
        self._keeper = keeper
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
                f"{self._keeper.resolve}, {body.key!r}, observation)",
                metadata={"tool": body.tool, "key": body.key, "path": self._row.path},
            )
        body.attempts += 1
        try:
            stored = self._keeper.commit(self._row)
            if stored is not None:
                await stored
        except BaseException:  # cancelled, say: it is not made, so it was not begun
            body.attempts -= 1
            self._keeper.put(self._row)
            raise

    def ended(self, text: str, fault: str | None) -> None:
        """Note what came of it."""
        body = self._row.body
        body.text, body.fault = text, fault
        self._row.state = "done"
        self._keeper.put(self._row)


def key_for(nonce: str, path: Sequence[int | str]) -> str:
    """Return the idempotency key of a tool's call: the same one in every life of a run."""
    text = json_text([nonce, *path])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
