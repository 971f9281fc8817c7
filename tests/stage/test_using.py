"""A provider of a stage's own."""

import pytest

from executionkit.patterns.complete import complete
from executionkit.providers.scripted import ScriptedProvider
from executionkit.stage import Using
from tests.doubles import Model, reply, result_of


@pytest.mark.anyio
async def test_using_binds_its_stage_only() -> None:
    ours, theirs = Model(lambda asked: reply("ours")), Model(lambda asked: reply("theirs"))
    stage = (complete() >> complete()).using(theirs) >> complete()
    assert result_of(await stage.run(ours, "x")).value == "ours"
    assert (ours.calls, theirs.calls) == (1, 2)


def test_where_a_stage_has_a_provider_that_stays() -> None:
    stage, model = complete(), ScriptedProvider(["a"])
    assert stage.using(model).using(ScriptedProvider(["b"])) == Using(stage, model)
