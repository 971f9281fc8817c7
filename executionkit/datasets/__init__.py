"""Many rows: what `Stage.over` takes and gives, files of rows, and a stage over a file.

`Adaptive` says how many rows and calls may be under way at once.
`Batch`, `SyncBatch`, `Row` and `Summary` are what `Stage.over` and `Stage.over_sync` give.
`read_rows` and `write_rows` are for JSON lines, CSV and Parquet (extra `arrow`).
`map_dataset` runs a stage for each row and writes a file; it can be killed and started again.
`resolve` says what came of a tool's call that was under way then.
`Local`, `Dask` (extra `dask`) and `Ray` (extra `ray`) are what it runs on.
"""

from executionkit.batch import Batch, Key, Row, Source, Summary, SyncBatch
from executionkit.core.window import Adaptive
from executionkit.datasets.dask import Dask
from executionkit.datasets.engines import Engine, Local
from executionkit.datasets.files import read_rows, write_rows
from executionkit.datasets.mapping import map_dataset
from executionkit.datasets.ray import Ray
from executionkit.datasets.state import resolve

__all__ = [
    "Adaptive",
    "Batch",
    "Dask",
    "Engine",
    "Key",
    "Local",
    "Ray",
    "Row",
    "Source",
    "Summary",
    "SyncBatch",
    "map_dataset",
    "read_rows",
    "resolve",
    "write_rows",
]
