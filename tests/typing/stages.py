"""What the checkers must infer of stages and their compositions."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, assert_type

import msgspec
from returns.result import Failure, Success

from executionkit import (
    Context,
    ExecutionKitError,
    LLMProvider,
    PatternResult,
    Stage,
    TokenUsage,
    compat,
    complete,
    consensus,
    identity,
    react,
    refine,
    step,
)
from executionkit.patterns.consensus import Consensus
from executionkit.patterns.step import Step
from executionkit.patterns.structured import Structured, structured


class City(msgspec.Struct, frozen=True):
    """An answer that is more than text."""

    name: str


class Count(Stage[str, int], frozen=True):
    """A fifth pattern: how long is the text?"""

    async def perform(self, value: str, context: Context) -> PatternResult[int]:
        assert_type(await context.run(consensus(), value), PatternResult[str])
        outcome = await context.attempt(lambda below: below.run(consensus(), value))
        assert_type(outcome, Success[PatternResult[str]] | Failure[ExecutionKitError])
        assert_type(await context.gather(self.sized, 3, 2), list[int])
        return PatternResult(len(value))

    async def sized(self, index: int) -> int:
        """Return a number."""
        return index


class Spell(Stage[int, str], frozen=True):
    """From a number to its name."""

    async def perform(self, value: int, context: Context) -> PatternResult[str]:
        return PatternResult(str(value))


class Anything(Stage[object, bytes], frozen=True):
    """Takes whatever comes."""

    async def perform(self, value: object, context: Context) -> PatternResult[bytes]:
        return PatternResult(b"")


async def shout(provider: LLMProvider, prompt: str, *, loud: bool = True) -> PatternResult[str]:
    """A step as a stranger writes one."""
    return PatternResult(prompt.upper() if loud else prompt)


async def measure(provider: LLMProvider, prompt: str) -> PatternResult[float]:
    """A step to another type."""
    return PatternResult(float(len(prompt)))


def pipelines(provider: LLMProvider) -> None:
    """Joins: the input of the first, the output of the last."""
    assert_type(consensus() >> refine(), Stage[str, str])
    assert_type(complete() >> Count(), Stage[str, int])
    assert_type(complete() >> Count() >> Spell(), Stage[str, str])
    assert_type(complete() >> (Count() >> Spell()) >> consensus(n=3), Stage[str, str])
    assert_type(Spell() >> complete(), Stage[int, str])
    assert_type(Spell() >> Count(), Stage[int, int])
    assert_type(Count() >> Anything(), Stage[str, bytes])
    assert_type(identity(str) >> Count(), Stage[str, int])
    assert_type(Count() >> identity(int), Stage[str, int])
    assert_type(identity(str), Stage[str, str])
    assert_type(identity(City | int), Stage[City | int, City | int])
    assert_type(structured(City | int) >> identity(City | int), Stage[str, City | int])


def branches(provider: LLMProvider) -> None:
    """Falling back gives one or the other, both at once a pair."""
    assert_type(consensus() | complete(), Stage[str, str])
    assert_type(complete() | Count(), Stage[str, str | int])
    assert_type(complete() | Count() | Anything(), Stage[str, str | int | bytes])
    assert_type(complete() & Count(), Stage[str, tuple[str, int]])
    assert_type(complete() & Count() & complete(), Stage[str, tuple[tuple[str, int], str]])
    assert_type((complete() & Count()) >> Anything(), Stage[str, bytes])
    assert_type((complete() | consensus()) >> Count(), Stage[str, int])


def adapted(provider: LLMProvider, budget: TokenUsage) -> None:
    """Mapping changes the output, limits and providers change no type."""
    assert_type(consensus().map(len), Stage[str, int])
    assert_type(consensus().map(str.upper), Stage[str, str])
    assert_type(consensus().map(str.split) >> Anything(), Stage[str, bytes])
    assert_type(Count().map(lambda n: n / 2), Stage[str, float])
    assert_type(Count().map(str) >> refine(), Stage[str, str])
    assert_type(consensus().within(budget), Stage[str, str])
    assert_type(Count().within(budget).using(provider), Stage[str, int])
    assert_type(Count().using(provider) >> Spell().within(budget), Stage[str, str])
    assert_type((complete() & Count()).map(lambda pair: pair[1]), Stage[str, int])


def meets(base: Stage[object, int], wide: Stage[int, bytes], narrow: Stage[bool, str]) -> None:
    """Two stages on one input take what both of them take, whichever stands first."""
    assert_type(step(measure) | complete(), Stage[str, float | str])
    assert_type(step(measure) & complete(), Stage[str, tuple[float, str]])
    assert_type(complete() | step(measure), Stage[str, str | float])
    assert_type(complete() & step(measure), Stage[str, tuple[str, float]])
    assert_type(step(measure) | step(shout), Stage[object, float | str])
    assert_type(step(shout) | complete() | consensus(output_type=int), Stage[str, str | int])
    assert_type(base | complete(), Stage[str, int | str])
    assert_type((base & complete()) & (complete() | base), Stage[str, tuple[tuple[int, str], str | int]])
    assert_type(narrow | wide, Stage[bool, str | bytes])


async def optional(provider: LLMProvider, prompt: str, **options: Any) -> PatternResult[str]:
    """A step that takes any keyword."""
    return PatternResult(prompt)


async def counted(
    model: LLMProvider, text: str, /, times: int, *, loud: bool = False
) -> PatternResult[bytes]:
    """A step with other names and a setting that must be given."""
    return PatternResult(text.encode() * times)


def later(provider: LLMProvider, prompt: str, *, k: int = 1) -> Awaitable[PatternResult[str]]:
    """A step that returns something to await, and is not async itself."""
    return shout(provider, prompt)


class Asking:
    """A step with settings of its own."""

    async def __call__(self, provider: LLMProvider, prompt: str, *, top: int = 1) -> PatternResult[list[str]]:
        return PatternResult([prompt] * top)


def checked_steps(unknown: Callable[..., Any], loose: Callable[..., Awaitable[PatternResult[int]]]) -> None:
    """What is passed on is checked against the function's own parameters."""
    assert_type(step(shout, loud=False), Step[str])
    assert_type(step(optional), Step[str])
    assert_type(step(optional, a=1, b="two"), Step[str])
    assert_type(step(counted, 3), Step[bytes])
    assert_type(step(counted, times=3, loud=True), Step[bytes])
    assert_type(step(later, k=3), Step[str])
    assert_type(step(Asking(), top=2), Step[list[str]])
    assert_type(step(compat.consensus, num_samples=3, strategy="unanimous"), Step[str])
    assert_type(step(compat.refine_loop, evaluator=None, max_cost=TokenUsage(llm_calls=3)), Step[str])
    assert_type(step(compat.structured, output_type=int), Step[int])
    assert_type(step(compat.pipe, max_budget=TokenUsage(1)), Step[Any])
    assert_type(step(partial(compat.consensus, num_samples=3)), Step[str])
    assert_type(step(partial(compat.consensus, num_samples=3), temperature=0.1), Step[str])
    assert_type(step(lambda provider, prompt: shout(provider, prompt.upper())), Step[str])
    assert_type(step(unknown, a=1), Step[Any])
    assert_type(step(loose, a=1), Step[int])


def steps() -> None:
    """A function with a pattern's signature is a stage of its result's type."""
    assert_type(step(shout), Step[str])
    assert_type(step(measure), Step[float])
    assert_type(step(shout, loud=False) >> refine(), Stage[object, str])
    assert_type(complete() >> step(measure), Stage[str, float])
    assert_type(Count() >> step(measure), Stage[str, float])


def typed_answers() -> None:
    """What decodes to a type is of that type."""
    assert_type(consensus(), Consensus[str])
    assert_type(consensus(3, output_type=City), Consensus[City])
    assert_type(consensus(output_type=City, by_field=True).map(lambda city: city.name), Stage[str, str])
    assert_type(consensus(key=str.lower), Consensus[str])
    assert_type(structured(City), Structured[City])
    assert_type(complete() >> structured(City), Stage[str, City])
    assert_type(structured(list[City]).map(len), Stage[str, int])
    assert_type(react([], output_type=City) & complete(), Stage[str, tuple[City, str]])


def variance(counts: Stage[str, bool], takes_all: Stage[object, str]) -> None:
    """A stage takes more than it must and gives less than it may."""
    wider: Stage[str, int] = counts
    narrower: Stage[str, str] = takes_all
    stages: tuple[Stage[str, Any], ...] = (wider, narrower, react([]), refine())
    assert_type(stages[0] >> Anything(), Stage[str, bytes])
    assert_type(counts >> Spell(), Stage[str, str])
    assert_type(takes_all >> Count(), Stage[object, int])
