"""What OpenTelemetry costs a call: `executionkit.otel` beside the same spans and metrics made by hand.

    python benchmarks/otel.py            a small table
    python benchmarks/otel.py --json     one object: the ratios by name

A vote of a hundred samples whose provider answers at once runs with a trace, without, and with a provider
that makes the same spans, events and metrics by hand; what both add to a call stands side by side. They take
turns, in processor time, and the fastest round of each counts. With the API alone nobody listens, and both
should add next to nothing.
"""

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from opentelemetry import context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from executionkit import LLMResponse, Message, Stage, consensus
from executionkit.otel import Otel

SAMPLES, ROUNDS = 100, 30
PROMPT = "Capital of France?"
ANSWER = LLMResponse("Paris", usage={"prompt_tokens": 9, "completion_tokens": 2}, id="c1", model="gpt-x-1")
BASE: dict[str, str | int] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-x",
    "server.address": "api.openai.com",
    "server.port": 443,
}
SPENT = {
    "executionkit.cost.llm_calls": SAMPLES,
    "executionkit.cost.input_tokens": 9 * SAMPLES,
    "executionkit.cost.output_tokens": 2 * SAMPLES,
}


class Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Model:
    """Answers at once."""

    model, server, port = "gpt-x", "api.openai.com", 443

    async def complete(self, messages: list[Message], **_: Any) -> LLMResponse:
        return ANSWER


class ByHand(Model):
    """A provider that makes the same spans, events and metrics, as one would write them."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self.tracer = tracer
        self.duration = meter.create_histogram("gen_ai.client.inference.duration", "s")
        self.input = meter.create_histogram("gen_ai.client.inference.operation.input_tokens", "{token}")
        self.output = meter.create_histogram("gen_ai.client.inference.operation.output_tokens", "{token}")
        self.used_input = meter.create_counter("gen_ai.client.inference.usage.input_tokens", "{token}")
        self.used_output = meter.create_counter("gen_ai.client.inference.usage.output_tokens", "{token}")
        self.run_duration = meter.create_histogram("gen_ai.invoke_agent.duration", "s")

    async def run(self, stage: Stage[str, str]) -> None:
        """Run a vote, with the spans of the run and of its stage."""
        began = time.time_ns()
        names = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.agent.name": "Consensus"}
        run = self.tracer.start_span("invoke_workflow Consensus", attributes=names, start_time=began)
        within = trace.set_span_in_context(run)
        own = {"executionkit.stage.name": "Consensus"}
        span = self.tracer.start_span("stage Consensus", within, attributes=own)
        token = context.attach(trace.set_span_in_context(span, within))
        await stage.run(self, PROMPT)
        context.detach(token)
        if span.is_recording():
            span.set_attributes({**SPENT, "executionkit.score": 1.0})
        span.end()
        if run.is_recording():
            run.set_attributes(SPENT)
        run.end()
        self.run_duration.record((time.time_ns() - began) / 1e9, names, within)

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        began = time.time_ns()
        span = self.tracer.start_span("chat gpt-x", None, trace.SpanKind.CLIENT, BASE, start_time=began)
        here = trace.set_span_in_context(span)
        token = context.attach(here)
        answer = await super().complete(messages, **options)
        context.detach(token)
        ended = time.time_ns()
        if span.is_recording():
            span.add_event(
                "executionkit.attempt",
                {
                    "executionkit.attempt.attempt": 1,
                    "executionkit.attempt.duration": (ended - began) / 1e9,
                    "executionkit.attempt.finish_reason": answer.finish_reason,
                },
                ended,
            )
            span.set_attributes(
                {
                    "executionkit.run": "0123456789abcdef",
                    "executionkit.path": "0",
                    "executionkit.call.ordinal": 0,
                    "gen_ai.request.max_tokens": 4096,
                    "gen_ai.request.temperature": 0.9,
                    "executionkit.call.attempts": 1,
                    "gen_ai.response.id": answer.id,
                    "gen_ai.response.model": answer.model,
                    "gen_ai.response.finish_reasons": (answer.finish_reason,),
                    "gen_ai.usage.input_tokens": answer.input_tokens,
                    "gen_ai.usage.output_tokens": answer.output_tokens,
                    "executionkit.cost.llm_calls": 1,
                }
            )
        span.end(ended)
        attributes = {**BASE, "gen_ai.response.model": answer.model}
        self.duration.record((ended - began) / 1e9, attributes, here)
        self.input.record(answer.input_tokens, attributes, here)
        self.output.record(answer.output_tokens, attributes, here)
        counted = {**attributes, "gen_ai.token.modality": "text"}
        self.used_input.add(answer.input_tokens, counted, here)
        self.used_output.add(answer.output_tokens, counted, here)
        return answer


class Row(NamedTuple):
    """Microseconds a call."""

    name: str
    untraced: float
    traced: float
    handmade: float

    @property
    def added(self) -> float:
        return self.traced - self.untraced

    @property
    def by_hand(self) -> float:
        return self.handmade - self.untraced

    @property
    def ratio(self) -> float:
        return self.added / self.by_hand


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(name: str, otel: Otel, by_hand: ByHand) -> Row:
    """Return the best of some rounds; the three sides take turns."""
    stage, model = consensus(n=SAMPLES, max_concurrency=10), Model()
    best = [float("inf")] * 3
    with asyncio.Runner() as runner:
        sides: list[Callable[[], object]] = [
            lambda: runner.run(stage.run(model, PROMPT)),
            lambda: runner.run(stage.run(model, PROMPT, trace=otel)),
            lambda: runner.run(by_hand.run(stage)),
        ]
        for _ in range(ROUNDS):
            for at, side in enumerate(sides):
                gc.collect()
                best[at] = min(best[at], seconds(side))
    return Row(name, *[each / SAMPLES * 1e6 for each in best])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print the ratios by name")
    as_json = parser.parse_args().json
    alone = measure("API alone", Otel(), ByHand(trace.get_tracer("by hand"), metrics.get_meter("by hand")))
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=100_000))
    meters = MeterProvider([InMemoryMetricReader()])
    hand = ByHand(tracers.get_tracer("by hand"), meters.get_meter("by hand"))
    with_sdk = measure("with the SDK", Otel(tracers, meters), hand)
    rows = [with_sdk, alone]
    if as_json:
        print(json.dumps({row.name: round(row.ratio, 2) for row in rows}))
    else:
        heads = "".join(f"{head:>10}" for head in ("untraced", "traced", "added", "by hand"))
        print(f"{'microseconds a call':<20}{heads}{'ratio':>8}")
        for row in rows:
            figures = f"{row.untraced:10.1f}{row.traced:10.1f}{row.added:10.1f}{row.by_hand:10.1f}"
            print(f"{row.name:<20}{figures}{row.ratio:8.2f}")
        print("bound for both ratios: 1.5")
    tracers.shutdown()
    meters.shutdown()


if __name__ == "__main__":
    main()
