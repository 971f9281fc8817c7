"""A stage over a data set: killed, interrupted, out of money, started again; the output is whole."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self, TypedDict

import anyio
import pytest

from executionkit.core.usage import TokenUsage
from executionkit.datasets import map_dataset, read_rows, write_rows
from executionkit.errors import BudgetExhaustedError, PermanentError, StageError
from executionkit.events import Event, ItemFinished
from executionkit.patterns.complete import complete
from executionkit.provider import LLMResponse
from tests.conftest import needs
from tests.doubles import Answer, Asked, Model, reply

KILLS = int(os.environ.get("EXECUTIONKIT_KILLS", "2"))


class Out(TypedDict):
    key: str
    value: str | None
    error: str | None
    llm_calls: int


def upper(asked: Asked) -> LLMResponse:
    return reply(asked.prompt.upper(), 3, 2)


def no_at(prompt: str, error: Exception) -> Answer:
    return lambda asked: error if asked.prompt == prompt else upper(asked)


def texts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def written(path: Path) -> dict[str, Out]:
    rows = list(read_rows(path, Out))
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row for row in rows}


@pytest.mark.parametrize("kind", ["jsonl", "csv", pytest.param("parquet", marks=needs("pyarrow"))])
def test_file_to_file(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    write_rows(source, [{"id": text, "text": text} for text in texts(30)])
    model = Model(no_at("row 3", PermanentError("no", metadata={"status": 422})))
    summary = map_dataset(
        (row["text"] for row in read_rows(source, dict[str, str])), target, complete(), lambda: model, key=str
    )
    assert (summary.rows, summary.failed, summary.resumed, summary.cost.llm_calls) == (30, 1, 0, 30)
    assert summary.failures == {"PermanentError": 1}
    rows = written(target)
    assert {key: row["value"] for key, row in rows.items()} == {
        text: None if text == "row 3" else text.upper() for text in texts(30)
    }
    assert rows["row 3"]["error"] == "PermanentError: no"


def test_rows_that_failed_are_run_again_and_no_others(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    first = Model(no_at("row 3", ValueError("a bug")))
    map_dataset(texts(9), target, complete(), lambda: first, key=str)
    second = Model(upper)
    summary = map_dataset(texts(12), target, complete(), lambda: second, key=str)
    assert sorted(asked.prompt for asked in second.asked) == ["row 10", "row 11", "row 3", "row 9"]
    assert (summary.rows, summary.resumed, summary.failed) == (12, 8, 0)
    assert summary.cost.llm_calls == first.calls + second.calls
    assert "8 done before" in str(summary)
    assert all(row["value"] for row in written(target).values())
    third = Model(upper)
    again = map_dataset(texts(12), target, complete(), lambda: third, key=str)
    assert (third.calls, again.rows, again.resumed, again.cost) == (0, 12, 12, summary.cost)


def test_the_budget_holds_over_all_lives(tmp_path: Path) -> None:
    target, budget = tmp_path / "out.jsonl", TokenUsage(llm_calls=7)
    model = Model(upper)

    def life(limit: TokenUsage) -> Any:
        return map_dataset(texts(20), target, complete(), lambda: model, key=str, max_cost=limit)

    for told in ("the run's budget", "earlier lives have spent the budget"):
        summary = life(budget)
        assert isinstance(summary.failure, BudgetExhaustedError)
        assert told in str(summary.failure)
        assert model.calls == summary.cost.llm_calls == 7
    summary = life(TokenUsage(llm_calls=20))
    assert (summary.failure, summary.rows, summary.resumed, model.calls) == (None, 20, 7, 20)
    assert life(budget).failure is None  # nothing is left to do
    assert sum(row["value"] is not None for row in written(target).values()) == 20


def test_keys_that_come_twice_stay_one_answer(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    for life in range(2):
        model = Model(upper)
        summary = map_dataset(["a", "b", "a"], target, complete(), lambda m=model: m, key=str)  # type: ignore[misc]
        assert model.calls == (0 if life else 2)
        assert summary.failed == 1


def test_a_source_may_be_async(tmp_path: Path) -> None:
    async def source() -> AsyncIterator[str]:
        for text in texts(5):
            yield text

    target, model = tmp_path / "out.jsonl", Model(upper)
    for _ in range(2):
        assert map_dataset(source(), target, complete(), lambda: model, key=str).rows == 5
    assert model.calls == 5


def test_a_source_that_breaks_leaves_what_was_done(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"row 0"\n"row 1"\n2\n')
    model = Model(upper)
    summary = map_dataset(read_rows(source, str), target, complete(), lambda: model, key=str)
    assert isinstance(summary.failure, StageError)
    assert "in.jsonl, line 3" in str(summary.failure)
    assert set(written(target)) == {"row 0", "row 1"}


def test_a_provider_is_opened_and_closed_where_it_is_used(tmp_path: Path) -> None:
    said: list[str] = []

    class Opened(Model):
        async def __aenter__(self) -> Self:
            said.append("opened")
            return self

        async def __aexit__(self, *_: object) -> None:
            said.append("closed")

    map_dataset(["a"], tmp_path / "out.csv", complete(), lambda: Opened(upper), key=str)
    assert said == ["opened", "closed"]


def test_an_interrupt_leaves_nothing_uncounted(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"

    def answer(asked: Asked) -> object:
        if asked.number == 8:
            raise KeyboardInterrupt
        return upper(asked)

    model = Model(answer, ticks=lambda asked: 1 if asked.number < 9 else 10**9)
    with pytest.raises(KeyboardInterrupt):
        map_dataset(texts(20), target, complete(), lambda: model, key=str, max_concurrency=4)
    assert not target.exists()
    later = Model(upper)
    summary = map_dataset(texts(20), target, complete(), lambda: later, key=str)
    assert summary.cost.llm_calls == model.calls + later.calls
    assert summary.resumed == 7
    assert later.calls == 13


def test_a_trace_sees_the_rows(tmp_path: Path) -> None:
    events: list[Event] = []
    map_dataset(texts(3), tmp_path / "out.jsonl", complete(), Model, key=str, trace=events.append)
    assert sum(isinstance(event, ItemFinished) for event in events) == 3


def test_mistakes_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.jsonl"):
        map_dataset([], tmp_path / "out.txt", complete(), Model, key=str)
    with pytest.raises(TypeError, match="make_provider takes a function"):
        map_dataset([], tmp_path / "out.csv", complete(), Model(), key=str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def inside() -> None:
        map_dataset([], tmp_path / "out.csv", complete(), Model, key=str)

    with pytest.raises(RuntimeError, match="map_dataset cannot be called inside a running"):
        anyio.run(inside)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"

    def inner() -> Model:
        with pytest.raises(RuntimeError, match="another process uses the state"):
            map_dataset([], target, complete(), Model, key=str)
        return Model(upper)

    assert map_dataset(["a"], target, complete(), inner, key=str).rows == 1


def test_a_line_in_the_middle_that_was_changed_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    map_dataset(texts(3), target, complete(), lambda: Model(upper), key=str)
    kept = tmp_path / "out.jsonl.state" / "rows.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join([lines[0], b"{]\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: "):
        map_dataset(texts(3), target, complete(), lambda: Model(upper), key=str)
    kept.write_bytes(b"".join(lines)[:-9])
    summary = map_dataset(texts(3), target, complete(), lambda: Model(upper), key=str)
    assert summary.rows == 3


_PROGRAM = """
import os, sys
import anyio
from executionkit import LLMResponse, complete
from executionkit.datasets import map_dataset

calls = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Slow:
    async def complete(self, messages, **options):
        prompt = messages[-1]["content"]
        await anyio.sleep(0.002)
        os.write(calls, f"{prompt}\\n".encode())
        return LLMResponse(prompt.upper(), usage={"prompt_tokens": 3, "completion_tokens": 2})


rows = (f"row {n}" for n in range(int(sys.argv[3])))
summary = map_dataset(rows, sys.argv[2], complete(), Slow, key=str, max_concurrency=4)
print(summary.rows, summary.cost.llm_calls)
"""


def test_a_map_that_is_killed_again_and_again_ends_whole(tmp_path: Path) -> None:
    calls, target, count = tmp_path / "calls", tmp_path / "out.csv", 400
    command = [sys.executable, "-c", _PROGRAM, str(calls), str(target), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def asked() -> list[str]:
        return calls.read_text().splitlines() if calls.exists() else []

    for kill in range(KILLS):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        wanted = count * (kill + 1) // (KILLS + 1)
        while len(asked()) < wanted and process.poll() is None:
            anyio.run(anyio.sleep, 0.01)
        process.kill()
        process.communicate()
        assert not target.exists()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split()[0] == str(count)
    rows = written(target)
    assert {key: row["value"] for key, row in rows.items()} == {text: text.upper() for text in texts(count)}
    times = Counter(asked())
    again = sum(number - 1 for number in times.values())
    assert again <= 4 * KILLS  # those under way at a kill, which nobody can know to be paid
    print(f"{KILLS} kills, {count} rows: {again} calls paid again, all of them under way at a kill")
