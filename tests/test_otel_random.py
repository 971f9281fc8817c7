"""The telemetry of random runs deviates neither from the conventions nor from the ledger, on both event loops."""

import os

import pytest

from tests.conventions import Recording
from tests.watched import SECRET, watch

RUNS = int(os.environ.get("EXECUTIONKIT_WATCHED", "60"))
"""Runs on each event loop."""


@pytest.mark.anyio
@pytest.mark.timeout(3600)
async def test_the_telemetry_of_random_runs(anyio_backend_name: str) -> None:
    found: list[str] = []
    calls = spans = 0
    for seed in range(RUNS):
        recording = Recording(content=seed % 4 == 3)
        await watch(seed if anyio_backend_name == "asyncio" else seed + 1_000_000, recording.traces)
        found += [f"seed {seed}: {deviation}" for deviation in recording.deviations(secret=SECRET)]
        assert not recording.otel._runs  # pyright: ignore[reportPrivateUsage]
        calls += len(recording.named("chat"))
        spans += len(recording.spans)
        recording.close()
    print(f"{RUNS} runs on {anyio_backend_name}: {spans} spans, {calls} calls, {len(found)} deviations")
    assert found == []
    assert calls > RUNS
