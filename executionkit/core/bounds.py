"""What a pipeline takes at the least and at the most: each stage states its own reach, and reaches add up.

A bound needs no prediction: loops are capped, and every call has a `max_tokens`. Pure arithmetic.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import msgspec
from msgspec.structs import replace

from executionkit.core.budget import TOKENS_A_REQUEST
from executionkit.core.money import Rates, dollars, picodollars_of
from executionkit.core.usage import TokenUsage

__all__ = ["Amount", "Bounds", "Given", "Reach", "beside", "either", "in_turn", "of_calls", "unbounded"]


class Amount(msgspec.Struct, frozen=True):
    """What a run takes; `math.inf`, and `Decimal("Infinity")` in `usd`, where nothing bounds it.

    Args:
        llm_calls: Requests sent to a model, failed attempts included.
        input_tokens: Prompt tokens.
        output_tokens: Completion tokens.
        usd: US dollars.
    """

    llm_calls: float
    input_tokens: float
    output_tokens: float
    usd: Decimal


class Bounds(msgspec.Struct, frozen=True):
    """What a run takes at the least and at the most, before it is run.

    Args:
        least: What a run takes at the least that answers. Of tokens and money that is nothing, for a server
            may say that there were none.
        most: What any run takes at the most, where servers honour `max_tokens`.
        depth: The most calls that are made one after the other, each waiting for the one before.
        unknown: What nothing bounds, and why, in words.
    """

    least: Amount
    most: Amount
    depth: float
    unknown: tuple[str, ...] = ()


class Given(msgspec.Struct, frozen=True):
    """What a stage's reach depends on.

    Args:
        value: Tokens of the value that comes in, as text, at the most.
        attempts: Attempts at a call at the most that a server may charge for.
        members: How many servers one call may be asked of, each of which may have to be learned.
        rates: What tokens cost at each server that may be asked; none where that is not known.
        run_attempts: Attempts as the run has them, whatever a provider says; None where it says nothing.
        is_counted: Whether prompts are counted by a bound, so that a budget in money is one.
        has_tools: Whether the models call tools; None where that is not known.
        is_limited: Whether calls may wait for each other, for a budget has to have room.
        items: How many values come in, where it is a sequence of that many; None where that is not known.
        why_value: Why nothing bounds the value.
        why_price: Why no price is known.
    """

    value: float = math.inf
    attempts: int = 4
    members: int = 1
    rates: tuple[Rates, ...] = ()
    run_attempts: int | None = None
    is_counted: bool = False
    has_tools: bool | None = None
    is_limited: bool = False
    items: int | None = None
    why_value: str = "the length of the input: give bounds() the value"
    why_price: str = "the price: give bounds() a provider that has one"


class Reach(msgspec.Struct, frozen=True):
    """What a stage takes at the least and at the most, and how long the text is that comes out of it.

    Args:
        least_calls: Calls of a run that answers.
        calls: Calls at the most.
        input: Prompt tokens at the most.
        output: Completion tokens at the most.
        usd: Picodollars at the most.
        depth: Calls one after the other at the most.
        value: Tokens of the value that comes out, as text, at the most.
        unknown: What nothing bounds, and why.
        why_value: Why nothing bounds the value.
    """

    least_calls: float = 0
    calls: float = 0
    input: float = 0
    output: float = 0
    usd: float = 0
    depth: float = 0
    value: float = math.inf
    unknown: tuple[str, ...] = ()
    why_value: str = ""

    def within(self, limit: TokenUsage, given: Given) -> "Reach":
        """Return this reach within a budget.

        Input, and money that rests on it, is held only where prompts are counted by a bound.
        """
        usd = math.inf if limit.usd is None or not given.is_counted else int(limit.usd * 10**12)
        tokens = limit.input_tokens if given.is_counted else 0
        most_calls = limit.llm_calls or math.inf
        return replace(
            self,
            least_calls=min(self.least_calls, most_calls),
            calls=min(self.calls, most_calls),
            input=min(self.input, tokens or math.inf),
            output=min(self.output, limit.output_tokens or math.inf),
            usd=min(self.usd, usd),
            depth=min(self.depth, most_calls),
        )

    def bounds(self) -> Bounds:
        """Return it as a user sees it."""
        nothing = Decimal(0)
        usd = Decimal("Infinity") if math.isinf(self.usd) else dollars(int(self.usd))
        return Bounds(
            Amount(self.least_calls, 0, 0, nothing),
            Amount(self.calls, self.input, self.output, usd),
            self.depth,
            tuple(dict.fromkeys(self.unknown)),
        )


_ANY_LENGTH: Final = 10**12
_FIELDS: Final = 3
"""What a server may have to be asked in other words for: output limit, temperature, usage of a stream."""
_MESSAGES: Final = 3
"""The same for messages with calls, thoughts or several system messages."""


def of_calls(
    given: Given,
    prompt: float,
    max_tokens: int,
    *,
    least: float = 1,
    most: float = 1,
    depth: float | None = None,
    answers: float = 1,
    has_form: bool = False,
    has_logprobs: bool = False,
    has_history: bool = False,
    why_prompt: str = "",
) -> Reach:
    """Return the reach of completions.

    A call is attempted `given.attempts` times, and once more for each field that its server may refuse: once
    a field, twice for the form, and once without the last optional one where a refusal names none. A refusal
    comes to no tokens.

    Args:
        given: What it depends on.
        prompt: Tokens of a prompt at the most.
        max_tokens: Output tokens of an answer at the most.
        least: Calls of a run that answers.
        most: Calls at the most, without attempts.
        depth: Those of them that are made one after the other; None for all.
        answers: Answers that a call asks for at once.
        has_form: Whether they are asked for in a form.
        has_logprobs: Whether log-probabilities are asked for.
        has_history: Whether the messages hold calls, thoughts or several system messages.
        why_prompt: Why nothing bounds the prompt.
    """
    is_optional = has_form or has_logprobs or answers > 1
    refusals = _FIELDS + 2 * has_form + has_logprobs + (answers > 1) + _MESSAGES * has_history
    attempts = given.attempts + refusals * given.members + is_optional
    charged = most * given.attempts
    prompt += TOKENS_A_REQUEST * (1 + has_form)
    usd, unknown = _money(given, charged, prompt, math.ceil(answers * max_tokens))
    if math.isinf(prompt) and most:
        unknown = (why_prompt or given.why_value, *unknown)
    return Reach(
        least_calls=least,
        calls=most * attempts,
        input=charged * prompt if charged else 0,
        output=charged * answers * max_tokens,
        usd=usd,
        depth=(most if depth is None else depth) * attempts,
        value=max_tokens,
        unknown=unknown,
    )


def _money(given: Given, charged: float, prompt: float, output: int) -> tuple[float, tuple[str, ...]]:
    """Return the picodollars of calls at the most, and why that is not known."""
    if not charged:
        return 0, ()
    if not given.rates:
        return math.inf, (given.why_price,)
    if math.isinf(charged):
        return math.inf, ()
    sums: list[float] = []
    for rates in given.rates:
        # A prompt of any length reaches every tier; it costs nothing only where no kind of input does.
        usd, rate = rates.worst(_ANY_LENGTH if math.isinf(prompt) else math.ceil(prompt))
        is_unbounded = math.isinf(prompt) and usd > rates.per_call
        sums.append(math.inf if is_unbounded else charged * (usd + picodollars_of(output, rate)))
    return max(sums), ()


def unbounded(why: str) -> Reach:
    """Return the reach of what nothing bounds."""
    inf = math.inf
    return Reach(0, inf, inf, inf, inf, inf, inf, (why,), f"the value of {why}")


def in_turn(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of one after the other; the value is the last one's."""
    last = reaches[-1] if reaches else Reach()
    return _sum(reaches, depth=sum(reach.depth for reach in reaches), value=last)


def beside(reaches: Sequence[Reach], given: Given) -> Reach:
    """Return the reach of several at once; within a budget they may have to wait for each other."""
    depths = [reach.depth for reach in reaches]
    pair = Reach(
        value=sum(reach.value for reach in reaches),
        why_value=next((reach.why_value for reach in reaches if reach.why_value), ""),
    )
    return _sum(reaches, depth=sum(depths) if given.is_limited else max(depths), value=pair)


def either(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of several, tried in turn until one answers."""
    longest = max(reaches, key=lambda reach: reach.value)
    whole = _sum(reaches, depth=sum(reach.depth for reach in reaches), value=longest)
    return replace(whole, least_calls=min(reach.least_calls for reach in reaches))


def _sum(reaches: Sequence[Reach], *, depth: float, value: Reach) -> Reach:
    return Reach(
        least_calls=sum(reach.least_calls for reach in reaches),
        calls=sum(reach.calls for reach in reaches),
        input=sum(reach.input for reach in reaches),
        output=sum(reach.output for reach in reaches),
        usd=sum(reach.usd for reach in reaches),
        depth=depth,
        value=value.value,
        unknown=tuple(why for reach in reaches for why in reach.unknown),
        why_value=value.why_value,
    )
