"""The pipeline has changed since: that is told, or only what is new is paid."""

import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from executionkit import Stage, complete, consensus, prompt, refine
from executionkit.errors import JournalMismatchError
from executionkit.journal import Journal
from executionkit.outcome import Outcome
from tests.doubles import Asked, Model, error_of, reply, result_of
from tests.journaling import InMemory, MemoryStore

pytestmark = pytest.mark.anyio

EDITS: Final = int(os.environ.get("EXECUTIONKIT_EDITS", "20"))


def answer(asked: Asked) -> object:
    return reply(f"Response {len(str(asked.messages)) % 7} Score: {len(asked.prompt) % 10}")


async def ask(journal: Journal, stage: Stage[str, Any], model: Model, **settings: Any) -> Outcome[Any]:
    return await stage.run(model, "question", journal=journal.run("a", **settings))


@pytest.mark.parametrize("prompts", [False, True])
async def test_a_change_is_told(prompts: bool, tmp_path: Path) -> None:
    secret = "The plan that nobody may read: buy all of it, and quietly."
    model = Model(answer)
    with Journal(tmp_path / "runs.db", prompts=prompts) as journal:
        before = complete(system=secret) >> consensus(3)
        await ask(journal, before, model)
        error = error_of(await ask(journal, complete(system="Now another plan.") >> consensus(4), model))
    assert isinstance(error, JournalMismatchError)
    assert "stages.1.sampling.n: 3 -> 4" in error.metadata["changes"]
    assert error.metadata["changes"][0].startswith("stages.0.system: ")
    assert (secret in str(error)) is prompts
    assert (secret.encode() in (tmp_path / "runs.db").read_bytes()) is prompts
    assert model.calls == 4


@pytest.mark.parametrize("at", [0, 5_000, 9_999])
async def test_of_long_texts_the_part_where_they_differ_is_told(at: int, tmp_path: Path) -> None:
    text = "".join(f"{number:4} " for number in range(2_000))
    other = f"{text[:at]}HERE{text[at + 4 :]}"
    with Journal(tmp_path / "runs.db", prompts=True) as journal:
        await ask(journal, complete(system=text), Model(answer))
        error = error_of(await ask(journal, complete(system=other), Model(answer)))
    assert len(str(error)) < 1_200
    before, after = error.metadata["changes"][0].split(" -> ")
    assert text[at : at + 4] in before
    assert "HERE" in after


async def test_a_name_is_no_change(tmp_path: Path) -> None:
    model = Model(answer)
    with Journal(tmp_path / "runs.db") as journal:
        first = result_of(await ask(journal, consensus(3) >> complete(), model))
        named = (consensus(3).named("vote") >> complete()).named("all")
        again = result_of(await ask(journal, named, model))
    assert (model.calls, again.value) == (4, first.value)


async def test_reuse_pays_for_what_is_new(tmp_path: Path) -> None:
    model = Model(answer)
    with Journal(tmp_path / "runs.db") as journal:
        await ask(journal, consensus(3), model)
        more = result_of(await ask(journal, consensus(5), model, on_change="reuse"))
        assert (model.calls, more.cost.llm_calls) == (5, 5)
        moved = result_of(
            await ask(journal, prompt("{}") >> consensus(5) >> complete(), model, on_change="reuse")
        )
        assert model.calls == 6
        assert moved.cost.llm_calls == 6
        # What moved is found where it is now, also without `on_change`.
        again = result_of(await ask(journal, prompt("{}") >> consensus(5) >> complete(), model))
        assert (model.calls, again.value, again.cost) == (6, moved.value, moved.cost)


async def test_a_temperature_of_zero_is_new_where_it_was_left_open_before(tmp_path: Path) -> None:
    model = Model(lambda asked: reply(f"at {asked.temperature}"))
    with Journal(tmp_path / "runs.db") as journal:
        for temperature, value, calls in ((None, "at None", 1), (0, "at 0", 2), (0.0, "at 0", 2)):
            result = result_of(
                await ask(journal, complete(temperature=temperature), model, on_change="reuse")
            )
            assert (result.value, model.calls) == (value, calls)


async def test_a_whole_number_is_no_change(tmp_path: Path) -> None:
    model = Model(answer)
    with Journal(tmp_path / "runs.db") as journal:
        for temperature in (1, 1.0):
            result = result_of(await ask(journal, complete(temperature=temperature), model))
            assert (model.calls, result.cost.llm_calls) == (1, 1)


async def test_what_is_asked_no_more_stays_paid(tmp_path: Path) -> None:
    model = Model(answer)
    with Journal(tmp_path / "runs.db") as journal:
        await ask(journal, consensus(5), model)
        fewer = result_of(await ask(journal, consensus(2), model, on_change="reuse"))
    assert (model.calls, fewer.cost.llm_calls) == (5, 5)


STEPS: list[Stage[str, str]] = [
    complete(),
    complete(system="be brief"),
    complete(max_tokens=9),
    consensus(3),
    consensus(3, temperature=0.1),
    refine(max_iterations=1),
    prompt("Again: {}"),
]


def random_pipeline(chance: Random) -> list[Stage[str, str]]:
    return [chance.choice(STEPS) for _ in range(chance.randrange(1, 5))]


def edited(steps: list[Stage[str, str]], chance: Random) -> list[Stage[str, str]]:
    """Change, add, drop or swap a step."""
    steps, at = [*steps], chance.randrange(len(steps))
    match chance.randrange(4):
        case 0:
            steps[at] = chance.choice(STEPS)
        case 1:
            steps.insert(at, chance.choice(STEPS))
        case 2 if len(steps) > 1:
            del steps[at]
        case _:
            other = chance.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
    return steps


def joined(steps: list[Stage[str, str]]) -> Stage[str, str]:
    whole = steps[0]
    for step in steps[1:]:
        whole >>= step
    return whole


async def test_after_random_edits_exactly_what_is_new_is_paid() -> None:
    for seed in range(EDITS):
        chance = Random(seed)
        store, steps = MemoryStore(), random_pipeline(chance)
        paid: Counter[str] = Counter()
        for _ in range(3):
            model, alone = Model(answer), Model(answer)
            with InMemory(store) as journal:
                outcome = await ask(journal, joined(steps), model, on_change="reuse")
            whole = await joined(steps).run(alone, "question")
            wanted = Counter(asked_of(each) for each in alone.asked)
            new = Counter(asked_of(each) for each in model.asked)
            assert new == wanted - paid, f"seed {seed}"
            assert result_of(outcome).value == result_of(whole).value
            paid |= wanted
            assert result_of(outcome).cost.llm_calls == paid.total()
            steps = edited(steps, chance)


def asked_of(asked: Asked) -> str:
    return f"{asked.messages} {asked.temperature} {asked.max_tokens}"
