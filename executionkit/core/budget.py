"""May the next call be sent? Pure arithmetic over a limit, what is spent and what is in flight."""

import enum
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, cast

import msgspec

from executionkit.core.encoding import json_text
from executionkit.core.money import dollars, money_text, picodollars_of, tokens_for
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = [
    "LEAST_USEFUL_OUTPUT",
    "TOKENS_A_REQUEST",
    "Admission",
    "Ask",
    "Owner",
    "Purse",
    "Refused",
    "Wait",
    "admit",
    "bound_input",
    "by_field",
    "estimate_input",
    "left_of",
    "tighter",
]

LEAST_USEFUL_OUTPUT: Final = 16
"""A call's `max_tokens` is lowered to fit a budget, but not below this many tokens."""

TOKENS_A_REQUEST: Final = 16
"""What the bound of a prompt adds for the frame that a server puts around all messages."""

_BYTES_A_TOKEN: Final = 4
_TOKENS_A_MESSAGE: Final = 4


class Ask(msgspec.Struct, frozen=True):
    """The worst case of one call.

    Args:
        input_tokens: Its input, as estimated or bounded.
        output_tokens: The output of all its answers, as capped by `max_tokens`.
        answers: How many answers it asks for; each takes a token at the least.
        input_usd: What its input comes to, in picodollars.
        output_rate: What a million of its output tokens comes to, in attodollars.
    """

    input_tokens: int
    output_tokens: int
    answers: int = 1
    input_usd: int = 0
    output_rate: int = 0


class Purse(msgspec.Struct, frozen=True):
    """A limit in money, what is spent of it and what is reserved, in picodollars."""

    limit: int
    spent: int
    in_flight: int


class Wait(enum.Enum):
    """The call may fit once a call in flight has settled."""

    WAIT = enum.auto()


class Owner(msgspec.Struct, frozen=True):
    """Whose a budget is.

    Args:
        name: The stage that it was given to.
        path: Where that is in the pipeline.
        is_run: Whether it is the `max_cost` of a run, not a stage's own.
    """

    name: str
    path: tuple[int | str, ...]
    is_run: bool = False

    @property
    def described(self) -> str:
        """What to call the budget in a message.

        >>> Owner("Refine", (1,)).described, Owner("Refine", (), is_run=True).described
        ('the budget of Refine', "the run's budget")
        """
        return "the run's budget" if self.is_run else f"the budget of {self.name}"


class Refused(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """The call cannot fit any more, and this is why.

    Args:
        reason: A clause, fit to stand after a colon.
        is_halted: Whether the budget has no part in it: nothing more is bought after a failure.
        is_unpriced: Whether the budget is in money, and nobody knows what the call costs.
        remedy: What to do about it.
        owner: Whose budget it is, where that is known.
        limit: The part of that budget that there is no room in.
        spent: What is spent of it.
        needed: The worst case of the call, where a budget refused it.
    """

    reason: str
    is_halted: bool = False
    is_unpriced: bool = False
    remedy: str = "raise max_cost or ask for less"
    owner: Owner | None = None
    limit: TokenUsage = NO_USAGE
    spent: TokenUsage = NO_USAGE
    needed: TokenUsage = NO_USAGE


Admission: TypeAlias = int | Wait | Refused
"""The output tokens granted, or why not (yet)."""


def admit(
    limit: TokenUsage, spent: TokenUsage, in_flight: TokenUsage, ask: Ask, purse: Purse | None = None
) -> Admission:
    """Decide whether one more call fits a budget.

    A call is admitted if its worst case fits beside everything spent and reserved. If it would fit once the
    calls in flight have settled, it waits for them. With nothing in flight its output is lowered to what is
    left, down to `LEAST_USEFUL_OUTPUT`.

    Args:
        limit: The budget; 0 in a field means no limit there.
        spent: What has settled. Its `llm_calls` count every call sent.
        in_flight: What is reserved for calls not settled yet.
        ask: The call's worst case.
        purse: The limit in money; None for none. Less output is granted where less money is left.

    >>> admit(TokenUsage(output_tokens=300), TokenUsage(), TokenUsage(), Ask(0, 4096))
    300
    >>> admit(TokenUsage(output_tokens=300), TokenUsage(), TokenUsage(output_tokens=300), Ask(0, 4096))
    <Wait.WAIT: 1>
    >>> admit(TokenUsage(llm_calls=1), TokenUsage(llm_calls=1), TokenUsage(), Ask(0, 4096))
    Refused(reason='1 of 1 calls are spent')
    """
    if limit.llm_calls and spent.llm_calls >= limit.llm_calls:
        return Refused(f"{spent.llm_calls} of {limit.llm_calls} calls are spent")
    by_input = _admit_input(limit.input_tokens, spent.input_tokens, in_flight.input_tokens, ask.input_tokens)
    by_output = _admit_output(limit.output_tokens, spent.output_tokens, in_flight.output_tokens, ask)
    by_tokens = by_output if isinstance(by_output, Refused) or isinstance(by_input, int) else by_input
    if purse is None or isinstance(by_tokens, Refused):
        return by_tokens
    by_money = _admit_money(purse, ask, by_tokens if isinstance(by_tokens, int) else ask.output_tokens)
    return by_money if isinstance(by_money, Refused) or isinstance(by_tokens, int) else by_tokens


def _admit_input(limit: int, spent: int, in_flight: int, asked: int) -> Admission:
    if not limit or spent + in_flight + asked <= limit:
        return asked
    if in_flight and spent + asked <= limit:
        return Wait.WAIT
    return Refused(f"{spent} of {limit} input tokens are spent and the call needs about {asked}")


def _admit_output(limit: int, spent: int, in_flight: int, ask: Ask) -> Admission:
    asked = ask.output_tokens
    if not limit or spent + in_flight + asked <= limit:
        return asked
    left = limit - spent
    if left < max(ask.answers, min(asked, limit, LEAST_USEFUL_OUTPUT)):
        return Refused(f"{spent} of {limit} output tokens are spent")
    return Wait.WAIT if in_flight else left


def _admit_money(purse: Purse, ask: Ask, asked: int) -> Admission:
    left = purse.limit - purse.spent
    whole = ask.input_usd + picodollars_of(asked, ask.output_rate)
    if whole <= left - purse.in_flight:
        return asked
    if whole <= left:
        return Wait.WAIT  # which is because of what is in flight
    affordable = tokens_for(left - ask.input_usd, ask.output_rate) if ask.output_rate else 0
    at_most = tokens_for(purse.limit - ask.input_usd, ask.output_rate) if ask.output_rate else 0
    least = max(ask.answers, min(asked, at_most, LEAST_USEFUL_OUTPUT))
    if affordable >= least:
        return Wait.WAIT if purse.in_flight else affordable
    needed = ask.input_usd + picodollars_of(least, ask.output_rate)
    spent, limit, comes_to = [money_text(dollars(each)) for each in (purse.spent, purse.limit, needed)]
    return Refused(
        f"{spent} of {limit} are spent and the call may come to {comes_to} with {least} tokens of output"
    )


def by_field(limit: TokenUsage) -> list[TokenUsage]:
    """Return a budget as several, of one field each.

    >>> by_field(TokenUsage(llm_calls=5, output_tokens=300))
    [TokenUsage(input_tokens=0, output_tokens=0, llm_calls=5), TokenUsage(... output_tokens=300, ...)]
    """
    fields = ("llm_calls", "input_tokens", "output_tokens", "usd")
    given = [(name, getattr(limit, name)) for name in fields]
    return [TokenUsage(**{name: most}) for name, most in given if most]


def left_of(limit: TokenUsage, spent: TokenUsage) -> TokenUsage | None:
    """Return the budget that is left, or None where a limited field has run out.

    >>> left_of(TokenUsage(llm_calls=5), TokenUsage(900, 80, 2))
    TokenUsage(input_tokens=0, output_tokens=0, llm_calls=3)
    >>> left_of(TokenUsage(llm_calls=5), TokenUsage(llm_calls=5))
    """
    rest = limit - spent
    if any(most and left <= 0 for most, left in zip(_fields(limit), _fields(rest), strict=True)):
        return None
    usd = rest.usd if limit.usd else None
    if usd is not None and usd <= 0:
        return None
    return TokenUsage(
        *(left if most else 0 for most, left in zip(_fields(limit), _fields(rest), strict=True)), usd=usd
    )


def tighter(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    """Return the budget that holds both, field by field.

    >>> tighter(TokenUsage(llm_calls=5), TokenUsage(output_tokens=300, llm_calls=8))
    TokenUsage(input_tokens=0, output_tokens=300, llm_calls=5)
    """
    pairs = zip(_fields(one), _fields(other), strict=True)
    usd = min(one.usd, other.usd) if one.usd and other.usd else one.usd or other.usd
    return TokenUsage(*(min(a, b) if a and b else a or b for a, b in pairs), usd=usd)


def _fields(usage: TokenUsage) -> tuple[int, int, int]:
    return usage.input_tokens, usage.output_tokens, usage.llm_calls


def estimate_input(*parts: object) -> int:
    """Estimate the prompt tokens of messages and tools: a token for every four bytes, and four a message.

    >>> estimate_input([{"role": "user", "content": "What is the capital of France?"}])
    13
    """
    tokens = 0
    for part in parts:
        if part is not None:
            tokens += -(-_size(part) // _BYTES_A_TOKEN)
            if isinstance(part, list):
                tokens += _TOKENS_A_MESSAGE * len(cast("list[object]", part))
    return tokens


def bound_input(*parts: object) -> int:
    """Return the prompt tokens that messages and tools take at most: a token a byte of their JSON.

    It holds for texts and tokenizers that work on bytes, whatever the language; the names in the JSON make up
    for what a chat template puts around each message. Of a picture it says nothing.

    >>> bound_input([{"role": "user", "content": "What is the capital of France?"}])
    76
    """
    return TOKENS_A_REQUEST + sum(len(json_text(part).encode()) for part in parts if part is not None)


def _size(part: object) -> int:
    if isinstance(part, str):
        return len(part) if part.isascii() else len(part.encode("utf-8", "surrogatepass"))
    if isinstance(part, (dict, Mapping)):  # what is no mapping asks the abstract class, which takes long
        part = cast("Mapping[object, object]", part).values()
    elif not isinstance(part, (list, tuple)):
        return 0 if part is None else _BYTES_A_TOKEN
    size = 0
    for each in cast("Iterable[object]", part):
        size += len(each) if type(each) is str and each.isascii() else _size(each)
    return size
