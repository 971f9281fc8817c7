"""Spans and metrics of OpenTelemetry, by its conventions for generative AI. Needs the extra `otel`.

`Otel()` is a trace: hand it to `trace=`, or have every run of the process traced with `install()`. Nothing
else of the package imports this module. The names are those of `executionkit.telemetry.names`.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any, ClassVar, Final, TypeAlias

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        'executionkit.otel needs the API of OpenTelemetry; in the clone, run: pip install ".[otel]"',
        name=_missing.name,
    ) from None

from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Evaluated,
    Event,
    ItemFinished,
    ItemStarted,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    ToolFinished,
    ToolStarted,
    WaitFinished,
)
from executionkit.runtime import tracing
from executionkit.telemetry.attributes import (
    answered,
    asked,
    path_of,
    sound,
    spent,
    spent_elsewhere,
    without_halves,
)
from executionkit.telemetry.metrics import Endpoint, Instruments, endpoint_of
from executionkit.telemetry.names import NAMES, SCHEMA_URLS, Names, Version
from executionkit.telemetry.spans import INSIDE, Counts, Opened, Run

__all__ = ["Otel", "install", "uninstall"]

_Attributes: TypeAlias = dict[str, Any]

_FAILED: Final = trace.Status(trace.StatusCode.ERROR)
_ENDED: Final = frozenset({"Cancelled", "KeyboardInterrupt", "SystemExit", "GeneratorExit"})
"""How work ends that has not failed: somebody outside has stopped it."""

_VOTES: Final = frozenset({"Consensus", "Select"})


class Otel:
    """A trace that makes spans and metrics: give it to `trace=` of any number of runs, at once too.

    A run is a span `invoke_workflow`, `react` one `invoke_agent`, a call of the model `chat` with its
    attempts and waits as events, a tool `execute_tool`; other stages have spans of our own. Tokens stand on
    `chat` spans only, so that a sum over a trace counts each once. A run's spans hang below the span that is
    current where it is run, and what a stage, a call or a tool does sees its span as the current one. What
    was cancelled has no status; what failed has the status ERROR and `error.type`, the class of the error.

    Args:
        tracer_provider: Makes the spans; None for the global one.
        meter_provider: Makes the metrics; None for the global one.
        content: Whether to record prompts, answers, and the arguments and results of tools. Mind who reads
            the traces.
        names: Which release of the conventions: `"0.1"`, `"1.41"` for older dashboards, or `"both"`.

    Raises:
        ValueError: Names of another release.

    >>> from executionkit import complete
    >>> from executionkit.providers.scripted import ScriptedProvider
    >>> complete().run_sync(ScriptedProvider("Paris"), "Capital of France?", trace=Otel()).unwrap().value
    'Paris'
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        content: bool = False,
        names: Version = "0.1",
    ) -> None:
        if names not in NAMES:
            raise ValueError(f"names must be one of {', '.join(map(repr, NAMES))}, not {names!r}")
        url, release = SCHEMA_URLS[names], version(Names.SCOPE)
        self.wants_content: bool = content
        self._providers = tracer_provider, meter_provider
        self._releases = NAMES[names]
        self._tracer = trace.get_tracer(Names.SCOPE, release, tracer_provider, url)
        self._instruments = Instruments(metrics.get_meter(Names.SCOPE, release, meter_provider, url), names)
        self._endpoints: dict[tuple[object, ...], Endpoint] = {}
        self._runs: dict[str, Run] = {}

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens: the program has set up no SDK. Asked at the beginning of each run."""
        spans = self._providers[0] or trace.get_tracer_provider()
        points = self._providers[1] or metrics.get_meter_provider()
        return _is_of_api(spans) and _is_of_api(points)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        handler = self._HANDLERS.get(type(event))
        if handler is None:
            return
        try:
            handler(self, event)
        except Exception:  # of a span processor, say: nothing more is told of the run
            self._give_up(event.run)
            raise

    def _give_up(self, name: str) -> None:
        """End the spans of a run that nothing more is told of."""
        run = self._runs.pop(name, None)
        for left in run.open if run is not None else ():
            with suppress(Exception):
                left.end(max(left.began, time.time_ns()))

    def enter(self, run: str, id: int) -> Callable[[], None] | None:  # noqa: A002 - as in `TracingContext`
        """Make the span of something the current one, and return what makes it the one before."""
        running = self._runs.get(run)
        opened = None if running is None else running.opened.get(id)
        if opened is None or not opened.span.get_span_context().is_valid:
            return None
        return opened.enter()

    def waited(self, run: str, id: int, seconds: float) -> None:  # noqa: A002 - as in `TracingContext`
        """Record how long a server took for a further piece of a streamed answer."""
        running = self._runs.get(run)
        opened = None if running is None else running.opened.get(id)
        if opened is not None and opened.endpoint is not None:
            self._instruments.chunk(opened.endpoint, seconds, opened.context)

    def _begin(
        self,
        run: Run,
        event: Event,
        name: str,
        attributes: _Attributes,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    ) -> Opened:
        """Start the span of something that has begun, below the innermost of what it is part of."""
        around = contexts.get_current()
        above = INSIDE.get()
        if event.parent is not None and (above is None or above.run is not run):
            # Begun by a task that is not part of the run: its context is another's.
            parent = run.opened.get(event.parent)
            if parent is not None:
                above, around = parent, parent.context
        began = run.time(event.at)
        if above is not None:
            began = above.within(began)
        span = self._tracer.start_span(
            without_halves(name), around, kind, sound(attributes), start_time=began
        )
        opened = Opened(run, span, began, around, above)
        run.opened[event.id] = opened
        return opened

    def _running(self, event: Event) -> Run | None:
        """Return the run that something begins in; None where it is over, or nothing was told of it."""
        run = self._runs.get(event.run)
        return None if run is None or run.is_over else run

    def _ended(self, event: Event) -> tuple[Run, Opened] | None:
        run = self._runs.get(event.run)
        opened = None if run is None else run.opened.pop(event.id, None)
        return None if run is None or opened is None else (run, opened)

    def _run_started(self, event: RunStarted) -> None:
        run = self._runs[event.run] = Run(int(event.started * 1e9))
        attributes: _Attributes = {Names.OPERATION: "invoke_workflow", Names.RUN: event.run}
        attributes.update((release.workflow, event.stage) for release in self._releases)
        if event.charged_to is not None:
            attributes[Names.CHARGED_TO] = event.charged_to
        self._begin(run, event, f"invoke_workflow {event.stage}", attributes).name = event.stage

    def _run_finished(self, event: RunFinished) -> None:
        found = self._ended(event)
        if found is None:
            return
        run, opened = found
        run.is_over = True
        at = run.time(event.at)
        for left in run.open:
            if left.asked is None:  # code that did not end when it was cancelled
                left.span.set_attribute(Names.CANCELLED, True)
                left.end(at)
        if opened.span.is_recording():
            opened.span.set_attributes({**spent(event.cost), **spent_elsewhere(event.paid_elsewhere)})
        seconds = self._close(opened, event.error, at)
        self._instruments.agent(
            "invoke_workflow", opened.name, seconds, _failure(event.error), opened.context
        )
        self._forget(event.run, run)

    def _forget(self, name: str, run: Run) -> None:
        """Forget a run that is over, once its calls are too: the run around it pays for what it has left."""
        if run.is_over and not run.open:
            self._runs.pop(name, None)

    def _stage_started(self, event: StageStarted) -> None:
        run = self._running(event)
        if run is None:
            return
        is_agent = event.kind == "React"
        if is_agent:
            attributes = {Names.OPERATION: "invoke_agent", Names.AGENT: event.stage}
            opened = self._begin(run, event, f"invoke_agent {event.stage}", attributes)
            opened.agent = Counts()
        else:
            attributes = {Names.STAGE: event.stage, Names.KIND: event.kind}
            opened = self._begin(run, event, f"stage {event.stage}", attributes)
        opened.name, opened.kind = event.stage, event.kind
        if opened.span.is_recording():
            opened.span.set_attribute(Names.PATH, without_halves(path_of(event)))

    def _stage_finished(self, event: StageFinished) -> None:
        found = self._ended(event)
        if found is None:
            return
        run, opened = found
        if opened.span.is_recording():
            attributes = spent(event.cost)
            if event.score is not None:
                attributes[Names.SCORE] = float(event.score)
            prefix = Names.VOTE if opened.kind in _VOTES else f"{Names.SCOPE}.{opened.kind.lower()}"
            attributes.update((f"{prefix}.{key}", figure) for key, figure in event.figures.items())
            if opened.kind == "React" and opened.agent is not None and opened.agent.provider is not None:
                attributes.update(
                    (Names.PROVIDER, opened.agent.provider)
                    for release in self._releases
                    if release.names_provider
                )
            opened.span.set_attributes(sound(attributes))
        seconds = self._close(opened, event.error, run.time(event.at))
        if opened.kind == "React" and opened.agent is not None:
            failure, agent = _failure(event.error), opened.agent
            self._instruments.agent("invoke_agent", opened.name, seconds, failure, opened.context)
            self._instruments.agent_calls(opened.name, agent.calls, agent.tools, opened.context)

    def _item_started(self, event: ItemStarted) -> None:
        run = self._running(event)
        if run is not None:
            attributes: _Attributes = {Names.ITEM: event.index}
            if event.total is not None:
                attributes[Names.ITEMS] = event.total
            if self.wants_content:
                attributes[Names.ITEM_NAME] = event.item
            self._begin(run, event, "item", attributes)

    def _item_finished(self, event: ItemFinished) -> None:
        found = self._ended(event)
        if found is not None:
            run, opened = found
            if opened.span.is_recording():
                opened.span.set_attributes(spent(event.cost))
            self._close(opened, event.error, run.time(event.at))

    def _call_started(self, event: CallStarted) -> None:
        run = self._running(event)
        if run is None:
            return
        endpoint = self._endpoint(event)
        opened = self._begin(run, event, endpoint.span_name, endpoint.attributes, trace.SpanKind.CLIENT)
        opened.endpoint = opened.asked = endpoint
        if opened.span.is_recording():
            opened.attributes = asked(event, self._releases, content=self.wants_content)

    def _call_finished(self, event: CallFinished) -> None:
        found = self._ended(event)
        if found is None:
            return
        run, opened = found
        endpoint, is_sent = opened.endpoint, event.attempts > 0 and not event.is_replayed
        attributes = opened.attributes
        if attributes is not None:
            if endpoint is not None and endpoint is not opened.asked:  # whom a pool chose last
                attributes.update(endpoint.attributes)
                if endpoint.model:
                    opened.span.update_name(without_halves(endpoint.span_name))
            answered(attributes, event, self._releases, is_sent=is_sent, content=self.wants_content)
            opened.span.set_attributes(sound(attributes))
        seconds = self._close(opened, event.error, run.time(event.at))
        self._forget(event.run, run)
        if endpoint is None or not is_sent:
            return
        if opened.agent is not None:
            opened.agent.calls += 1
            opened.agent.provider = endpoint.provider
        self._instruments.call(endpoint, event, seconds, _failure(event.error), opened.context)

    def _attempt_started(self, event: AttemptStarted) -> None:
        run = self._runs.get(event.run)
        opened = None if run is None else run.opened.get(event.parent or 0)
        if run is None or opened is None:
            return
        run.opened[event.id] = opened
        opened.endpoint = self._endpoint(event)

    def _attempt_finished(self, event: AttemptFinished) -> None:
        run = self._runs.get(event.run)
        opened = None if run is None else run.opened.pop(event.id, None)
        if run is None or opened is None or not opened.span.is_recording():
            return
        told: _Attributes = {
            "attempt": event.attempt,
            "duration": event.duration,
            "error": event.error,
            "finish_reason": event.finish_reason,
            "status": event.status,
            "request_id": event.request_id,
            "learned": event.learned or None,
        }
        attributes = {f"{Names.ATTEMPT}.{key}": value for key, value in told.items() if value is not None}
        opened.span.add_event(Names.ATTEMPT, sound(attributes), run.time(event.at))

    def _wait_finished(self, event: WaitFinished) -> None:
        run = self._runs.get(event.run)
        opened = None if run is None else run.opened.get(event.parent or 0)
        if run is not None and opened is not None and opened.span.is_recording():
            attributes = {f"{Names.WAIT}.reason": event.reason, f"{Names.WAIT}.duration": event.duration}
            opened.span.add_event(Names.WAIT, attributes, run.time(event.at))

    def _tool_started(self, event: ToolStarted) -> None:
        run = self._running(event)
        if run is None:
            return
        name = Names.OTHER if event.description is None else event.tool  # a model may make up any
        attributes: _Attributes = {
            Names.OPERATION: "execute_tool",
            Names.TOOL: name,
            Names.TOOL_TYPE: "function",
        }
        opened = self._begin(run, event, f"execute_tool {name}", attributes)
        opened.name = name
        if opened.agent is not None:
            opened.agent.tools += 1
        if opened.span.is_recording():
            told = {
                Names.TOOL_CALL_ID: event.call_id or None,
                Names.TOOL_DESCRIPTION: event.description or None,
                Names.TOOL_ARGUMENTS: event.arguments if self.wants_content else None,
            }
            opened.span.set_attributes(
                sound({key: value for key, value in told.items() if value is not None})
            )

    def _tool_finished(self, event: ToolFinished) -> None:
        found = self._ended(event)
        if found is None:
            return
        run, opened = found
        if self.wants_content and event.text is not None and opened.span.is_recording():
            opened.span.set_attribute(Names.TOOL_RESULT, without_halves(event.text))
        seconds = self._close(opened, event.error, run.time(event.at))
        self._instruments.tool(opened.name, seconds, _failure(event.error), opened.context)

    def _evaluated(self, event: Evaluated) -> None:
        run = self._runs.get(event.run)
        opened = None if run is None else run.opened.get(event.id)
        if run is None or opened is None or not opened.span.is_recording():
            return
        attributes: _Attributes = {
            Names.EVALUATION_NAME: event.evaluator,
            Names.EVALUATION_SCORE: float(event.score),
            Names.ITERATION: event.iteration,
        }
        if self.wants_content and event.critique is not None:
            attributes[Names.EVALUATION_EXPLANATION] = event.critique
        opened.span.add_event(Names.EVALUATION, sound(attributes), run.time(event.at))

    def _close(self, opened: Opened, error: str | None, at: int) -> float:
        """End a span with the status that its end calls for, and return how many seconds it took."""
        if error is not None and error in _ENDED:
            opened.span.set_attribute(Names.CANCELLED, True)
        elif error is not None:
            opened.span.set_attribute(Names.ERROR, error)
            opened.span.set_status(_FAILED)
        return opened.end(at)

    def _endpoint(self, event: CallStarted | AttemptStarted) -> Endpoint:
        key = (event.model, event.server, event.port, event.provider)
        found = self._endpoints.get(key)
        if found is None:
            found = endpoint_of(*key)
            if len(self._endpoints) < _MOST_ENDPOINTS:
                self._endpoints[key] = found
        return found

    _HANDLERS: ClassVar["Mapping[type, Callable[..., None]]"] = {
        RunStarted: _run_started,
        RunFinished: _run_finished,
        StageStarted: _stage_started,
        StageFinished: _stage_finished,
        ItemStarted: _item_started,
        ItemFinished: _item_finished,
        CallStarted: _call_started,
        CallFinished: _call_finished,
        AttemptStarted: _attempt_started,
        AttemptFinished: _attempt_finished,
        WaitFinished: _wait_finished,
        ToolStarted: _tool_started,
        ToolFinished: _tool_finished,
        Evaluated: _evaluated,
    }


_MOST_ENDPOINTS: Final = 1_000


def install(
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    content: bool = False,
    names: Version = "0.1",
) -> Otel:
    """Trace every run of this process, beside what runs are given as `trace=`; a second time anew.

    Args:
        tracer_provider: As in `Otel`.
        meter_provider: As in `Otel`.
        content: As in `Otel`.
        names: As in `Otel`.

    Raises:
        ValueError: Names of another release.
    """
    otel = Otel(tracer_provider, meter_provider, content, names)
    uninstall()
    tracing.install(otel)
    return otel


def uninstall() -> None:
    """Take back `install`; runs under way are traced to their end."""
    for trace_ in tracing.installed():
        if isinstance(trace_, Otel):
            tracing.uninstall(trace_)


def _is_of_api(provider: object) -> bool:
    """Tell whether a provider is one of the API's own, which do nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _failure(error: str | None) -> str | None:
    """Return the class of an error; None where something was only cancelled."""
    return None if error is None or error in _ENDED else error
