"""What a journal costs a call: `python benchmarks/journal.py [--peers PYTHON] [--flush MILLISECONDS]`.

Each figure is the least of some rounds, and the difference to the same work without it. Beside ours stand
LangGraph's SQLite checkpointer, a node a call, and DBOS on SQLite, a step a call, where they are installed:
in this environment or in that of another Python. The answers come at once, so that only the work counts.

The others flush the disk for each step; ours does with `power=True` alone. How long this disk takes
for a flush is printed, and `--flush` has it take so much longer, as `strace` (which is to be installed) can.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

CALLS = 200
AT_ONCE = 100
ROUNDS = 5
ANSWER = "It is Paris. " * 30


MODES = {"sequential": 1, "100 in flight": AT_ONCE}


async def least(work: Callable[[], Awaitable[object]]) -> float:
    """Return the milliseconds a call of the fastest round."""
    took: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await work()
        took.append((time.perf_counter() - began) / CALLS * 1000)
    return min(took)


async def ours() -> dict[str, float]:
    from executionkit import ScriptedProvider, complete
    from executionkit.journal import Journal

    provider = ScriptedProvider(lambda _: ANSWER)
    found: dict[str, float] = {}
    rows = ["Capital of France?"] * CALLS
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder) / "runs.db") as journal,
        Journal(Path(folder) / "power.db", power=True) as flushed,
    ):
        numbers = iter(range(10**9))
        for name, at_once, used in (
            ("sequential", 1, journal),
            ("100 in flight", AT_ONCE, journal),
            ("sequential, power=True", 1, flushed),
        ):
            stage = complete().each(max_concurrency=at_once)

            async def plain(stage: Any = stage) -> None:
                (await stage.run(provider, rows)).unwrap()

            async def kept(stage: Any = stage, used: Journal = used) -> None:
                (await stage.run(provider, rows, journal=used.run(str(next(numbers))))).unwrap()

            without, with_it = await least(plain), await least(kept)
            found[f"{name}, without"] = without
            found[name] = with_it - without
        many = ["Capital of France?"] * 10_000
        stage = complete().each(max_concurrency=100)
        (await stage.run(provider, many, journal=journal.run("many"))).unwrap()
        began = time.perf_counter()
        await journal.run("many").open(stage, many)
        found["10,000 rows read, seconds"] = time.perf_counter() - began
    return found


async def langgraph() -> dict[str, float]:
    from importlib import import_module

    from typing_extensions import TypedDict

    saver_of: Any = import_module("langgraph.checkpoint.sqlite.aio").AsyncSqliteSaver
    graphs: Any = import_module("langgraph.graph")

    def newer(_: str, text: str) -> str:
        return text

    class State(TypedDict):
        text: Annotated[str, newer]

    async def node(state: State) -> State:
        return {"text": ANSWER}

    def graph_of(at_once: int) -> Any:
        """Return a graph of so many nodes at once, and as many such steps as make all the calls."""
        graph: Any = graphs.StateGraph(State)
        for number in range(CALLS):
            graph.add_node(f"n{number}", node)
            before = number - at_once
            graph.add_edge(graphs.START if before < 0 else f"n{before}", f"n{number}")
        return graph

    found: dict[str, float] = {}
    limit = {"recursion_limit": CALLS + 5}
    numbers = iter(range(10**9))
    with tempfile.TemporaryDirectory() as folder:
        async with saver_of.from_conn_string(f"{folder}/graph.db") as saver:
            for name, at_once in MODES.items():
                graph = graph_of(at_once)
                saved, plain = graph.compile(checkpointer=saver), graph.compile()

                async def with_it(saved: Any = saved) -> None:
                    thread = {"configurable": {"thread_id": str(next(numbers))}}
                    await saved.ainvoke({"text": ""}, {**limit, **thread})

                async def without(plain: Any = plain) -> None:
                    await plain.ainvoke({"text": ""}, limit)

                found[name] = await least(with_it) - await least(without)
    return found


async def dbos() -> dict[str, float]:
    from importlib import import_module

    kept: Any = import_module("dbos").DBOS
    folder = tempfile.mkdtemp()
    kept(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "log_level": "ERROR",
        }
    )

    async def answer() -> str:
        return ANSWER

    step: Any = kept.step()(answer)

    async def in_turn() -> None:
        for _ in range(CALLS):
            await step()

    async def at_once() -> None:
        for _ in range(CALLS // AT_ONCE):
            await asyncio.gather(*[step() for _ in range(AT_ONCE)])

    async def plain() -> None:
        for _ in range(CALLS):
            await asyncio.sleep(0)

    workflows: list[Any] = [kept.workflow()(each) for each in (in_turn, at_once)]
    kept.launch()
    try:
        without = await least(plain)
        return {name: await least(each) - without for name, each in zip(MODES, workflows, strict=True)}
    finally:
        kept.destroy()


PEERS = {"LangGraph": langgraph, "DBOS": dbos}


def flush() -> float:
    """Return the milliseconds that the disk takes to store a page for good."""
    took: list[float] = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(100):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def slowed(milliseconds: float) -> list[str]:
    """Return what runs a command on a disk whose flush takes so much longer."""
    calls = "fsync,fdatasync"
    delay = f"inject={calls}:delay_exit={round(1000 * milliseconds)}"
    return ["strace", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", delay]


def peers() -> dict[str, Any]:
    """Measure who is installed here; of the others, say why not."""
    found: dict[str, Any] = {}
    for name, measure in PEERS.items():
        try:
            found[name] = asyncio.run(measure())
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0]:.90}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", metavar="PYTHON", help="the Python that the peers are installed for")
    parser.add_argument("--only-peers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--flush", type=float, metavar="MILLISECONDS", help="have the disk take so much longer"
    )
    options = parser.parse_args()
    if options.flush:
        again = [sys.executable, __file__, *(["--peers", options.peers] if options.peers else [])]
        raise SystemExit(subprocess.run([*slowed(options.flush), *again], check=False).returncode)
    if options.only_peers:
        print(json.dumps(peers()))
        return
    print(f"the disk: {flush():.2f} ms a flush")
    own = asyncio.run(ours())
    for name, value in own.items():
        print(f"executionkit, {name}: {value:.3f}{'' if 'seconds' in name else ' ms a call'}")
    if options.peers:
        command = [options.peers, __file__, "--only-peers"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        others = json.loads(done.stdout.splitlines()[-1])
    else:
        others = peers()
    for name, figures in others.items():
        if isinstance(figures, str):
            print(f"{name}: not measured ({figures})")
            continue
        for what, value in figures.items():
            print(f"{name}, {what}: {value:.3f} ms a call, ours is {own[what] / value:.3f} of it")


if __name__ == "__main__":
    main()
