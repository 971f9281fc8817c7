"""Fingerprints: every field counts but names, and they are the same wherever they are taken."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from executionkit.core.canonical import canonical, canonical_text, fingerprint_of
from executionkit.core.differences import changes
from executionkit.core.usage import TokenUsage
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.react.loop import React
from executionkit.patterns.refine import refine
from executionkit.plan import Change, diff, fingerprint
from executionkit.provider import LLMProvider
from executionkit.providers.anthropic import Anthropic
from executionkit.providers.openai import Provider
from executionkit.providers.pool import Pool
from executionkit.providers.scripted import ScriptedProvider
from executionkit.providers.secret import Secret
from executionkit.stage import Each, Named, Stage, identity
from executionkit.tools import Tool
from tests.pipelines import CHEAP, LEAVES, PIPELINES, VARIED, score

NAMES = {(Named, "label"), (Each, "label")}
"""Fields that change no request and no answer."""

VARIATIONS = [
    pytest.param(base, field, other, id=f"{type(base).__name__}.{field}")
    for base, others in VARIED
    for field, other in others.items()
]
ALL: Final = [base for base, _ in VARIED]
COUNTED: Final = 33
"""How many of them the fingerprint in a test below is of."""
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def every_class(of: type[Any]) -> set[type[Any]]:
    below: list[type[Any]] = of.__subclasses__()
    return {of}.union(*[every_class(each) for each in below])


def test_the_table_has_every_stage_with_every_field() -> None:
    ours = {each for each in every_class(Stage) if each.__module__.startswith("executionkit.")}
    stages = {each for each in ours if not each.__name__.startswith("_")}  # some are of a module's own
    assert stages - {Stage} <= {type(base) for base, _ in VARIED}
    for base, others in VARIED:
        assert set(base.__struct_fields__) == set(others), type(base)
        assert all(getattr(base, field) != other for field, other in others.items()), type(base)


@pytest.mark.parametrize(("base", "field", "other"), VARIATIONS)
def test_every_field_counts_but_names(base: Any, field: str, other: Any) -> None:
    changed = msgspec.structs.replace(base, **{field: other})
    is_same = fingerprint_of(changed) == fingerprint_of(base)
    assert is_same == ((type(base), field) in NAMES)
    before, after = canonical(base, with_names=True), canonical(changed, with_names=True)
    assert changes(before, after)[0].place.split(".")[0] == field
    assert changes(after, after) == ()


@few
@given(PIPELINES)
def test_a_part_that_changed_shows_in_the_whole(pipeline: Any) -> None:
    assert fingerprint(pipeline) == fingerprint(pipeline)
    assert fingerprint(pipeline >> complete(max_tokens=77)) != fingerprint(pipeline)
    assert fingerprint(pipeline.named("x")) == fingerprint(pipeline)


@few
@given(LEAVES, LEAVES, LEAVES)
def test_a_name_around_several_stages_does_not_count(a: Any, b: Any, c: Any) -> None:
    assert fingerprint(a >> (b >> c).named("x")) == fingerprint(a >> b >> c)
    assert fingerprint(((a | b).named("x") | c).named("y")) == fingerprint(a | b | c)
    assert fingerprint(a >> identity(str).named("x")) == fingerprint(a)


PROGRAM: Final = """
from executionkit import complete, consensus, step
from executionkit.plan import fingerprint
async def own(provider, prompt, **options): ...
words = {word: {word, "x"} for word in ("a", "bc", "d", "e", "f", "g")}
print(fingerprint(consensus(3, key=str.lower) >> step(own, words=words, more=frozenset(words))))
print(fingerprint(complete().map(lambda text: text in {"a", "b", "c", "d", "e"})))
"""


def test_it_is_the_same_in_every_process_and_with_every_hash_seed() -> None:
    found: set[str] = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
        )
        found |= set(done.stdout.split())
    assert len(found) == 2


def test_it_is_the_same_in_every_version_of_python() -> None:
    # Users keep fingerprints in files. Where this one changes on purpose, say so in the changelog. A stage
    # that is new stands behind those that it is of.
    without_tools = [base for base in ALL[:COUNTED] if not isinstance(base, React | Tool)]
    assert fingerprint_of(without_tools) == "ek1:f86e2e94044fcbb90bc9d81169ab7b6a"
    assert all(fingerprint_of(base).startswith("ek1:") for base in ALL)


def shouting(mark: str) -> Callable[[str], str]:
    def shout(text: str) -> str:
        return text.upper() + mark

    return shout


def repeating(count: int) -> Callable[[str], str]:
    def repeat(text: str, *, times: int = count) -> str:
        return text * times

    return repeat


def test_a_function_without_a_name_counts_by_its_code() -> None:
    def of(function: Callable[[str], object]) -> str:
        return fingerprint(complete().map(function))

    assert of(shouting("!")) == of(shouting("!"))
    assert of(shouting("!")) != of(shouting("?"))
    assert of(lambda text: text[0]) == of(lambda text: text[0]) != of(lambda text: text[1])
    assert of(lambda text: text).startswith(f"ek1-{sys.implementation.cache_tag}:")
    assert of(repeating(1)) != of(repeating(2))
    assert of(lambda text: text in {"a", "b"}) == of(lambda text: text in {"b", "a"})
    assert of(str.upper).startswith("ek1:")
    assert of(partial(shouting("!"))) != of(partial(shouting("?")))
    assert of(partial(int, base=2)) != of(partial(int, base=3))
    assert of("x".join) != of("y".join)


class Judge:
    """An evaluator with a state."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.lock = threading.Lock()
        self.itself = self

    def __call__(self, text: str) -> float:
        return float(self.words in text)

    def judge(self, text: str) -> float:
        return self(text)


class Endless:
    """What it would be pickled as has another one of it."""

    def __call__(self, text: str) -> float:
        return 1.0

    def __reduce__(self) -> tuple[object, ...]:
        return Endless, (Endless(),)


class Rude:
    """Will not be pickled."""

    def __call__(self, text: str) -> float:
        return 1.0

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("no")


def test_an_object_counts_by_its_state_and_never_by_its_address() -> None:
    assert fingerprint(refine(Judge("a"))) == fingerprint(refine(Judge("a")))
    assert fingerprint(refine(Judge("a"))) != fingerprint(refine(Judge("b")))
    assert fingerprint(refine(Judge("a").judge)) != fingerprint(refine(Judge("b").judge))
    assert fingerprint(refine(Rude())) == fingerprint(refine(Rude())) != fingerprint(refine(score))
    assert fingerprint(refine(Endless())) == fingerprint(refine(Endless()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (Decimal("0.5"), Decimal("0.50")),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, "a", None}, frozenset([None, "a", 1])),
        ({1: 2, "$": 3}, {"$": 3, 1: 2}),
        (int | str, str | int),
    ],
)
def test_what_is_equal_is_the_same(one: Any, other: Any) -> None:
    assert fingerprint_of(one) == fingerprint_of(other)


@pytest.mark.parametrize(
    "value",
    [
        10**40,
        -(2**70),
        float("inf"),
        float("nan"),
        "\ud800",
        b"x",
        1j,
        ...,
        range(3),
        PurePosixPath("a"),
        {},
        (),
        "",
        None,
    ],
)
def test_every_value_has_one(value: Any) -> None:
    others = [0, "other", True, (None,), {"$": 1}]
    assert fingerprint_of(value) == fingerprint_of(value)
    assert fingerprint_of(value) not in map(fingerprint_of, others)


def test_no_key_of_a_provider_is_in_it() -> None:
    key = "sk-secret-123"
    providers: list[LLMProvider] = [
        Provider(f"https://host/v1?key={key}", "m", key, headers={"x-other-key": key}),
        Anthropic("m", key),
        Pool([Provider("https://host/v1", "m", Secret(key)), CHEAP]),
        ScriptedProvider("x"),
    ]
    for provider in providers:
        stage = complete().using(provider)
        assert key not in canonical_text(canonical(stage, with_names=True))
    bare, keyed = Provider("https://host/v1", "m"), Provider("https://host/v1", "m", key)
    assert fingerprint(complete().using(bare)) == fingerprint(complete().using(keyed))
    assert fingerprint(complete().using(bare)) != fingerprint(
        complete().using(Provider("https://other/v1", "m"))
    )
    assert fingerprint(consensus(2, providers=[bare])) != fingerprint(consensus(2, providers=[CHEAP]))
    assert fingerprint(complete().using(Pool([bare]))) != fingerprint(complete().using(Pool([CHEAP])))


def test_stages_as_deep_as_they_go_have_one() -> None:
    deep: Stage[str, Any] = complete()
    for level in range(104):
        deep = refine(draft=(deep | complete(max_tokens=level + 1)))
    assert fingerprint(deep).startswith("ek1:")


def test_a_difference_says_where_it_is() -> None:
    before = complete() >> consensus(3) >> complete(max_tokens=5)
    assert diff(before, before) == ()
    (named,) = diff(before, before.named("x"))
    assert str(named).startswith('all of it: {"$":"executionkit:Pipeline"')
    assert named.after == canonical_text(canonical(before.named("x"), with_names=True))
    longer = complete() >> refine() >> consensus(4) >> complete(max_tokens=5)
    assert [change.place for change in diff(before, longer)] == ["stages.1", "stages.2"]
    shorter = consensus(3) >> complete(max_tokens=5)
    (change,) = diff(before, shorter)
    assert (change.place, change.after) == ("stages.0", None)
    assert str(change).startswith('stages.0: removed {"$":"executionkit:Complete"')
    assert str(diff(shorter, before)[0]).startswith("stages.0: added ")
    budget = complete().within(TokenUsage(llm_calls=2)), complete().within(TokenUsage(llm_calls=3))
    assert diff(*budget) == (Change("max_cost.llm_calls", "2", "3"),)
    assert diff(complete().map(str.upper), complete().map(str))[0].place == "functions.0"


class Broken(dict[str, int]):
    def __contains__(self, key: object) -> bool:
        raise ValueError("not a key of mine")


def test_what_a_function_holds_may_raise_or_belong_to_a_process() -> None:
    def holding(held: object) -> Stage[str, str]:
        return refine(lambda text: 1.0 if held else 0.0)

    async def looped() -> str:
        lock = asyncio.Lock()
        async with lock:
            waiting = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0)  # from now on it knows its event loop
        await waiting
        return fingerprint(holding([lock, asyncio.get_running_loop(), threading.Lock()]))

    loop = asyncio.new_event_loop()
    fresh = fingerprint(holding([asyncio.Lock(), loop, threading.Lock()]))
    loop.close()
    assert asyncio.run(looped()) == fresh
    assert fingerprint(holding(Broken())) == fingerprint(holding(Broken()))
    assert fingerprint(holding([Broken()])) != fingerprint(holding(["other"]))
