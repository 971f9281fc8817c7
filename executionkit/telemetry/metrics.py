"""The metrics of the conventions, and whom they say a call went to."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, Meter

from executionkit.core.usage import TokenUsage
from executionkit.events import CallFinished
from executionkit.telemetry.attributes import sound, without_halves
from executionkit.telemetry.names import NAMES, PROVIDER_SUFFIXES, PROVIDERS, Names, Release, Version

__all__ = ["Endpoint", "Instruments", "endpoint_of"]

_Attributes: TypeAlias = dict[str, Any]


class Endpoint:
    """Whom a call goes to, as spans and metrics name it.

    Args:
        model: The model.
        server: The host, with its port where that is not the usual one.
        port: The port.
        provider: The conventions' name of the provider.
    """

    __slots__ = ("attributes", "model", "of_metrics", "provider", "span_name")

    def __init__(self, model: str | None, server: str | None, port: int | None, provider: str) -> None:
        self.model: str | None = model or None
        self.provider: str = provider
        self.span_name: str = f"chat {model}" if model else "chat"
        self.attributes: _Attributes = {Names.OPERATION: "chat", Names.PROVIDER: provider}
        if model:
            self.attributes[Names.MODEL] = model
        if server and port:
            self.attributes[Names.ADDRESS] = _host(server)
            self.attributes[Names.PORT] = port
        self.of_metrics: Callable[[str | None, str | None], _OfMetrics] = lru_cache(_MOST_MODELS)(
            self._of_metrics
        )

    def _of_metrics(self, response_model: str | None, error: str | None) -> "_OfMetrics":
        plain = sound(self.attributes)
        if response_model is not None:
            plain[Names.RESPONSE_MODEL] = without_halves(response_model)
        full = plain if error is None else {**plain, Names.ERROR: error}
        return _OfMetrics(
            plain, full, {**plain, Names.MODALITY: "text"}, {**plain, Names.MODALITY: "unknown"}
        )


class _OfMetrics(NamedTuple):
    """What the metrics of a call say of it.

    Args:
        plain: Whom it went to.
        full: The same, with the class of its error.
        known: The same, with the modality of tokens that a server has counted.
        unknown: The same for tokens that none has.
    """

    plain: _Attributes
    full: _Attributes
    known: _Attributes
    unknown: _Attributes


_MOST_MODELS: Final = 256


def endpoint_of(model: str | None, server: str | None, port: int | None, kind: str | None) -> Endpoint:
    """Return whom a call goes to.

    Args:
        model: The model, where the provider names it.
        server: The host, where the provider names it, with its port where that is not the usual one.
        port: The port, where the provider names it.
        kind: The class of the provider.
    """
    host = _host(server or "")
    known = PROVIDERS.get(host) or next((name for end, name in PROVIDER_SUFFIXES if host.endswith(end)), None)
    return Endpoint(model, server, port, known or ("anthropic" if kind == "Anthropic" else "openai"))


def _host(server: str) -> str:
    """Return the host of an authority, without port and brackets.

    >>> _host("[::1]:8080"), _host("localhost:8080"), _host("api.openai.com")
    ('::1', 'localhost', 'api.openai.com')
    """
    if server.startswith("["):
        return server[1:].partition("]")[0]
    return server.partition(":")[0]


class _OfCalls:
    """The metrics of calls, by the names of one release."""

    def __init__(self, meter: Meter, release: Release) -> None:
        self._release = release
        self._duration = _seconds(
            meter, release.duration, "Duration of a call, its retries and waits included."
        )
        self._first_chunk = _seconds(
            meter, release.first_chunk, "Time to the first piece of a streamed answer."
        )
        self._output_chunk = _seconds(
            meter, release.output_chunk, "Time between two pieces of a streamed answer."
        )
        if release.counts_tokens:
            self._input = _tokens(meter, Names.CALL_INPUT, "Input tokens of a call.")
            self._output = _tokens(meter, Names.CALL_OUTPUT, "Output tokens of a call.")
            self._used_input = meter.create_counter(
                Names.USAGE_INPUT, "{token}", "Input tokens, cached ones included."
            )
            self._used_output = meter.create_counter(
                Names.USAGE_OUTPUT, "{token}", "Output tokens, those of reasoning included."
            )
            self._counters: dict[str, Counter] = {
                name: meter.create_counter(name, "{token}", description)
                for name, description in _COUNTERS.items()
            }
        else:
            self._usage: Histogram = _tokens(meter, Names.TOKEN_USAGE, "Tokens of a call, input and output.")

    def record(
        self, endpoint: Endpoint, event: CallFinished, seconds: float, error: str | None, context: Context
    ) -> None:
        """Record a call."""
        cost = event.cost
        of = endpoint.of_metrics(event.response_model, error)
        self._duration.record(seconds, of.full, context)
        if event.first_piece is not None:
            self._first_chunk.record(event.first_piece, of.plain, context)
        if not self._release.counts_tokens:
            self._usage.record(cost.input_tokens, {**of.plain, Names.TOKEN_TYPE: "input"}, context)
            self._usage.record(cost.output_tokens, {**of.plain, Names.TOKEN_TYPE: "output"}, context)
            return
        self._input.record(cost.input_tokens, of.full, context)
        self._output.record(cost.output_tokens, of.full, context)
        # What no server has reported is what the ledger counts, told apart by its modality.
        is_known = not event.is_estimated and bool(cost.input_tokens or cost.output_tokens)
        counted = of.known if is_known else of.unknown
        self._used_input.add(cost.input_tokens, counted, context)
        self._used_output.add(cost.output_tokens, counted, context)
        if cost.has_parts:
            for name, tokens in _parts(cost):
                self._counters[name].add(tokens, counted, context)

    def record_chunk(self, attributes: _Attributes, seconds: float, context: Context) -> None:
        """Record a further piece of a streamed answer."""
        self._output_chunk.record(seconds, attributes, context)


_COUNTERS: Final = {
    Names.USAGE_CACHE_READ: "Input tokens that came out of the provider's cache.",
    Names.USAGE_CACHE_WRITE: "Input tokens that were written to the provider's cache.",
    Names.USAGE_REASONING: "Output tokens of reasoning.",
}


def _parts(cost: TokenUsage) -> Iterator[tuple[str, int]]:
    """Yield parts of the tokens, where there are any."""
    if cost.cache_read_tokens:
        yield Names.USAGE_CACHE_READ, cost.cache_read_tokens
    if cost.cache_write_tokens:
        yield Names.USAGE_CACHE_WRITE, cost.cache_write_tokens
    if cost.reasoning_tokens:
        yield Names.USAGE_REASONING, cost.reasoning_tokens


class Instruments:
    """All metrics.

    Args:
        meter: Makes them.
        names: By which names.
    """

    def __init__(self, meter: Meter, names: Version) -> None:
        self._calls = [_OfCalls(meter, release) for release in NAMES[names]]
        self._cost = meter.create_histogram(Names.COST, "{USD}", "What a call cost.")
        self._agent = meter.create_histogram(
            Names.AGENT_DURATION,
            "s",
            "Duration of a run, and of an agent.",
            explicit_bucket_boundaries_advisory=Names.RUN_SECONDS,
        )
        self._agent_calls = _calls(meter, Names.AGENT_CALLS, "{inference_call}", "Calls that an agent made.")
        self._agent_tools = _calls(
            meter, Names.AGENT_TOOL_CALLS, "{tool_call}", "Tools that an agent called."
        )
        self._tool = _seconds(meter, Names.TOOL_DURATION, "Duration of a tool.")

    def call(
        self, endpoint: Endpoint, event: CallFinished, seconds: float, error: str | None, context: Context
    ) -> None:
        """Record a call of the model."""
        for calls in self._calls:
            calls.record(endpoint, event, seconds, error, context)
        if event.cost.usd is not None:
            of = endpoint.of_metrics(event.response_model, None)
            self._cost.record(float(event.cost.usd), of.plain, context)

    def chunk(self, endpoint: Endpoint, seconds: float, context: Context) -> None:
        """Record a further piece of a streamed answer; which model gives it is not known before its end."""
        for calls in self._calls:
            calls.record_chunk(endpoint.attributes, seconds, context)

    def agent(self, operation: str, name: str, seconds: float, error: str | None, context: Context) -> None:
        """Record a run, or an agent."""
        attributes = {Names.OPERATION: operation, Names.AGENT: without_halves(name)}
        self._agent.record(seconds, _with_error(attributes, error), context)

    def agent_calls(self, name: str, calls: int, tools: int, context: Context) -> None:
        """Record what an agent has asked for."""
        attributes = {Names.AGENT: without_halves(name)}
        self._agent_calls.record(calls, attributes, context)
        self._agent_tools.record(tools, attributes, context)

    def tool(self, name: str, seconds: float, error: str | None, context: Context) -> None:
        """Record a tool's call."""
        attributes = {Names.TOOL: without_halves(name), Names.TOOL_TYPE: "function"}
        self._tool.record(seconds, _with_error(attributes, error), context)


def _with_error(attributes: _Attributes, error: str | None) -> _Attributes:
    if error is not None:
        attributes[Names.ERROR] = error
    return attributes


def _seconds(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=Names.SECONDS)


def _tokens(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name, "{token}", description, explicit_bucket_boundaries_advisory=Names.TOKENS
    )


def _calls(meter: Meter, name: str, unit: str, description: str) -> Histogram:
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=Names.CALLS)
