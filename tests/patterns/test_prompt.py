"""A value as the next prompt."""

from typing import Any

import msgspec
import pytest

from executionkit.core.usage import NO_USAGE
from executionkit.errors import StageError
from executionkit.patterns.complete import complete
from executionkit.patterns.prompt import prompt
from tests.doubles import Model, error_of, result_of


class Ticket(msgspec.Struct):
    text: str
    tags: list[str]


@pytest.mark.anyio
async def test_text_stands_as_it_is_and_all_else_as_json() -> None:
    stage = prompt("{text}\n{tags}\n{}") >> complete()
    model = Model()
    result_of(await stage.run(model, Ticket('say "hi"', ["a", "b"])))
    assert model.asked[0].prompt == 'say "hi"\n["a","b"]\n{"text":"say \\"hi\\"","tags":["a","b"]}'


@pytest.mark.anyio
async def test_it_costs_nothing_and_calls_nobody() -> None:
    model = Model()
    result = result_of(await prompt("<{}>").run(model, 7))
    assert (result.value, result.cost, model.calls) == ("<7>", NO_USAGE, 0)


@pytest.mark.anyio
async def test_a_place_without_a_value_is_a_stage_error() -> None:
    error = error_of(await (complete() >> prompt("{name}")).run(Model(), "x"))
    assert isinstance(error, StageError)
    assert "{name}" in str(error)
    assert error.metadata["failed_step"] == "Prompt"
    assert error.cost.llm_calls == 1


@pytest.mark.parametrize(
    ("template", "kind"),
    [("", ValueError), ("{0.x}", ValueError), (7, TypeError), (None, TypeError), (b"{}", TypeError)],
)
def test_a_template_is_checked_when_built(template: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        prompt(template)


def test_it_is_a_value() -> None:
    assert prompt("{}") == prompt("{}") != prompt("{0}")
    assert hash(prompt("{}")) == hash(prompt("{}"))
