"""Functions of a value: many are one stage, and an error names the one that raised."""

import copy
from functools import partial
from operator import add
from typing import Any

import pytest

from executionkit.errors import StageError
from executionkit.patterns.complete import complete
from executionkit.providers.scripted import ScriptedProvider
from executionkit.stage import Mapped
from tests.doubles import UNTOLD_ASYNC, Model, error_of


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


@pytest.mark.anyio
@pytest.mark.parametrize("function", UNTOLD_ASYNC)
async def test_what_would_have_to_be_awaited_is_no_value(function: Any) -> None:
    error = error_of(await (complete().map(function) >> complete()).run(Model(), "x"))
    assert isinstance(error, StageError)
    assert "a coroutine, which would have to be awaited" in str(error)
