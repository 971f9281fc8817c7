"""Functions of a value: many are one stage, and an error names the one that raised."""

import copy
from functools import lru_cache, partial
from operator import add
from typing import Any

import pytest

from executionkit.errors import ConsensusFailedError, StageError
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.providers.scripted import ScriptedProvider
from executionkit.stage import Mapped
from tests.doubles import Model, error_of


def test_a_thousand_maps_are_one_stage() -> None:
    stage: Any = complete().map(len)
    for _ in range(1000):
        stage = stage.map(partial(add, 1))
    assert stage.run_sync(ScriptedProvider(["four"]), "q").unwrap().value == 1004
    assert (len(stage.functions), hash(stage)) == (1001, hash(copy.copy(stage)))


def test_functions_after_functions_are_one_stage() -> None:
    stage = complete()
    assert stage.map(len).map(str) == Mapped(stage, (len, str))


@pytest.mark.anyio
async def test_an_error_of_a_function_within_names_stage_and_function() -> None:
    def parse_total(text: str) -> int:
        return int(text)

    stage = complete().named("ask").map(parse_total)
    error = error_of(await stage.run(Model(), "x"))
    assert isinstance(error, StageError)
    assert "parse_total" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert "parse_total" in str(error_of(await complete().map(partial(parse_total)).run(Model(), "x")))


async def _later(text: str) -> str:
    return text


def _handed_on(text: str) -> Any:
    return _later(text)


UNTOLD: list[Any] = [
    pytest.param(_handed_on, id="handed on"),
    pytest.param(lru_cache(_later), id="cached"),
]
"""Async functions of which no class says so."""


@pytest.mark.anyio
@pytest.mark.parametrize("function", UNTOLD)
async def test_what_would_have_to_be_awaited_is_no_value(function: Any) -> None:
    error = error_of(await (complete().map(function) >> complete()).run(Model(), "x"))
    assert isinstance(error, StageError)
    assert "a coroutine, which would have to be awaited" in str(error)
    assert "awaited" in str(error_of(await complete(system=function).run(Model(), "x")))


@pytest.mark.anyio
@pytest.mark.parametrize("function", UNTOLD)
@pytest.mark.parametrize("output_type", [None, int])
async def test_what_would_have_to_be_awaited_is_no_key(function: Any, output_type: Any) -> None:
    vote = consensus(n=3, key=function, output_type=output_type)
    error = error_of(await vote.run(ScriptedProvider("4"), "x"))
    assert isinstance(error, ConsensusFailedError)
    assert error.metadata["abstentions"] == 3
