"""A stage over a data set: killed, interrupted, out of money, started again; the output is whole."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict

import anyio
import pytest

from executionkit.core.usage import TokenUsage
from executionkit.datasets import map_dataset, read_rows, resolve, write_rows
from executionkit.datasets.log import lines_of
from executionkit.errors import (
    BudgetExhaustedError,
    JournalError,
    JournalMismatchError,
    PermanentError,
    ProviderError,
    StageError,
    UnsettledToolError,
)
from executionkit.events import Event, ItemFinished
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react import react
from executionkit.patterns.step import step
from executionkit.prices import Price
from executionkit.provider import LLMProvider, LLMResponse, ToolCall
from executionkit.tools import tool
from tests.conftest import needs
from tests.doubles import NEVER, Answer, Asked, Model, reply
from tests.journaling import Unseen

KILLS = int(os.environ.get("EXECUTIONKIT_KILLS", "1"))


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

    for told in ("the run's budget", "earlier lives have spent the budget; raise max_cost"):
        summary = life(budget)
        assert isinstance(summary.failure, BudgetExhaustedError)
        assert told in str(summary.failure)
        assert model.calls == summary.cost.llm_calls == 7
    told = str(life(TokenUsage(llm_calls=9)).failure)
    assert "2 of 2 calls are spent" in told
    assert "; beside that, earlier lives have spent 7 calls, 21 input tokens, 14 output tokens" in told
    summary = life(TokenUsage(llm_calls=20))
    assert (summary.failure, summary.rows, summary.resumed, model.calls) == (None, 20, 9, 20)
    assert life(budget).failure is None  # nothing is left to do
    assert sum(row["value"] is not None for row in written(target).values()) == 20


def test_of_a_budget_in_money_it_is_told_what_earlier_lives_have_spent(tmp_path: Path) -> None:
    class Priced(Model):
        price = Price(input=Decimal(1_000_000), output=Decimal(0))  # a dollar a token

    def life(dollars: int) -> str:
        limit, target = TokenUsage(usd=Decimal(dollars)), tmp_path / "out.jsonl"
        settings: dict[str, Any] = {"max_cost": limit, "max_concurrency": 1}
        done = map_dataset(texts(40), target, complete(), lambda: Priced(upper), key=str, **settings)
        return str(done.failure)

    assert "$24.00 of $30.00 are spent" in life(30)
    told = life(35)
    assert "$6.00 of $11.00 are spent" in told
    assert "earlier lives have spent 8 calls, 24 input tokens, 16 output tokens, $24.00" in told


def test_keys_that_come_twice_stay_one_answer(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    for life in range(2):
        model = Model(upper)
        summary = map_dataset(["a", "b", "a"], target, complete(), lambda m=model: m, key=str)  # type: ignore[misc]
        assert model.calls == (0 if life else 2)
        assert summary.failed == 1


def test_an_answer_that_has_no_form_in_the_state_is_told_and_leaves_it_whole(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    odd = LLMResponse("odd", usage=usage, extra={"figure": 10**5_000})
    target = tmp_path / "out.jsonl"
    model = Model(lambda asked: odd if asked.prompt == "b" else upper(asked))
    with pytest.raises(OSError, match="no form in JSON"):
        map_dataset(["a", "b", "c"], target, complete(), lambda: model, key=str, max_concurrency=1)
    assert model.calls == 2
    again = Model(upper)
    done = map_dataset(["a", "b", "c"], target, complete(), lambda: again, key=str)
    assert sorted(asked.prompt for asked in again.asked) == ["b", "c"]
    assert (done.rows, done.failed) == (3, 0)


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

    with pytest.raises(TypeError, match="rows are something to iterate over, plain or async, not str"):
        map_dataset("in.jsonl", tmp_path / "out.csv", complete(), Model, key=str)
    with pytest.raises(TypeError, match="a stage is wanted, as complete"):
        map_dataset([], tmp_path / "out.csv", None, Model, key=str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def inside() -> None:
        map_dataset([], tmp_path / "out.csv", complete(), Model, key=str)

    with pytest.raises(RuntimeError, match="map_dataset cannot be called inside a running"):
        anyio.run(inside)


def test_a_target_that_cannot_be_written_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Model:
        raise AssertionError("asked for a model")

    def is_granted(path: object, mode: int) -> bool:
        return path is None and not mode

    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        map_dataset(["a"], tmp_path / "folder.csv", complete(), refused, key=str)
    monkeypatch.setattr(os, "access", is_granted)
    with pytest.raises(PermissionError, match="its folder is read-only"):
        map_dataset(["a"], tmp_path / "out.csv", complete(), refused, key=str)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match="Parquet needs pyarrow"):
        map_dataset(["a"], tmp_path / "out.parquet", complete(), refused, key=str)


@pytest.mark.anyio
async def test_in_an_event_loop_it_is_called_in_a_thread(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    run = partial(map_dataset, ["a"], target, complete(), lambda: Model(upper), key=str)
    with pytest.raises(RuntimeError, match="event loop; call it in a thread of its own"):
        run()
    assert not os.listdir(tmp_path)  # noqa: PTH208 - in an async function
    done = await anyio.to_thread.run_sync(run)
    assert (done.failure, written(target)["a"]["value"]) == (None, "A")


def test_files_of_others_in_the_folder_of_a_state_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text("mine")
    for resumed in (0, 1):
        target = tmp_path / "out.jsonl"
        done = map_dataset(["a"], target, complete(), lambda: Model(upper), key=str, state=tmp_path)
        assert (done.failure, done.resumed) == (None, resumed)
    assert (tmp_path / "notes.jsonl").read_text() == "mine"


@pytest.mark.parametrize("name", ["rows.jsonl", "part-00000.jsonl"])
@pytest.mark.parametrize("text", ['{"id": 1}\n{"id": 2}\n', "", "no JSON\n"])
def test_files_of_others_are_not_taken_for_a_state(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} is no part of a state of map_dataset"):
        map_dataset(["a"], tmp_path / "out.jsonl", complete(), lambda: Model(upper), key=str, state=tmp_path)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("it", "is the target, and cannot be the folder of the state"),
        ("it/rows.jsonl", "is a file of the state"),
        ("it/part-1.jsonl", "is a file of the state"),
    ],
)
def test_a_state_and_its_target_keep_out_of_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    state = tmp_path / f"{target}.jsonl" if target == "it" else tmp_path / "it"
    path = f"{target}.jsonl" if target == "it" else target
    with pytest.raises(ValueError, match=told):
        map_dataset(["a"], path, complete(), lambda: Model(upper), key=str, state=state)
    assert map_dataset(["a"], "it/a.jsonl", complete(), lambda: Model(upper), key=str, state="it").rows == 1


def test_the_folder_of_a_target_is_made_wherever_the_state_is(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.jsonl"
    assert (
        map_dataset(["a"], target, complete(), lambda: Model(upper), key=str, state=tmp_path / "state").rows
        == 1
    )
    assert target.exists()


@needs("pyarrow")
def test_one_bad_row_does_not_keep_the_others_from_being_written(tmp_path: Path) -> None:
    def number(text: str) -> int:
        return int(text)

    target = tmp_path / "out.parquet"
    done = map_dataset(["1", "two", "3\udcff"], target, complete(), lambda: Model(upper), key=number)
    assert (done.rows, done.failed) == (3, 2)
    assert {row["key"] for row in read_rows(target, dict[str, Any])} == {"1", "row 1", "row 2"}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"

    def inner() -> Model:
        with (
            ThreadPoolExecutor(1) as threads,
            pytest.raises(RuntimeError, match="another process uses the state"),
        ):
            threads.submit(map_dataset, [], target, complete(), Model, key=str).result()
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
import json, os, sys
import anyio
from executionkit import LLMResponse, TokenUsage, complete, consensus
from executionkit.datasets import map_dataset
from executionkit.runtime.calls.open_call import call_under_way

calls = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Slow:
    async def complete(self, messages, **options):
        path, ordinal = call_under_way.get().place
        os.write(calls, f"{json.dumps([*path, ordinal])}\\n".encode())
        await anyio.sleep(0.002)
        return LLMResponse(messages[-1]["content"].upper(), usage={"prompt_tokens": 3, "completion_tokens": 2})


map_dataset(
    (f"row {n}" for n in range(int(sys.argv[3]))), sys.argv[2], consensus(n=2) >> complete(), Slow, key=str,
    max_concurrency=4, max_cost=TokenUsage(llm_calls=int(sys.argv[4])),
)
"""


def settled_in(state: Path) -> tuple[set[str], set[str]]:
    """Return the calls that a state has the outcome of, and the rows that it has the answer of."""
    lines = [line for path in state.glob("*.jsonl") for line in lines_of(path)]
    last = {(line.call.path, line.call.ordinal): line.call.state for line in lines if line.call is not None}
    done = {json.dumps([*path, ordinal]) for (path, ordinal), how in last.items() if how == "done"}
    return done, {line.record["key"] for line in lines if line.record is not None and line.is_answer}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("is_short", [False, True], ids=["ample", "short of budget"])
def test_a_map_that_is_killed_again_and_again_pays_nothing_twice(tmp_path: Path, is_short: bool) -> None:
    calls, target, count = tmp_path / "calls", tmp_path / "out.csv", 60 * (KILLS + 1)
    in_flight = 8  # four rows at a time, two votes each
    limit = 2 * count if is_short else 3 * count + in_flight * KILLS
    command = [sys.executable, "-c", _PROGRAM, str(calls), str(target), str(count), str(limit)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def asked() -> Counter[str]:
        return Counter(calls.read_text().splitlines() if calls.exists() else [])

    paid: Counter[str] = Counter()

    def check_nothing_is_paid_twice() -> None:
        now = asked()
        assert {place: now[place] for place in paid} == dict(paid)
        done, rows = settled_in(tmp_path / "out.csv.state")
        settled = [place for place in now if place in done or json.loads(place)[0] in rows]
        paid.update({place: now[place] - paid[place] for place in settled})
        assert now.total() <= limit

    needed = min(limit, 3 * count)
    for kill in range(KILLS):
        process = subprocess.Popen(command, env=environment)
        wanted = needed * (kill + 1) // (KILLS + 2)
        while asked().total() < wanted and process.poll() is None:
            anyio.run(anyio.sleep, 0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -9
        assert not target.exists()
        check_nothing_is_paid_twice()
    subprocess.run(command, env=environment, check=True)
    check_nothing_is_paid_twice()
    answered = {key: row["value"] for key, row in written(target).items() if row["value"] is not None}
    assert answered == {text: text.upper() for text in (answered if is_short else texts(count))}
    times = asked()
    again = times.total() - len(times)
    assert again <= in_flight * KILLS  # those under way at a kill, which nobody can know to be paid
    if is_short:
        assert times.total() >= limit - again  # all others were of use
    print(f"{KILLS} kills: {times.total()} calls of {limit}, {again} asked again, {len(answered)} rows")


def test_what_is_settled_of_a_row_that_failed_is_not_paid_again(tmp_path: Path) -> None:
    stage, target = consensus(n=3) >> complete(), tmp_path / "out.jsonl"
    kept = tmp_path / "out.jsonl.state" / "rows.jsonl"

    def life(model: Model) -> tuple[int, Any]:
        summary = map_dataset(texts(4), target, stage, lambda: model, key=str, retry=NEVER)
        return model.calls, summary

    calls, summary = life(Model(no_at("ROW 1", ProviderError("down"))))
    assert (calls, summary.cost.llm_calls, summary.failed) == (16, 16, 1)
    for asked in (1, 0):
        calls, summary = life(Model(upper))
        assert (calls, summary.cost.llm_calls, summary.failed, summary.rows) == (asked, 17, 0, 4)
    assert sum(row["llm_calls"] for row in written(target).values()) == 17
    assert not [line for line in lines_of(kept) if line.call is not None]  # answers take the place of calls


def test_what_was_spent_past_the_ledger_counts_in_later_lives(tmp_path: Path) -> None:
    @step
    async def elsewhere(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return PatternResult(prompt, cost=TokenUsage(100, 10, 1))

    target = tmp_path / "out.jsonl"

    def life(model: Model) -> int:
        summary = map_dataset(texts(2), target, elsewhere >> complete(), lambda: model, key=str, retry=NEVER)
        return summary.cost.llm_calls

    assert life(Model(no_at("row 1", ProviderError("down")))) == 4
    assert life(Model(upper)) == 6  # nobody has kept what was said elsewhere of row 1


def test_another_pipeline_is_told_or_takes_what_fits(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    first, second = Model(no_at("row 1", ProviderError("down"))), Model(upper)
    before = map_dataset(texts(3), target, complete(), lambda: first, key=str, retry=NEVER)
    other = complete() >> complete(temperature=0.1)
    summary = map_dataset(texts(3), target, other, lambda: second, key=str)
    assert isinstance(summary.failure, JournalMismatchError)
    assert 'on_change="reuse"' in str(summary.failure)
    assert (second.calls, summary.cost) == (0, before.cost)
    assert len(written(target)) == 2  # what there is
    summary = map_dataset(texts(3), target, other, lambda: second, key=str, on_change="reuse")
    assert (second.calls, summary.failure, summary.resumed) == (2, None, 2)
    with pytest.raises(ValueError, match="on_change must be"):
        map_dataset(texts(3), target, other, lambda: second, key=str, on_change="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_state_that_cannot_be_written_stops_before_a_call(tmp_path: Path) -> None:
    import resource

    target, model = tmp_path / "out.jsonl", Model(upper)

    def full() -> Model:
        size = (tmp_path / "out.jsonl.state" / "rows.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))  # for half a line
        return model

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large"):
            map_dataset(texts(9), target, complete(), full, key=str)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert model.calls == 0
    assert map_dataset(texts(9), target, complete(), lambda: model, key=str).rows == 9


ROWS = int(os.environ.get("EXECUTIONKIT_ROWS", "1000"))


@pytest.mark.parametrize("how", ["refused", "raised", "no answer"])
def test_one_bad_row_costs_one_row(tmp_path: Path, how: str) -> None:
    bad, target = f"row {ROWS // 2}", tmp_path / "out.jsonl"
    errors: dict[str, object] = {
        "refused": PermanentError("no", metadata={"status": 400}),
        "raised": KeyError("a bug of the provider"),
        "no answer": 42,
    }

    def answer(asked: Asked) -> object:
        return errors[how] if asked.prompt == bad else upper(asked)

    summary = map_dataset(texts(ROWS), target, complete(), lambda: Model(answer), key=str, retry=NEVER)
    assert (summary.rows, summary.failed, summary.failure) == (ROWS, 1, None)
    rows = written(target)
    assert {key for key, row in rows.items() if row["value"] is None} == {bad}
    assert sum(row["value"] == key.upper() for key, row in rows.items()) == ROWS - 1
    print(f"{how}: {ROWS - 1} answers of {ROWS} rows")


def test_a_tool_that_may_have_had_its_effect_ends_the_map(tmp_path: Path) -> None:
    class World(Unseen):
        paid: ClassVar[list[str]] = []

    world, target = World(), tmp_path / "out.jsonl"

    @tool(effects="once")
    def pay(to: str) -> str:
        """Pay."""
        world.paid.append(to)
        if to == "row 1" and world.paid.count(to) == 1:
            raise KeyboardInterrupt
        return "paid"

    def answer(asked: Asked) -> object:
        if asked.messages[-1]["role"] == "tool":
            return reply(f"done after {asked.messages[-1]['content']}")
        call = ToolCall("c1", "pay", {"to": asked.prompt})
        return LLMResponse("", (call,), "tool_calls", {"prompt_tokens": 1, "completion_tokens": 1})

    def life() -> Any:
        return map_dataset(texts(3), target, react([pay]), lambda: Model(answer), key=str, max_concurrency=1)

    with pytest.raises(KeyboardInterrupt):
        life()
    error = life().failure
    assert isinstance(error, UnsettledToolError)
    assert world.paid == ["row 0", "row 1"]
    state, key = f"{target}.state", error.metadata["key"]
    assert f"executionkit.datasets.resolve({state!r}, {key!r}, observation)" in str(error)
    with pytest.raises(JournalError, match="has no tool call with the key 'another'"):
        resolve(state, "another", "paid after all")
    resolve(state, key, "paid after all")
    with pytest.raises(JournalError, match="has ended: 'paid after all'"):
        resolve(state, key, "paid again")
    done = life()
    assert (done.failure, done.failed, world.paid) == (None, 0, ["row 0", "row 1", "row 2"])
    assert written(target)["row 1"]["value"] == "done after paid after all"


def test_what_can_be_resolved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no state of map_dataset in"):
        resolve(tmp_path, "key", "paid")
    with pytest.raises(TypeError, match="a call's key is text, not int"):
        resolve(tmp_path, 1, "paid")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert not [*tmp_path.iterdir()]
