"""The progress view: what it draws in a terminal and what it writes elsewhere."""

import gc
import io
import re
import sys
from decimal import Decimal
from pathlib import Path

import anyio
import pytest

from executionkit import PermanentError, TokenUsage, complete, consensus, refine
from executionkit.core.past_runs import past_runs
from executionkit.events import (
    CallStarted,
    Event,
    ItemFinished,
    ItemStarted,
    RunStarted,
    StageFinished,
    StageStarted,
    ToolStarted,
)
from executionkit.journal import Journal
from executionkit.prices import Price
from executionkit.progress import Progress, _Run  # pyright: ignore[reportPrivateUsage]
from executionkit.provider import LLMProvider
from executionkit.providers.scripted import Answer, ScriptedProvider, ScriptedRequest
from executionkit.retry import RetryConfig
from tests.conftest import needs

PIPELINE = consensus(n=3) >> refine(lambda text: 0.95)


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_lines_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    provider = ScriptedProvider("yes", price=Price(1000, "0.5"))
    limit = TokenUsage(llm_calls=9, usd=Decimal("0.5"))
    with Progress(file=file) as progress:
        outcome = PIPELINE.run_sync(provider, "Sky blue?", max_cost=limit, trace=progress)
    assert outcome.unwrap().cost == TokenUsage(22, 4, 4, usd=Decimal("0.022002"))
    lines = [re.sub(r"\d+\.\d s", "T", line) for line in file.getvalue().splitlines()]
    assert lines == [
        "Pipeline ...",
        "  Consensus: done, 3 calls, 18 + 3 tokens, $0.018, T, score 1.00",
        "  Refine: done, 1 call, 4 + 1 tokens, $0.0040, T, score 0.95",
        "Pipeline: done, 4 calls, 22 + 4 tokens, $0.022 of $0.50, T, score 0.95",
        "left of the budget: 5 of 9 calls, $0.48 of $0.50",
    ]


def test_the_bounds_are_told_before_the_run() -> None:
    file = io.StringIO()
    bounds = PIPELINE.bounds("Sky blue?", max_cost=TokenUsage(llm_calls=9))
    with Progress(file=file, bounds=bounds) as progress:
        PIPELINE.run_sync(ScriptedProvider("yes"), "Sky blue?", trace=progress)
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["Pipeline ...", f"bounds: {bounds}"]
    assert lines[1].startswith("bounds: 4 to 9 calls, up to ")


def test_past_runs_are_told_beside_the_bounds(tmp_path: Path) -> None:
    shown: list[list[str]] = []
    with Journal(tmp_path / "runs.db") as journal:
        for name in ("one", "two"):
            file, past = io.StringIO(), journal.past_runs(PIPELINE)
            with Progress(file=file, bounds=PIPELINE.bounds("Sky blue?"), past=past) as progress:
                run = journal.run(name)
                PIPELINE.run_sync(ScriptedProvider("yes"), "Sky blue?", trace=progress, journal=run)
            shown.append(file.getvalue().splitlines())
    assert [line.partition(":")[0].strip() for line in shown[0][1:3]] == ["bounds", "Consensus"]
    assert shown[1][1].startswith("bounds: 4 to ")
    assert shown[1][2] == "before: 1 run took 4 calls, 4 output tokens"


@needs("rich")
def test_the_bounds_are_in_the_tree() -> None:
    terminal = Terminal()
    past = past_runs([TokenUsage(8, 3, 2)], failed=1)
    with Progress(file=terminal, bounds=complete().bounds("Sky blue?"), past=past) as progress:
        complete().run_sync(ScriptedProvider("yes"), "Sky blue?", trace=progress)
    assert "├── bounds: 1 to 7 calls" in plain(terminal.getvalue())
    assert "└── before: 1 run took 2 calls, 3 output tokens; 1 failed" in plain(terminal.getvalue())


def test_failures_and_retries_are_told() -> None:
    file = io.StringIO()
    with Progress(file=file) as progress:
        complete().run_sync(
            ScriptedProvider([OSError("down"), ValueError("broken")]),
            "hello",
            retry=RetryConfig(base_delay=0),
            trace=progress,
        )
    told = file.getvalue()
    assert "ProviderError, attempt 2 in 0.0 s" in told
    assert re.search(r"Complete: failed, 2 calls, .* ProviderError", told)


@needs("rich")
def test_a_tree_in_a_terminal() -> None:
    terminal = Terminal()
    with Progress(file=terminal) as progress:
        PIPELINE.run_sync(
            ScriptedProvider("yes"), "Sky blue?", max_cost=TokenUsage(llm_calls=9), trace=progress
        )
        PIPELINE.run_sync(ScriptedProvider([]), "Sky blue?", trace=progress)
    drawn = plain(terminal.getvalue())
    assert "├── Consensus: done, 3 calls" in drawn
    assert "├── Refine: done, 1 call" in drawn
    assert "└── left of the budget: 5 of 9 calls" in drawn
    assert re.search(r"Consensus: failed, \d calls?, .* PermanentError", drawn)


def test_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install ".\[progress\]"'):
        Progress(file=Terminal()).__enter__()
    with Progress(file=Terminal(), live=False):
        pass


@needs("rich")
def test_calls_in_flight_and_tools_are_drawn() -> None:

    progress = Progress(file=io.StringIO())
    events: list[Event] = [
        RunStarted(run="r", id=1, stage="Pipeline"),
        StageStarted(run="r", id=1, stage="Pipeline"),
        StageStarted(run="r", id=2, parent=1, stage="React"),
        CallStarted(run="r", id=3, parent=2, ordinal=0),
        ToolStarted(run="r", id=4, parent=2, tool="add"),
    ]
    for event in events:
        progress(event)
    console = __import__("rich.console", fromlist=["Console"]).Console(
        file=(drawn := io.StringIO()), width=100
    )
    console.print(progress)
    assert "React: running, 0 calls, 1 in flight, 1 tool call, 0 + 0 tokens" in drawn.getvalue()


def test_many_inputs_are_counted_and_named() -> None:
    file = io.StringIO()
    stage = complete().each(max_concurrency=1, name=lambda text: f"ticket {text}").named("tickets")
    script = ScriptedProvider(["yes", PermanentError("no"), "yes"])
    with Progress(file=file) as progress:
        stage.run_sync(script, ["a", "b", "c"], trace=progress)
    lines = [re.sub(r"\d+\.\d s", "T", line) for line in file.getvalue().splitlines()]
    assert lines == [
        "tickets ...",
        "  1/3 ticket a: done, 1 call, T",
        "  2/3 ticket b: PermanentError, 1 call, T",
        "  3/3 ticket c: done, 1 call, T",
        "tickets: done, 3/3, 1 failed, 3 calls, 8 + 2 tokens, T",
    ]


@needs("rich")
def test_the_tree_shows_the_inputs_under_way_and_forgets_those_that_are_over() -> None:
    from rich.console import Console

    shown: list[str] = []
    progress = Progress(file=io.StringIO(), live=True)

    def look(request: ScriptedRequest) -> str:
        console = Console(file=io.StringIO(), width=100)
        with console.capture() as capture:
            console.print(progress)
        shown.append(capture.get())
        return "yes"

    stage = complete().each(max_concurrency=1, name=lambda text: f"ticket {text}")
    stage.run_sync(ScriptedProvider(look), ["a", "b", "c"], trace=progress)
    last = shown[-1]
    assert "2/3" in last
    assert "ticket c" in last
    assert "ticket a" not in last


def test_many_rows_are_counted() -> None:
    file = io.StringIO()
    answers: list[Answer] = [PermanentError("no", metadata={"status": 422}), *["yes"] * 149]
    provider = ScriptedProvider(answers, price=Price(1000, "0.5"))
    rows = [f"row {number}" for number in range(150)]
    progress, limit = Progress(file=file), TokenUsage(llm_calls=200)
    with complete().over_sync(rows, provider, key=str, max_cost=limit, trace=progress) as batch:
        assert sum(1 for _ in batch) == 150
    cost = f"{batch.cost.input_tokens} + {batch.cost.output_tokens} tokens, ${batch.cost.usd:.2f}"
    lines = re.sub(r"[\d.,e-]+ (s|a second)\b", r"N \1", file.getvalue()).splitlines()
    assert lines == [
        "Complete over rows ...",
        f"Complete over rows: done, 150 of 150 inputs, 1 failed, N a second, 150 calls, {cost}, N s",
        "  an input took N s (median), N s (95th percentile)",
        "  PermanentError: 1",
        "left of the budget: 50 of 200 calls",
    ]


def finished(number: int, at: float, total: int | None) -> ItemFinished:
    return ItemFinished(
        run="r",
        id=10 + number,
        parent=2,
        at=at,
        index=number,
        total=total,
        item=str(number),
        done=number,
        failed=0,
        duration=0.5,
    )


def test_many_rows_tell_how_far_they_are_and_how_long_the_rest_will_take() -> None:
    file = io.StringIO()
    progress = Progress(file=file)
    progress(RunStarted(run="r", id=1, stage="S", started=0.0))
    progress(StageStarted(run="r", id=2, parent=1, stage="S"))
    for number, at in enumerate((1.0, 2.0, 9.0, 12.0, 13.0, 23.0)):
        progress(ItemStarted(run="r", id=10 + number, parent=2, at=at, index=number, total=1000, item="x"))
        progress(StageStarted(run="r", id=90 + number, parent=10 + number, stage="S"))
        progress(finished(number, at, 1000))
    assert [line.replace(", 0 calls, 0 + 0 tokens", "") for line in file.getvalue().splitlines()] == [
        "S ...",
        "S: running, 3 of 1,000 inputs, 0.273 a second, 61 min to go",
        "S: running, 5 of 1,000 inputs, 0.227 a second, 73 min to go",
    ]
    endless = io.StringIO()
    progress = Progress(file=endless)
    progress(RunStarted(run="r", id=1, stage="S", started=0.0))
    progress(StageStarted(run="r", id=2, parent=1, stage="S"))
    progress(finished(1, 0.0, None))
    progress(finished(44, 11.0, None))
    assert "S: running, 44 inputs, 4 a second, 0 calls" in endless.getvalue()


@needs("rich")
def test_many_rows_are_one_line_of_the_tree() -> None:
    terminal = Terminal()
    rows = (f"row {number}" for number in range(30))
    progress = Progress(file=terminal)
    with progress, complete().over_sync(rows, ScriptedProvider("yes"), key=str, trace=progress) as batch:
        list(batch)
    drawn = plain(terminal.getvalue())
    assert "Complete over rows: done, 30 inputs" in drawn
    assert "row 3" not in drawn


@pytest.mark.anyio
async def test_runs_that_are_over_are_forgotten_however_they_ended() -> None:
    gc.collect()
    before = sum(type(each) is _Run for each in gc.get_objects())
    progress = Progress(file=io.StringIO(), live=True)
    slow = ScriptedProvider("yes", delay=60)

    async def cancelled() -> None:
        with anyio.move_on_after(0.001):
            await complete().run(slow, "hello", trace=progress)

    async def nested(text: str, provider: LLMProvider) -> float:
        (await complete().run(provider, text, trace=progress)).unwrap()
        return 0.9

    async def left() -> None:
        async with complete().stream(ScriptedProvider("a b"), "hello", trace=progress) as stream:
            async for _ in stream:
                break

    for _ in range(5):
        await complete().run(ScriptedProvider("yes"), "hello", trace=progress)
        await complete().run(ScriptedProvider([PermanentError("no")]), "hello", trace=progress)
        await refine(nested, target_score=0.5).run(ScriptedProvider("yes"), "hello", trace=progress)
        await cancelled()
        await left()
        async with complete().over(["a"], ScriptedProvider("yes"), key=str, trace=progress) as rows:
            assert [row async for row in rows]
    assert sum(type(each) is _Run for each in gc.get_objects()) == before + 10


@needs("rich")
def test_the_tree_shows_the_last_of_many_runs() -> None:
    from rich.console import Console

    progress = Progress(file=io.StringIO(), live=True)
    for number in range(13):
        complete().named(f"run {number}").run_sync(ScriptedProvider("yes"), "hello", trace=progress)
    Console(file=(drawn := io.StringIO()), width=100).print(progress)
    first, *rest = drawn.getvalue().splitlines()
    assert first == "3 earlier runs"
    assert [line.partition(":")[0] for line in rest] == [f"run {number}" for number in range(3, 13)]


def test_what_a_run_left_behind_tells_nothing_once_that_is_forgotten() -> None:
    progress = Progress(file=(file := io.StringIO()))
    progress(StageStarted(run="r", id=2, parent=1, stage="S"))
    progress(StageFinished(run="r", id=2, parent=1, stage="S", duration=1.0, cost=TokenUsage()))
    assert file.getvalue() == ""
