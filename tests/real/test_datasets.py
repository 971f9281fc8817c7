"""From a CSV to Parquet on the embedded model: killed half-way, taken up, nothing settled paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

import pytest

from executionkit.datasets import read_rows, write_rows
from executionkit.datasets.log import lines_of

ROWS = int(os.environ.get("EXECUTIONKIT_REVIEWS", "0"))

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not ROWS, reason="a vote on each of many rows takes minutes; `just long reviews`"),
]

MOODS = ["I love it: {}.", "{} was broken and nobody answered.", "Good {}, but far too dear."]
THINGS = ["the lamp", "the kettle", "a chair", "the radio", "this tent", "the ladder", "our sofa"]


class Out(TypedDict):
    key: int
    value: str | None
    error: str | None
    llm_calls: int


def settled(state: Path) -> tuple[set[str], set[Any]]:
    """Return the calls and the rows that are settled."""
    done: set[str] = set()
    rows: set[Any] = set()
    for path in state.glob("*.jsonl"):
        for line in lines_of(path):
            if line.call is not None and line.call.state == "done":
                done.add(json.dumps(line.call.path))
            if line.record is not None and line.is_answer:
                rows.add(line.record["key"])
    return done, rows


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_a_csv_becomes_parquet_whatever_happens(tmp_path: Path, engine: str) -> None:
    source, target, calls = tmp_path / "in.csv", tmp_path / "out.parquet", tmp_path / "calls"
    state = Path(f"{target}.state")
    texts = [MOODS[at % 3].format(THINGS[at % 7]) for at in range(ROWS)]
    write_rows(source, [{"id": at, "text": text} for at, text in enumerate(texts)])
    program = Path(__file__).parents[1] / "datasets" / "reviews.py"
    command = [sys.executable, str(program), str(source), str(target), str(calls), engine]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def asked() -> Counter[str]:
        return Counter(calls.read_text().splitlines() if calls.exists() else [])

    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        while process.poll() is None and (not state.exists() or len(settled(state)[1]) < ROWS // 2):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert not target.exists()
    done, rows = settled(state)
    before = {
        place: count for place, count in asked().items() if place in done or json.loads(place)[0] in rows
    }
    assert len(rows) >= ROWS // 2
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    written = list(read_rows(target, Out))
    now = asked()
    assert sorted(row["key"] for row in written) == [*range(ROWS)]
    assert {place: now[place] for place in before} == before
    assert (figures["rows"], figures["failed"]) == (ROWS, sum(row["value"] is None for row in written))
    assert figures["resumed"] >= len(rows)
    assert figures["calls"] >= now.total()  # with those under way at the kill, sent or not
    assert {row["value"] for row in written} <= {None, "positive", "negative", "mixed"}
    print(
        {
            "engine": engine,
            **figures,
            "asked again": now.total() - len(now),
            "votes a row": round(now.total() / ROWS, 2),
        }
    )
