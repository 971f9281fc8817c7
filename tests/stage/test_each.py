"""A stage for each of many inputs: its settings, what it takes, and what it gives."""

from typing import Any

import pytest

from executionkit.errors import InvalidPromptError
from executionkit.outcome import Outcome
from executionkit.patterns.complete import complete
from executionkit.provider import LLMResponse
from tests.doubles import Asked, Model, error_of, reply, result_of

pytestmark = pytest.mark.anyio


def upper(asked: Asked) -> LLMResponse:
    return reply(asked.prompt.upper())


@pytest.mark.parametrize(
    "value",
    ["one text", b"bytes", {"a", "b"}, 7, iter(["a"]), None, {"a": 1}],
    ids=lambda value: type(value).__name__,
)
async def test_what_is_no_sequence_is_a_failure_without_a_call(value: Any) -> None:
    model = Model()
    error = error_of(await complete().each().run(model, value))
    assert isinstance(error, InvalidPromptError)
    assert model.calls == 0


async def test_it_can_be_part_of_a_pipeline_and_of_itself() -> None:
    def texts(outcomes: tuple[Outcome[str], ...]) -> list[str]:
        return [outcome.unwrap().value for outcome in outcomes]

    stage = complete().each().map(texts) >> complete().each(on_error="fail")
    assert result_of(await stage.run(Model(upper), ["a", "b"])).value == ("A", "B")
    nested = complete().each(on_error="fail").each(on_error="fail")
    assert result_of(await nested.run(Model(upper), [["a"], ["b", "c"], []])).value == (
        ("A",),
        ("B", "C"),
        (),
    )


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": 2.5}, TypeError),
        ({"on_error": "ignore"}, ValueError),
        ({"on_error": None}, ValueError),
        ({"name": "ticket"}, TypeError),
    ],
)
async def test_settings_are_checked_when_set(settings: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        complete().each(**settings)
