"""Shards of a data set on workers that die: one budget, nothing settled paid twice, the output whole."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.core.window import Adaptive
from executionkit.datasets.coordinator import Coordinator, Message, Reply
from executionkit.datasets.log import Begun, lines_of
from executionkit.datasets.shards import Job, Report, Shard, count_lost, cut, run_shard
from executionkit.datasets.state import BusyError, State, locked, opened
from executionkit.errors import BudgetExhaustedError, PermanentError
from executionkit.journal.pipelines import pipelined
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.provider import LLMResponse
from executionkit.runtime.calls.open_call import call_under_way
from tests.doubles import NEVER, Asked, Model, reply

pytestmark = pytest.mark.anyio

STAGE = consensus(n=2) >> complete()
CALLS = 3
"""Calls that a row takes."""


class Cluster:
    """Workers of a data set, as tasks of this event loop; a worker dies by being cancelled.

    Args:
        folder: The state.
        limit: The budget.
        count: How many workers there are.
        rows: Rows of a shard.
    """

    def __init__(
        self, folder: Path, limit: TokenUsage | None, count: int, rows: int, answer: Any = None
    ) -> None:
        self.folder, self.limit, self.count, self.rows = folder, limit, count, rows
        self.asked: Counter[Any] = Counter()
        self.settled: Counter[Any] = Counter()
        """What had settled when a worker died, and how often it had been asked then."""
        self.deaths = 0
        self.reports: list[Report] = []
        self._answer = answer
        self._queue: list[Shard[Any]] = []
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._under_way = 0

    def model(self) -> Model:
        def answer(asked: Asked) -> object:
            call = call_under_way.get()
            assert call is not None
            self.asked[call.place] += 1
            return reply(asked.prompt.upper(), 3, 2) if self._answer is None else self._answer(asked)

        return Model(answer, ticks=lambda asked: 1 + asked.number % 3)

    async def run(self, texts: list[str], dies: Callable[[int], bool] = lambda calls: False) -> State:
        job: Job[Any, Any] = Job(STAGE, self.model, str, Adaptive(2, 4), NEVER, None, None, False)
        with opened(self.folder, pipelined(STAGE, prompts=False), "fail") as state:
            self._coordinator = Coordinator(self.limit or NO_USAGE, state.log.paid, self.count)
            rows = [text for text in texts if not state.knows(text, str)]
            self._queue = [shard async for shard in cut(job, rows, state, self.rows)]
            async with anyio.create_task_group() as group:
                for number in range(self.count):
                    group.start_soon(self._worker, job, state, f"worker {number}")
                while self._queue or self._under_way:
                    await checkpoint()
                    if dies(sum(self.asked.values())) and self._scopes:
                        self._kill()
                    await count_lost(Link(self._coordinator, ""), self.folder)
            list(state.records())
            return state

    def _kill(self) -> None:
        worker = min(self._scopes)
        self.deaths += 1
        self._scopes.pop(worker).cancel()

    def _note_settled(self) -> None:
        for path in self.folder.glob("*.jsonl"):
            for line in lines_of(path):
                if line.call is not None and line.call.state == "done":
                    place = (line.call.path, line.call.ordinal)
                    self.settled[place] = self.asked[place]

    async def _worker(self, job: Job[Any, Any], state: State, name: str) -> None:
        self.worker = name
        while self._queue:
            shard = self._queue.pop(0)
            self._under_way += 1
            with anyio.CancelScope() as scope:
                self._scopes[name] = scope
                link = Link(self._coordinator, name)
                self.reports.append(await run_shard(job, shard, state.folder, state.begun, self.limit, link))
            self._scopes.pop(name, None)
            if scope.cancelled_caught:
                self._note_settled()
                self._coordinator.lose(name)
                self._queue.append(shard)
            self._under_way -= 1


class Link:
    """A link that takes a turn of the event loop."""

    def __init__(self, coordinator: Coordinator, worker: str) -> None:
        self._coordinator = coordinator
        self.worker = worker

    async def ask(self, message: Message) -> Reply:
        await checkpoint()
        return self._coordinator.answer(message)


def texts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


@pytest.mark.parametrize("seed", range(6))
async def test_workers_die_and_the_budget_holds(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    count = chance.randint(10, 30)
    short = TokenUsage(llm_calls=chance.randint(10, CALLS * count - 5))
    limit = [None, short, TokenUsage(llm_calls=2 * CALLS * count), short][seed % 4]
    cluster = Cluster(tmp_path / "state", limit, chance.randint(1, 4), chance.randint(2, 9))
    moments = sorted(chance.sample(range(1, 2 * count), 4))

    def dies(calls: int) -> bool:
        return bool(moments and calls >= moments[0] and moments.pop(0))

    with anyio.fail_after(30):
        state = await cluster.run(texts(count), dies)
    assert cluster.deaths
    assert {place: cluster.asked[place] for place in cluster.settled} == dict(cluster.settled)
    calls = cluster.asked.total()
    if limit is not short:
        assert state.written == {None: count}
        return
    assert calls <= short.llm_calls
    assert calls >= short.llm_calls - 8 * cluster.deaths  # what was cancelled before it was asked
    assert state.cost.llm_calls <= short.llm_calls
    assert any(isinstance(report.failure, BudgetExhaustedError) for report in cluster.reports)


async def test_all_is_used_where_nobody_dies(tmp_path: Path) -> None:
    limit = TokenUsage(llm_calls=50, output_tokens=40_000)
    cluster = Cluster(tmp_path / "state", limit, 3, 5)
    with anyio.fail_after(30):
        state = await cluster.run(texts(60))
    assert cluster.asked.total() == state.cost.llm_calls == 50
    later = Cluster(tmp_path / "state", TokenUsage(llm_calls=200), 2, 7)
    with anyio.fail_after(30):
        state = await later.run(texts(60))
    assert state.written == {None: 60}
    assert cluster.asked.total() + later.asked.total() == CALLS * 60  # none was asked twice


async def test_a_failure_that_all_rows_share_ends_all_shards(tmp_path: Path) -> None:
    def refuse(asked: Asked) -> object:
        return (
            PermanentError("no such key", metadata={"status": 401})
            if asked.prompt == "row 7"
            else LLMResponse("x")
        )

    cluster = Cluster(tmp_path / "state", None, 2, 4, refuse)
    with anyio.fail_after(30):
        state = await cluster.run(texts(400))
    assert state.written.total() < 40
    assert [report.failure for report in cluster.reports if report.failure is not None]


async def test_an_attempt_that_died_before_it_had_a_file_does_not_end_the_next(tmp_path: Path) -> None:
    limit = TokenUsage(llm_calls=20)
    coordinator = Coordinator(limit, NO_USAGE, 1)
    link, dead = Link(coordinator, "worker 2"), Link(coordinator, "worker 1")

    class Dies(Exception):
        pass

    async def no_answer(message: Message) -> Reply:
        coordinator.answer(message)
        raise Dies

    dead.ask = no_answer  # type: ignore[method-assign]
    job: Job[Any, Any] = Job(complete(), Model, str, 1, None, None, None, False)
    shard: Shard[Any] = Shard(0, texts(5), [])
    with pytest.raises(Dies):
        await run_shard(job, shard, tmp_path, Begun("", "", b""), limit, dead)
    coordinator.lose("worker 1")
    report = await run_shard(job, shard, tmp_path, Begun("", "", b""), limit, link)
    assert (report.failure, report.cost.llm_calls) == (None, 5)
    await count_lost(link, tmp_path)
    assert coordinator.answer(Message("lost")) == Reply()


async def test_a_shard_that_somebody_works_on_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("executionkit.datasets.shards.PATIENCE", 0.0)
    part = tmp_path / "part-00000000-0001-0.jsonl"
    part.touch()
    job: Job[Any, Any] = Job(complete(), Model, str, 1, None, None, None, False)
    link = Link(Coordinator(NO_USAGE, NO_USAGE, 1), "worker")
    with locked(part, "it works"), pytest.raises(BusyError, match="another worker still works on"):
        await run_shard(job, Shard(0, ["a"], []), tmp_path, Begun("", "", b""), None, link)


@pytest.mark.parametrize("limit", [TokenUsage(llm_calls=1000), TokenUsage(llm_calls=30)])
async def test_what_failed_for_a_worker_that_was_given_up_is_run_by_the_next(
    tmp_path: Path, limit: TokenUsage
) -> None:
    coordinator = Coordinator(limit, NO_USAGE, 10)
    given_up, link = Link(coordinator, "worker 1"), Link(coordinator, "worker 2")

    def answer(asked: Asked) -> object:
        if asked.number == 7:
            coordinator.lose("worker 1")  # it lives, and is cut off from the others
        return reply(asked.prompt.upper(), 3, 2)

    job: Job[Any, Any] = Job(complete(), lambda: Model(answer), str, 2, NEVER, None, None, False)
    shard: Shard[Any] = Shard(0, texts(200), [])
    begun = Begun("", "", b"")
    with anyio.fail_after(30):
        first = await run_shard(job, shard, tmp_path, begun, limit, given_up)
        assert isinstance(first.failure, BudgetExhaustedError)
        second = await run_shard(job, shard, tmp_path, begun, limit, link)
    (part,) = [path async for path in anyio.Path(tmp_path).glob("part-*.jsonl")]
    records = [line.record for line in lines_of(Path(part)) if line.record is not None]
    answered = [record["key"] for record in records if record["error"] is None]
    assert len({record["key"] for record in records}) == len(records)
    if limit.llm_calls < 200:
        assert isinstance(second.failure, BudgetExhaustedError)
        assert len(answered) == limit.llm_calls
    else:
        assert second.failure is None
        assert sorted(answered) == sorted(shard.rows)
