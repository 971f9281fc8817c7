"""What a call costs: CPU time inside this process for each `Provider.complete`, beside other clients.

    python benchmarks/transport.py [--json] [--quick]

The server runs in another process. Every figure is a ratio of times in the same run; the clients take turns,
and the median of their rounds counts. `httpx` and `aiohttp` are the transports of `Provider`, `stock` is
httpx's own client, `bare` an asyncio HTTP/1.1 exchange by hand, the limit. Ends with 1 above a bound.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import server
from executionkit import consensus
from executionkit.providers.openai import Provider

Transport: TypeAlias = Literal["httpx", "aiohttp"]
Call: TypeAlias = Callable[[int], Awaitable[None]]
"""Makes a call; the number says which of those in flight it is."""

MESSAGES = [{"role": "user", "content": "What is the capital of France? " * 5}]
PAYLOAD = {"model": "m", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 4096}
KEY = "sk-benchmark-key"
SAMPLES = 500
UNLIMITED = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)


@asynccontextmanager
async def ours(transport: Transport, port: int, route: str = "v1") -> AsyncGenerator[Call, None]:
    async with Provider(f"http://127.0.0.1:{port}/{route}", "m", KEY, transport=transport) as provider:

        async def call(_: int) -> None:
            await provider.complete(MESSAGES)

        yield call


@asynccontextmanager
async def stock(port: int, route: str = "v1") -> AsyncGenerator[Call, None]:
    url = f"http://127.0.0.1:{port}/{route}/chat/completions"
    async with httpx.AsyncClient(limits=UNLIMITED, timeout=600) as client:

        async def call(_: int) -> None:
            response = await client.post(url, json=PAYLOAD, headers={"Authorization": f"Bearer {KEY}"})
            json.loads(response.content)

        yield call


@asynccontextmanager
async def openai_sdk(port: int, route: str = "v1") -> AsyncGenerator[Call, None]:
    import openai

    # At 1,000 in flight its default of 5 s for connecting is not enough.
    base_url = f"http://127.0.0.1:{port}/{route}"
    client: Any = openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=600)
    async with client:

        async def call(_: int) -> None:
            await client.chat.completions.create(**PAYLOAD)

        yield call


@asynccontextmanager
async def bare(port: int, route: str = "v1") -> AsyncGenerator[Call, None]:
    streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def call(number: int) -> None:
        if number not in streams:
            streams[number] = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = streams[number]
        body = json.dumps(PAYLOAD).encode()
        head = f"POST /{route}/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        json.loads(await reader.readexactly(length))

    yield call
    for _, writer in streams.values():
        writer.close()
        await writer.wait_closed()


Client = Callable[[int], Any]
OURS: tuple[Transport, ...] = ("httpx", "aiohttp") if find_spec("aiohttp") else ("httpx",)
CLIENTS: dict[str, Client] = {**{name: partial(ours, name) for name in OURS}, "stock": stock, "bare": bare}
if find_spec("openai"):
    CLIENTS["openai"] = openai_sdk

IN_FLIGHT = (1, 10, 100, 1000)
BOUNDS: dict[str, tuple[float, ...]] = {
    "httpx_to_stock": (1.0, 0.65, 0.3, 0.3),
    "aiohttp_to_stock": (0.5, 0.25, 0.12, 0.12),
    "httpx_to_openai": (0.4, 0.4, 0.3, 0.2),
}
AT_MOST: dict[str, float] = {
    **{
        f"{whose}_{in_flight}_to_{whom}": bound
        for name, bounds in BOUNDS.items()
        for whose, _, whom in [name.split("_")]
        for in_flight, bound in zip(IN_FLIGHT, bounds, strict=True)
    },
    "httpx_stream_to_stock": 1.25,
    "aiohttp_stream_to_stock": 0.45,
    "httpx_500_first_to_stock": 0.15,
    "httpx_500_second_to_stock": 0.25,
    "aiohttp_500_first_to_stock": 0.08,
    "aiohttp_500_second_to_stock": 0.15,
}
"""The most that each ratio may be."""


async def cpu_per_call(client: Client, port: int, in_flight: int, calls: int) -> float:
    """Return CPU seconds per call, `in_flight` at once, after a warm-up that opens the connections."""
    async with client(port) as call:
        await _many(call, in_flight, 1)
        began = time.process_time()
        await _many(call, in_flight, calls // in_flight)
        return (time.process_time() - began) / (calls // in_flight * in_flight)


async def _many(call: Call, in_flight: int, each: int) -> None:
    async def work(number: int) -> None:
        for _ in range(each):
            await call(number)

    async with anyio.create_task_group() as group:
        for number in range(in_flight):
            group.start_soon(work, number)


async def walls(run: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the wall times of the first run and of the second, in units of the server's latency."""
    times: list[float] = []
    for _ in range(2):
        began = time.perf_counter()
        await run()
        times.append((time.perf_counter() - began) / server.LATENCY)
    return times[0], times[1]


async def wall_of_consensus(transport: Transport, port: int) -> tuple[float, float]:
    vote = consensus(n=SAMPLES, max_concurrency=SAMPLES)
    async with Provider(f"http://127.0.0.1:{port}/slow", "m", KEY, transport=transport) as provider:

        async def run() -> None:
            result = (await vote.run(provider, "What is the capital of France?")).unwrap()
            assert result.cost.llm_calls == SAMPLES

        return await walls(run)


async def wall_of_stock(port: int) -> tuple[float, float]:
    async with stock(port, "slow") as call:
        return await walls(lambda: _many(call, SAMPLES, 1))


async def cpu_per_chunk_ours(transport: Transport, port: int) -> float:
    async with Provider(f"http://127.0.0.1:{port}/stream", "m", KEY, transport=transport) as provider:
        await _read(provider)  # so that all is loaded, as it is for the others
        began = time.process_time()
        await _read(provider)
        return (time.process_time() - began) / server.CHUNKS


async def _read(provider: Provider) -> None:
    async for _piece in provider.stream(MESSAGES):
        pass


async def cpu_per_chunk_stock(port: int) -> float:
    url = f"http://127.0.0.1:{port}/stream/chat/completions"
    async with httpx.AsyncClient(timeout=60) as client:
        began = time.process_time()
        async with client.stream("POST", url, json={**PAYLOAD, "stream": True}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    json.loads(line[6:])
        return (time.process_time() - began) / server.CHUNKS


async def cpu_per_chunk_openai(port: int) -> float:
    import openai

    client: Any = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/stream", api_key=KEY)
    async with client:
        began = time.process_time()
        async for _piece in await client.chat.completions.create(**PAYLOAD, stream=True):
            pass
        return (time.process_time() - began) / server.CHUNKS


def measure(port: int, rounds: int, calls: int) -> dict[str, float]:
    """Return every ratio of CPU time by name: `{whose}_{in flight}_to_{whom}`."""
    ratios: dict[str, float] = {}
    for in_flight in IN_FLIGHT:
        measured: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for _ in range(rounds):
            for name, client in CLIENTS.items():
                is_slow = name in {"stock", "openai"}
                if in_flight == 1000 and is_slow and measured[name]:
                    continue  # these take minutes; one round says enough
                count = max(in_flight, calls // 4 if is_slow else calls)
                measured[name].append(asyncio.run(cpu_per_call(client, port, in_flight, count)))
        median = {name: statistics.median(times) for name, times in measured.items()}
        for mine in OURS:
            ratios[f"{mine}_{in_flight}_microseconds"] = median[mine] * 1e6
            for other in median.keys() - set(OURS):
                ratios[f"{mine}_{in_flight}_to_{other}"] = median[mine] / median[other]
    return ratios


def measure_wall(port: int, rounds: int) -> dict[str, float]:
    """Return the wall times of a vote of 500 at once, beside as many bare calls through stock httpx."""
    stocks = asyncio.run(wall_of_stock(port))
    figures: dict[str, float] = {}
    for mine in OURS:
        votes = [asyncio.run(wall_of_consensus(mine, port)) for _ in range(rounds)]
        for which, times, stock_time in zip(
            ("first", "second"), zip(*votes, strict=True), stocks, strict=True
        ):
            figures[f"{mine}_500_{which}_in_latencies"] = statistics.median(times)
            figures[f"{mine}_500_{which}_to_stock"] = statistics.median(times) / stock_time
    return figures


def measure_streams(port: int, rounds: int) -> dict[str, float]:
    """Return the CPU time of a streamed piece, beside that of others."""
    kinds: dict[str, Callable[[int], Awaitable[float]]] = {
        **{name: partial(cpu_per_chunk_ours, name) for name in OURS},
        "stock": cpu_per_chunk_stock,
    }
    if "openai" in CLIENTS:
        kinds["openai"] = cpu_per_chunk_openai
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(max(5, rounds)):
        for name, kind in kinds.items():
            times[name].append(asyncio.run(_awaited(kind, port)))
    median = {name: statistics.median(each) for name, each in times.items()}
    return {
        f"{mine}_stream_to_{other}": median[mine] / median[other]
        for mine in OURS
        for other in median.keys() - set(OURS)
    }


async def _awaited(kind: Callable[[int], Awaitable[float]], port: int) -> float:
    return await kind(port)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one object of named ratios")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    rounds, calls = (2, 1000) if options.quick else (5, 2000)
    with server.running() as port:
        ratios = {
            **measure(port, rounds, calls),
            **measure_wall(port, rounds),
            **measure_streams(port, rounds),
        }
    ordered = {name: round(ratios[name], 3) for name in sorted(ratios)}
    broken = [name for name, most in AT_MOST.items() if ratios.get(name, 0.0) > most]
    if options.json:
        print(json.dumps(ordered))
    else:
        for name, ratio in ordered.items():
            bound = f"   at most {AT_MOST[name]:g}" if name in AT_MOST else ""
            print(f"{name:32} {ratio:9.3f}{bound}{'   BROKEN' if name in broken else ''}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
