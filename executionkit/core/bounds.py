"""What a pipeline takes at the least and at the most: each stage states its own reach.

A bound needs no prediction: loops are capped, and every call has a `max_tokens`. Pure arithmetic.
`combined_bounds.py` says what several stages take together.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from executionkit.core.budget import TOKENS_A_REQUEST
from executionkit.core.money import Rates, dollars, money_text, picodollars_of
from executionkit.core.usage import TokenUsage

__all__ = [
    "AS_JSON",
    "Amount",
    "Bounds",
    "Given",
    "Reach",
    "budget_text",
    "of_calls",
    "unbounded",
]


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
        least: What a run takes at the least that answers. Of input and money that is nothing, for a server
            may say that there were none; of output it is one for each answer that has to say something.
        most: What any run takes at the most, where servers honour `max_tokens`.
        depth: The most calls that are made one after the other, each waiting for the one before.
        unknown: What nothing bounds, and why, in words.
    """

    least: Amount
    most: Amount
    depth: float
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the calls, and what bounds output tokens and money, on one line."""
        return ", ".join(self.said)

    @property
    def said(self) -> tuple[str, ...]:
        """The calls, and what bounds output tokens and money, each in words."""
        return (_calls_text(self.least.llm_calls, self.most.llm_calls), *_most_text(self.most))


class Given(msgspec.Struct, frozen=True):
    """What a stage's reach depends on.

    Args:
        value: Tokens of the value that comes in, as text, at the most.
        is_text: Whether that is a text or was counted as one; else it is a pair of texts, as long as both.
        attempts: Attempts at a call at the most that a server may charge for.
        who: Whoever one call may be asked of, told apart by something that is equal for the same one.
        rates: What tokens cost at each server that may be asked; none where that is not known.
        run_attempts: Attempts as the run has them, whatever a provider says; None where it says nothing.
        is_counted: Whether prompts are counted by a bound, so that a budget in money is one.
        added: Tokens at the most of the fields that whoever is asked adds to every request.
        has_tools: Whether the models call tools; None where that is not known.
        is_limited: Whether calls may wait for each other, for a budget has to have room.
        is_cached: Whether a call may be answered without being sent.
        items: The tokens of each value, where a sequence of them comes in; None where that is not known.
        why_value: Why nothing bounds the value.
        why_price: Why no price is known.
    """

    value: float = math.inf
    is_text: bool = True
    attempts: int = 4
    who: tuple[int, ...] = (0,)
    rates: tuple[Rates, ...] = ()
    run_attempts: int | None = None
    is_counted: bool = False
    added: int = 0
    has_tools: bool | None = None
    is_limited: bool = False
    is_cached: bool = False
    items: tuple[float, ...] | None = None
    why_value: str = "the length of the input: give bounds() the value"
    why_price: str = "the price: give bounds() a provider that has one"

    @property
    def changes_of_mind(self) -> int:
        """How often whoever is asked may change its mind about one thing in a call."""
        return 1 if len(self.who) == 1 else self.attempts


class Lessons(msgspec.Struct, frozen=True):
    """What a run may have to find out about one server, by being refused.

    Args:
        widths: The fields that it may refuse, and how many calls may be under way when it first refuses one,
            each of which is refused. A call that begins later knows of it.
        forms: Refusals of a form at the most, were nothing learned from one.
        form_width: Calls with a form that may be under way when it first refuses one.
    """

    widths: Mapping[str, float]
    forms: float = 0
    form_width: float = 0

    @property
    def calls(self) -> float:
        """Refusals at the most."""
        return sum(self.widths.values()) + self._of_forms

    @property
    def depth(self) -> float:
        """Refusals of calls that are made one after the other."""
        return len(self.widths) + self._of_forms

    @property
    def _of_forms(self) -> float:
        # A form is given up in two steps. A call that was under way at the first may take back the second,
        # and then each call that begins may be refused for it again.
        return min(self.forms, self.form_width + self.form_width**2)


class Reach(msgspec.Struct, frozen=True):
    """What a stage takes at the least and at the most, and how long the text is that comes out of it.

    Args:
        least_calls: Calls of a run that answers.
        least_output: Completion tokens of a run that answers.
        least_said: Those of a run whose value is no empty text.
        needs_text: Whether a run of an empty text fails.
        calls: Calls at the most, without those of `lessons`.
        input: Prompt tokens at the most.
        output: Completion tokens at the most.
        usd: Picodollars at the most.
        largest_input: Prompt tokens of one call at the most.
        largest_output: Completion tokens of one call at the most.
        largest_usd: Picodollars of one call at the most.
        depth: Calls one after the other at the most, without those of `lessons`.
        lessons: What each server has to be asked in other words for, once in a run.
        proofs: For each server, calls one after the other of one that finds out which fields it takes.
        ahead: Those of them that calls beside it wait for, once in a run.
        is_counted: Whether the prompts of all calls are counted by a bound, as far as one knows the calls.
        value: Tokens of the value that comes out, as text, at the most.
        is_text: Whether it is a text; else it is a pair of texts, as long as both.
        unknown: What nothing bounds, and why.
        why_value: Why nothing bounds the value.
    """

    least_calls: float = 0
    least_output: float = 0
    least_said: float = 0
    needs_text: bool = False
    calls: float = 0
    input: float = 0
    output: float = 0
    usd: float = 0
    largest_input: float = 0
    largest_output: float = 0
    largest_usd: float = 0
    depth: float = 0
    lessons: Mapping[int, Lessons] = {}
    proofs: Mapping[int, float] = {}
    ahead: Mapping[int, float] = {}
    is_counted: bool = True
    value: float = math.inf
    is_text: bool = True
    unknown: tuple[str, ...] = ()
    why_value: str = ""

    @property
    def all_calls(self) -> float:
        """Calls at the most."""
        return self.calls + sum([each.calls for each in self.lessons.values()])

    @property
    def whole_depth(self) -> float:
        """Calls one after the other at the most."""
        return self.depth + sum([each.depth for each in self.lessons.values()]) + sum(self.ahead.values())

    @property
    def if_at_all(self) -> "Reach":
        """This reach, of what a run that answers may do without."""
        return replace(self, least_calls=0, least_output=0, least_said=0)

    def answering(self, *, says_something: bool = True) -> "Reach":
        """Return this reach, of a stage that answers a prompt; an empty one it refuses.

        Args:
            says_something: Whether the model has to say something, or an empty answer will do.
        """
        said = min(1, self.least_calls)  # a server that says it took nothing for that is not believed
        least = self.least_output
        return replace(
            self,
            least_output=least + said if says_something else least,
            least_said=least + said,
            needs_text=True,
        )

    def within(self, limit: TokenUsage, given: Given) -> "Reach":
        """Return this reach within a budget.

        Input, and money that rests on it, is held only where prompts are counted by a bound. Whoever a call
        asks of which nobody knows, is taken to be the provider that is given.
        """
        is_counted = self.is_counted and (given.is_counted or not math.isinf(self.calls))
        usd = math.inf if limit.usd is None or not is_counted else int(limit.usd * 10**12)
        tokens = limit.input_tokens if is_counted else 0
        most_calls = limit.llm_calls or math.inf
        most_output = limit.output_tokens or math.inf
        is_less = self.all_calls > most_calls
        return replace(
            self,
            least_calls=min(self.least_calls, most_calls),
            least_output=min(self.least_output, most_output),
            least_said=min(self.least_said, most_output),
            calls=most_calls if is_less else self.calls,
            lessons={} if is_less else self.lessons,
            proofs={} if is_less else self.proofs,
            ahead={} if is_less else self.ahead,
            input=min(self.input, tokens or math.inf, _times(most_calls, self.largest_input)),
            output=min(self.output, most_output, _times(most_calls, self.largest_output)),
            usd=min(self.usd, usd, _times(most_calls, self.largest_usd)),
            depth=min(self.whole_depth, most_calls) if is_less else self.depth,
            is_counted=is_counted,
        )

    def bounds(self) -> Bounds:
        """Return it as a user sees it."""
        nothing = Decimal(0)
        usd = Decimal("Infinity") if math.isinf(self.usd) else dollars(int(self.usd))
        return Bounds(
            Amount(self.least_calls, 0, self.least_output, nothing),
            Amount(self.all_calls, self.input, self.output, usd),
            self.whole_depth,
            tuple(dict.fromkeys(self.unknown)),
        )


def _calls_text(least: float, most: float) -> str:
    if math.isinf(most):
        return f"{least:,.0f} calls or more"
    calls = f"{most:,.0f} call{'' if most == 1 else 's'}"
    return calls if least == most else f"{least:,.0f} to {calls}"


def _most_text(most: Amount) -> Iterator[str]:
    if most.llm_calls and not math.isinf(most.output_tokens):
        yield f"up to {most.output_tokens:,.0f} output tokens"
    if most.usd.is_finite() and most.usd:
        yield f"up to {money_text(most.usd)}"


def budget_text(limit: TokenUsage) -> str:
    """Return a budget as a person reads it.

    >>> budget_text(TokenUsage(output_tokens=2000, llm_calls=5)), budget_text(TokenUsage())
    ('5 calls, 2,000 output tokens', 'no limit')
    """
    counts = (
        (limit.llm_calls, "calls"),
        (limit.input_tokens, "input tokens"),
        (limit.output_tokens, "output tokens"),
    )
    fields = [f"{most:,} {what}" for most, what in counts if most]
    if limit.usd:
        fields.append(money_text(limit.usd))
    return ", ".join(fields) or "no limit"


AS_JSON: Final = "how much longer a pair is as JSON than its texts"
"""Why nothing bounds what stands in a prompt where a pair does."""
_ANY_LENGTH: Final = 10**12
_OF_ALL: Final = ("temperature", "usage of a stream")
"""What a server may refuse of any call, beside the name of the output limit."""


@lru_cache(maxsize=512)
def of_calls(
    given: Given,
    prompt: float,
    max_tokens: int,
    *,
    least: float = 1,
    most: float = 1,
    depth: float | None = None,
    width: float = 1,
    answers: int = 1,
    has_form: bool = False,
    has_logprobs: bool = False,
    has_thoughts: bool = False,
    has_calls: bool = False,
    has_systems: bool = False,
    is_answer: bool = False,
    why_prompt: str = "",
) -> Reach:
    """Return the reach of completions.

    A call is attempted `given.attempts` times. It may be asked in other words once more for what a server
    can change its mind about: the name of the output limit, whether reasoning goes back, and once without the
    last optional field where a refusal names none. Where a call moves on from one server to another and
    back, each may change its mind again. What is refused else is known to the calls after it. A refusal
    comes to no tokens.

    Args:
        given: What it depends on.
        prompt: Tokens of a prompt at the most.
        max_tokens: Output tokens of an answer at the most.
        least: Calls of a run that answers.
        most: Calls at the most, without attempts.
        depth: Those of them that are made one after the other; None for all.
        width: Those of them that are made at once.
        answers: Answers that a call asks for at once.
        has_form: Whether they are asked for in a form.
        has_logprobs: Whether log-probabilities are asked for.
        has_thoughts: Whether the messages may hold reasoning, or have to.
        has_calls: Whether they may hold calls of tools.
        has_systems: Whether they may hold several system messages.
        is_answer: Whether the answer is that of the stage, which may be an empty one.
        why_prompt: Why nothing bounds the prompt.
    """
    is_optional = has_form or has_logprobs or answers > 1
    changes = given.changes_of_mind
    attempts = given.attempts + (1 + has_thoughts) * changes + is_optional
    asked = {
        "n": answers > 1,
        "logprobs": has_logprobs,
        "ids of calls": has_calls,
        "several system messages": has_systems,
    }
    widths = dict.fromkeys((*_OF_ALL, *[name for name, is_asked in asked.items() if is_asked]), width)
    lessons = Lessons(widths, *((2 * most * changes, width) if has_form else ()))
    charged = most * given.attempts
    prompt += TOKENS_A_REQUEST * (1 + has_form) + given.added
    largest_usd, unknown = _money(given, prompt, answers * max_tokens) if charged else (0, ())
    if math.isinf(prompt) and most:
        unknown = (why_prompt or given.why_value, *unknown)
    reach = Reach(
        least_calls=0 if given.is_cached else least,
        calls=most * attempts,
        input=_times(charged, prompt),
        output=_times(charged, answers * max_tokens),
        usd=_times(charged, largest_usd),
        largest_input=prompt if charged else 0,
        largest_output=answers * max_tokens if charged else 0,
        largest_usd=largest_usd,
        depth=(most if depth is None else depth) * attempts,
        lessons=dict.fromkeys(given.who, lessons) if most else {},
        proofs=dict.fromkeys(given.who, attempts) if most and (has_form or has_logprobs) else {},
        is_counted=given.is_counted or not most,
        value=max_tokens,
        unknown=unknown,
    )
    return reach.answering(says_something=False) if is_answer else reach


def _times(calls: float, each: float) -> float:
    """Return so many times a figure; nothing of nothing, however often."""
    return calls * each if calls and each else 0


def _money(given: Given, prompt: float, output: int) -> tuple[float, tuple[str, ...]]:
    """Return the picodollars of a call at the most, and why that is not known."""
    if not given.rates:
        return math.inf, (given.why_price,)
    sums: list[float] = []
    for rates in given.rates:
        # A prompt of any length reaches every tier; it costs nothing only where no kind of input does.
        usd, rate = rates.worst(_ANY_LENGTH if math.isinf(prompt) else math.ceil(prompt))
        is_unbounded = math.isinf(prompt) and usd > rates.per_call
        sums.append(math.inf if is_unbounded else usd + picodollars_of(output, rate))
    return max(sums), ()


def unbounded(why: str) -> Reach:
    """Return the reach of what nothing bounds."""
    inf = math.inf
    return Reach(
        calls=inf,
        input=inf,
        output=inf,
        usd=inf,
        largest_input=inf,
        largest_output=inf,
        largest_usd=inf,
        depth=inf,
        unknown=(why,),
        why_value=f"the value of {why}",
    )
