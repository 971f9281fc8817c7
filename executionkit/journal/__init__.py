"""A journal: kill a run at any moment, and take it up without paying twice.

`Journal` is one file. `journal.run(run_id)` is what `stage.run(..., journal=...)` takes: a run of that name
goes on where it ended, whatever ended it. See docs/journal.md.
"""

from executionkit.core.past_runs import PastRuns
from executionkit.errors import JournalError, JournalMismatchError, RunBusyError, UnsettledToolError
from executionkit.journal.cache import Cached
from executionkit.journal.runs import Journal, JournalRun, OnChange
from executionkit.journal.store import RunInfo, Store

__all__ = [
    "Cached",
    "Journal",
    "JournalError",
    "JournalMismatchError",
    "JournalRun",
    "OnChange",
    "PastRuns",
    "RunBusyError",
    "RunInfo",
    "Store",
    "UnsettledToolError",
]
