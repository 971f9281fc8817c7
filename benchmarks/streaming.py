"""Streams beside the same work by others, in one run: CPU time a piece, and what a reader leaves behind.

    python benchmarks/streaming.py [--quick] [--json]

A peer that is not installed is left out. Ratios are of CPU time in this process; the server is in another.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import server
from executionkit import Provider, complete
from executionkit.events import TextDelta

KEY: Final = "sk-benchmark"
QUESTION: Final = "What is the capital of France?"
LEFT_AFTER: Final = 10
AT_MOST: Final = {"streaming_to_provider_stream": 1.5, "streaming_to_openai": 0.3}
"""The bars."""


async def provider_stream(url: str) -> int:
    """The pieces of one attempt, below runs: what a run is measured against."""
    async with (
        Provider(url, "m", KEY) as provider,
        provider.stream([{"role": "user", "content": QUESTION}]) as pieces,
    ):
        return sum([1 async for piece in pieces if piece.text])


async def streaming(url: str) -> int:
    """A run that is watched, every record of it."""
    async with Provider(url, "m", KEY) as provider, complete().stream(provider, QUESTION) as run:
        return sum([isinstance(event, TextDelta) async for event in run])


async def openai_sdk(url: str) -> int:
    import openai

    client: Any = openai.AsyncOpenAI(base_url=url, api_key=KEY)
    async with client:
        pieces = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        return sum([bool(piece.choices[0].delta.content) async for piece in pieces])


CLIENTS: Final[dict[str, Callable[[str], Awaitable[int]]]] = {
    "provider_stream": provider_stream,
    "streaming": streaming,
    **({"openai": openai_sdk} if find_spec("openai") else {}),
}


async def _timed(client: Callable[[str], Awaitable[int]], url: str) -> float:
    await client(url)  # so that all is loaded
    began = time.process_time()
    count = await client(url)
    took = time.process_time() - began
    assert count == server.CHUNKS, count
    return took / count


def measure(port: int, rounds: int) -> dict[str, float]:
    """Return the CPU time a piece in microseconds, and the ratios that the bars are about."""
    times: dict[str, list[float]] = {name: [] for name in CLIENTS}
    for _ in range(rounds):
        for name, client in CLIENTS.items():
            times[name].append(asyncio.run(_timed(client, f"http://127.0.0.1:{port}/stream")))
    median = {name: statistics.median(each) for name, each in times.items()}
    figures = {f"{name}_microseconds": each * 1e6 for name, each in median.items()}
    for other in median.keys() - {"streaming"}:
        figures[f"streaming_to_{other}"] = median["streaming"] / median[other]
    return figures


async def leave_ours(url: str) -> bool:
    seen = 0
    async with Provider(url, "m", KEY) as provider, complete().stream(provider, QUESTION) as run:
        async for event in run:
            seen += isinstance(event, TextDelta)
            if seen == LEFT_AFTER:
                break
    return run.cost.output_tokens > 0


async def leave_pydantic_ai(url: str) -> bool:
    """Leave by `break`, as its documentation iterates."""
    # No dependency, so that the checkers do not know it.
    ai: Any = import_module("pydantic_ai")
    models: Any = import_module("pydantic_ai.models.openai")
    providers: Any = import_module("pydantic_ai.providers.openai")
    provider = providers.OpenAIProvider(base_url=url, api_key=KEY)
    agent: Any = ai.Agent(models.OpenAIChatModel("m", provider=provider))
    usage: Any = None
    async with agent.run_stream(QUESTION) as result:
        seen = 0
        async for _ in result.stream_text(delta=True, debounce_by=None):
            seen += 1
            if seen == LEFT_AFTER:
                break
        usage = result.usage() if callable(result.usage) else result.usage
    return bool(usage.output_tokens)


async def leave_langchain(url: str) -> bool:
    """Leave by `break`, as its documentation iterates."""
    chat: Any = import_module("langchain_openai")
    model: Any = chat.ChatOpenAI(model="m", base_url=url, api_key=KEY, stream_usage=True)
    usage: Any = None
    seen = 0
    async for event in model.astream_events(QUESTION, version="v2"):
        if event["event"] == "on_chat_model_stream":
            usage = usage or event["data"]["chunk"].usage_metadata
            seen += 1
            if seen == LEFT_AFTER:
                break
    return usage is not None


LEAVERS: Final[dict[str, tuple[str, Callable[[str], Awaitable[bool]]]]] = {
    "executionkit": ("executionkit", leave_ours),
    "pydantic_ai": ("pydantic_ai", leave_pydantic_ai),
    "langchain": ("langchain_openai", leave_langchain),
}


async def _left_behind(leave: Callable[[str], Awaitable[bool]], url: str) -> dict[str, object]:
    """Leave a stream after ten deltas; count what is there after it, without a garbage collection."""
    gc.collect()
    gc.disable()
    try:
        tasks, sockets = len(asyncio.all_tasks()), _sockets()
        knows_cost = await leave(url)
        await asyncio.sleep(0.05)  # what ends by itself has ended by now
        return {
            "tasks": len(asyncio.all_tasks()) - tasks,
            "sockets": _sockets() - sockets,
            "cost known": knows_cost,
        }
    finally:
        gc.enable()


def _sockets() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since it was listed
            found += str(entry.readlink()).startswith("socket:")
    return found


def leaving(port: int) -> dict[str, dict[str, object]]:
    """Return for each library what is left of a stream that its reader leaves."""
    left: dict[str, dict[str, object]] = {}
    for name, (module, leave) in LEAVERS.items():
        if find_spec(module) is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            left[name] = asyncio.run(_left_behind(leave, f"http://127.0.0.1:{port}/trickle"))
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    with server.running() as port:
        figures = measure(port, 3 if options.quick else 15)
        left = leaving(port)
    broken = [name for name, most in AT_MOST.items() if figures.get(name, 0.0) > most]
    if options.json:
        print(json.dumps({**figures, "left after ten deltas": left}))
    else:
        for name in sorted(figures):
            bound = f"   at most {AT_MOST[name]:g}" if name in AT_MOST else ""
            print(f"{name:34} {figures[name]:9.3f}{bound}{'   BROKEN' if name in broken else ''}")
        for name, what in left.items():
            print(f"{name:34} left after {LEFT_AFTER} deltas: {what}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
