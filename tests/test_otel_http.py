"""Spans of an instrumented HTTP client hang below the calls that they are made for: OpenTelemetry's own for httpx."""

from collections.abc import Iterator

import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan

from executionkit import Provider, RetryConfig, Stage, complete, consensus, react
from tests.conventions import Recording
from tests.doubles import result_of
from tests.streamed import LOOK_UP, Speaker, serving


@pytest.fixture
def seen() -> Iterator[Recording]:
    """A recording, of the requests that `httpx` makes too."""
    recording = Recording()
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=recording.tracers)
    yield recording
    instrumentor.uninstrument()
    assert recording.deviations() == []
    recording.close()


STAGES: dict[str, Stage[str, str]] = {
    "in pieces": complete(stream=True),
    "a vote": consensus(n=5, max_concurrency=3),
    "tools": react([LOOK_UP]),
    "in turn": consensus(n=2) >> complete(stream=True),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", [*STAGES])
async def test_each_request_hangs_below_its_call(name: str, seen: Recording) -> None:
    speaker = Speaker(breaks={1: 0})  # the second request is broken off, and made again
    async with serving(speaker) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with Provider(url, "m", transport="httpx") as provider:
            retry = RetryConfig(max_retries=2, base_delay=0.0)
            outcome = await STAGES[name].run(provider, "Where?", trace=seen.traces, retry=retry)
    result = result_of(outcome)
    requests = [span for span in seen.spans if span.name == "POST"]
    assert len(requests) == len(speaker.said)
    calls = {span.context.span_id: span for span in seen.named("chat") if span.context is not None}
    assert {above(span) for span in requests} <= calls.keys()
    attempts = {key: attempts_of(span) for key, span in calls.items()}
    assert {key: [above(span) for span in requests].count(key) for key in calls} == attempts
    assert sum(attempts.values()) == result.cost.llm_calls


def above(span: ReadableSpan) -> int:
    return 0 if span.parent is None else span.parent.span_id


def attempts_of(span: ReadableSpan) -> int:
    return int(str((span.attributes or {})["executionkit.call.attempts"]))
