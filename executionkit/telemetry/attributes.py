"""What spans say of a call and of what was spent, by the names of the conventions."""

from contextlib import suppress
from typing import Any, TypeAlias, cast

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.events import CallFinished, CallStarted, Event
from executionkit.telemetry.messages import definitions_of, input_messages, output_messages
from executionkit.telemetry.names import Names, Release

__all__ = [
    "Attributes",
    "answered",
    "asked",
    "path_of",
    "sound",
    "spent",
    "spent_elsewhere",
    "without_halves",
]

Attributes: TypeAlias = dict[str, Any]


def asked(event: CallStarted, releases: tuple[Release, ...], *, content: bool) -> Attributes:
    """Return what a request says of itself."""
    attributes: Attributes = {
        Names.RUN: event.run,
        Names.PATH: path_of(event),
        Names.ORDINAL: event.ordinal,
    }
    if event.max_tokens is not None:
        attributes[Names.MAX_TOKENS] = event.max_tokens
    if event.temperature is not None:
        attributes[Names.TEMPERATURE] = float(event.temperature)
    if event.choices != 1:
        attributes[Names.CHOICES] = event.choices
    if event.is_streamed:
        attributes[Names.STREAM] = True
    if event.has_form:
        attributes[Names.OUTPUT_TYPE] = "json"
    if event.settings:
        attributes.update(_settings(event, releases))
    if content and event.prompt is not None:
        attributes[Names.INPUT_MESSAGES] = input_messages(event.prompt)
        if event.tools is not None:
            attributes[Names.TOOL_DEFINITIONS] = definitions_of(event.tools)
    return attributes


def _settings(event: CallStarted, releases: tuple[Release, ...]) -> Attributes:
    attributes: Attributes = {}
    for key, value in event.settings.items():
        if key in Names.SETTINGS and isinstance(value, int | float):
            with suppress(OverflowError, ValueError):  # infinite, or too large for one of them
                attributes[Names.SETTINGS[key]] = int(value) if key in Names.WHOLE else float(value)
        elif key == "reasoning_effort" and any(release.has_level for release in releases):
            attributes[Names.REASONING_LEVEL] = str(value)
        elif key == "stop" and isinstance(value, tuple):
            attributes[Names.STOP] = value
    return attributes


def answered(
    attributes: Attributes,
    event: CallFinished,
    releases: tuple[Release, ...],
    *,
    is_sent: bool,
    content: bool,
) -> None:
    """Add what an answer says of itself, and what it cost; a call that was not sent cost nothing."""
    attributes[Names.ATTEMPTS] = event.attempts
    if event.response_id is not None:
        attributes[Names.RESPONSE_ID] = event.response_id
    if event.response_model is not None:
        attributes[Names.RESPONSE_MODEL] = event.response_model
    if event.finish_reasons:
        attributes[Names.FINISH_REASONS] = event.finish_reasons
    elif is_sent:  # as the conventions ask, also where it was cancelled
        attributes[Names.FINISH_REASONS] = ("error",)
    if event.first_piece is not None:
        attributes[Names.FIRST_CHUNK] = event.first_piece
    if event.is_replayed:
        attributes[Names.REPLAYED] = True
    if is_sent:
        _add_usage(attributes, event, releases)
    if content and event.text is not None:
        reason = event.finish_reason or "stop"
        attributes[Names.OUTPUT_MESSAGES] = output_messages(event.text, event.tool_calls, reason)


def _add_usage(attributes: Attributes, event: CallFinished, releases: tuple[Release, ...]) -> None:
    cost = event.cost
    attributes[Names.INPUT_TOKENS] = cost.input_tokens
    attributes[Names.OUTPUT_TOKENS] = cost.output_tokens
    attributes[Names.SPENT_CALLS] = cost.llm_calls
    if cost.cache_read_tokens:
        attributes[Names.CACHE_READ] = cost.cache_read_tokens
    if cost.cache_write_tokens:
        attributes.update((release.cache_write, cost.cache_write_tokens) for release in releases)
    if cost.reasoning_tokens:
        attributes[Names.REASONING_TOKENS] = cost.reasoning_tokens
    if cost.usd is not None:
        attributes[Names.COST] = float(cost.usd)
    if event.is_estimated:
        attributes[Names.ESTIMATED] = True


def spent(cost: TokenUsage) -> Attributes:
    """Return a sum over what is below; under names of our own, for the conventions' are those of calls."""
    attributes: Attributes = {
        Names.SPENT_CALLS: cost.llm_calls,
        Names.SPENT_INPUT: cost.input_tokens,
        Names.SPENT_OUTPUT: cost.output_tokens,
    }
    if cost.usd is not None:
        attributes[Names.SPENT_USD] = float(cost.usd)
    return attributes


def spent_elsewhere(cost: TokenUsage) -> Attributes:
    """Return the part of a run's cost that no call of it was charged, where there is one."""
    if cost == NO_USAGE:
        return {}
    attributes: Attributes = {
        f"{Names.ELSEWHERE}.llm_calls": cost.llm_calls,
        f"{Names.ELSEWHERE}.input_tokens": cost.input_tokens,
        f"{Names.ELSEWHERE}.output_tokens": cost.output_tokens,
    }
    if cost.usd is not None:
        attributes[f"{Names.ELSEWHERE}.usd"] = float(cost.usd)
    return attributes


def path_of(event: Event) -> str:
    """Return a place in a pipeline as text."""
    return "/".join(map(str, event.path))


def sound(attributes: Attributes) -> Attributes:
    """Return attributes without halves of surrogate pairs in their texts: no exporter can encode those.

    In a name it would lose whatever is exported together with that.
    """
    return {
        name: without_halves(value) if isinstance(value, str) else _all_without_halves(value)
        for name, value in attributes.items()
    }


def _all_without_halves(value: object) -> object:
    if not isinstance(value, tuple):
        return value
    given = cast("tuple[object, ...]", value)
    return tuple([without_halves(each) if isinstance(each, str) else each for each in given])


def without_halves(text: str) -> str:
    r"""Return a text with U+FFFD for each half of a surrogate pair.

    >>> without_halves("half \ud83d, whole \ud83d\ude00") == "half \ufffd, whole \U0001f600"
    True
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
