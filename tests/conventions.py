"""OpenTelemetry's conventions for generative AI (release 0.1.0) as tables, and what holds of all telemetry.

The tables were written from the conventions' pages, not from the package: what they do not name may not be sent.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import SystemRandom
from typing import Any, Final, cast

import msgspec
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import SpanKind, StatusCode

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.events import CallFinished, CallStarted, Event, RunFinished, ToolFinished
from executionkit.otel import Otel

__all__ = ["Apart", "Recording", "deviations"]

Types = Mapping[str, type | tuple[type]]

_CONTENT: Final = frozenset(
    {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        "gen_ai.tool.definitions",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "gen_ai.evaluation.explanation",
    }
)
"""What the conventions have as opt-in."""

_SERVER: Final[Types] = {"server.address": str, "server.port": int}


class Signal(msgspec.Struct, frozen=True):
    """What the conventions say of one kind of span.

    Args:
        kind: Its kind.
        required: The attributes it must have.
        allowed: The attributes that it may have, opt-in ones included.
        title: The attribute that stands in its name behind the operation.
    """

    kind: SpanKind
    required: Types
    allowed: Types
    title: str


_INTERNAL: Final = Signal(
    SpanKind.INTERNAL,
    {"gen_ai.operation.name": str},
    {"gen_ai.agent.name": str, "error.type": str},
    "gen_ai.agent.name",
)
SPANS: Final[Mapping[str, Signal]] = {
    "chat": Signal(
        SpanKind.CLIENT,
        {"gen_ai.operation.name": str, "gen_ai.provider.name": str},
        {
            **_SERVER,
            "error.type": str,
            "gen_ai.input.messages": str,
            "gen_ai.output.messages": str,
            "gen_ai.output.type": str,
            "gen_ai.request.choice.count": int,
            "gen_ai.request.frequency_penalty": float,
            "gen_ai.request.max_tokens": int,
            "gen_ai.request.model": str,
            "gen_ai.request.presence_penalty": float,
            "gen_ai.request.reasoning.level": str,
            "gen_ai.request.seed": int,
            "gen_ai.request.stop_sequences": (str,),
            "gen_ai.request.stream": bool,
            "gen_ai.request.temperature": float,
            "gen_ai.request.top_k": int,
            "gen_ai.request.top_p": float,
            "gen_ai.response.finish_reasons": (str,),
            "gen_ai.response.id": str,
            "gen_ai.response.model": str,
            "gen_ai.response.time_to_first_chunk": float,
            "gen_ai.system_instructions": str,
            "gen_ai.tool.definitions": str,
            "gen_ai.usage.cache_read.input_tokens": int,
            "gen_ai.usage.cache_write.input_tokens": int,
            "gen_ai.usage.input_tokens": int,
            "gen_ai.usage.output_tokens": int,
            "gen_ai.usage.reasoning.output_tokens": int,
        },
        "gen_ai.request.model",
    ),
    "invoke_workflow": _INTERNAL,
    "invoke_agent": _INTERNAL,
    "execute_tool": Signal(
        SpanKind.INTERNAL,
        {"gen_ai.operation.name": str, "gen_ai.tool.name": str},
        {
            "error.type": str,
            "gen_ai.tool.call.arguments": str,
            "gen_ai.tool.call.id": str,
            "gen_ai.tool.call.result": str,
            "gen_ai.tool.description": str,
            "gen_ai.tool.type": str,
        },
        "gen_ai.tool.name",
    ),
}
"""By `gen_ai.operation.name`."""

EVENTS: Final[Mapping[str, Types]] = {
    "gen_ai.evaluation.result": {
        "gen_ai.evaluation.name": str,
        "gen_ai.evaluation.score.value": float,
        "gen_ai.evaluation.explanation": str,
    }
}


class Metric(msgspec.Struct, frozen=True):
    """What the conventions say of one metric.

    Args:
        kind: `Histogram` or `Sum`.
        unit: Its unit.
        value: The type of its values.
        required: The attributes that each point must have.
        allowed: Those that it may have.
    """

    kind: type
    unit: str
    value: type
    required: Types
    allowed: Types


_CALL: Final[Types] = {"gen_ai.operation.name": str, "gen_ai.provider.name": str}
_OF_CALL: Final[Types] = {"gen_ai.request.model": str, "gen_ai.response.model": str, **_SERVER}
_FAILED: Final[Types] = {"error.type": str}
_COUNTED: Final[Types] = {**_CALL, "gen_ai.token.modality": str}
METRICS: Final[Mapping[str, Metric]] = {
    "gen_ai.client.inference.duration": Metric(Histogram, "s", float, _CALL, {**_OF_CALL, **_FAILED}),
    "gen_ai.client.inference.time_to_first_chunk": Metric(Histogram, "s", float, _CALL, _OF_CALL),
    "gen_ai.client.inference.time_per_output_chunk": Metric(Histogram, "s", float, _CALL, _OF_CALL),
    "gen_ai.client.inference.operation.input_tokens": Metric(
        Histogram, "{token}", int, _CALL, {**_OF_CALL, **_FAILED}
    ),
    "gen_ai.client.inference.operation.output_tokens": Metric(
        Histogram, "{token}", int, _CALL, {**_OF_CALL, **_FAILED}
    ),
    "gen_ai.client.inference.usage.input_tokens": Metric(Sum, "{token}", int, _COUNTED, _OF_CALL),
    "gen_ai.client.inference.usage.output_tokens": Metric(Sum, "{token}", int, _COUNTED, _OF_CALL),
    "gen_ai.client.inference.usage.cache_read.input_tokens": Metric(Sum, "{token}", int, _COUNTED, _OF_CALL),
    "gen_ai.client.inference.usage.cache_write.input_tokens": Metric(Sum, "{token}", int, _COUNTED, _OF_CALL),
    "gen_ai.client.inference.usage.reasoning.output_tokens": Metric(Sum, "{token}", int, _COUNTED, _OF_CALL),
    "gen_ai.invoke_agent.duration": Metric(
        Histogram, "s", float, {"gen_ai.operation.name": str}, {"gen_ai.agent.name": str, **_FAILED}
    ),
    "gen_ai.invoke_agent.inference_calls": Metric(
        Histogram, "{inference_call}", int, {}, {"gen_ai.agent.name": str}
    ),
    "gen_ai.invoke_agent.tool_calls": Metric(Histogram, "{tool_call}", int, {}, {"gen_ai.agent.name": str}),
    "gen_ai.execute_tool.duration": Metric(
        Histogram, "s", float, {}, {"gen_ai.tool.name": str, "gen_ai.tool.type": str, **_FAILED}
    ),
    "operation.cost": Metric(Histogram, "{USD}", float, _CALL, _OF_CALL),  # ours, and others'
}

_OURS: Final = ("executionkit.", "operation.cost")
_STOPPED: Final = frozenset({"Cancelled", "KeyboardInterrupt", "SystemExit", "GeneratorExit"})
_A_MICROSECOND: Final = 1_000


class _Ids(IdGenerator):
    def __init__(self) -> None:
        self._random = SystemRandom()

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


class Recording:
    """An `Otel` on providers that keep everything, and the records that it was told.

    Args:
        content: Whether content is asked for.
        names: Which names to use.
    """

    def __init__(self, *, content: bool = False, names: Any = "0.1") -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        # Hypothesis seeds the generator that the default takes its ids from: they would repeat.
        self.tracers = TracerProvider(id_generator=_Ids(), shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.otel = Otel(self.tracers, self.meters, content, names)
        self.content = content
        self.events: list[Event] = []

    @property
    def traces(self) -> tuple[Any, ...]:
        """What to give to `trace=`."""
        return self.otel, self.events.append

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended."""
        return list(self.exporter.get_finished_spans())

    def named(self, start: str) -> list[ReadableSpan]:
        """Return the spans whose name begins so."""
        return [span for span in self.spans if span.name.startswith(start)]

    def points(self) -> dict[str, tuple[Any, list[Any]]]:
        """Return each metric with its points, by name."""
        data = self.reader.get_metrics_data()
        found: dict[str, tuple[Any, list[Any]]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = metric, list(metric.data.data_points)
        return found

    def deviations(self, *, secret: str = "") -> list[str]:
        """Return what deviates from the conventions, and from the records.

        Args:
            secret: A word that all prompts and answers hold, and no telemetry may, unless content is asked for.
        """
        spans, points = self.spans, self.points()
        found = [
            *_of_spans(filter(_is_ours, spans), content=self.content),
            *_of_points(points),
            *_of_tree(spans),
            *_of_calls(spans, _within_runs(self.events)),
            *_of_sums(spans, points, self.events),
        ]
        if secret and not self.content:
            texts = [span.to_json() for span in spans] + [
                str(point) for _, each in points.values() for point in each
            ]
            found += [f"{secret!r} in {text[:80]}" for text in texts if secret in text]
        return found

    def close(self) -> None:
        """Shut the providers down."""
        self.tracers.shutdown()
        self.meters.shutdown()


class Apart:
    """A trace that hands all on to an `Otel`, and that `otel.install` and `otel.uninstall` do not take away."""

    def __init__(self, otel: Otel) -> None:
        self._otel = otel
        self.enter = otel.enter
        self.waited = otel.waited

    def __call__(self, event: Event) -> None:
        self._otel(event)


def deviations(spans: Sequence[ReadableSpan], *, content: bool) -> list[str]:
    """Return what deviates from the conventions in spans alone."""
    return [*_of_spans(spans, content=content), *_of_tree(spans)]


def _of_spans(spans: Iterable[ReadableSpan], *, content: bool) -> Iterator[str]:
    for span in spans:
        attributes = dict(span.attributes or {})
        signal = SPANS.get(str(attributes.get("gen_ai.operation.name")))
        if signal is None:
            yield from _of_attributes(span.name, attributes, {}, {"error.type": str}, content=content)
        else:
            yield from _of_attributes(span.name, attributes, signal.required, signal.allowed, content=content)
            operation, title = attributes["gen_ai.operation.name"], attributes.get(signal.title)
            if span.name != (f"{operation} {title}" if title else operation):
                yield f"{span.name}: the name is not {operation} {title}"
        if span.kind is not (SpanKind.INTERNAL if signal is None else signal.kind):
            yield f"{span.name}: of the kind {span.kind}"
        if ("server.address" in attributes) != ("server.port" in attributes):
            yield f"{span.name}: address without port"
        is_error = span.status.status_code is StatusCode.ERROR
        if is_error != ("error.type" in attributes):
            yield f"{span.name}: {span.status.status_code} with error.type {attributes.get('error.type')}"
        if span.status.status_code is StatusCode.OK or span.status.description:
            yield f"{span.name}: an instrumentation sets neither OK nor texts"
        if attributes.get("gen_ai.request.choice.count") == 1:
            yield f"{span.name}: a count of 1"
        yield from _of_events(span, content=content)


def _of_events(span: ReadableSpan, *, content: bool) -> Iterator[str]:
    for event in span.events:
        own = dict(event.attributes or {})
        yield from _of_attributes(event.name, own, {}, EVENTS.get(event.name, {}), content=content)
        if event.name.startswith("gen_ai.") and event.name not in EVENTS:
            yield f"{span.name}: an event {event.name}"


def _of_attributes(
    where: str, given: Mapping[str, object], required: Types, allowed: Types, *, content: bool
) -> Iterator[str]:
    known = {**required, **allowed}
    for name in required.keys() - given.keys():
        yield f"{where}: {name} is missing"
    for name, value in given.items():
        if name in _CONTENT and not content:
            yield f"{where}: content in {name}"
        if name in known:
            if not _is_a(value, known[name]):
                yield f"{where}: {name} is {value!r}"
        elif not name.startswith(_OURS):
            yield f"{where}: {name} is not in the conventions"


def _is_a(value: object, wanted: type | tuple[type]) -> bool:
    if isinstance(wanted, tuple):
        return isinstance(value, tuple) and {*map(type, cast("tuple[object, ...]", value))} <= {wanted[0]}
    return type(value) is wanted


def _of_points(points: Mapping[str, tuple[Any, list[Any]]]) -> Iterator[str]:
    for name, (metric, each) in points.items():
        known = METRICS.get(name)
        if known is None:
            yield f"the metric {name} is not in the conventions"
            continue
        if metric.unit != known.unit or not isinstance(metric.data, known.kind):
            yield f"{name}: {metric.unit} {type(metric.data).__name__}"
        for point in each:
            yield from _of_attributes(name, point.attributes, known.required, known.allowed, content=False)
            value = point.sum if known.kind is Histogram else point.value
            if type(value) is not known.value:
                yield f"{name}: a {type(value).__name__}"


def _of_tree(spans: Sequence[ReadableSpan]) -> Iterator[str]:
    """Durations lie within parents, for those of our own."""
    by_id = {span.context.span_id: span for span in spans if span.context is not None}
    for span in spans:
        above = None if span.parent is None else by_id.get(span.parent.span_id)
        if span.start_time is None or span.end_time is None or span.start_time > span.end_time:
            yield f"{span.name}: from {span.start_time} to {span.end_time}"
        elif above is not None and _is_ours(above) and _is_ours(span):
            begins, ends = (above.start_time or 0) - span.start_time, span.end_time - (above.end_time or 0)
            if begins > _A_MICROSECOND or ends > _A_MICROSECOND:
                yield f"{span.name}: {begins} ns before {above.name}, {ends} ns after it"


def _is_ours(span: ReadableSpan) -> bool:
    return span.instrumentation_scope is not None and span.instrumentation_scope.name == "executionkit"


def _within_runs(events: Sequence[Event]) -> list[Event]:
    """Leave out calls that are asked for when their run is over: they are refused, and have no span."""
    over: set[str] = set()
    late: set[tuple[str, int]] = set()
    kept: list[Event] = []
    for event in events:
        if isinstance(event, RunFinished):
            over.add(event.run)
        elif isinstance(event, CallStarted) and event.run in over:
            late.add((event.run, event.id))
        if (event.run, event.id) not in late:
            kept.append(event)
    return kept


def _of_calls(spans: Sequence[ReadableSpan], events: Sequence[Event]) -> Iterator[str]:
    """One span a logical call, and ERROR exactly where one failed; the same of tools."""
    ended: Counter[object] = Counter()
    for event in events:
        if isinstance(event, CallFinished):
            error = None if event.error in _STOPPED else event.error
            ended["/".join(map(str, event.path)), event.ordinal, error, event.error in _STOPPED] += 1
        elif isinstance(event, ToolFinished):
            ended["tool", None if event.error in _STOPPED else event.error, event.error in _STOPPED] += 1
    shown: Counter[object] = Counter()
    for span in spans:
        attributes = span.attributes or {}
        failure, is_cancelled = attributes.get("error.type"), "executionkit.cancelled" in attributes
        if attributes.get("gen_ai.operation.name") == "chat":
            place = attributes.get("executionkit.path"), attributes.get("executionkit.call.ordinal")
            shown[(*place, failure, is_cancelled)] += 1
        elif attributes.get("gen_ai.operation.name") == "execute_tool":
            shown["tool", failure, is_cancelled] += 1
    for what in ended.keys() | shown.keys():
        if ended[what] != shown[what]:
            yield f"{shown[what]} spans for {ended[what]} of {what}"
    begun = sum(isinstance(event, CallStarted) for event in events)
    if begun != sum((span.attributes or {}).get("gen_ai.operation.name") == "chat" for span in spans):
        yield f"{begun} calls have another number of spans"


_SUMS: Final = {
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cache_read_tokens",
    "gen_ai.usage.cache_write.input_tokens": "cache_write_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
    "executionkit.cost.llm_calls": "llm_calls",
    "operation.cost": "usd",
}
"""What `chat` spans say, and the field of the ledger that it adds up to."""


def _of_sums(
    spans: Sequence[ReadableSpan],
    points: Mapping[str, tuple[Any, list[Any]]],
    events: Sequence[Event],
) -> Iterator[str]:
    """The usage of the calls that a run pays for adds up to its ledger, and the counters to all ledgers.

    A run within a run is paid by that as well, unless it asks a provider of its own: then it has a ledger of
    its own, and its spans tell so wherever they hang. What was paid in an earlier life, or past the ledger,
    has no call; the record of the run's end says how much that is.

    Not compared is the ledger of a run within a run that has left a call behind: it was told before the call
    had its cost. That of the run around it has it, and is compared.
    """
    costs = {
        event.run: event.cost - event.paid_elsewhere for event in events if isinstance(event, RunFinished)
    }
    payers = _payers_in(spans)
    sums: dict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for span in spans:
        attributes = span.attributes or {}
        if attributes.get("gen_ai.operation.name") != "chat":
            if any(name.startswith("gen_ai.usage.") for name in attributes):
                yield f"{span.name}: usage stands on calls only"
            continue
        run: str | None = str(attributes["executionkit.run"])
        while run is not None:
            for name in _SUMS:
                value = attributes.get(name)
                sums[run][name] += value if isinstance(value, int | float) else 0
            run = payers.get(run)
    told_early = _with_calls_left_behind(events, payers)
    for run, cost in costs.items():
        if run not in told_early:
            yield from _differences(f"run {run}", sums[run], cost)
    total: defaultdict[str, float] = defaultdict(float)
    names = {
        f"gen_ai.client.inference.{name.removeprefix('gen_ai.')}": name for name in _SUMS if "usage" in name
    }
    for metric, name in names.items():
        total[name] = sum(point.value for point in points.get(metric, (None, []))[1])
    total["operation.cost"] = sum(point.sum for point in points.get("operation.cost", (None, []))[1])
    whole = sum((cost for run, cost in costs.items() if payers.get(run) is None), NO_USAGE)
    total["executionkit.cost.llm_calls"] = whole.llm_calls  # no metric has them
    yield from _differences("the counters", total, whole)


def _payers_in(spans: Sequence[ReadableSpan]) -> dict[str, str | None]:
    """Return for each run the one that pays for it as well; None where its ledger is its own."""
    payers: dict[str, str | None] = {}
    for span in spans:
        attributes = span.attributes or {}
        if attributes.get("gen_ai.operation.name") == "invoke_workflow":
            payer = attributes.get("executionkit.run.charged_to")
            payers[str(attributes["executionkit.run"])] = None if payer is None else str(payer)
    return payers


def _with_calls_left_behind(events: Sequence[Event], payers: Mapping[str, str | None]) -> set[str]:
    """Return the runs within runs of which a call, or of what they paid, has ended after they had."""
    over: set[str] = set()
    found: set[str] = set()
    for event in _within_runs(events):
        if isinstance(event, RunFinished):
            over.add(event.run)
        elif isinstance(event, CallFinished):
            run: str | None = event.run
            while run in over and payers.get(run) is not None:
                found.add(run)
                run = payers[run]
    return found


def _differences(what: str, sums: Mapping[str, float], cost: TokenUsage) -> Iterator[str]:
    for name, field in _SUMS.items():
        expected = float(getattr(cost, field) or 0)
        if abs(sums.get(name, 0) - expected) > 1e-9 * max(1.0, abs(expected)):
            yield f"{what}: {name} adds up to {sums.get(name, 0)}, the ledger says {expected}"
