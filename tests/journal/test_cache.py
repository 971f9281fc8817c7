"""Answers that are kept for all runs: a hit is no call, and says so."""

import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from executionkit import (
    LLMResponse,
    ProviderError,
    TokenUsage,
    complete,
    consensus,
    is_failure,
    react,
    structured,
)
from executionkit.events import AttemptStarted, Event, with_content
from executionkit.journal import Cached, Journal, JournalError
from executionkit.prices import Price
from executionkit.providers.pool import Pool
from tests.doubles import AT_ONCE, Asked, Model, error_of, reply, result_of

pytestmark = pytest.mark.anyio


class Number(msgspec.Struct, frozen=True):
    n: int


class Described(Model):
    model = "m"
    base_url = "http://127.0.0.1:1/v1"
    price = Price(1, 1)


async def test_a_hit_costs_nothing_and_says_so(tmp_path: Path) -> None:
    stage = complete(temperature=0)
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(Described(), journal)
        first = result_of(await stage.run(provider, "question"))
        events: list[Event] = []
        hit = result_of(
            await stage.run(
                provider, "question", trace=with_content(events.append), max_cost=TokenUsage(1, 1, 1)
            )
        )
    assert (first.value, first.cost.llm_calls, first.metadata.get("cached_calls")) == ("ok", 1, None)
    assert (hit.value, hit.cost, hit.metadata["cached_calls"]) == ("ok", TokenUsage(), 1)
    assert first.cost.usd == Decimal("0.000005")
    assert not [event for event in events if isinstance(event, AttemptStarted)]


async def test_the_samples_of_a_vote_stay_several(tmp_path: Path) -> None:
    stage = consensus(5, temperature=0)
    model = Model(lambda asked: reply(str(asked.number % 2)))
    with Journal(tmp_path / "answers.db") as journal:
        first = result_of(await stage.run(Cached(model, journal), "question"))
        hit = result_of(await stage.run(Cached(model, journal), "question"))
        more = result_of(await consensus(7, temperature=0).run(Cached(model, journal), "question"))
    assert (model.calls, hit.value, hit.score) == (7, first.value, first.score)
    assert (hit.metadata["cached_calls"], more.metadata["cached_calls"]) == (5, 5)


@pytest.mark.parametrize(
    ("settings", "is_cached"),
    [
        ({"temperature": 0.0}, True),
        ({"temperature": 0.5}, False),
        ({"temperature": None}, False),
        ({"temperature": 0.0, "max_tokens": 9}, True),
    ],
)
async def test_only_what_is_cold_is_kept(settings: dict[str, Any], is_cached: bool, tmp_path: Path) -> None:
    model = Model()
    with Journal(tmp_path / "answers.db") as journal:
        for _ in range(2):
            await complete(**settings).run(Cached(model, journal), "question")
    assert model.calls == (1 if is_cached else 2)


async def test_the_whole_request_counts_and_who_is_asked(tmp_path: Path) -> None:
    class Other(Described):
        model = "n"

    model, other = Described(), Other()
    with Journal(tmp_path / "answers.db") as journal:
        await complete(temperature=0).run(Cached(model, journal), "question")
        await complete(temperature=0, max_tokens=7).run(Cached(model, journal), "question")
        await complete(temperature=0, system="be brief").run(Cached(model, journal), "question")
        await complete(temperature=0).run(Cached(other, journal), "question")
    assert (model.calls, other.calls) == (3, 1)


async def test_failures_are_not_kept(tmp_path: Path) -> None:
    answers: list[object] = [ProviderError("busy", retryable=False), reply("now")]
    model = Model(lambda asked: answers[asked.number - 1])
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(model, journal)
        assert "busy" in str(error_of(await complete(temperature=0).run(provider, "question")))
        assert result_of(await complete(temperature=0).run(provider, "question")).value == "now"


async def test_a_temperature_of_zero_is_another_request_than_one_that_is_left_open(tmp_path: Path) -> None:
    class Warm(Model):
        default_temperature = 0.7

    model = Warm(lambda asked: reply(f"at {asked.temperature}"))
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(model, journal, temperature_at_most=1)
        values = [
            result_of(await complete(temperature=temperature).run(provider, "question")).value
            for temperature in (None, 0, 0.0, 1, 1.0)
        ]
    assert values == ["at None", "at 0", "at 0", "at 1", "at 1"]
    assert model.calls == 3


async def test_an_answer_that_a_budget_has_cut_is_not_kept(tmp_path: Path) -> None:
    def answer(asked: Asked) -> LLMResponse:
        fits = (asked.max_tokens or 0) >= 50
        response = reply("the whole" if fits else "the", output_tokens=9)
        return response if fits else replace(response, finish_reason="length")

    model = Model(answer)
    stage = complete(temperature=0)
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(model, journal)
        short = result_of(await stage.run(provider, "question", max_cost=TokenUsage(output_tokens=20)))
        whole = [result_of(await stage.run(provider, "question")).value for _ in range(2)]
        asked_short = complete(temperature=0, max_tokens=20)
        cut = [result_of(await asked_short.run(provider, "question")).value for _ in range(2)]
    assert (short.value, whole, cut) == ("the", ["the whole"] * 2, ["the"] * 2)
    assert model.calls == 3


async def test_an_answer_that_is_too_long_is_not_kept(tmp_path: Path) -> None:
    model = Model(lambda asked: reply("x" * 200))
    with Journal(tmp_path / "answers.db", most_bytes=100) as journal:
        for _ in range(2):
            await complete(temperature=0).run(Cached(model, journal), "question")
    assert model.calls == 2


async def test_typed_answers_keep_their_form(tmp_path: Path) -> None:
    model = Model(lambda asked: reply('{"n": 3}'))
    with Journal(tmp_path / "answers.db") as journal:
        results = [
            result_of(await structured(Number).run(Cached(model, journal), "question", retry=AT_ONCE))
            for _ in range(2)
        ]
    assert [result.value for result in results] == [Number(3)] * 2
    assert {result.metadata["response_format"] for result in results} == {"json_schema"}
    assert model.calls == 1


async def test_a_hit_in_a_journaled_run_is_replayed_as_one(tmp_path: Path) -> None:
    model = Model()
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(model, journal)
        await complete(temperature=0).run(provider, "question")
        results = [
            result_of(await complete(temperature=0).run(provider, "question", journal=journal.run("a")))
            for _ in range(2)
        ]
    assert [result.metadata["cached_calls"] for result in results] == [1, 1]
    assert [result.cost for result in results] == [TokenUsage()] * 2
    assert model.calls == 1


async def test_outside_a_run_it_answers_too(tmp_path: Path) -> None:
    model = Model()
    messages = [{"role": "user", "content": "question"}]
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(model, journal)
        for _ in range(2):
            assert (await provider.complete(messages, temperature=0.0)).content == "ok"
            assert (await provider.complete(messages, temperature=0.9)).content == "ok"
    assert model.calls == 3
    with pytest.raises(JournalError, match="not open"):
        await provider.complete(messages, temperature=0.0)


async def test_it_says_of_itself_what_the_provider_says(tmp_path: Path) -> None:
    with Journal(tmp_path / "answers.db") as journal:
        provider = Cached(Described(), journal)
        assert (provider.model, provider.supports_tools) == ("m", True)
        assert result_of(await react([]).run(provider, "question")).value == "ok"
        assert "Cached(" in repr(provider)
        with pytest.raises(AttributeError):
            provider._private  # noqa: B018


@pytest.mark.parametrize("damage", ["x'00'", "5", "'text'"])
async def test_a_damaged_answer_is_told(damage: str, tmp_path: Path) -> None:
    path, stage = tmp_path / "answers.db", complete(temperature=0)
    for is_damaged in (False, True):
        with Journal(path) as journal:
            outcome = await stage.run(Cached(Model(), journal), "question")
            assert is_failure(outcome) is is_damaged
        if is_damaged:
            assert isinstance(error_of(outcome), JournalError)
            assert "the file is damaged" in str(error_of(outcome))
        with sqlite3.connect(path) as database:
            database.execute(f"UPDATE cache SET value = {damage}")
        database.close()


async def test_mistakes_are_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.db")
    with pytest.raises(TypeError, match="in a Journal"):
        Cached(Model(), journal.run("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="temperature_at_most"):
        Cached(Model(), journal, temperature_at_most=-1)
    error = error_of(await complete(temperature=0).run(Cached(Model(), journal), "question"))
    assert isinstance(error, JournalError)


def test_a_cache_is_around_a_pool_and_not_in_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "answers.db") as journal:
        with pytest.raises(ValueError, match=r"Cached\(Pool\(\.\.\.\), journal\)"):
            Pool([Model(), Cached(Model(), journal)])
        model = Model()
        pool = Cached(Pool([model]), journal)
        stage = consensus(3, temperature=0)
        stage.run_sync(pool, "question")
        result = result_of(stage.run_sync(pool, "question"))
    assert (model.calls, result.cost, result.metadata["cached_calls"]) == (3, TokenUsage(), 3)
