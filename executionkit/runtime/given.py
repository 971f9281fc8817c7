"""What the bounds of a stage depend on: who is asked, on which terms, with which retries, about what."""

import math
from collections.abc import Sequence
from typing import Any, Final, cast

from msgspec.structs import replace

from executionkit.core.bounds import Given
from executionkit.core.encoding import json_text
from executionkit.core.money import Rates
from executionkit.provider import opening, supports_tools
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.runtime.frame import attribute
from executionkit.runtime.ledger.terms import terms_of

__all__ = ["PROMPT_FRAME", "asking", "given_of", "size_of", "told"]


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
        value=math.inf if value is None else size_of(value),
        attempts=attempts,
        run_attempts=None if retry is None else attempts,
        is_limited=is_limited,
        items=len(cast("Sequence[object]", value)) if isinstance(value, list | tuple) else None,
    )
    return given if provider is None else asking(given, [provider])


def size_of(value: object) -> int:
    """Return the tokens of a value's text at the most: one a byte of its JSON."""
    return len(json_text(value).encode())


PROMPT_FRAME: Final = size_of(opening("x"))
"""Tokens of a prompt at the most beside its text: what a message of one character takes."""


def told(given: Given, system: object) -> Given:
    """Return what a reach depends on where each prompt begins with a system message."""
    if system is None:
        return given
    if isinstance(system, str):
        return replace(given, value=given.value + size_of([{"role": "system", "content": system}]))
    return replace(given, value=math.inf, why_value="what the function given as system says")


def asking(given: Given, providers: Sequence[object]) -> Given:
    """Return what a reach depends on where any of these providers may be asked."""
    members = [member for provider in providers for member in _members(provider)]
    terms = [terms_of(member, attribute) for member in members]
    unpriced = next((each.unknown for each in terms if each.rates is None), None)
    rates: list[Rates] = [each.rates for each in terms if each.rates is not None]
    own = [attribute(member, "retry") for member in members]
    retries = [each if isinstance(each, RetryConfig) else DEFAULT_RETRY for each in own]
    return replace(
        given,
        attempts=given.run_attempts or 1 + max([each.max_retries for each in retries]),
        who=tuple(map(id, members)),
        members=max(len(_members(provider)) for provider in providers),
        rates=() if unpriced is not None else tuple(rates),
        is_counted=all(each.counted_by != "estimate" for each in terms),
        has_tools=all(map(supports_tools, providers)),
        why_price=f"the price: {unpriced}",
    )


def _members(provider: object) -> tuple[Any, ...]:
    """Return whom a pool may ask; of any other provider itself."""
    members: tuple[Any, ...] | None = attribute(provider, "members")
    is_pool = callable(attribute(provider, "choose")) and type(members) is tuple
    return (members or (provider,)) if is_pool else (provider,)
