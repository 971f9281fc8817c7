"""Tools in a run with a journal: what has ended is never done again, what may have happened is not guessed."""

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from typing_extensions import override

from executionkit import Context, LLMResponse, TokenUsage, ToolCall, complete, react
from executionkit.approval import Approve, Decision, Deny, Edit, Proposal
from executionkit.errors import JournalError, JournalMismatchError, UnsettledToolError
from executionkit.journal import Journal
from executionkit.journal.store import Write
from executionkit.outcome import Outcome
from executionkit.stage import Stage
from executionkit.tools import Effects, IdempotencyKey, Tool, tool
from tests.doubles import Asked, Model, error_of, reply, result_of
from tests.journaling import InMemory, MemoryStore, Unseen, numbered, row_of

pytestmark = pytest.mark.anyio


def calling(name: str = "pay", rounds: int = 1, calls: int = 1, **arguments: Any) -> Model:
    """A model that calls a tool for some rounds, and then says what it saw last."""

    def answer(asked: Asked) -> object:
        seen = [message for message in asked.messages if message["role"] == "tool"]
        if asked.prompt != "how much?" and len(seen) < rounds * calls:
            made = [ToolCall(f"c{len(seen)}{at}", name, {**arguments, "at": at}) for at in range(calls)]
            return LLMResponse("", tuple(made), "tool_calls", {"prompt_tokens": 1, "completion_tokens": 1})
        return reply(str(seen[-1]["content"]) if seen else "7")

    return Model(answer)


class Bank(Unseen):
    """What the tools do to the world."""

    def __init__(self) -> None:
        self.paid: Counter[object] = Counter()
        self.proposed: list[Proposal] = []
        self.dies: bool = False
        self.was_called: anyio.Event | None = None

    async def stop_here(self) -> None:
        """Be under way when the process ends, if that is to be."""
        if self.dies and self.was_called is not None:
            self.was_called.set()
            await anyio.sleep_forever()

    def tool(self, effects: Effects, *, keyed: bool = False) -> Tool:
        async def pay(at: int) -> str:
            """Pay."""
            self.paid[at] += 1
            await self.stop_here()
            return f"paid {at}"

        async def pay_once(at: int, key: Annotated[str, IdempotencyKey]) -> str:
            """Pay."""
            self.paid[key] += 1
            await self.stop_here()
            return f"paid {at}"

        return tool(pay_once if keyed else pay, name="pay", effects=effects)


async def killed_in_the_tool(bank: Bank, store: MemoryStore, paying: Tool, **settings: Any) -> None:
    await killed(bank, store, react([paying], **settings), "question")


async def killed(
    bank: Bank, store: MemoryStore, stage: Stage[Any, Any], value: object, model: Model | None = None
) -> None:
    """Run a stage, and end its life within the first call of a tool of the bank."""
    bank.dies = True
    bank.was_called = anyio.Event()
    with InMemory(store) as journal, anyio.move_on_after(30) as life:
        async with anyio.create_task_group() as group:
            run = journal.run("a")
            group.start_soon(lambda: stage.run(model or calling(), value, journal=run))
            await bank.was_called.wait()
            store.is_dead = True
            life.cancel()
    store.revive()
    bank.dies = False


async def test_what_has_ended_is_not_done_again(tmp_path: Path) -> None:
    bank = Bank()
    stage = react([bank.tool("once")])
    with Journal(tmp_path / "runs.db") as journal:
        first = result_of(await stage.run(calling(rounds=2, calls=3), "question", journal=journal.run("a")))
        model = calling(rounds=2, calls=3)
        again = result_of(await stage.run(model, "question", journal=journal.run("a")))
    assert (sum(bank.paid.values()), model.calls) == (6, 0)
    assert again.value == first.value
    assert again.metadata["transcript"] == first.metadata["transcript"]


async def test_what_must_happen_once_fails_closed_and_a_person_resolves_it() -> None:
    bank, store = Bank(), MemoryStore()
    paying = bank.tool("once")
    await killed_in_the_tool(bank, store, paying)
    with InMemory(store) as journal:
        error = error_of(await react([paying]).run(calling(), "question", journal=journal.run("a")))
        assert isinstance(error, UnsettledToolError)
        assert error.metadata["tool"] == "pay"
        assert error.cost.llm_calls == 1
        again = error_of(await react([paying]).run(calling(), "question", journal=journal.run("a")))
        assert again == error
        with pytest.raises(JournalError, match="has no tool call"):
            journal.resolve("a", "no such key", "paid")
        journal.resolve("a", error.metadata["key"], "the bank says: paid")
        with pytest.raises(JournalError, match="has ended"):
            journal.resolve("a", error.metadata["key"], "paid twice")
        result = result_of(await react([paying]).run(calling(), "question", journal=journal.run("a")))
    assert result.value == "the bank says: paid"
    assert sum(bank.paid.values()) == 1


@pytest.mark.parametrize("effects", ["none", "idempotent"])
async def test_what_may_happen_again_does(effects: Effects) -> None:
    bank, store = Bank(), MemoryStore()
    paying = bank.tool(effects)
    await killed_in_the_tool(bank, store, paying)
    with InMemory(store) as journal:
        result = result_of(await react([paying]).run(calling(), "question", journal=journal.run("a")))
    assert (result.value, sum(bank.paid.values())) == ("paid 0", 2)


async def test_a_key_is_the_same_in_every_life_and_the_model_does_not_see_it() -> None:
    bank, store = Bank(), MemoryStore()
    paying = bank.tool("once", keyed=True)
    assert paying.parameters["properties"].keys() == {"at"}
    await killed_in_the_tool(bank, store, paying)
    with InMemory(store) as journal:
        await react([paying]).run(calling(), "question", journal=journal.run("a"))
        assert list(bank.paid.values()) == [2]
        await react([paying]).run(calling(rounds=2, calls=2), "question", journal=journal.run("b"))
    assert len(bank.paid) == 5, "each call has a key of its own"
    assert {len(str(key)) for key in bank.paid} == {32}


async def test_without_a_journal_a_key_is_made_for_each_call() -> None:
    bank = Bank()
    await react([bank.tool("once", keyed=True)]).run(calling(rounds=2, calls=2), "question")
    assert len(bank.paid) == 4
    assert await bank.tool("once", keyed=True).execute(at=1) == "paid 1"


def test_two_keys_are_one_too_many() -> None:
    async def pay(one: Annotated[str, IdempotencyKey], other: Annotated[str, IdempotencyKey]) -> None: ...

    with pytest.raises(TypeError, match="2 arguments for the key"):
        tool(pay)


def test_effects_are_checked() -> None:
    async def pay() -> None: ...

    with pytest.raises(ValueError, match='"once", "idempotent" or "none"'):
        tool(pay, effects="twice")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def test_a_failure_of_a_tool_is_kept_as_one(tmp_path: Path) -> None:
    bank = Bank()

    @tool(name="pay")
    async def fails(at: int) -> str:
        """Fail."""
        bank.paid[at] += 1
        raise ValueError("no")

    with Journal(tmp_path / "runs.db") as journal:
        values = [
            result_of(await react([fails]).run(calling(), "question", journal=journal.run("a"))).value
            for _ in range(2)
        ]
    assert values[0] == values[1]
    assert sum(bank.paid.values()) == 1


async def test_what_a_tool_asked_the_model_is_charged_where_it_was(tmp_path: Path) -> None:
    @tool(name="pay")
    async def asks(at: int, context: Context) -> str:
        """Ask the model."""
        return (await context.run(complete(), "how much?")).value

    stage = react([asks]) >> complete(system="how much?").map(str)
    costs: list[tuple[TokenUsage, object]] = []
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            result = result_of(await stage.run(calling(), "question", journal=journal.run("a")))
            costs.append((result.cost, result.metadata["step_costs"]))
    assert costs[0] == costs[1]
    assert costs[0][0].llm_calls == 4


@pytest.mark.parametrize("decision", [Approve(), Deny("not today"), Edit({"at": 7})], ids=str)
async def test_a_person_is_asked_once(decision: Decision, tmp_path: Path) -> None:
    bank = Bank()

    async def approve(proposal: Proposal) -> Decision:
        bank.proposed.append(proposal)
        return decision

    values: list[object] = []
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            stage = react([bank.tool("once")], approve=approve)
            result = result_of(await stage.run(calling(), "question", journal=journal.run("a")))
            values.append(result.value)
    assert values[0] == values[1]
    assert (len(bank.proposed), sum(bank.paid.values())) == (1, decision != Deny("not today"))


async def test_another_prompt_after_an_effect_is_refused(tmp_path: Path) -> None:
    bank = Bank()
    stage = complete().map(numbered) >> react([bank.tool("once")])
    with Journal(tmp_path / "runs.db") as journal:
        await stage.run(calling(), "question", journal=journal.run("a"))
        error = error_of(await stage.run(calling(), "question", journal=journal.run("a")))
        assert isinstance(error, JournalMismatchError)
        assert sum(bank.paid.values()) == 1
        run = journal.run("a", on_change="reuse")
        assert result_of(await stage.run(calling(), "question", journal=run)).value == "paid 0"
    assert sum(bank.paid.values()) == 1, "the same call is not made again, wherever it stands"


def test_resolving_needs_text(tmp_path: Path) -> None:
    with Journal(tmp_path / "runs.db") as journal:
        with pytest.raises(TypeError, match="observation is text"):
            journal.resolve("a", "key", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="key is text"):
            journal.resolve("a", None, "paid")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="name must be text"):
            journal.resolve(None, "key", "paid")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="name must be text"):
            journal.rows(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="must not be empty"):
            journal.rows("")
        with pytest.raises(JournalError, match="no run 'a'"):
            journal.resolve("a", "key", "paid")


async def test_nothing_goes_around_a_tool_that_may_have_had_its_effect() -> None:
    bank, store = Bank(), MemoryStore()
    paying = bank.tool("once")
    await killed_in_the_tool(bank, store, paying)
    with InMemory(store) as journal:
        around = react([paying]) | complete()
        run = journal.run("a", on_change="reuse")
        error = error_of(await around.run(calling(), "question", journal=run))
    assert isinstance(error, UnsettledToolError)
    assert sum(bank.paid.values()) == 1


async def test_inputs_of_a_run_fail_with_it_until_a_person_has_found_out() -> None:
    bank, store = Bank(), MemoryStore()
    each = react([bank.tool("once")]).each(max_concurrency=1)
    await killed(bank, store, each, ["a", "b"])
    with InMemory(store) as journal:
        error = error_of(await each.run(calling(), ["a", "b"], journal=journal.run("a")))
        assert isinstance(error, UnsettledToolError)
        assert (error.metadata["failed"], error.metadata["results"]) == (2, (None, None))
        journal.resolve("a", error.metadata["key"], "it was paid")
        outcomes = result_of(await each.run(calling(), ["a", "b"], journal=journal.run("a"))).value
    assert [result_of(outcome).value for outcome in outcomes]
    assert sum(bank.paid.values()) == 2


@pytest.mark.parametrize("how", ["raises", "unwraps"])
async def test_a_tool_around_it_does_not_hide_one_that_may_have_had_its_effect(how: str) -> None:
    bank, store = Bank(), MemoryStore()
    inner = react([bank.tool("once")])

    @tool(effects="none")
    async def settle(context: Context, at: int) -> str:
        """Settle a bill."""
        if how == "raises":
            return str((await context.run(inner, "how much?")).value)
        outcome: Outcome[Any] = await inner.run(context.provider, "how much?")
        return str(outcome.unwrap().value)

    def answer(asked: Asked) -> object:
        seen = [message for message in asked.messages if message["role"] == "tool"]
        if seen:
            return reply(str(seen[-1]["content"]))
        (spec,) = asked.tools or []
        call = ToolCall("c", spec["function"]["name"], {"at": 0})
        return LLMResponse("", (call,), "tool_calls", {"prompt_tokens": 1, "completion_tokens": 1})

    around = react([settle])
    await killed(bank, store, around, "question", Model(answer))
    with InMemory(store) as journal:
        error = error_of(await around.run(Model(answer), "question", journal=journal.run("a")))
        assert isinstance(error, UnsettledToolError)
        journal.resolve("a", error.metadata["key"], "it was paid")
        result = result_of(await around.run(Model(answer), "question", journal=journal.run("a")))
    assert (result.value, sum(bank.paid.values())) == ("it was paid", 1)


class Waiting(MemoryStore):
    """A store that takes its time with the note that a tool is about to be called."""

    def __init__(self) -> None:
        super().__init__()
        self.is_at_it = threading.Event()
        self.may_go_on = threading.Event()

    @override
    def write(self, rows: Sequence[Write]) -> None:
        if any(row_of(data).kind == "tool" for _, _, data in rows) and not self.may_go_on.is_set():
            self.is_at_it.set()
            assert self.may_go_on.wait(30)
        super().write(rows)

    @override
    def write_at_once(self, rows: Sequence[Write]) -> bool:
        return False


async def test_a_call_that_was_cancelled_before_it_was_noted_is_not_taken_for_begun() -> None:
    bank, store = Bank(), Waiting()
    paying = bank.tool("once")
    with InMemory(store) as journal, anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: react([paying]).run(calling(), "question", journal=journal.run("a")))
            while not store.is_at_it.is_set():  # noqa: ASYNC110 - a thread sets it
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        store.may_go_on.set()
        assert not bank.paid
        result = result_of(await react([paying]).run(calling(), "question", journal=journal.run("a")))
    assert (result.value, sum(bank.paid.values())) == ("paid 0", 1)


async def test_another_call_at_the_same_place_has_another_key(tmp_path: Path) -> None:
    bank = Bank()
    stages = [react([bank.tool("once", keyed=True)], system=system) for system in (None, "b", "c", "b")]
    with Journal(tmp_path / "runs.db") as journal:
        for amount, stage in zip((5, 7, 9, 7), stages, strict=True):
            model = calling_for(amount)
            run = journal.run("a", on_change="reuse")
            assert result_of(await stage.run(model, "question", journal=run)).value == f"paid {amount}"
    assert list(bank.paid.values()) == [1, 1, 1]  # a key each, and what was paid before is not paid again


def calling_for(amount: int, text: str = "") -> Model:
    def answer(asked: Asked) -> object:
        seen = [message for message in asked.messages if message["role"] == "tool"]
        if seen:
            return reply(str(seen[-1]["content"]))
        call = ToolCall("c", "pay", {"at": amount})
        return LLMResponse(text, (call,), "tool_calls", {"prompt_tokens": 1, "completion_tokens": 1})

    return Model(answer)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("has_ended", [False, True])
async def test_another_call_in_place_of_one_that_may_have_had_its_effect_is_refused(
    has_ended: bool, keyed: bool
) -> None:
    bank, store = Bank(), MemoryStore()
    stage = react([bank.tool("once", keyed=keyed)], max_rounds=2)
    long = "x" * 200  # not kept, so that the model is asked again, and says it in other words
    bank.dies, bank.was_called = not has_ended, anyio.Event()
    with InMemory(store, most_bytes=100) as journal, anyio.move_on_after(30) as life:
        async with anyio.create_task_group() as group:
            run = journal.run("a")
            group.start_soon(lambda: stage.run(calling_for(5, long), "question", journal=run))
            if not has_ended:
                await bank.was_called.wait()
                store.is_dead = True
                life.cancel()
    store.revive()
    bank.dies = False
    with InMemory(store, most_bytes=100) as journal:
        error = error_of(await stage.run(calling_for(6, long), "question", journal=journal.run("a")))
    assert isinstance(error, JournalMismatchError)
    assert sum(bank.paid.values()) == 1
