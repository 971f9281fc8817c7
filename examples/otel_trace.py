"""One run as OpenTelemetry sees it: the tree of its spans, and what stands on each.

Runs without a model and without a collector: the provider is scripted, the spans stay in memory.
In the clone, `pip install ".[otel]" opentelemetry-sdk` installs what it needs.
"""

from textwrap import fill

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from executionkit import LLMResponse, RateLimitError, ToolCall, consensus, prompt, react
from executionkit.otel import Otel
from executionkit.prices import Price
from executionkit.providers.scripted import Answer, ScriptedProvider
from executionkit.tools import tool

USAGE = {"prompt_tokens": 20, "completion_tokens": 4}


@tool
async def balance(customer: str) -> str:
    """Look up what a customer owes."""
    return f"{customer} owes 12.50 euros"


class Model(ScriptedProvider):
    """A model that is busy once, votes, looks something up, and replies."""

    model = "gpt-x"
    server = "api.openai.com"
    port = 443

    def __init__(self) -> None:
        reply = "Dear Ann, you owe 12.50 euros."
        answers: list[Answer] = [
            RateLimitError("slow down", retry_after=0.0),
            LLMResponse("billing", usage=USAGE),
            LLMResponse("billing", usage=USAGE),
            LLMResponse("", (ToolCall("call_1", "balance", {"customer": "Ann"}),), "tool_calls", USAGE),
            LLMResponse(reply, usage=USAGE, id="chatcmpl-7", model="gpt-x-2026-11", request_id="req_9"),
        ]
        super().__init__(answers, price=Price(input=3, output=15))


def show(span: ReadableSpan, spans: list[ReadableSpan], depth: int = 0) -> None:
    """Print a span with its attributes and events, and those below it."""
    margin = "    " * depth
    print(f"{margin}{span.name} ({span.kind.name}, {span.status.status_code.name})")
    told = sorted((span.attributes or {}).items())
    shown = [
        f"{name}={value!s}" for name, value in told if name != "executionkit.run"
    ]  # another one each time
    print(fill(", ".join(shown), 118, initial_indent=margin + "  ", subsequent_indent=margin + "  "))
    for event in span.events:
        found = {key.rpartition(".")[2]: value for key, value in (event.attributes or {}).items()}
        print(f"{margin}  * {event.name}", *(f"{key}={found[key]}" for key in found if key != "duration"))
    number = span.context.span_id if span.context is not None else 0
    for below in sorted(spans, key=lambda each: each.start_time or 0):
        if below.parent is not None and below.parent.span_id == number:
            show(below, spans, depth + 1)


def main() -> None:
    """Run a pipeline and print its trace."""
    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    reply = react([balance]).named("clerk")
    pipeline = consensus(n=2) >> prompt("Queue: {}. Write the reply to Ann.") >> reply
    pipeline.run_sync(Model(), "My bill is wrong. Which queue?", trace=Otel(tracers))
    spans = list(exporter.get_finished_spans())
    for span in spans:
        if span.parent is None:
            show(span, spans)
    tracers.shutdown()


if __name__ == "__main__":
    main()
