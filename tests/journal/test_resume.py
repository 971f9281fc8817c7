"""A run that was ended goes on: nothing that settled is paid again, and what it says is the same."""

import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import override

from executionkit import (
    LLMProvider,
    LLMResponse,
    PermanentError,
    ProviderError,
    RetryConfig,
    Stage,
    TokenUsage,
    complete,
    consensus,
    react,
    refine,
    step,
    structured,
)
from executionkit.errors import (
    BudgetExhaustedError,
    JournalError,
    JournalMismatchError,
    RateLimitError,
    RunBusyError,
)
from executionkit.events import AttemptStarted, CallFinished, Event, TextDelta, WaitStarted
from executionkit.journal import Journal
from executionkit.outcome import Outcome, PatternResult
from executionkit.prices import Price
from executionkit.provider import Message, ToolCall, user
from executionkit.providers.pool import Pool
from executionkit.runtime.context import Context
from executionkit.runtime.journal.entries import Entry
from executionkit.tools import tool
from tests.doubles import AT_ONCE, NEVER, Asked, Model, error_of, reply, result_of
from tests.journaling import InMemory, MemoryStore, Worldly, numbered

pytestmark = pytest.mark.anyio


class Number(msgspec.Struct, frozen=True):
    n: int


@tool(effects="idempotent")
async def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


async def score(text: str, provider: Any) -> float:
    """Score a draft with a vote of its own."""
    outcome = await consensus(3).run(provider, f"Rate: {text}")
    return len(str(result_of(outcome).value)) % 10 / 10


STAGES: dict[str, Stage[str, Any]] = {
    "vote": consensus(6, max_concurrency=4),
    "repair": structured(Number, output_retries=2).map(str),
    "tools": react([pay], max_rounds=3, on_limit="answer"),
    "pipeline": consensus(4) >> refine(score, max_iterations=2) >> refine(max_iterations=1),
    "fallback": structured(Number, output_retries=0).map(str) | complete(),
    "branches": (complete() & consensus(3, output_type=Number).map(str)).map(str),
    "quorum": consensus(5, quorum=3),
}


def metadata_of(outcome: Outcome[Any]) -> dict[str, Any]:
    told = dict((error_of(outcome) if isinstance_failure(outcome) else result_of(outcome)).metadata)
    return {key: value for key, value in told.items() if key not in {"replayed", "unsettled_calls"}}


def isinstance_failure(outcome: Outcome[Any]) -> bool:
    return type(outcome).__name__ == "Failure"


def said(outcome: Outcome[Any]) -> object:
    if isinstance_failure(outcome):
        return str(error_of(outcome))
    return result_of(outcome).value, result_of(outcome).score


async def crash(
    journal: Journal, store: MemoryStore, stage: Stage[str, Any], model: Worldly, after: int, **limits: Any
) -> Outcome[Any] | None:
    """Run until the store has taken so many writes, then let the process die; None where it died."""
    store.dies_after = after
    died = anyio.Event()
    outcome: list[Outcome[Any]] = []
    with anyio.CancelScope() as life:

        def on_death() -> None:
            killed.append(True)
            model.is_cut_off = True

        killed: list[bool] = []
        store.on_death = on_death

        async def watch() -> None:
            while not killed and not died.is_set():
                await anyio.lowlevel.checkpoint()
            if killed:
                life.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            outcome.append(
                await stage.run(model, "question", retry=AT_ONCE, journal=journal.run("a"), **limits)
            )
            died.set()
    model.is_cut_off = False
    return None if store.is_dead else outcome[0]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("refuses_schemas", [False, True])
async def test_a_run_that_dies_at_any_write_goes_on(name: str, refuses_schemas: bool) -> None:
    stage = STAGES[name]
    whole = await stage.run(Worldly(refuses_schemas=refuses_schemas), "question", retry=AT_ONCE)
    whole_cost = (error_of(whole) if isinstance_failure(whole) else result_of(whole)).cost
    for after in range(0, 40, 3):
        store = MemoryStore()
        model = Worldly(refuses_schemas=refuses_schemas)
        with InMemory(store) as journal:
            first = await crash(journal, store, stage, model, after)
            if first is not None:
                break
            settled = {
                (row.path, row.ordinal) for row in store.rows(1) if row.state == "done" and row.kind == "call"
            }
            before = model.answered.copy()
        store.revive()
        with InMemory(store) as journal:
            outcome = await stage.run(model, "question", retry=AT_ONCE, journal=journal.run("a"))
        again = {place for place in model.answered if model.answered[place] > before[place]}
        assert not settled & again, "a call that had settled was paid again"
        assert said(outcome) == said(whole)
        cost = (error_of(outcome) if isinstance_failure(outcome) else result_of(outcome)).cost
        lost = sum(row.body.lost for row in store.rows(1))
        told = error_of(outcome).metadata if isinstance_failure(outcome) else result_of(outcome).metadata
        assert told["unsettled_calls"] == lost
        assert cost.llm_calls >= whole_cost.llm_calls
        assert cost.llm_calls <= whole_cost.llm_calls + lost + whole_cost.llm_calls // 4


async def test_a_finished_run_is_replayed_whole(tmp_path: Path) -> None:
    model = Worldly()
    events: list[Event] = []
    with Journal(tmp_path / "runs.db") as journal:
        for name, stage in STAGES.items():
            first = await stage.run(model, "question", retry=AT_ONCE, journal=journal.run(name))
            sent = model.sent
            again = await stage.run(
                model, "question", retry=AT_ONCE, journal=journal.run(name), trace=events.append
            )
            assert model.sent == sent, f"{name} asked again"
            assert said(again) == said(first)
            assert metadata_of(again) == metadata_of(first)
            assert result_of(again).cost == result_of(first).cost == result_of(again).metadata["replayed"]
            assert result_of(first).metadata["replayed"] == TokenUsage()
    calls = [event for event in events if isinstance(event, CallFinished)]
    assert calls
    assert {(event.cost, event.attempts) for event in calls} == {(TokenUsage(), 0)}


def test_it_works_without_an_event_loop(tmp_path: Path) -> None:
    model = Worldly()
    for _ in range(2):
        with Journal(tmp_path / "runs.db") as journal:
            outcome = consensus(4).run_sync(model, "question", retry=AT_ONCE, journal=journal.run("a"))
            assert result_of(outcome).value
    assert max(model.answered.values()) == 1


async def test_many_inputs_go_on_each_at_its_place(tmp_path: Path) -> None:
    model = Model(lambda asked: reply(asked.prompt.upper()))
    stage = complete().each(max_concurrency=3)
    with Journal(tmp_path / "runs.db") as journal:
        first = await stage.run(model, ["a", "b", "a"], journal=journal.run("rows"))
        again = await stage.run(model, ["a", "b", "a"], journal=journal.run("rows"))
    assert model.calls == 3
    values = [[result_of(each).value for each in result_of(outcome).value] for outcome in (first, again)]
    assert values == [["A", "B", "A"]] * 2


async def test_the_budget_holds_over_all_lives(tmp_path: Path) -> None:
    # 3 samples in the first life, and the budget is one of 4: the second life has one left, whatever it asks.
    asked = 0

    def answer(request: Asked) -> object:
        nonlocal asked
        asked += 1
        return reply() if asked < 4 else KeyboardInterrupt()

    limit = TokenUsage(llm_calls=5)
    with Journal(tmp_path / "runs.db") as journal:
        stage = (consensus(4, max_concurrency=1) & complete()).map(str)
        run = journal.run("a")
        interrupted = Model(answer)
        with pytest.raises(KeyboardInterrupt):
            await stage.run(interrupted, "question", max_cost=limit, journal=run)
        model = Model()
        outcome = await stage.run(model, "question", max_cost=limit, journal=run)
        error = error_of(outcome)
        assert isinstance(error, BudgetExhaustedError)
        assert interrupted.calls + model.calls <= 5
        assert error.cost.llm_calls == 5
        more = await stage.run(model, "question", max_cost=TokenUsage(llm_calls=9), journal=run)
        assert result_of(more).value


async def test_a_stage_s_own_budget_knows_what_was_paid_below_it() -> None:
    stage = (complete() & complete()).map(str).within(TokenUsage(llm_calls=3)) >> complete()
    store = MemoryStore()
    died = False
    for after in range(1, 9):
        store = MemoryStore()
        model = Worldly(seed=4, ticks=1)
        with InMemory(store) as journal:
            died |= await crash(journal, store, stage, model, after) is None
        store.revive()
        with InMemory(store) as journal:
            await stage.run(model, "question", retry=AT_ONCE, journal=journal.run("a"))
        within = sum(count for (path, _), count in model.asked.items() if path[:1] == (0,))
        assert within <= 3
    assert died


async def test_money_is_charged_as_it_was() -> None:
    class Priced(Worldly):
        price = Price(input=1, output="2.5")

    store = MemoryStore()
    with InMemory(store) as journal:
        stage = consensus(3)
        first = await stage.run(Priced(), "question", retry=AT_ONCE, journal=journal.run("a"))
        Priced.price = Price(input=7, output=7)
        again = await stage.run(Priced(), "question", retry=AT_ONCE, journal=journal.run("a"))
    assert result_of(first).cost.usd
    assert result_of(again).cost == result_of(first).cost
    assert isinstance(result_of(first).cost.usd, Decimal)


async def test_errors_replay_as_errors(tmp_path: Path) -> None:
    stage = complete(system="first") | complete(system="second")

    def answer(asked: Asked) -> object:
        if asked.messages[0]["content"] == "first":
            return PermanentError("no", metadata={"status": 404})
        return reply("second")

    model = Model(answer)
    with Journal(tmp_path / "runs.db") as journal:
        first = result_of(await stage.run(model, "question", journal=journal.run("a")))
        again = result_of(await stage.run(model, "question", journal=journal.run("a")))
    assert model.calls == 2
    assert again.metadata["option_failures"] == first.metadata["option_failures"]


async def test_a_run_that_failed_asks_again_what_failed(tmp_path: Path) -> None:
    answers: list[object] = [
        reply("one"),
        PermanentError("wrong key", metadata={"status": 401}),
        reply("two"),
    ]
    model = Model(lambda asked: answers[asked.number - 1])
    stage = complete() >> complete(system="then")
    with Journal(tmp_path / "runs.db") as journal:
        failed = error_of(await stage.run(model, "question", journal=journal.run("a")))
        assert isinstance(failed, PermanentError)
        result = result_of(await stage.run(model, "question", journal=journal.run("a")))
    assert (result.value, model.calls, result.cost.llm_calls) == ("two", 3, 3)


async def test_what_failed_is_asked_again_though_the_life_that_was_to_do_so_was_cancelled(
    tmp_path: Path,
) -> None:
    scope = anyio.CancelScope()

    def answer_and_cancel(asked: Asked) -> object:
        scope.cancel()
        return reply()

    failing, working = Model(lambda asked: PermanentError("down")), Model()
    cancelling = Model(answer_and_cancel)
    with Journal(tmp_path / "runs.db") as journal:
        error_of(await Twice().run(failing, "question", journal=journal.run("a")))
        with scope:
            await Twice().run(cancelling, "question", journal=journal.run("a"))
        result = result_of(await Twice().run(working, "question", journal=journal.run("a")))
    assert (failing.calls, cancelling.calls, working.calls) == (2, 1, 1)
    assert result.cost.llm_calls == 4


class Twice(Stage[str, str], frozen=True):
    """Two calls one after the other, whatever comes of the first."""

    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        first, second = [
            await context.attempt(lambda below, text=text: below.complete([user(text)]))  # type: ignore[misc]
            for text in ("one", "two")
        ]
        return PatternResult(first.unwrap().content + second.unwrap().content)


async def test_a_replay_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = [RateLimitError("slow down"), ProviderError("busy"), reply()]
    model = Model(lambda asked: answers[asked.number - 1])
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    monkeypatch.setattr(anyio, "sleep", sleep)
    with Journal(tmp_path / "runs.db") as journal:
        first = result_of(await complete().run(model, "question", journal=journal.run("a")))
        assert len(slept) == 2
        again = result_of(await complete().run(model, "question", journal=journal.run("a")))
    assert len(slept) == 2
    assert again.cost == first.cost == TokenUsage(3, 2, 3)


async def test_what_a_server_taught_is_known_in_the_next_life() -> None:
    stage = structured(Number) & structured(Number)
    store = MemoryStore()
    with InMemory(store) as journal:
        await crash(journal, store, stage, Worldly(refuses_schemas=True), 6)
    store.revive()
    model = Worldly(refuses_schemas=True)  # another object, of which nothing is remembered
    with InMemory(store) as journal:
        outcome = await stage.run(model, "question", retry=AT_ONCE, journal=journal.run("a"))
    left, right = result_of(outcome).metadata["branch_metadata"]
    assert left["response_format"] == right["response_format"] == "json_object"


class Picky:
    """A model that takes no `json_schema` where it is told so, and fails on what the first pair has answered."""

    def __init__(self, *, refuses: bool, fails: bool = False) -> None:
        self.refuses = refuses
        self.fails = fails
        self.forms: list[str] = []

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        self.forms.append(options.get("response_format", {}).get("type", "none"))
        await anyio.lowlevel.checkpoint()
        if self.refuses and self.forms[-1] == "json_schema":
            raise PermanentError("response_format json_schema is not supported", metadata={"status": 400})
        if self.fails and "first pair" in str(messages):
            raise PermanentError("gone", metadata={"status": 404})
        return reply('{"n": 1}')


async def test_what_each_member_of_a_pool_taught_is_known_in_the_next_life(tmp_path: Path) -> None:
    pair = structured(Number) & structured(Number)
    stage = pair.map(first_pair) >> pair
    with Journal(tmp_path / "runs.db") as journal:
        members = [Picky(refuses=number == 1, fails=True) for number in range(2)]
        error_of(await stage.run(Pool(members), "question", retry=AT_ONCE, journal=journal.run("a")))
        assert [each.forms[0] for each in members] == ["json_schema"] * 2
        again = [Picky(refuses=number == 1) for number in range(2)]  # of which nothing is remembered
        outcome = await stage.run(Pool(again), "question", retry=AT_ONCE, journal=journal.run("a"))
    result_of(outcome)
    assert [each.forms for each in again] == [["json_schema"], ["json_object"]]


def first_pair(numbers: tuple[Number, Number]) -> str:
    return f"the first pair was {numbers}"


async def test_a_call_that_is_taken_up_tells_what_this_life_sent(tmp_path: Path) -> None:
    model, stage = Model(lambda asked: ProviderError("down")), complete()
    with Journal(tmp_path / "runs.db") as journal:
        run = journal.run("a")
        with anyio.fail_after(30), anyio.CancelScope() as life:

            def watch(event: Event) -> None:
                if isinstance(event, WaitStarted):
                    life.cancel()

            await stage.run(model, "question", journal=run, retry=RetryConfig(base_delay=60), trace=watch)
        assert model.calls == 1
        for calls, sent in ((1, 0), (2, 1)):
            events: list[Event] = []
            limit = TokenUsage(llm_calls=calls)
            error = error_of(
                await stage.run(
                    model, "question", journal=run, max_cost=limit, trace=events.append, retry=NEVER
                )
            )
            (call,) = [event for event in events if isinstance(event, CallFinished)]
            assert (call.attempts, call.cost.llm_calls, error.cost.llm_calls) == (sent, sent, 1 + sent)


async def test_long_answers_are_asked_again_and_charged_once_each(tmp_path: Path) -> None:
    model = Model(lambda asked: reply("x" * 200))
    with Journal(tmp_path / "runs.db", most_bytes=100) as journal:
        await complete().run(model, "question", journal=journal.run("a"))
        again = result_of(await complete().run(model, "question", journal=journal.run("a")))
    assert (model.calls, again.cost) == (2, TokenUsage(6, 4, 2))
    assert again.metadata["unsettled_calls"] == 0


LONG = "x" * 200
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
LONG_ANSWERS = {
    "thoughts": LLMResponse("ok", reasoning=LONG, usage=USAGE),
    "a call": LLMResponse("ok", (ToolCall("c", "look", {"at": LONG}),), usage=USAGE),
    "another field": LLMResponse("ok", extra={"image": LONG}, usage=USAGE),
}


@pytest.mark.parametrize("response", LONG_ANSWERS.values(), ids=LONG_ANSWERS)
async def test_all_of_an_answer_counts_towards_its_length(response: LLMResponse, tmp_path: Path) -> None:
    model = Model(lambda asked: response)
    for most_bytes, calls in ((100, 2), (1_000, 3)):
        with Journal(tmp_path / f"{most_bytes}.db", most_bytes=most_bytes) as journal:
            for _ in range(2):
                await complete().run(model, "question", journal=journal.run("a"))
        assert model.calls == calls
        assert (LONG in (tmp_path / f"{most_bytes}.db").read_text("latin-1")) == (most_bytes == 1_000)


async def test_odd_answers_come_back_as_they_were(tmp_path: Path) -> None:
    response = LLMResponse(
        "half a pair \ud83d, and 2**80",
        usage={"prompt_tokens": 1, "completion_tokens": 2, "note": 2**80},
        extra={"reasoning_content": "hm", "list": [1, {"$": "no tag"}]},
    )
    seen: list[PatternResult[Any]] = []
    model = Model(lambda asked: response)
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            outcome = await complete().run(model, "question \ud83d", journal=journal.run("a"))
            seen.append(result_of(outcome))
    assert model.calls == 1
    assert seen[0].value == seen[1].value == response.content


class Untold:
    """An object that cannot be written out."""

    @override
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "at", [{"usage": {"a": Untold()}}, {"extra": {"b": ["\ud83d", Untold()]}}], ids=["usage", "extra"]
)
async def test_an_answer_with_an_object_that_cannot_be_written_out_is_kept(
    at: dict[str, Any], tmp_path: Path
) -> None:
    model = Model(lambda asked: LLMResponse("ok", **at))
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            outcome = await complete().run(model, "question", journal=journal.run("a"))
            assert result_of(outcome).value == "ok"
    assert model.calls == 1


async def test_what_is_asked_with_an_object_that_cannot_be_written_out_is_found_again(tmp_path: Path) -> None:
    async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return PatternResult((await provider.complete([user(prompt)], hint=Untold())).content)

    model = Model()
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            result_of(await step(ask).run(model, "question", journal=journal.run("a")))
    assert model.calls == 1


async def test_the_reservation_of_a_call_in_flight_is_charged() -> None:
    store = MemoryStore()
    stage = complete(max_tokens=50)
    with InMemory(store) as journal:
        assert await crash(journal, store, stage, Worldly(ticks=0), 1) is None
    store.revive()
    with InMemory(store) as journal:
        result = result_of(
            await stage.run(Worldly(ticks=0), "question", retry=AT_ONCE, journal=journal.run("a"))
        )
    whole = result_of(await stage.run(Worldly(ticks=0), "question", retry=AT_ONCE))
    lost = result.cost - whole.cost
    assert result.metadata["unsettled_calls"] == 1
    assert (lost.llm_calls, lost.output_tokens) == (1, 50)
    assert lost == result.metadata["replayed"]


async def test_a_call_that_is_not_sent_after_all_is_not_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, send, first = anyio.CancelScope(), Entry.send, Model()

    async def send_and_cancel(entry: Entry, held: Any) -> None:
        await send(entry, held)
        if first.calls == 1:
            scope.cancel()  # it is on its way, and arrives once something is awaited

    async with Journal(tmp_path / "runs.db") as journal:
        monkeypatch.setattr(Entry, "send", send_and_cancel)
        with scope:
            await consensus(3, max_concurrency=1).run(first, "x", journal=journal.run("a"))
        monkeypatch.undo()
        assert first.calls == 1
        second = Model()
        outcome = await consensus(3, max_concurrency=1).run(second, "x", journal=journal.run("a"))
        result = result_of(outcome)
    assert second.calls == 2
    assert result.cost.llm_calls == 3
    assert result.metadata["unsettled_calls"] == 0


async def test_two_at_once_are_told(tmp_path: Path) -> None:
    waiting = anyio.Event()

    class Slow(Model):
        async def complete(self, messages: Any, **options: Any) -> LLMResponse:
            await waiting.wait()
            return reply()

    with Journal(tmp_path / "runs.db") as journal, Journal(tmp_path / "runs.db") as other:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: complete().run(Slow(), "question", journal=journal.run("a")))
            for _ in range(50):
                await anyio.sleep(0.01)
                if journal.runs():
                    break
            for each in (journal, other):
                error = error_of(await complete().run(Model(), "question", journal=each.run("a")))
                assert isinstance(error, RunBusyError)
                assert "process" in error.metadata["owner"]
            waiting.set()
        assert result_of(await complete().run(Model(), "question", journal=other.run("a"))).value == "ok"


@pytest.mark.parametrize("at_once", [1, 20])
async def test_a_run_that_is_taken_over_ends_and_the_others_of_its_journal_go_on(
    at_once: int, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    asked = 0

    def answer(_: Asked) -> object:
        nonlocal asked
        asked += 1
        if asked == 30:
            with sqlite3.connect(path) as database:
                database.execute("UPDATE run SET token = 'another' WHERE name = 'taken'")
            database.close()
        return reply()

    model = Model(answer)
    votes = consensus(40, max_concurrency=at_once)
    outcomes: dict[str, Outcome[Any]] = {}

    with Journal(path) as journal:

        async def run(name: str) -> None:
            outcomes[name] = await votes.run(model, "question", journal=journal.run(name))

        async with anyio.create_task_group() as group:
            for name in ("one", "taken", "two"):
                group.start_soon(run, name)
        await run("later")
    error = error_of(outcomes.pop("taken"))
    assert isinstance(error, RunBusyError)
    assert "taken the run over" in str(error)
    assert [result_of(outcome).cost.llm_calls for outcome in outcomes.values()] == [40, 40, 40]
    assert model.calls == error.cost.llm_calls + 120
    with Journal(path) as journal:
        assert [info.ended for info in journal.runs() if info.name != "taken"] == ["answered"] * 3
        assert {len(journal.rows(name)) for name in outcomes} == {40}


async def test_another_input_is_told_or_paid(tmp_path: Path) -> None:
    model = Model(lambda asked: reply(asked.prompt))
    with Journal(tmp_path / "runs.db") as journal:
        await complete().run(model, "one", journal=journal.run("a"))
        error = error_of(await complete().run(model, "two", journal=journal.run("a")))
        assert isinstance(error, JournalMismatchError)
        assert error.metadata["changes"] == ("the input is another one",)
        outcome = await complete().run(model, "two", journal=journal.run("a", on_change="reuse"))
    result = result_of(outcome)
    assert (result.value, model.calls) == ("two", 2)
    assert result.cost.llm_calls == 2, "what was paid for the first input is paid"


async def test_a_prompt_that_is_never_the_same_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = complete().map(numbered) >> complete(system="then")
    model = Model()
    with Journal(tmp_path / "runs.db") as journal:
        await stage.run(model, "question", journal=journal.run("a"))
        result = result_of(await stage.run(model, "question", journal=journal.run("a")))
    assert (model.calls, result.metadata["diverged_calls"], result.cost.llm_calls) == (3, 1, 3)
    assert "asks something else" in caplog.text


async def test_a_run_within_a_run_has_no_journal_of_its_own(tmp_path: Path) -> None:
    problems: list[str] = []
    with Journal(tmp_path / "runs.db") as journal:

        async def rate(text: str, provider: Any) -> float:
            try:
                await complete().run(provider, text, journal=journal.run("b"))
            except ValueError as error:
                problems.append(str(error))
            return 1.0

        await refine(rate).run(Model(), "question", journal=journal.run("a"))
    assert problems == ["a run within a run is kept in the journal of the run around it; leave journal out"]


MISTAKES: dict[str, tuple[type[Exception], Callable[[Journal], object]]] = {
    "a path that is none": (TypeError, lambda journal: Journal(7)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "a name that is empty": (ValueError, lambda journal: journal.run("")),
    "a name that is no text": (TypeError, lambda journal: journal.run(7)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "a change that is none": (ValueError, lambda journal: journal.run("a", on_change="go")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "a journal that is not open": (JournalError, lambda journal: journal.runs()),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_mistakes_are_told(name: str, tmp_path: Path) -> None:
    kind, make = MISTAKES[name]
    with pytest.raises(kind):
        make(Journal(tmp_path / "runs.db"))


async def test_a_journal_in_place_of_a_run_is_told(tmp_path: Path) -> None:
    with Journal(tmp_path / "runs.db") as journal, pytest.raises(TypeError, match=r"journal\.run\(run_id\)"):
        await complete().run(Model(), "question", journal=journal)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_random_settings_of_a_vote_go_on() -> None:
    for seed in range(12):
        chance = Random(seed)
        stage = consensus(chance.randrange(1, 9), max_concurrency=chance.randrange(1, 9))
        store, model = MemoryStore(), Worldly(seed)
        with InMemory(store) as journal:
            await crash(journal, store, stage, model, chance.randrange(20))
        store.revive()
        settled = {(row.path, row.ordinal) for row in store.rows(1) if row.state == "done"}
        before = model.answered.copy()
        with InMemory(store) as journal:
            outcome = await stage.run(model, "question", retry=AT_ONCE, journal=journal.run("a"))
        whole = await stage.run(Worldly(seed), "question", retry=AT_ONCE)
        assert said(outcome) == said(whole)
        assert not [place for place in settled if model.answered[place] > before[place]]


async def test_a_stream_is_replayed_in_one_piece(tmp_path: Path) -> None:
    model = Model(lambda asked: reply("it streams"))
    texts: list[str] = []
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            async with complete().stream(model, "question", journal=journal.run("a")) as run:
                texts += [event.text async for event in run if isinstance(event, TextDelta)]
    assert (texts, model.calls) == (["it streams"] * 2, 1)


async def test_a_call_that_outlives_its_run_leaves_the_journal_to_the_others(tmp_path: Path) -> None:
    """Its note came with the ended run's token, which was taken for the loss of the whole journal."""
    is_asked, may_answer = anyio.Event(), anyio.Event()

    class Held(Model):
        async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
            if not may_answer.is_set():
                is_asked.set()
                await may_answer.wait()
            return await super().complete(messages, **options)

    async def leave(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        group.start_soon(complete(max_tokens=50).run, provider, prompt)
        await is_asked.wait()
        return PatternResult("left")

    model = Held()
    async with Journal(tmp_path / "runs.db") as journal, anyio.create_task_group() as group:
        first = result_of(await step(leave).run(model, "q", journal=journal.run("a")))
        may_answer.set()
        while not model.calls or model.in_flight:
            await checkpoint()
        for _ in range(10):  # it is settled, and noted no more
            await checkpoint()
        beside = result_of(await complete().run(model, "q", journal=journal.run("b")))
        again = result_of(await step(leave).run(model, "q", journal=journal.run("a")))
        assert first.cost == TokenUsage(llm_calls=1)
        assert beside.cost == TokenUsage(3, 2, 1)
        assert again.metadata["unsettled_calls"] == 1
        assert again.metadata["replayed"].output_tokens == 50  # what was reserved


async def test_what_an_earlier_life_had_to_estimate_is_told_where_this_one_does_not_ask_it(
    tmp_path: Path,
) -> None:
    model = Model(lambda asked: LLMResponse("silent") if asked.number == 1 else reply())
    stage = complete(max_tokens=50)
    async with Journal(tmp_path / "runs.db") as journal:
        first = result_of(await stage.run(model, "one", journal=journal.run("a")))
        again = journal.run("a", on_change="reuse")
        result = result_of(await stage.run(model, "another", journal=again))
        refused = error_of(await stage.run(model, "a third", max_cost=TokenUsage(llm_calls=2), journal=again))
    assert first.metadata["usage_estimated"] == 1
    assert (result.cost.llm_calls, result.metadata["usage_estimated"]) == (2, 1)
    assert (refused.cost.llm_calls, refused.metadata["usage_estimated"]) == (2, 1)


async def test_a_stream_that_is_left_costs_what_earlier_lives_paid_too(tmp_path: Path) -> None:
    model = Model(ticks=lambda asked: 1 if asked.number == 1 else 10**9)
    async with Journal(tmp_path / "runs.db") as journal:
        await complete().run(model, "one", journal=journal.run("a"))
        again = journal.run("a", on_change="reuse")
        async with complete().stream(model, "another", journal=again) as run:
            async for event in run:
                if isinstance(event, AttemptStarted):
                    break
    assert error_of(run.outcome).cost == run.cost == TokenUsage(3, 2, 2)
