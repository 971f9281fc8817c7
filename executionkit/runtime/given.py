"""What the bounds of a stage depend on: who is asked, on which terms, with which retries, about what."""

import math
from collections.abc import Sequence
from typing import Any, Final, cast

from msgspec.structs import replace

from executionkit.core.bounds import Given
from executionkit.core.encoding import json_text
from executionkit.core.foreign import attribute
from executionkit.core.money import Rates
from executionkit.provider import supports_tools, user
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.runtime.calls.endpoints import memory_of
from executionkit.runtime.ledger.terms import terms_of

__all__ = ["PROMPT_FRAME", "asking", "frame_of", "given_of", "size_of", "text_size", "told"]


def given_of(value: object, provider: object, retry: RetryConfig | None, *, is_limited: bool) -> Given:
    """Return what a stage's reach depends on.

    Args:
        value: What comes in; None where that is not known.
        provider: Whom the run asks; None where that is not known.
        retry: The run's retries; None for those of each provider.
        is_limited: Whether the run has a budget.
    """
    attempts = 1 + (retry or DEFAULT_RETRY).max_retries
    given = Given(
        value=math.inf if value is None else text_size(value),
        attempts=attempts,
        run_attempts=None if retry is None else attempts,
        is_limited=is_limited,
        items=tuple(map(text_size, cast("Sequence[object]", value)))
        if isinstance(value, list | tuple)
        else None,
    )
    return given if provider is None else asking(given, provider)


def size_of(value: object) -> int:
    """Return the tokens of a value at the most: one a byte of its JSON."""
    return len(json_text(value).encode())


def text_size(value: object) -> int:
    """Return the tokens that a value takes at the most within a prompt: text as it stands, else as JSON."""
    return size_of(value if isinstance(value, str) else json_text(value)) - len('""')


def frame_of(text: str) -> int:
    """Return the tokens of a prompt of this text at the most, with what there is around it."""
    return size_of([user(text)])


PROMPT_FRAME: Final = frame_of("")
"""Tokens of a prompt at the most beside its text."""


def told(given: Given, system: object) -> Given:
    """Return what a reach depends on where each prompt begins with a system message."""
    if system is None:
        return given
    if isinstance(system, str):
        return replace(given, value=given.value + size_of({"role": "system", "content": system}) + len(","))
    return replace(given, value=math.inf, why_value="what the function given as system says")


def asking(given: Given, provider: object) -> Given:
    """Return what a reach depends on where this provider is asked."""
    members = _members(provider)
    terms = [terms_of(member, attribute) for member in members]
    unpriced = next((each.unknown for each in terms if each.rates is None), None)
    rates: list[Rates] = [each.rates for each in terms if each.rates is not None]
    own = [attribute(member, "retry") for member in members]
    retries = [each if isinstance(each, RetryConfig) else DEFAULT_RETRY for each in own]
    return replace(
        given,
        attempts=given.run_attempts or 1 + max([each.max_retries for each in retries]),
        who=tuple(map(_server_of, members)),
        rates=() if unpriced is not None else tuple(rates),
        is_counted=all(each.counted_by != "estimate" for each in terms),
        added=max([size_of(each.added) for each in terms if each.added], default=0),
        is_cached=attribute(provider, "caches_calls") is True,
        has_tools=supports_tools(provider),
        why_price=f"the price: {unpriced}",
    )


def _server_of(provider: object) -> int:
    """Return what is the same for providers that share what is known of a server, as equal ones do."""
    if attribute(provider, "caches_calls") is True:
        provider = attribute(provider, "provider")
    memory = memory_of(provider)
    return id(memory if memory_of(provider) is memory else provider)


def _members(provider: object) -> tuple[Any, ...]:
    """Return whom a pool may ask; of any other provider itself."""
    members: tuple[Any, ...] | None = attribute(provider, "members")
    is_pool = callable(attribute(provider, "choose")) and type(members) is tuple
    return (members or (provider,)) if is_pool else (provider,)
