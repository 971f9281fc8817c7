"""The input beside the value."""

import pytest

from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.prompt import prompt
from tests.doubles import Model, reply, result_of


@pytest.mark.anyio
async def test_the_input_stands_beside_the_value() -> None:
    result = result_of(await consensus(2).with_input().run(Model(), "question"))
    assert (result.value, result.score) == (("question", "ok"), 1.0)
    assert result.metadata["samples"] == 2
    ticket = consensus(2).with_input() >> prompt("Ticket: {0}\nQueue: {1}\nWrite the reply.") >> complete()
    model = Model(lambda asked: reply("{0}"))
    result_of(await ticket.run(model, "{1} is broken"))
    assert model.asked[-1].prompt == "Ticket: {1} is broken\nQueue: {0}\nWrite the reply."
