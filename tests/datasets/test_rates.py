"""One rate limit for all workers of a data set, whoever dies; kept by the coordinator."""

import time
from collections.abc import AsyncIterator, Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.rate_limit import RateLimit
from executionkit.core.usage import NO_USAGE
from executionkit.datasets.coordinator import Coordinator, Message, Place, Reply
from executionkit.datasets.log import Begun, lines_of
from executionkit.datasets.shards import Job, Report, Shard, run_shard
from executionkit.errors import ProviderClosedError
from executionkit.patterns.complete import complete
from executionkit.provider import LLMProvider
from executionkit.providers.openai import Provider
from executionkit.providers.pool import Pool
from executionkit.providers.secret import Secret
from executionkit.runtime.tasks.event_loops import closing_at_exit
from tests.doubles import NEVER, Clock
from tests.faults.server import FaultServer, fault_server


class World:
    """Workers that ask a coordinator for places, in a time of their own.

    Args:
        limit: Their rate limit.
        workers: How many there are.
        chance: What they do.
    """

    def __init__(self, limit: RateLimit, workers: int, chance: Random) -> None:
        self.now = 0.0
        self.sent: list[tuple[float, int]] = []
        """When each request was sent, and what it may take."""
        self._limit = limit
        self._chance = chance
        self._coordinator = Coordinator(NO_USAGE, NO_USAGE, workers, clock=lambda: self.now)
        self._count = 0
        self._due: dict[str, tuple[float, int]] = {}
        for _ in range(workers):
            self._join()

    def _join(self) -> None:
        self._count += 1
        self._coordinator.answer(Message("begin", f"{self._count}", f"worker {self._count}"))
        self._due[f"{self._count}"] = (-1.0, 0)

    def die(self) -> None:
        """Have one die with the place that it waits for, and another take its place."""
        dead = self._chance.choice(sorted(self._due))
        self._due.pop(dead)
        self._coordinator.answer(Message("gone", worker=f"worker {dead}"))
        place = Place("server", self._limit, 1)
        assert self._coordinator.answer(Message("pace", dead, place=place)) == Reply(is_over=True)
        self._join()

    def ask(self, tokens: int) -> None:
        """Send what is due, and have who waits for nothing ask for a place."""
        for worker, (due, wanted) in self._due.items():
            if wanted and due <= self.now:
                self.sent.append((due, wanted))
                self._due[worker] = (due, 0)
        for worker in [worker for worker, (_, wanted) in self._due.items() if not wanted]:
            patience = self._chance.choice([None, 0.0, 1.0, 100.0])
            place = Place("server", self._limit, tokens, patience=patience)
            delay = self._coordinator.answer(Message("pace", worker, place=place)).delay
            if patience is None or delay < patience:
                self._due[worker] = (self.now + delay, tokens)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(50, 600), st.integers(1, 6))
def test_no_window_has_more_than_the_limit_whoever_dies(
    seed: int, requests: int, tokens: int, workers: int
) -> None:
    chance = Random(seed)
    world = World(RateLimit(requests, tokens), workers, chance)
    for _ in range(40):
        world.ask(chance.randint(1, 50))
        world.now += chance.choice([0.0, 0.0, chance.uniform(0, 3), chance.uniform(0, 60)])
        if chance.random() < 0.2:
            world.die()
    moments = sorted({moment for moment, _ in world.sent})
    for begin, end in [*combinations(moments, 2), *zip(moments, moments, strict=True)]:
        within = [wanted for moment, wanted in world.sent if begin <= moment <= end]
        assert len(within) <= requests + requests * (end - begin) / 60 + 1e-6
        assert sum(within) <= tokens + tokens * (end - begin) / 60 + 1e-6


def test_the_limit_is_used_up() -> None:
    coordinator = Coordinator(NO_USAGE, NO_USAGE, 3, clock=lambda: 0.0)
    place = Place("server", RateLimit(requests_per_minute=60), 10)
    for worker in "abc":
        coordinator.answer(Message("begin", worker, worker))
    delays = [
        coordinator.answer(Message("pace", worker, place=place)).delay for _ in range(30) for worker in "abc"
    ]
    assert delays == pytest.approx([0.0] * 60 + [float(second) for second in range(1, 31)])


def test_what_is_not_used_comes_back_to_all() -> None:
    coordinator = Coordinator(NO_USAGE, NO_USAGE, 2, clock=lambda: 0.0)
    limit = RateLimit(tokens_per_minute=600)

    def delay(worker: str, tokens: int, unused: int = 0, server: str = "server") -> float:
        place = Place(server, limit, tokens, unused)
        return coordinator.answer(Message("pace", worker, place=place)).delay

    for worker in "ab":
        coordinator.answer(Message("begin", worker, worker))
    assert delay("a", 600) == 0
    assert delay("b", 60) == pytest.approx(6)
    assert delay("b", 0, 60, "another server") == 0  # has a limit of its own
    coordinator.answer(Message("close", "a"))
    coordinator.answer(Message("pace", "a", place=Place("server", limit, 0, 590)))
    assert delay("b", 530) == pytest.approx(6)  # behind the place before it, and not later


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of_pacing(monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture
async def _closing(anyio_backend: str) -> AsyncIterator[None]:
    async with closing_at_exit():
        yield


class Link:
    """A link that takes a turn of the event loop, and notes what was asked."""

    def __init__(self, coordinator: Coordinator, worker: str) -> None:
        self._coordinator = coordinator
        self.worker = worker
        self.asked: list[Message] = []
        self.is_cut = False

    @property
    def places(self) -> list[Place]:
        """What was asked for."""
        return [message.place for message in self.asked if message.place is not None]

    async def ask(self, message: Message) -> Reply:
        await checkpoint()
        if self.is_cut and message.what == "pace":
            raise OSError("the coordinator of the data set cannot be reached")
        self.asked.append(message)
        return self._coordinator.answer(message)


def job_of(make_provider: Any, ends_at: float | None = None) -> Job[Any, Any]:
    return Job(complete(), make_provider, str, 8, NEVER, None, ends_at, False)


async def run(folder: Path, job: Job[Any, Any], links: list[Link], rows: int) -> list[Report]:
    """Run a shard on each worker, all at once."""
    await anyio.Path(folder).mkdir(exist_ok=True)
    reports: list[Report] = []

    async def work(number: int, link: Link) -> None:
        shard: Shard[Any] = Shard(number, [f"{number}.{row}" for row in range(rows)], [])
        begun = Begun("a nonce", "", b"")
        reports.append(await run_shard(job, shard, folder, begun, None, link))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number, link in enumerate(links):
                group.start_soon(work, number, link)
    return reports


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
@pytest.mark.parametrize("is_pool", [False, True])
async def test_workers_share_the_limit_of_their_provider(
    tmp_path: Path, server: FaultServer, clock: Clock, is_pool: bool
) -> None:
    key = "sk-shared-0123456789"

    def make_provider() -> LLMProvider:
        limit = RateLimit(requests_per_minute=4)
        one = Provider(server.url("good-plain"), "m", key, rate_limit=limit)
        return Pool([one]) if is_pool else one

    before = server.calls.get("good-plain", 0)
    coordinator = Coordinator(NO_USAGE, NO_USAGE, 3, clock=clock.monotonic)
    links = [Link(coordinator, f"worker {number}") for number in range(3)]
    reports = await run(tmp_path, job_of(make_provider), links, 4)
    assert [report.failure for report in reports] == [None] * 3
    assert server.calls["good-plain"] - before == 12
    # In this clock all time passes while somebody sleeps, so each may find that another's wait was its own.
    assert clock.now - 1000 == pytest.approx(15 * (12 - 4))
    assert len({place.server for link in links for place in link.places}) == 1
    assert key not in repr([link.asked for link in links])


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
async def test_each_key_has_a_limit_of_its_own(tmp_path: Path, server: FaultServer, clock: Clock) -> None:
    def make_provider() -> LLMProvider:
        limit = RateLimit(requests_per_minute=2)
        url = server.url("good-plain")
        return Pool([Provider(url, "m", key, rate_limit=limit) for key in ("sk-one", "sk-two")])

    coordinator = Coordinator(NO_USAGE, NO_USAGE, 2, clock=clock.monotonic)
    links = [Link(coordinator, f"worker {number}") for number in range(2)]
    await run(tmp_path, job_of(make_provider), links, 2)
    assert not clock.wakes


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
async def test_tokens_that_a_shard_did_not_take_are_given_back(
    tmp_path: Path, server: FaultServer, clock: Clock
) -> None:
    def make_provider() -> LLMProvider:
        limit = RateLimit(tokens_per_minute=10_000)
        return Provider(server.url("good-plain"), "m", rate_limit=limit, default_max_tokens=5000)

    coordinator = Coordinator(NO_USAGE, NO_USAGE, 1, clock=clock.monotonic)
    link = Link(coordinator, "worker")
    await run(tmp_path, job_of(make_provider), [link], 1)
    begun, _ = link.places
    probe = Place(begun.server, begun.limit, 10_000)
    coordinator.answer(Message("begin", "next", "worker"))
    delay = coordinator.answer(Message("pace", "next", place=probe)).delay
    assert delay == pytest.approx(10 * 60 / 10_000)  # 10 tokens were taken, as the server reports


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
async def test_a_limit_that_nobody_keeps_any_more_ends_the_shard(
    tmp_path: Path, server: FaultServer, clock: Clock
) -> None:
    def make_provider() -> LLMProvider:
        return Provider(server.url("good-plain"), "m", rate_limit=RateLimit(requests_per_minute=100))

    before = server.calls.get("good-plain", 0)
    link = Link(Coordinator(NO_USAGE, NO_USAGE, 1, clock=clock.monotonic), "worker")
    link.is_cut = True
    (report,) = await run(tmp_path, job_of(make_provider), [link], 50)
    assert isinstance(report.failure, ProviderClosedError)
    assert "not sent: the coordinator" in str(report.failure)
    assert server.calls.get("good-plain", 0) == before


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
async def test_what_got_no_place_for_a_worker_that_was_given_up_is_asked_by_the_next(
    tmp_path: Path, server: FaultServer, clock: Clock
) -> None:
    class GivenUp(Link):
        async def ask(self, message: Message) -> Reply:
            if len(self.places) == 4:
                coordinator.lose(self.worker)  # it lives, and is cut off from the others
            return await super().ask(message)

    def make_provider() -> LLMProvider:
        return Provider(server.url("good-plain"), "m", rate_limit=RateLimit(requests_per_minute=1000))

    coordinator = Coordinator(NO_USAGE, NO_USAGE, 2, clock=clock.monotonic)
    (first,) = await run(tmp_path, job_of(make_provider), [GivenUp(coordinator, "worker 1")], 20)
    (second,) = await run(tmp_path, job_of(make_provider), [Link(coordinator, "worker 2")], 20)
    assert isinstance(first.failure, ProviderClosedError)
    assert second.failure is None
    (part,) = [path async for path in anyio.Path(tmp_path).glob("part-*.jsonl")]
    records = [line.record for line in lines_of(Path(part)) if line.record is not None]
    assert [record["error"] for record in records] == [None] * 20


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
async def test_a_place_beyond_the_deadline_is_not_taken(
    tmp_path: Path, server: FaultServer, clock: Clock
) -> None:
    def make_provider() -> LLMProvider:
        limit = RateLimit(requests_per_minute=1)
        return Provider(server.url("good-plain"), "m", Secret("sk-1"), rate_limit=limit)

    link = Link(Coordinator(NO_USAGE, NO_USAGE, 1, clock=clock.monotonic), "worker")
    await run(tmp_path / "early", job_of(make_provider), [link], 1)
    await run(tmp_path / "late", job_of(make_provider, ends_at=time.time() + 40), [link], 5)
    assert not clock.wakes
    await run(tmp_path / "next", job_of(make_provider), [link], 1)
    assert clock.wakes == [60]


@pytest.mark.anyio
@pytest.mark.usefixtures("_closing")
async def test_what_is_cancelled_takes_one_place_with_it(
    tmp_path: Path, server: FaultServer, clock: Clock
) -> None:
    def make_provider() -> LLMProvider:
        return Provider(server.url("good-plain"), "m", rate_limit=RateLimit(requests_per_minute=1))

    link = Link(Coordinator(NO_USAGE, NO_USAGE, 1, clock=clock.monotonic), "worker")
    await run(tmp_path / "early", job_of(make_provider), [link], 1)
    clock.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(run, tmp_path / "cancelled", job_of(make_provider), [link], 8)
        while len(link.places) < 2:
            await checkpoint()
        for _ in range(100):  # whoever might ask as well gets many turns to do so
            await checkpoint()
        group.cancel_scope.cancel()
    clock.gate = None
    await run(tmp_path / "next", job_of(make_provider), [link], 1)
    assert clock.wakes == [120]
