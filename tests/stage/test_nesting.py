"""How deeply stages may be put within each other, and that it is found out fast."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import ProviderError
from executionkit.patterns.complete import complete
from executionkit.provider import LLMResponse
from executionkit.providers.scripted import ScriptedProvider
from executionkit.stage import Both, Fallback, Pipeline, Stage

ANSWERS = ScriptedProvider(lambda _: "a")

DEEPER: dict[str, Callable[[Stage[str, Any]], Stage[str, Any]]] = {
    "map and fallback": lambda stage: stage.map(str) | complete(),
    "map and pipeline": lambda stage: stage.map(str) >> complete(),
    "fallback and pipeline": lambda stage: (stage | complete()) >> complete(),
    "both": lambda stage: (stage & complete()).map(lambda _: "x"),
    "within and using": lambda stage: stage.within(TokenUsage(llm_calls=10**6)).using(ANSWERS),
    "within and map": lambda stage: stage.within(TokenUsage(llm_calls=10**6)).map(str),
}


class Down:
    async def complete(self, *messages: Any, **options: Any) -> LLMResponse:
        raise KeyError("down")


@pytest.mark.parametrize("name", DEEPER)
def test_what_is_nested_too_deeply_is_refused_and_the_deepest_runs(name: str) -> None:
    deepest: Stage[str, Any] = complete()
    with pytest.raises(ValueError, match="nested more than 210 levels"):
        for _ in range(1000):
            deepest = DEEPER[name](deepest)
    assert hash(deepest) == hash(copy.copy(deepest))
    assert deepest == copy.copy(deepest)
    assert repr(deepest)
    assert deepest.run_sync(ANSWERS, "q").unwrap().value
    if "using" not in name:
        assert isinstance(deepest.run_sync(Down(), "q").failure(), ProviderError)


def test_stages_used_often_are_looked_at_once() -> None:
    stage: Stage[str, Any] = complete()
    for _ in range(90):  # looked at as a tree, that would be 2**90 of them
        stage = stage & stage
    assert isinstance(stage, Both)


def test_thousands_of_stages_are_joined_in_a_moment() -> None:
    stage: Stage[str, str] = complete()
    fallback = stage
    for _ in range(4000):
        stage, fallback = stage >> complete(), complete() | fallback
    assert stage == Pipeline((complete(),) * 4001)
    assert fallback == Fallback((complete(),) * 4001)
