"""A name changes no answer and no path, and is what traces and errors say."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError
from executionkit.events import CallStarted, Event, StageStarted
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.stage import Stage
from tests.doubles import Buy, Model, error_of, reply, result_of


def no_answer(text: str) -> float:
    return 0.2


NAMINGS: list[tuple[Callable[[Callable[[Any], Any]], Stage[str, Any]], str]] = [
    (lambda name: name(complete()) >> name(consensus(2)), "single stages"),
    (lambda name: name(complete() >> complete()) >> complete(), "a group in front"),
    (lambda name: complete() >> name(complete() >> consensus(2)) >> complete(), "a group in the middle"),
    (lambda name: complete() >> name(name(complete() >> complete()) >> complete()), "groups in groups"),
    (lambda name: name((complete() >> complete()).within(TokenUsage(llm_calls=9))) >> complete(), "wrapped"),
    (lambda name: name(Buy("a", 1, "1") | Buy("b", 1, "2")) | complete(), "options in front"),
    (lambda name: Buy("a", 1, "1") | name(Buy("b", 1, "2") | complete()), "options behind"),
    (lambda name: name(Buy("a", 1, "1").or_else(complete(), on=(LLMError,))) | complete(), "others"),
    (lambda name: name(complete() & name(complete())).map(str) >> complete(), "branches"),
    (lambda name: name(complete() >> complete()).each(), "inputs"),
    (lambda name: refine(no_answer, max_iterations=1, draft=name(complete() >> complete())), "drafts"),
]


@pytest.mark.anyio
class TestNames:
    @pytest.mark.parametrize(("build", "what"), NAMINGS, ids=[what for _, what in NAMINGS])
    async def test_a_name_changes_no_path_and_no_answer(
        self, build: Callable[[Callable[[Any], Any]], Stage[str, Any]], what: str
    ) -> None:
        async def seen(stage: Stage[Any, Any]) -> tuple[object, list[str]]:
            events: list[Event] = []
            value: Any = ["x", "y"] if what == "inputs" else "x"
            model = Model(lambda asked: reply(asked.prompt[-9:] + "!"))
            outcome = await stage.run(model, value, trace=events.append)
            calls = sorted(str((e.path, e.ordinal)) for e in events if isinstance(e, CallStarted))
            return outcome.unwrap().value, calls

        bare, named = build(lambda stage: stage), build(lambda stage: stage.named("a name"))
        first, second = await seen(bare), await seen(named)
        assert first[1] == second[1]
        assert str(first[0]) == str(second[0])

    async def test_traces_errors_and_failed_step_say_it(self) -> None:
        events: list[Event] = []
        stage = complete().named("draft") >> Buy("b", 1, "no").named("rewrite")
        error = error_of(await stage.named("reply").run(Model(), "x", trace=events.append))
        assert error.metadata["failed_step"] == "rewrite"
        names = [event.stage for event in events if isinstance(event, StageStarted)]
        assert names == ["reply", "draft", "rewrite"]

    async def test_a_budget_is_called_by_the_name(self) -> None:
        stage = consensus(3).named("vote").within(TokenUsage(llm_calls=1))
        assert "the budget of vote" in str(error_of(await stage.run(Model(), "x")))

    async def test_a_named_group_keeps_its_steps(self) -> None:
        stage = (complete() >> complete()).named("group") >> complete()
        result = result_of(await stage.run(Model(), "x"))
        assert [cost.llm_calls for cost in result.metadata["step_costs"]] == [2, 1]
        error = error_of(
            await ((complete() >> Buy("b", 1, "no")).named("group") >> complete()).run(Model(), "x")
        )
        assert error.metadata["failed_step"] == "group"
        assert error.metadata["inner"]["failed_step"] == "Buy"


def test_the_last_name_holds() -> None:
    assert complete().named("a").named("b") == complete().named("b")
    assert complete().named("a") != complete()
    assert complete().named("a").map(len).within(TokenUsage(llm_calls=1)).name == "a"
    stage = complete().named("a")
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert type(stage).rebuilt(stage.settings(), stage.parts()) == stage


@pytest.mark.parametrize(
    ("name", "kind"), [("", ValueError), (" ", ValueError), (7, TypeError), (None, TypeError)]
)
def test_what_is_no_name_is_refused(name: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="name"):
        complete().named(name)
