"""Fallbacks by cause, names, the input beside the value, and rules around a stage."""

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    ConsensusFailedError,
    DeadlineExceededError,
    EvaluationError,
    InvalidOutputError,
    InvalidPromptError,
    LLMError,
    PermanentError,
    RateLimitError,
    StageError,
)
from executionkit.events import CallStarted, Event, StageStarted
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.prompt import prompt
from executionkit.patterns.react import react
from executionkit.patterns.refine import refine
from executionkit.patterns.structured import structured
from executionkit.provider import LLMResponse
from executionkit.stage import Fallback, Stage, identity
from tests.doubles import Asked, Buy, Model, each, error_of, reply, result_of, soon


def no_answer(text: str) -> float:
    return 0.2


@pytest.mark.anyio
class TestFallbacks:
    async def test_only_a_failure_of_a_named_class_leads_on(self) -> None:
        model = Model(each(PermanentError("gone"), reply("second")))
        stage = complete().or_else(complete(), on=(LLMError,))
        assert result_of(await stage.run(model, "x")).value == "second"
        for on, calls in (((RateLimitError,), 1), ((), 1), ((RateLimitError, PermanentError), 2)):
            model = Model(each(PermanentError("gone"), reply("second")))
            await complete().or_else(complete(), on=on).run(model, "x")
            assert model.calls == calls

    async def test_what_the_first_option_paid_for_stays(self) -> None:
        def broken(text: str) -> float:
            raise OSError("down")

        stage = refine(broken) | Buy("b")
        result = result_of(await stage.run(Model(), "x"))
        assert result.metadata["option_metadata"][0]["best_draft"] == "ok"
        assert [cost.llm_calls for cost in result.metadata["option_costs"]] == [1]
        error = error_of(await (refine(broken) | Buy("b", 1, "no")).run(Model(), "x"))
        assert error.metadata["option_metadata"][0]["best_draft"] == "ok"
        assert error.metadata["mark"] == "b"
        assert error.cost.llm_calls == 2

    async def test_what_was_tried_before_a_failure_that_leads_nowhere_stays(self) -> None:
        stage = Buy("a", 1, "first") | Buy("b", 1, "second")
        error = error_of(await stage.or_else(complete(), on=(LLMError,)).run(Model(), "x"))
        assert str(error) == "second"
        assert error.metadata["option_failures"] == ("ExecutionKitError: first",)

    @pytest.mark.parametrize(
        "limit", [TokenUsage(llm_calls=2), TokenUsage(output_tokens=40), TokenUsage(input_tokens=11)]
    )
    async def test_never_when_the_runs_own_budget_is_spent(self, limit: TokenUsage) -> None:
        events: list[Event] = []
        stage = consensus(n=9, max_tokens=20, max_concurrency=1) | identity(str)
        model = Model(lambda asked: reply("ok", 3, 20))
        error = error_of(await stage.run(model, "x", max_cost=limit, trace=events.append))
        assert isinstance(error, BudgetExhaustedError)
        assert error.metadata["budget"] == "run"
        assert error.metadata["votes"] == ("ok", "ok")
        assert [event.stage for event in events if isinstance(event, StageStarted)] == [
            "Fallback",
            "Consensus",
        ]

    async def test_a_budget_of_within_is_a_failure_like_any_other(self) -> None:
        bounded = consensus(n=3).within(TokenUsage(llm_calls=2))
        result = result_of(await (bounded | complete()).run(Model(), "x", max_cost=TokenUsage(llm_calls=9)))
        assert result.cost.llm_calls == 3
        around = (consensus(n=3) | identity(str)).within(TokenUsage(llm_calls=2))
        assert result_of(await around.run(Model(), "x")).value == "x"

    async def test_the_run_and_within_both_spent_is_the_run(self) -> None:
        limit = TokenUsage(llm_calls=2)
        stage = (consensus(n=3) | identity(str)).within(limit)
        error = error_of(await stage.run(Model(), "x", max_cost=limit))
        assert error.metadata["budget"] == "run"

    async def test_a_run_of_its_own_below_has_a_budget_of_its_own(self) -> None:
        async def judge(text: str, provider: Any) -> float:
            (await consensus(n=3).run(provider, text, max_cost=TokenUsage(llm_calls=1))).unwrap()
            return 1.0

        stage = refine(judge) | identity(str)
        result = result_of(await stage.run(Model(), "x", max_cost=TokenUsage(llm_calls=99)))
        assert result.value == "x"

    async def test_never_when_the_runs_deadline_is_over(self) -> None:
        async def stuck(text: str, provider: Any) -> float:
            await anyio.sleep_forever()
            return 1.0

        tried: list[str] = []

        def note(value: str) -> str:
            tried.append(value)
            return value

        stage = refine(stuck) | identity(str).map(note)
        error = error_of(await soon(stage.run(Model(), "x", deadline=0.2)))
        assert isinstance(error, DeadlineExceededError)
        assert not tried

    async def test_a_vote_that_failed_leads_on(self) -> None:
        model = Model(lambda asked: reply(str(asked.number)))
        strict = consensus(n=2, strategy="unanimous")
        stage = strict.or_else(complete(), on=(ConsensusFailedError,))
        result = result_of(await stage.run(model, "x"))
        assert result.metadata["option_metadata"][0]["votes"] == ("1", "2")


def test_fallbacks_flatten_where_they_lead_on_alike() -> None:
    a, b, c = complete(), consensus(), refine()
    assert (a | b) | c == a | (b | c) == Fallback((a, b, c))
    on = (LLMError,)
    assert a.or_else(b, on=on).or_else(c, on=on) == Fallback((a, b, c), on)
    assert a.or_else(b, on=on) | c == Fallback((Fallback((a, b), on), c))
    assert a | b.or_else(c, on=on) == Fallback((a, Fallback((b, c), on)))


@pytest.mark.parametrize(
    "on", [LLMError, [LLMError], (ValueError,), ("LLMError",), None, (Exception,)], ids=repr
)
def test_what_no_stage_fails_with_cannot_lead_on(on: Any) -> None:
    with pytest.raises(TypeError):
        complete().or_else(complete(), on=on)
    with pytest.raises(TypeError, match="stage"):
        complete().or_else(on)


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

    async def test_an_error_of_a_function_within_names_stage_and_function(self) -> None:
        def parse_total(text: str) -> int:
            return int(text)

        stage = complete().named("ask").map(parse_total)
        error = error_of(await stage.run(Model(), "x"))
        assert isinstance(error, StageError)
        assert "parse_total" in str(error)
        assert isinstance(error.__cause__, ValueError)
        assert "parse_total" in str(error_of(await complete().map(partial(parse_total)).run(Model(), "x")))

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


@pytest.mark.anyio
async def test_the_input_stands_beside_the_value() -> None:
    result = result_of(await consensus(2).with_input().run(Model(), "question"))
    assert (result.value, result.score) == (("question", "ok"), 1.0)
    assert result.metadata["samples"] == 2
    ticket = consensus(2).with_input() >> prompt("Ticket: {0}\nQueue: {1}\nWrite the reply.") >> complete()
    model = Model(lambda asked: reply("{0}"))
    result_of(await ticket.run(model, "{1} is broken"))
    assert model.asked[-1].prompt == "Ticket: {1} is broken\nQueue: {0}\nWrite the reply."


def odd(n: int) -> str | None:
    return None if n % 2 else f"{n} is even"


async def odd_soon(n: int) -> str | None:
    await anyio.lowlevel.checkpoint()
    return odd(n)


def counted(asked: Asked) -> LLMResponse:
    return reply(str(asked.number + 1))


@pytest.mark.anyio
@pytest.mark.parametrize("rule", [odd, odd_soon])
class TestRules:
    async def test_structured_sends_the_reason_back(self, rule: Any) -> None:
        model = Model(counted)
        result = result_of(await structured(int, check=rule).run(model, "x"))
        assert (result.value, result.metadata["attempts"]) == (3, 2)
        assert result.metadata["reasons"] == ("That answer cannot be used: 2 is even.",)
        assert "2 is even" in model.asked[1].prompt
        assert result.cost.llm_calls == 2

    async def test_decoding_and_the_rule_share_the_retries(self, rule: Any) -> None:
        model = Model(each(reply("none"), reply("4"), reply("6"), reply("7")))
        error = error_of(await structured(int, check=rule).run(model, "x"))
        assert isinstance(error, InvalidOutputError)
        assert (error.cost.llm_calls, error.metadata["last_text"]) == (3, "6")
        assert [("even" in reason) for reason in error.metadata["reasons"]] == [False, True, True]

    async def test_a_stage_runs_again_with_the_reason_below_its_prompt(self, rule: Any) -> None:
        model = Model(counted)
        stage = complete().map(int).checked(rule)
        result = result_of(await stage.run(model, "a number"))
        assert (result.value, result.metadata["attempts"], result.metadata["reasons"]) == (
            3,
            2,
            ("2 is even",),
        )
        assert model.asked[1].prompt == "a number\n\nAn earlier answer could not be used: 2 is even"
        assert result.cost.llm_calls == 2

    async def test_retries_end(self, rule: Any) -> None:
        model = Model(lambda asked: reply("4"))
        for retries in (0, 1):
            error = error_of(await complete().map(int).checked(rule, output_retries=retries).run(model, "x"))
            assert isinstance(error, InvalidOutputError)
            assert error.metadata["reasons"] == ("4 is even",) * (retries + 1)
            assert error.metadata["last_value"] == 4
            assert error.cost.llm_calls == retries + 1

    async def test_a_sample_that_breaks_it_abstains(self, rule: Any) -> None:
        model = Model(each(reply("2"), reply("3"), reply("2"), reply("3"), reply("4")))
        result = result_of(await consensus(5, output_type=int, check=rule).run(model, "x"))
        assert (result.value, result.score) == (3, 0.4)
        assert result.metadata["abstentions"] == 3
        assert sorted(result.metadata["reasons"]) == ["2 is even", "2 is even", "4 is even"]
        error = error_of(await consensus(2, output_type=int, check=rule).run(Model(each(reply("2"))), "x"))
        assert isinstance(error, ConsensusFailedError)
        assert "2 is even" in str(error)
        assert error.metadata["reasons"] == ("2 is even",) * 2

    async def test_an_answer_of_a_tool_loop_goes_back(self, rule: Any) -> None:
        model = Model(each(reply('{"answer": 2}'), reply('{"answer": 3}')))
        result = result_of(await react([], output_type=int, check=rule).run(model, "x"))
        assert (result.value, result.cost.llm_calls) == (3, 2)
        assert "2 is even" in model.asked[1].messages[-1]["content"]
        assert "2 is even" in result.metadata["reasons"][0]
        error = error_of(await react([], output_type=int, check=rule).run(Model(each(reply("2"))), "x"))
        assert isinstance(error, InvalidOutputError)
        assert len(error.metadata["reasons"]) == 3

    async def test_they_all_keep_to_the_budget(self, rule: Any) -> None:
        for stage in (structured(int, check=rule), complete().map(int).checked(rule)):
            outcome = await stage.run(Model(each(reply("2"))), "x", max_cost=TokenUsage(llm_calls=2))
            error = error_of(outcome)
            assert isinstance(error, BudgetExhaustedError)
            assert error.cost.llm_calls == 2
            assert len(error.metadata["reasons"]) == 2


def raises(value: object) -> str | None:
    raise LookupError("no such id")


async def raises_soon(value: object) -> str | None:
    raise LookupError("no such id")


def says_no(value: object) -> Any:
    return False


RULED: list[Callable[[Any], Stage[str, Any]]] = [
    lambda rule: structured(int, check=rule),
    lambda rule: complete().checked(rule),
    lambda rule: consensus(2, check=rule),
    lambda rule: consensus(2, output_type=int, check=rule),
    lambda rule: react([], check=rule),
    lambda rule: react([], output_type=int, check=rule),
]


@pytest.mark.anyio
@pytest.mark.parametrize("make", RULED)
@pytest.mark.parametrize("rule", [raises, raises_soon, says_no])
async def test_a_rule_that_fails_is_an_evaluation_error(
    make: Callable[[Any], Stage[str, Any]], rule: Any
) -> None:
    error = error_of(await make(rule).run(Model(lambda asked: reply("2")), "x"))
    assert isinstance(error, EvaluationError)
    assert error.cost.llm_calls >= 1
    assert "rule" in str(error)
    assert isinstance(error.__cause__, LookupError) is (rule is not says_no)


@pytest.mark.parametrize("make", RULED)
def test_what_is_no_rule_is_refused_when_set(make: Callable[[Any], Stage[str, Any]]) -> None:
    for rule in ("odd", 7, int):
        with pytest.raises(TypeError, match="rule"):
            make(rule)


@pytest.mark.anyio
async def test_text_is_checked_too() -> None:
    def short(text: str) -> str | None:
        return None if len(text) < 3 else "too long"

    model = Model(each(reply("long answer"), reply("ok")))
    assert result_of(await react([], check=short).run(model, "x")).value == "ok"
    model = Model(each(reply("long answer"), reply("ok"), reply("ok")))
    assert result_of(await consensus(3, check=short).run(model, "x")).metadata["abstentions"] == 1
    error = error_of(await complete().checked(short).run(Model(), ""))
    assert isinstance(error, InvalidPromptError)
    assert error.cost == NO_USAGE
