"""Every stage and every setting of one with a second value of each field, and pipelines made of them."""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from hypothesis import strategies as st
from typing_extensions import override

from executionkit.approval import Approve, Decision, Proposal
from executionkit.core.transcript import Transcript
from executionkit.core.usage import TokenUsage
from executionkit.core.voting.ballots import FieldBallot, TextBallot, ValueBallot
from executionkit.errors import ConsensusFailedError, ExecutionKitError, InvalidOutputError
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import Complete
from executionkit.patterns.consensus.sampling import Sampling
from executionkit.patterns.consensus.selection import Select
from executionkit.patterns.consensus.vote import Consensus
from executionkit.patterns.prompt import Prompt
from executionkit.patterns.react.loop import React
from executionkit.patterns.refine import Refine
from executionkit.patterns.step import Step
from executionkit.patterns.structured import Structured
from executionkit.provider import LLMProvider
from executionkit.providers.openai import Provider
from executionkit.runtime.context import Context
from executionkit.stage import (
    Both,
    Checked,
    Each,
    Fallback,
    Mapped,
    Named,
    Pipeline,
    Stage,
    Using,
    Within,
    WithInput,
    identity,
)
from executionkit.tools import Tool, tool
from executionkit.voting import (
    ByProbability,
    Choice,
    FinalAnswer,
    LastNumber,
    Number,
    Sample,
    StoppingRule,
    VotingStrategy,
    beta,
    boxed,
    casefolded,
    certain,
    forecast,
    unanimous_window,
)


class Mood(Enum):
    """A choice of two."""

    CALM = "calm"
    LOUD = "loud"


class Town(msgspec.Struct, frozen=True):
    """Where people live."""

    name: str
    size: int = 0
    mood: Mood = Mood.CALM


class Row(TypedDict):
    """A row of a table."""

    key: str


class Own(Stage[str, str], frozen=True):
    """A pattern of one's own."""

    words: tuple[str, ...] = ("a",)
    since: dt.date = dt.date(2026, 1, 1)

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        return PatternResult(value)


def score(text: str) -> float:
    return 0.5


def strict(text: str) -> float:
    return 0.1


def rule(value: object) -> str | None:
    return None


def other_rule(value: object) -> str | None:
    return "no"


def about(value: object) -> str:
    return f"You know all about {value}."


def weigh(sample: Sample[Any]) -> float:
    return 1.0


async def approve(proposal: Proposal) -> Decision:
    return Approve()


async def own(
    provider: LLMProvider, prompt: str, size: int = 1, mood: Mood = Mood.CALM
) -> PatternResult[str]:
    return PatternResult(prompt)


async def other(provider: LLMProvider, prompt: str, **options: Any) -> PatternResult[str]:
    return PatternResult(prompt)


@tool
def look(what: str) -> str:
    """Look something up."""
    return what


@tool(name="find_it", timeout=3)
def find(what: str, times: int = 1) -> str:
    """Find something."""
    return what * times


async def execute(what: str) -> str:
    return what


CHEAP = Provider("http://127.0.0.1:1/v1", "cheap")
DEAR = Provider("http://127.0.0.1:1/v1", "dear", extra_body={"seed": 7})
PROVIDERS = {"cheap": CHEAP, "dear": DEAR}
ONE, TWO = Complete(), Complete(max_tokens=9)
TALK = Transcript([{"role": "user", "content": "hello"}])
SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}}
BY_HAND = Tool("by_hand", "A tool.", SCHEMA, execute)

VARIED: list[tuple[Any, dict[str, Any]]] = [
    (Complete(), {"temperature": 0.5, "max_tokens": 9, "in_pieces": True, "system": "Be brief."}),
    (
        Consensus(ballot=TextBallot()),
        {
            "ballot": ValueBallot(int),
            "sampling": Sampling(n=4),
            "strategy": VotingStrategy.UNANIMOUS,
            "stop": certain(),
            "weigh": weigh,
            "check": rule,
            "system": about,
        },
    ),
    (
        Sampling(),
        {
            "n": 6,
            "temperature": None,
            "max_tokens": 9,
            "max_concurrency": 2,
            "quorum": 2,
            "providers": (CHEAP,),
            "one_request": True,
        },
    ),
    (TextBallot(), {"key": boxed}),
    (ValueBallot(Town), {"output_type": Row, "key": str}),
    (FieldBallot(Town), {"output_type": Row}),
    (Number(), {"tolerance": 0.5}),
    (LastNumber(), {"tolerance": 0.5}),
    (FinalAnswer(), {"tolerance": 0.5}),
    (Choice("ABC"), {"letters": "ABCD"}),
    (beta(), {"confidence": 0.9}),
    (forecast(), {"risk": 0.1}),
    (unanimous_window(), {"size": 3}),
    (Select(), {"sampling": Sampling(n=2), "system": "Be brief."}),
    (
        Refine(score),
        {
            "evaluator": strict,
            "target_score": 0.8,
            "max_iterations": 2,
            "patience": 1,
            "delta_threshold": 0.1,
            "temperature": None,
            "max_tokens": 9,
            "max_eval_chars": 99,
            "system": "Be brief.",
            "output_type": list[int],
            "output_retries": 1,
            "draft": ONE,
            "improve": Prompt("Better than {value}") >> TWO,
        },
    ),
    (
        React((look,)),
        {
            "tools": (look, find),
            "max_rounds": 3,
            "max_observation_chars": 99,
            "tool_timeout": 2.5,
            "temperature": None,
            "max_tokens": 9,
            "max_history_messages": 9,
            "output_type": Town,
            "output_retries": 1,
            "on_limit": "answer",
            "approve": approve,
            "max_concurrency": 2,
            "max_tool_calls": 7,
            "summarise": ONE,
            "transcript": TALK,
            "delimit_results": True,
            "check": rule,
            "system": "Be brief.",
        },
    ),
    (
        BY_HAND,
        {
            "name": "other",
            "description": "Another.",
            "parameters": {"type": "object"},
            "execute": look.execute,
            "timeout": 5.0,
            "max_calls": 3,
            **({"effects": "none"} if "effects" in Tool.__struct_fields__ else {}),  # with a journal
        },
    ),
    (look.execute, {"function": score, "in_thread": False}),
    (
        Structured(int),
        {
            "output_type": Town,
            "output_retries": 1,
            "temperature": None,
            "max_tokens": 9,
            "check": rule,
            "system": "Be brief.",
        },
    ),
    (Prompt("Say {}"), {"template": "Say {} again"}),
    (Step(own), {"function": partial(own, size=3), "keywords": (("size", 2), ("mood", Mood.LOUD))}),
    (Own(), {"words": ("a", "b"), "since": dt.date(2026, 1, 2)}),
    (Pipeline((ONE, TWO)), {"stages": (TWO, ONE)}),
    (Fallback((ONE, TWO)), {"options": (ONE,), "on": (ConsensusFailedError,)}),
    (Both(ONE, ONE), {"left": TWO, "right": TWO}),
    (Mapped(ONE, (str.upper,)), {"stage": TWO, "functions": (str.upper, str.lower)}),
    (Named(ONE, "one"), {"stage": TWO, "label": "other"}),
    (WithInput(ONE), {"stage": TWO}),
    (Checked(ONE, rule), {"stage": TWO, "rule": other_rule, "output_retries": 5}),
    (Each(ONE), {"stage": TWO, "max_concurrency": 2, "on_error": "fail", "label": about}),
    (Within(ONE, TokenUsage(llm_calls=2)), {"stage": TWO, "max_cost": TokenUsage(usd=Decimal("0.5"))}),
    (Using(ONE, CHEAP), {"stage": TWO, "provider": DEAR}),
    (
        TokenUsage(llm_calls=2),
        {
            "input_tokens": 1,
            "output_tokens": 1,
            "llm_calls": 3,
            "cache_read_tokens": 1,
            "cache_write_tokens": 1,
            "reasoning_tokens": 1,
            "usd": Decimal(1),
        },
    ),
]
"""A value of each class that a pipeline is made of, with another value of each of its fields."""

_classes: list[type[Any]] = [type(value) for value, _ in VARIED]
ALL_STAGES: set[type[Any]] = {kind for kind in _classes if issubclass(kind, Stage) and kind is not Own}
"""The class of every stage that the package has."""


def stages_within(stage: Stage[Any, Any]) -> set[type[Any]]:
    """Return the classes of a stage and of all below it."""
    return {type(stage)}.union(*map(stages_within, stage.parts().values()))


TYPES: list[Any] = [
    int,
    str,
    list[int],
    dict[str, float],
    tuple[int, ...],
    Town,
    Row,
    Mood,
    int | None,
    Literal["yes", "no"],
    list[Town | None],
    Annotated[int, msgspec.Meta(ge=0, le=10)],
    dt.date,
    Sequence[str],
]


def _items(found: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(found.items())


builds: Any = st.builds
_other: Any = st.just(other)
_sizes = st.integers(1, 9)
_temperatures = st.none() | st.floats(0, 2)
_systems = st.none() | st.text(min_size=1, max_size=5).filter(str.strip) | st.just(about)
_rules = st.sampled_from([None, rule])
_types = st.sampled_from(TYPES)
_stops: st.SearchStrategy[StoppingRule | None] = st.sampled_from(
    [None, certain(), beta(0.9), forecast(), unanimous_window(2)]
)
_keys: Any = st.sampled_from([casefolded, boxed, str.strip, Number(0.5), FinalAnswer(), Choice("AB"), str])
_some = st.sampled_from([(), (CHEAP,), (CHEAP, DEAR)])
_samplings = builds(
    Sampling,
    n=_sizes,
    temperature=_temperatures,
    max_tokens=_sizes,
    max_concurrency=_sizes,
    providers=_some,
    one_request=st.booleans(),
)
_tools = st.lists(st.sampled_from([look, find, BY_HAND]), unique=True, max_size=3).map(tuple)
_values: Any = st.sampled_from(
    [Mood.LOUD, None, 0.25, ("a", ("b",)), [1], {"a": {1: 2}}, b"x", {3, 4}, 2**80, "\ud800"]
)
_keywords: Any = st.dictionaries(
    st.sampled_from(["size", "mood", "deep"]),
    st.integers() | _values,
).map(_items)
LEAVES: st.SearchStrategy[Any] = st.one_of(
    builds(Complete, _temperatures, _sizes, st.booleans(), _systems),
    builds(
        Consensus,
        ballot=builds(TextBallot, _keys)
        | builds(ValueBallot, _types, st.sampled_from([None, str]))
        | st.just(FieldBallot(Town)),
        sampling=_samplings,
        stop=_stops,
        check=_rules,
        system=_systems,
    ),
    builds(Consensus, ballot=st.just(TextBallot()), weigh=st.sampled_from([weigh, ByProbability()])),
    builds(Select, sampling=_samplings, system=_systems),
    builds(
        Refine,
        st.sampled_from([None, score, strict]),
        st.floats(0, 1),
        st.integers(0, 5),
        _sizes,
        temperature=_temperatures,
        system=_systems,
    ),
    builds(Refine, st.just(score), output_type=_types),
    builds(
        React,
        _tools,
        _sizes,
        tool_timeout=st.none() | st.floats(0.1, 9),
        output_type=st.none() | _types,
        on_limit=st.sampled_from(["fail", "answer"]),
        approve=st.sampled_from([None, approve]),
        transcript=st.sampled_from([Transcript(), TALK]),
        check=_rules,
        system=_systems,
    ),
    builds(Structured, _types, st.integers(0, 5), check=_rules, system=_systems),
    builds(Prompt, st.sampled_from(["Say {}", "{0} and {1}", "Dear {name}"])),
    builds(Step, _other, _keywords),
    builds(Step, st.just(partial(own, size=3))),
    builds(Own, st.lists(st.text(), max_size=3).map(tuple), st.dates()),
    st.just(identity(str)),
)


def _chained(one: Stage[Any, Any], other: Stage[Any, Any]) -> Stage[Any, Any]:
    return one >> other


def _or_else(one: Stage[Any, Any], other: Stage[Any, Any], on: Any) -> Stage[Any, Any]:
    return one.or_else(other, on=on)


def _combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    failures = st.sampled_from([(ExecutionKitError,), (ConsensusFailedError, InvalidOutputError)])
    budgets = builds(
        TokenUsage,
        st.integers(0, 10**20),
        st.integers(0, 9),
        usd=st.none() | st.decimals(0, 1, allow_nan=False, places=3),
    )
    return st.one_of(
        builds(_chained, inner, inner),
        builds(_or_else, inner, inner, failures),
        builds(Both, inner, inner),
        builds(Mapped, inner, st.sampled_from([(str.upper,), (str, len), (partial(str, encoding="x"),)])),
        builds(Named, inner, st.text(min_size=1).filter(str.strip)),
        builds(WithInput, inner),
        builds(Checked, inner, st.sampled_from([rule, other_rule]), st.integers(0, 3)),
        builds(Each, inner, _sizes, st.sampled_from(["collect", "fail"]), st.sampled_from([None, str])),
        builds(Within, inner, budgets),
        builds(Using, inner, st.sampled_from([CHEAP, DEAR])),
        builds(Refine, st.just(score), draft=inner),
        builds(Refine, st.just(score), improve=inner),
        builds(React, st.just((look,)), summarise=inner, max_history_messages=st.just(9)),
    )


PIPELINES: st.SearchStrategy[Any] = st.recursive(LEAVES, _combined, max_leaves=6)
"""Pipelines of every stage, all of which can be written down."""
