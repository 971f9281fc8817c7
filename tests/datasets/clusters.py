"""Data sets on a cluster whose workers are killed: `python clusters.py dask|ray SCHEDULES WORKERS SEED`.

Prints what was counted and what was broken, as JSON. A process of its own, since a cluster leaves threads.
"""

import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import anyio

from executionkit import LLMResponse, Provider, RateLimit, TokenUsage, complete, consensus
from executionkit.datasets import Dask, Engine, Ray, map_dataset, read_rows
from executionkit.datasets.log import Line, lines_of
from executionkit.errors import BudgetExhaustedError

STAGE = consensus(n=2) >> complete()
CALLS = 3
"""Calls that a row takes."""


def append(path: str, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def lines_now(path: Path) -> list[Line]:
    """Return the lines of a file that a worker may be writing: half a line is none yet."""
    for _ in range(20):
        try:
            return [*lines_of(path)]
        except FileNotFoundError:  # it was folded into another
            return []
        except ValueError:  # the rest of the line came just then
            time.sleep(0.01)
    return [*lines_of(path)]


def workers_of(calls: Path) -> set[int]:
    """Return the processes that have worked on a data set and live."""
    path = Path(f"{calls}.workers")
    known = map(int, path.read_text().split() if path.exists() else [])
    return {worker for worker in known if Path(f"/proc/{worker}").exists()}


class Model:
    """Answers in capital letters, after some milliseconds, and writes each call to a file before."""

    def __init__(self, log: str) -> None:
        self._log = log
        append(f"{log}.workers", str(os.getpid()))

    async def complete(self, messages: list[dict[str, Any]], **options: Any) -> LLMResponse:
        from executionkit.runtime.calls.open_call import call_under_way  # what it holds does not travel

        call = call_under_way.get()
        assert call is not None
        path, ordinal = call.place
        append(self._log, json.dumps([*path, ordinal]))
        await anyio.sleep(random.uniform(0.001, 0.01))
        return LLMResponse(
            messages[-1]["content"].upper(), usage={"prompt_tokens": 3, "completion_tokens": 2}
        )


class Schedule:
    """One data set, and when workers are killed while it is run."""

    def __init__(self, seed: int, folder: Path) -> None:
        chance = random.Random(seed)
        self.seed = seed
        self.count = chance.randint(30, 120)
        self.rows = chance.randint(3, 25)
        self.concurrency = chance.randint(1, 8)
        needed = CALLS * self.count
        self.budget = ("none", "ample", "short", "tokens")[seed % 4]
        kinds = {
            "none": None,
            "ample": TokenUsage(llm_calls=2 * needed),
            "short": TokenUsage(llm_calls=chance.randint(needed // 3, needed - 5)),
            "tokens": TokenUsage(llm_calls=2 * needed, output_tokens=chance.randint(30_000, 60_000)),
        }
        self.limit: TokenUsage | None = kinds[self.budget]
        most = needed if self.limit is None else min(needed, self.limit.llm_calls)
        self.kills_at = sorted(chance.randint(1, most) for _ in range(chance.randint(0, 3)))
        self.calls, self.state, self.target = folder / "calls", folder / "state", folder / "out.jsonl"
        self.settled: Counter[str] = Counter()
        self.killed = 0

    @property
    def asked(self) -> Counter[str]:
        return Counter(self.calls.read_text().splitlines() if self.calls.exists() else [])

    def settled_now(self) -> Iterator[tuple[str, int]]:
        """Yield which calls have settled, and how often each was asked so far."""
        done: set[str] = set()
        over: set[object] = set()
        for path in [*self.state.glob("*.jsonl")]:
            lines = lines_now(path)
            calls = [line.call for line in lines if line.call is not None]
            done |= {json.dumps([*call.path, call.ordinal]) for call in calls if call.state == "done"}
            over |= {line.record["key"] for line in lines if line.record is not None and line.is_answer}
        for place, count in self.asked.items():
            if place in done or json.loads(place)[0] in over:
                yield place, count

    def kill_workers(self, is_over: threading.Event) -> None:
        """Kill a worker each time that so many calls were made."""
        for moment in self.kills_at:
            while self.asked.total() < moment and not is_over.is_set():
                time.sleep(0.005)
            if is_over.is_set():
                return
            victim = random.choice(sorted(workers_of(self.calls)))
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
                try:
                    for place, count in self.settled_now():
                        self.settled[place] = count
                finally:  # one that stayed stopped would be waited for without end
                    os.kill(victim, signal.SIGKILL)
                self.killed += 1

    def run(self, engine: Callable[[int], Engine]) -> tuple[Counter[str], list[str]]:
        """Run it, and return what was counted and what was broken.

        Args:
            engine: Returns one with shards of so many rows.
        """
        is_over = threading.Event()
        killer = threading.Thread(target=self.kill_workers, args=(is_over,))
        killer.start()
        log = str(self.calls)
        try:
            summary = map_dataset(
                (f"row {number}" for number in range(self.count)),
                self.target,
                STAGE,
                lambda: Model(log),
                key=str,
                engine=engine(self.rows),
                max_cost=self.limit,
                state=self.state,
                max_concurrency=self.concurrency,
            )
        finally:
            is_over.set()
            killer.join()
        asked = self.asked
        broken = [
            f"{self.seed}: {place} had settled after {count} and was asked {asked[place]} times"
            for place, count in self.settled.items()
            if asked[place] != count
        ]
        rows: list[dict[str, Any]] = [*read_rows(self.target, dict[str, Any])]
        answers = {row["key"]: row["value"] for row in rows if row["value"] is not None}
        if len({row["key"] for row in rows}) != len(rows):
            broken.append(f"{self.seed}: a row is there twice")
        if any(value != key.upper() for key, value in answers.items()):
            broken.append(f"{self.seed}: another answer")
        limit = self.limit or TokenUsage(llm_calls=10**9)
        if asked.total() > limit.llm_calls or summary.cost.llm_calls > limit.llm_calls:
            broken.append(f"{self.seed}: {asked.total()} calls, {summary.cost.llm_calls} counted of {limit}")
        if limit.output_tokens and 2 * asked.total() > limit.output_tokens:
            broken.append(f"{self.seed}: {2 * asked.total()} output tokens of {limit}")
        if self.budget in {"none", "ample"} and (len(answers) != self.count or summary.failure is not None):
            broken.append(f"{self.seed}: {len(answers)} of {self.count} rows, {summary.failure!r}")
        if self.budget == "short" and not isinstance(summary.failure, BudgetExhaustedError):
            broken.append(f"{self.seed}: ended with {summary.failure!r}")
        if self.budget == "short" and summary.cost.llm_calls < 0.97 * limit.llm_calls:
            broken.append(f"{self.seed}: {summary.cost.llm_calls} calls of {limit.llm_calls} were used")
        counts = Counter(
            schedules=1, kills=self.killed, rows=len(rows), answers=len(answers), calls=asked.total()
        )
        counts["asked again"] = asked.total() - len(asked)
        if self.budget == "short":
            counts["short of budget"] = 1
            counts["calls allowed then"] = limit.llm_calls
            counts["calls counted then"] = summary.cost.llm_calls
        return counts, broken


class Server(BaseHTTPRequestHandler):
    """Answers at once, and notes when it was asked."""

    protocol_version = "HTTP/1.1"
    asked_at: ClassVar[list[float]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked_at.append(time.monotonic())
        answer = {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


def check_rate(engine: Callable[[int], Engine]) -> tuple[Counter[str], list[str]]:
    """Run more rows than a provider's limit allows at once, kill a worker, and return what was broken."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    most, more = 60, 5
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder) / "calls"
        log = str(calls)

        def make_provider() -> Provider:
            append(f"{log}.workers", str(os.getpid()))
            return Provider(url, "m", rate_limit=RateLimit(requests_per_minute=most))

        def kill_worker() -> None:
            while len(Server.asked_at) <= most:
                time.sleep(0.01)
            os.kill(random.choice(sorted(workers_of(calls))), signal.SIGKILL)

        killer = threading.Thread(target=kill_worker)
        killer.start()
        began = time.monotonic()
        rows = [f"row {number}" for number in range(most + more)]
        target = Path(folder) / "out.jsonl"
        summary = map_dataset(rows, target, complete(), make_provider, key=str, engine=engine(5))
        killer.join()
    server.shutdown()
    waited, sent = max(Server.asked_at) - began, len(Server.asked_at)
    broken: list[str] = []
    if (summary.rows, summary.failed) != (most + more, 0):
        broken.append(f"under a rate limit: {summary}")
    if waited < (sent - most) * 60 / most:
        broken.append(f"{sent} requests were sent in {waited:.2f} s, {most} a minute being allowed")
    return Counter({"under a rate limit": sent}), broken


@contextmanager
def dask_engine(workers: int) -> Generator[Callable[[int], Engine]]:
    """Have a Dask cluster, which starts its workers again, and yield what makes an engine of it."""
    # So long after the death of a worker a cluster gives it up for good, if it is dead at that very moment.
    dask: Any = import_module("dask")
    dask.config.set({"distributed.deploy.lost-worker-timeout": "7 days"})
    # A worker that is started again finds all modules imported; otherwise that is most of what a schedule takes.
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    distributed: Any = import_module("distributed")
    known = ["distributed.worker", "distributed.nanny", "executionkit.datasets", "executionkit.patterns"]
    import_module("distributed.utils").get_mp_context().set_forkserver_preload(known)
    cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with distributed.Client(cluster) as client:

        def engine(rows: int) -> Engine:
            client.wait_for_workers(1)
            return Dask(client, rows=rows)

        yield engine
        os._exit(0)  # who closes a cluster waits for workers that are just being started


@contextmanager
def ray_engine(workers: int) -> Generator[Callable[[int], Engine]]:
    """Have a Ray cluster, which starts its workers again, and yield what makes an engine of it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that all is on loopback
    os.environ["RAY_AUTH_TOKEN"] = os.urandom(16).hex()  # so that none is left in the home folder
    ray: Any = import_module("ray")
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
    )
    yield lambda rows: Ray(rows=rows)
    ray.shutdown()


ENGINES = {"dask": dask_engine, "ray": ray_engine}


def campaign(engine: str, schedules: str) -> dict[str, Any]:
    """Run this program and check what it found: nothing broken, workers killed, the budget used.

    Args:
        engine: `"dask"` or `"ray"`.
        schedules: How many, on how many workers, and the first seed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, engine, *schedules.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    # Ray prints there what befell its workers, whenever it hears of it.
    (found,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    counts: dict[str, Any] = json.loads(found)
    print(counts)
    assert counts["broken"] == 0, counts["first"]
    assert counts["kills"] > 0
    if counts.get("short of budget"):
        assert counts["calls counted then"] >= 0.97 * counts["calls allowed then"]
    return counts


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    schedules, workers, seed = map(int, sys.argv[2:])
    counts: Counter[str] = Counter()
    broken: list[str] = []
    with ENGINES[sys.argv[1]](workers) as engine:
        counted, found = check_rate(engine)
        counts += counted
        broken += found
        for number in range(seed, seed + schedules):
            with tempfile.TemporaryDirectory() as folder:
                counted, found = Schedule(number, Path(folder)).run(engine)
            counts += counted
            broken += found
            if found or number % 20 == 0:
                print(*found, dict(counts), sep="\n", file=sys.stderr, flush=True)
        print(json.dumps({**counts, "broken": len(broken), "first": broken[:5]}), flush=True)


if __name__ == "__main__":
    main()
