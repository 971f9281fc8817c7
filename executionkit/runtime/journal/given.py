"""What a run may be given, so that nothing is paid twice: its journal, a recorder of all runs, a cache."""

from typing import Protocol

from executionkit.core.dialect import Request, ResponseFormat
from executionkit.provider import LLMProvider, LLMResponse
from executionkit.runtime.journal.recorder import Recorder
from executionkit.runtime.journal.replies import Kept

__all__ = ["CallCache", "RecordsRuns", "RunJournal"]


class RunJournal(Protocol):
    """The journal of one run: what `journal=` takes. `Journal.run(run_id)` makes one."""

    async def open(self, stage: object, value: object) -> Recorder:
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
