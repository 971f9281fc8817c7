"""Runs recorded as text, for tests: what was asked and what was answered, in a file that a person reads."""

import difflib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from executionkit.core.foreign import text_of
from executionkit.core.journal import Body, Key, Row, digest_of
from executionkit.errors import ExecutionKitError, JournalError, JournalMismatchError
from executionkit.outcome import PatternResult, is_failure
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolSpec, checked_provider
from executionkit.runtime.context import Context
from executionkit.runtime.journal.recorder import Recorder
from executionkit.stage import Stage

__all__ = ["Mode", "Recorded", "Recording"]

Mode: TypeAlias = Literal["none", "once", "new", "all"]
"""What to record: nothing; all, where there is no recording yet; what is not recorded yet; all, again."""

_VERSION: Final = 1
_AGAIN: Final = "; to record it again: pytest --record=all"


class Recording:
    """The runs of one test, in one text.

    Args:
        path: The file.
        mode: What to record.

    Raises:
        JournalError: The file is no recording.
    """

    def __init__(self, path: Path, mode: Mode) -> None:
        self.path: Final = path
        has_one = path.exists()
        self.mode: Final[Mode] = ("none" if has_one else "all") if mode == "once" else mode
        self._known = _read(path) if has_one and self.mode != "all" else []
        self._runs: list[_Run] = []
        self.problems: list[str] = []
        """Calls that are not in the recording, and should be."""

    def next_run(self) -> "_Run":
        """Return the journal of the next run: they are told apart by their order."""
        number = len(self._runs)
        rows = self._known[number] if number < len(self._known) else []
        self._runs.append(_Run(self, number, rows))
        return self._runs[-1]

    def save(self) -> None:
        """Write what is new."""
        if self.mode == "none" or not self._runs:
            return
        runs = [run.rows() for run in self._runs] + self._known[len(self._runs) :]
        text = json.dumps(
            {"executionkit": _VERSION, "runs": [[_as_text(row) for row in rows] for rows in runs]},
            indent=2,
            ensure_ascii=False,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f"{text}\n", encoding="utf-8", errors="surrogatepass")


class _Run:
    """The journal of one recorded run, and its sink."""

    def __init__(self, recording: Recording, number: int, rows: Sequence[Row]) -> None:
        self._recording = recording
        self._number = number
        self._rows = {row.seq: row for row in rows}

    async def open(self, stage: object, value: object) -> Recorder:  # noqa: ARG002 - the calls say it all
        return Recorder(
            self,
            [row.copy() for row in self._rows.values()],
            nonce=f"recorded {self._number}",
            keeps_prompts=True,
            unknown=self._unknown,
            keeps_tools=False,  # they are what is tested
            tells=False,
            ignores=("base_url",),  # a server of a test has another port each time
        )

    def rows(self) -> list[Row]:
        return [row for _, row in sorted(self._rows.items()) if row.state == "done" and row.generation == 0]

    def put(self, row: Row) -> None:
        self._rows[row.seq] = row.copy()

    def commit(self, row: Row) -> None:
        self.put(row)

    async def close(self, error: ExecutionKitError | None, *, asks_again: bool) -> None: ...

    def release(self) -> None: ...

    def _unknown(self, key: Key, asked: Mapping[str, Any], before: Row | None) -> None:
        if self._recording.mode != "none":
            return
        kind, path, ordinal = key
        place = f"the {kind} at path {list(path)}, ordinal {ordinal}, of run {self._number + 1}"
        if before is not None and before.prompt is not None:
            text = f"{place} asks something else than what is recorded:\n{_diff(before.prompt, asked)}"
        else:
            text = f"{place} is not recorded: {json.dumps(asked, default=text_of)[:500]}"
        text = f"{text}\n({self._recording.path}; to record it: pytest --record=new)"
        self._recording.problems.append(text)
        raise JournalMismatchError(text, metadata={"path": path, "ordinal": ordinal})


class Recorded:
    """A provider whose runs are recorded, or replayed. The fixture `recorded` makes one.

    Args:
        provider: Who answers what is to be recorded; in the mode `"none"` nobody is asked.
        recording: Where the runs are.
    """

    records_runs: Final = True
    """That a run of it has the journal that it names."""

    def __init__(self, provider: LLMProvider, recording: Recording) -> None:
        self.provider: Final = checked_provider(provider)
        self.recording: Final = recording

    def next_run(self) -> _Run:
        """Return the journal of the next run."""
        return self.recording.next_run()

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Answer outside a run: as a run of its own, of one call.

        Raises:
            ExecutionKitError: As the provider raised it, or as it was recorded.
        """
        settings = {"temperature": temperature, "max_tokens": max_tokens, "tools": tools, **kwargs}
        outcome = await _Asked(messages, settings).run(self, None)
        if is_failure(outcome):
            raise outcome.failure()
        return outcome.unwrap().value

    def __getattr__(self, name: str) -> Any:
        """Pass on what the provider says of itself."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.provider, name)


class _Asked(Stage[None, LLMResponse], frozen=True):
    """One call as it was asked for."""

    messages: list[Message]
    options: dict[str, Any]

    async def perform(self, value: None, context: Context) -> PatternResult[LLMResponse]:  # noqa: ARG002
        return PatternResult(await context.complete(self.messages, **self.options))


def _as_text(row: Row) -> dict[str, Any]:
    body = cast("dict[str, Any]", msgspec.to_builtins(row.body))
    asked = json.loads(row.prompt or "null")
    return {"kind": row.kind, "path": list(row.path), "ordinal": row.ordinal, "asked": asked, "found": body}


def _read(path: Path) -> list[list[Row]]:
    with _telling(path):
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
        data: dict[str, Any] = json.loads(text)
        if data["executionkit"] != _VERSION:
            raise JournalError(f"{path} was recorded by another version of executionkit{_AGAIN}")
        return [[_row(number, each) for number, each in enumerate(run)] for run in data["runs"]]


@contextmanager
def _telling(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path} is no recording: {type(error).__name__}: {error}{_AGAIN}") from error


def _row(number: int, given: Mapping[str, Any]) -> Row:
    asked, body = given["asked"], msgspec.convert(given["found"], Body, str_keys=True)
    prompt = json.dumps(asked, ensure_ascii=False)
    kind, path, ordinal = given["kind"], tuple(given["path"]), given["ordinal"]
    return Row(number, 0, kind, path, ordinal, "done", digest_of(asked), body, prompt)


def _diff(before: str, asked: Mapping[str, Any]) -> str:
    was, is_now = (
        json.dumps(each, indent=2, ensure_ascii=False, sort_keys=True, default=text_of).splitlines()
        for each in (json.loads(before), asked)
    )
    return "\n".join(difflib.unified_diff(was, is_now, "recorded", "asked", lineterm="", n=2))
