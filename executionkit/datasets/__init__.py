"""Many rows: what `Stage.over` takes and gives.

`Adaptive` says how many rows and calls may be under way at once.
`Batch`, `SyncBatch`, `Row` and `Summary` are what `Stage.over` and `Stage.over_sync` give.
"""

from executionkit.batch import Batch, Key, Row, Source, Summary, SyncBatch
from executionkit.core.window import Adaptive

__all__ = ["Adaptive", "Batch", "Key", "Row", "Source", "Summary", "SyncBatch"]
