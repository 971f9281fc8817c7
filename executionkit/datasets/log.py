"""What was done to a data set, in a file of lines that only grows.

A line is a row that is over, or a call of one that is not. So one file tells where to go on, and its parts
cannot contradict each other; it has one writer, and may be on a network file system.
"""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from returns.result import Failure

from executionkit.batch import Key, Row
from executionkit.core.journal import Row as CallRow
from executionkit.core.journal import cost_of
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.datasets.files import record_of, whole
from executionkit.errors import ExecutionKitError, JournalError
from executionkit.runtime.journal.recorder import Recorder

__all__ = ["Begun", "Line", "Log", "decoded", "lines_of", "lock"]


class Begun(msgspec.Struct, frozen=True):
    """What is run, and which files this one stands for.

    Args:
        nonce: Tells this data set from all others; keys of tools are made of it.
        pipeline: The fingerprint of the pipeline.
        plan: What the pipeline can be compared by.
        folded: Names of the files whose lines are in this one.
        before: What the lines say was spent that it begins with.
    """

    nonce: str
    pipeline: str
    plan: bytes
    folded: tuple[str, ...] = ()
    before: TokenUsage = NO_USAGE


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line.

    Args:
        record: A row that is over, as it stands in the target.
        cost: What is to be counted with this line: what a row cost that answered, or what else was spent.
            What a row cost that failed is counted with its calls, which stay.
        is_answer: Whether the row has an answer, and is not to be run again; its calls are of no use then.
        call: A call of a row; the last line of it counts.
        begun: What is run.
    """

    record: dict[str, Any] | None = None
    cost: TokenUsage = NO_USAGE
    is_answer: bool = False
    call: CallRow | None = None
    begun: Begun | None = None

    def encoded(self) -> bytes:
        """Return it as bytes, its end included.

        Raises:
            OSError: It has no form in JSON: a number of thousands of digits, say.
        """
        try:
            return _ENCODER.encode(self) + b"\n"
        except (UnicodeEncodeError, ValueError, TypeError, RecursionError):
            return self._encoded_otherwise() + b"\n"

    def _encoded_otherwise(self) -> bytes:
        """Return it where msgspec does not write it: lone surrogates, numbers that JSON has not."""
        try:
            plain = msgspec.to_builtins(self, enc_hook=str)
            return json.dumps(plain, default=str, skipkeys=True).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise OSError(f"what came of a row has no form in JSON: {error}") from error


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Line)


def lines_of(path: Path) -> Iterator[Line]:
    """Yield the lines of a file; the last may be half of one, of a process that was killed.

    Raises:
        ValueError: A line before the last cannot be read.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoded(line)
            except (msgspec.MsgspecError, ValueError) as error:
                if lines.read(1):
                    raise ValueError(f"{path}, line {number}: {error}; it was changed") from error


def decoded(line: bytes) -> Line:
    """Return a line out of its bytes."""
    try:
        return _DECODER.decode(line)
    except msgspec.MsgspecError:
        return msgspec.convert(json.loads(line), Line, str_keys=True)  # lone surrogates


def lock(file: BinaryIO) -> bool:
    """Have a file for this process alone until it is closed; tell whether nobody else has it.

    Windows has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Log:
    """A file under way: what a batch is told of its rows, and the journal of their calls.

    As long as it is open it is locked, so that others know that somebody works on it.

    Args:
        path: The file. It is made anew, whole.
        begun: What is run.
        lines: What is known: rows that are over, and after them the calls of others.
        takes_anywhere: Whether an answer is taken by what was asked, wherever that stands.
    """

    def __init__(
        self,
        path: Path,
        begun: Begun,
        lines: Iterable[Line] = (),
        *,
        takes_anywhere: bool = False,
    ) -> None:
        self._begun = begun
        self._folder = path.parent
        self._takes_anywhere = takes_anywhere
        self._recorder: Recorder | None = None
        self.counted: TokenUsage = NO_USAGE
        """What rows cost that have answered since, and what else was spent but for calls of others."""
        self.trouble: OSError | None = None
        """Why something could not be written; nothing is written any more."""
        self.known: list[CallRow] = []
        """Calls of rows that are not over, by earlier lives."""
        self.spent: TokenUsage = NO_USAGE
        """What earlier lives spent but for these calls."""
        self.paid: TokenUsage = NO_USAGE
        """What they paid for these calls."""
        self.unneeded: TokenUsage = NO_USAGE
        """What they paid for those that this life did not come to."""
        with whole(path) as part, part.open("wb") as file:
            for line in chain([Line(begun=begun)], lines):
                file.write(line.encoded())
                self.spent += line.cost
                if line.call is not None:
                    self.known.append(line.call)
                    self.paid += cost_of(line.call.body.charges)
        self._file: BinaryIO = path.open("ab", buffering=0)
        lock(self._file)

    async def open(self, stage: object, value: object) -> Recorder:  # noqa: ARG002
        """Return what finds and notes the calls of a batch."""
        self._recorder = Recorder(
            self,
            self.known,
            nonce=self._begun.nonce,
            takes_anywhere=self._takes_anywhere,
            tells=False,
            resolve=f"executionkit.datasets.resolve({os.fspath(self._folder)!r}",
        )
        self.known = []
        return self._recorder

    def put(self, row: CallRow) -> None:
        """Note a call; where that fails, the next `commit` says so."""
        try:
            self._write(Line(call=row))
        except OSError:
            return

    def commit(self, row: CallRow) -> None:
        """Note that a call is about to be sent.

        Raises:
            JournalError: It could not be.
        """
        try:
            self._write(Line(call=row))
        except OSError as error:
            raise JournalError(f"the state could not be written: {error}") from error

    async def close(self, error: ExecutionKitError | None, *, asks_again: bool) -> None:
        """Do nothing: what is on its way was written at once."""

    def release(self) -> None:
        """Do nothing: what is on its way was written at once."""

    def add(self, row: Row[Any, Any]) -> None:
        """Keep a row that is over. With an answer it takes the place of its calls.

        Raises:
            OSError: It cannot be written.
        """
        outcome = row.outcome
        if isinstance(outcome, Failure):
            self._write(Line(record_of(row)))
            return
        cost = outcome.unwrap().cost
        self._write(Line(record_of(row), cost, is_answer=True))
        self.counted += cost
        self._forget(row.key)

    def _forget(self, key: Key) -> None:
        if self._recorder is not None:
            unneeded = self._recorder.forget(key)
            self.unneeded += unneeded
            self.add_cost(unneeded)

    def add_cost(self, cost: TokenUsage) -> None:
        """Keep what was spent and is counted with no row and no call."""
        if cost != NO_USAGE:
            self._write(Line(cost=cost))

    def leave(self, cost: TokenUsage) -> None:
        """Keep, at the end of a batch, what it has spent past its ledger: by rows that did not answer.

        Args:
            cost: What the batch cost in all.
        """
        if self._recorder is not None and self.trouble is None:
            self.add_cost((cost - self.counted - self._recorder.committed).if_positive())

    def end(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Line) -> None:
        if self.trouble is not None:
            raise self.trouble
        try:
            left = memoryview(line.encoded())
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self.trouble = error
            raise
