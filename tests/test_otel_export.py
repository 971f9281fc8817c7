"""End to end: a program with the real SDK sends what it traced by OTLP over HTTP, and a collector reads it back."""

import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROGRAM = """
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from executionkit import ScriptedProvider, ToolCall, consensus, otel, react
from executionkit.tools import tool

tracers = TracerProvider()
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
otel.install()


@tool
def look(what: str) -> str:
    "Look something up."
    return what


provider = ScriptedProvider(["Paris", "Paris", ToolCall("1", "look", {"what": "it"}), "Rome"])
with trace.get_tracer("app").start_as_current_span("request"):
    outcome = (consensus(n=2) >> react([look])).run_sync(provider, "Where?")
cost = outcome.unwrap().cost
print(cost.input_tokens, cost.output_tokens)
tracers.shutdown()
metrics.get_meter_provider().shutdown()
"""


class Collector:
    """What was sent."""

    def __init__(self) -> None:
        self.traces = ExportTraceServiceRequest()
        self.metrics = ExportMetricsServiceRequest()


@contextmanager
def collecting() -> Generator[tuple[Collector, int]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kind = collector.traces if self.path == "/v1/traces" else collector.metrics
            kind.MergeFromString(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield collector, server.server_port
        finally:
            server.shutdown()
            thread.join()


def _value(value: Any) -> object:
    kind = value.WhichOneof("value")
    return (
        [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
    )


def test_a_trace_and_its_metrics_arrive_at_a_collector() -> None:
    with collecting() as (collector, port):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    given, taken = map(int, done.stdout.split())
    found: dict[str, list[dict[str, object]]] = {}
    parents: dict[bytes, bytes] = {}
    names: dict[bytes, str] = {}
    traces: set[bytes] = set()
    for resource in collector.traces.resource_spans:
        for scope in resource.scope_spans:
            if scope.scope.name == "executionkit":
                assert scope.schema_url == "https://opentelemetry.io/schemas/gen-ai/0.1.0"
            for span in scope.spans:
                attributes = {each.key: _value(each.value) for each in span.attributes}
                found.setdefault(span.name, []).append(attributes)
                parents[span.span_id], names[span.span_id] = span.parent_span_id, span.name
                traces.add(span.trace_id)
    assert len(traces) == 1
    assert {name: len(each) for name, each in found.items()} == {
        "request": 1,
        "invoke_workflow Pipeline": 1,
        "stage Pipeline": 1,
        "stage Consensus": 1,
        "chat": 4,
        "invoke_agent React": 1,
        "execute_tool look": 1,
    }
    above = {name: names.get(parents[number], "") for number, name in names.items()}
    assert above["invoke_workflow Pipeline"] == "request"
    assert above["execute_tool look"] == "invoke_agent React"
    assert sum(int(str(each["gen_ai.usage.input_tokens"])) for each in found["chat"]) == given
    assert sum(int(str(each["gen_ai.usage.output_tokens"])) for each in found["chat"]) == taken
    assert found["chat"][0]["gen_ai.response.finish_reasons"] == ["stop"]
    counted = {
        metric.name: sum(point.as_int for point in metric.sum.data_points)
        for resource in collector.metrics.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.HasField("sum")
    }
    assert counted["gen_ai.client.inference.usage.input_tokens"] == given
    assert counted["gen_ai.client.inference.usage.output_tokens"] == taken
