"""Money: counted in every cost, limited like calls and tokens, never zero in silence."""

import asyncio
import os
import runpy
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from executionkit import compat
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import (
    BudgetExhaustedError,
    ExecutionKitError,
    PermanentError,
    ProviderError,
    StageError,
)
from executionkit.events import AttemptFinished, CallFinished, Event, RunFinished, StageFinished
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from executionkit.patterns.refine import refine
from executionkit.patterns.step import step
from executionkit.prices import Price, PriceTable, Tier
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolSpec, user
from executionkit.providers.pool import Pool
from executionkit.runtime.frame import Settings
from executionkit.runtime.ledger.accounts import Account
from tests.doubles import (
    AT_ONCE,
    NEVER,
    Answer,
    Asked,
    Model,
    each,
    error_of,
    new_context,
    reply,
    result_of,
    soon,
)
from tests.spending import Schedule, play

pytestmark = pytest.mark.anyio

DOLLAR_A_TOKEN = Price(1_000_000, 1_000_000)


Count: TypeAlias = Callable[[list[Message], list[ToolSpec] | None], Any]


def count_seven(messages: object, tools: object) -> int:
    return 7


class Priced(Model):
    """A model with a price."""

    def __init__(
        self,
        answer: Answer = lambda asked: reply(),
        price: object = DOLLAR_A_TOKEN,
        ticks: Callable[[Asked], int] = lambda asked: 1,
        count_tokens: Count | str | None = None,
    ) -> None:
        super().__init__(answer, ticks)
        self.price = price
        self.count_tokens = count_tokens
        self.model = "m"
        self.base_url = "https://key@models.example/v1?key=secret"


def usd(amount: str | int) -> TokenUsage:
    return TokenUsage(usd=Decimal(amount))


SCHEDULES: Final = int(os.environ.get("EXECUTIONKIT_SCHEDULES", "150"))
"""20,000 in the long form, `just long money`."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strict", [True, False])
async def test_whatever_happens_the_limit_holds_and_the_books_are_the_servers(strict: bool) -> None:
    played = [await play(Schedule(seed, strict)) for seed in range(SCHEDULES)]
    assert [seed for seed, spent in enumerate(played) if not spent.is_sound] == []
    assert not strict or not any(spent.overshoot for spent in played)
    assert sum(spent.billed > spent.limit * 9 / 10 for spent in played) > 5  # limits that bind, not idle ones


async def test_every_cost_knows_its_money() -> None:
    events: list[Event] = []
    pipeline = complete() >> (complete() & complete())
    result = result_of(await pipeline.run(Priced(), "x", trace=events.append))
    assert result.cost == TokenUsage(9, 6, 3, usd=Decimal(15))
    assert [cost.usd for cost in result.metadata["step_costs"]] == [5, 10]
    assert [cost.usd for cost in result.metadata["step_metadata"][1]["branch_costs"]] == [5, 5]
    costs: dict[type[Event], list[Decimal | None]] = {}
    for event in events:
        if isinstance(event, AttemptFinished | CallFinished | StageFinished | RunFinished):
            costs.setdefault(type(event), []).append(event.cost.usd)
    assert costs[AttemptFinished] == costs[CallFinished] == [5, 5, 5]
    assert costs[StageFinished] == [5, 5, 5, 10, 15]
    assert costs[RunFinished] == [15]
    error = error_of(await (complete() >> complete()).run(Priced(each(reply(), PermanentError("no"))), "x"))
    assert error.cost == TokenUsage(3, 2, 2, usd=Decimal(5))


async def test_each_provider_of_a_vote_has_its_own_price() -> None:
    cheap = Priced(price=Price(1, 1))
    result = result_of(await consensus(4, providers=(Priced(), cheap)).run(Model(), "x"))
    assert [cost.usd for cost in result.metadata["provider_costs"]] == [10, Decimal("0.00001")]
    assert result.cost.usd == Decimal("10.00001")


async def test_what_was_cached_costs_what_it_costs() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
    price = Price(10, 20, cache_read=1)
    result = result_of(await complete().run(Priced(lambda asked: LLMResponse("x", usage=usage), price), "x"))
    assert result.cost.usd == (40 * Decimal(10) + 60 * Decimal(1) + 10 * Decimal(20)) / 1_000_000


async def test_a_budget_in_money_lowers_the_output() -> None:
    model = Priced(lambda asked: reply("Paris", 1, 40), ticks=lambda asked: 3)
    price = Price(0, 1_000_000)
    model.price = price
    result = result_of(await soon(consensus(5).run(model, "capital?", max_cost=usd(300))))
    assert [asked.max_tokens for asked in model.asked] == [300, 260, 220, 180, 140]
    assert model.most_in_flight == 1
    assert result.cost == TokenUsage(5, 200, 5, usd=Decimal(200))


async def test_a_call_that_does_not_fit_is_not_sent() -> None:
    model = Priced(lambda asked: reply("x", 3, 80))
    error = error_of(await (complete(max_tokens=90) >> complete()).run(model, "x", max_cost=usd(100)))
    assert isinstance(error, BudgetExhaustedError)
    assert "$83.00 of $100.00 are spent and the call may come to $22.00 with 16 tokens of output" in str(
        error
    )
    assert error.cost.usd == 83
    assert model.calls == 1


async def test_calls_beside_each_other_wait_for_room() -> None:
    model = Priced(lambda asked: reply("x", 1, 10), Price(0, 1_000_000), ticks=lambda asked: 3)
    stage = consensus(6, max_tokens=100, max_concurrency=6)
    assert result_of(await soon(stage.run(model, "x", max_cost=usd(300)))).cost.usd == 60
    assert model.most_in_flight == 3


async def test_a_stage_within_a_budget_and_a_step_draw_on_the_same_money() -> None:
    async def told(provider: LLMProvider, prompt: str, max_cost: TokenUsage = NO_USAGE) -> PatternResult[str]:
        return PatternResult(str(max_cost.usd))

    model = Priced(price=Price(0, 1_000_000))
    stage = complete() >> step(told)
    assert result_of(await stage.run(model, "x", max_cost=usd(50))).value == "48"
    capped = complete(max_tokens=100).within(usd(20)) | complete(max_tokens=30)
    assert result_of(await capped.run(model, "x", max_cost=usd(50))).cost.usd == 2
    assert model.asked[-1].max_tokens == 20


async def test_the_facade_takes_a_limit_in_money() -> None:
    model = Priced(lambda asked: reply("x", 1, 9), Price(0, 1_000_000))
    result = await compat.consensus(model, "x", num_samples=3, max_cost=usd(100))
    assert result.cost.usd == 27
    with pytest.raises(BudgetExhaustedError) as caught:
        await compat.pipe(model, "x", compat.consensus, max_budget=usd(20))
    assert caught.value.cost.usd == 9
    assert [asked.max_tokens for asked in model.asked[3:]] == [20]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "the provider has no price; give its provider a price, such as Provider"),
        (PriceTable({}), "no price is known for the model 'm' at https://models.example/v1; give"),
        (0.5, "the provider's `price` is float, neither a Price nor Prices"),
    ],
)
async def test_an_unknown_price_under_a_budget_in_money_is_refused(given: object, words: str) -> None:
    model = Priced(price=given)
    if given == PriceTable({}):
        model.base_url = "https://models.example/v1"
    for stage in (complete(), complete().within(usd(3)), consensus(3, quorum=1), refine(max_iterations=1)):
        error = error_of(await stage.run(model, "x", max_cost=usd(5)))
        assert isinstance(error, BudgetExhaustedError)
        assert words in str(error)
        assert "raise max_cost" not in str(error)
        assert (error.cost, model.calls) == (TokenUsage(), 0)


async def test_no_credential_of_an_address_is_told() -> None:
    error = error_of(await complete().run(Priced(price=PriceTable({})), "x", max_cost=usd(5)))
    assert "models.example/v1" in str(error)
    assert "key" not in str(error)
    assert "secret" not in str(error)


async def test_the_priced_one_answers_where_the_other_is_refused() -> None:
    other = Model()
    stage = complete().using(other) | complete()
    result = result_of(await stage.run(Priced(), "x", max_cost=usd(5_000)))
    assert result.cost.usd == 5
    assert other.calls == 0


async def test_without_a_budget_calls_of_unknown_price_are_counted() -> None:
    stage = complete().using(Model()) >> complete() >> consensus(2).using(Model())
    result = result_of(await stage.run(Priced(), "x"))
    assert result.cost.usd == 5
    assert result.metadata["unpriced_calls"] == 3
    steps: Sequence[Any] = result.metadata["step_metadata"]
    assert [step.get("unpriced_calls") for step in steps] == [None, None, None]
    plain = result_of(await complete().run(Model(), "x"))
    assert plain.cost.usd is None
    assert "unpriced_calls" not in plain.metadata
    failing = stage >> complete().using(Model(each(PermanentError("no"))))
    assert error_of(await failing.run(Priced(), "x")).metadata["unpriced_calls"] == 4


async def test_what_is_free_costs_nothing_and_says_so() -> None:
    result = result_of(await complete().run(Priced(price=Price.free()), "x", max_cost=usd(1)))
    assert result.cost.usd == 0
    assert result.metadata == {"finish_reason": "stop"}


async def test_a_servers_own_figure_wins_and_is_flagged() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.0125}
    for model in (
        Priced(lambda asked: LLMResponse("x", usage=usage)),
        Model(lambda asked: LLMResponse("x", usage=usage)),
    ):
        result = result_of(await (complete() >> complete()).run(model, "x"))
        assert result.cost.usd == Decimal("0.025")
        assert result.metadata["usd_reported_calls"] == 2
    limited = Priced(lambda asked: LLMResponse("x", usage=usage), Price(1, 1))
    error = error_of(await (complete() >> complete()).run(limited, "x", max_cost=usd("0.0125")))
    assert error.cost.usd == Decimal("0.0125")


async def test_a_price_found_by_a_prefix_is_flagged_in_the_result_and_in_an_error() -> None:
    table = PriceTable({"m": DOLLAR_A_TOKEN})
    model = Priced(each(reply(), PermanentError("no")), table)
    model.model = "m-2026"
    assert result_of(await complete().run(model, "x")).metadata["price_matched_by"] == "prefix"
    error = error_of(
        await (complete() >> complete()).run(Priced(each(PermanentError("no")), model.price), "x")
    )
    assert "price_matched_by" not in error.metadata
    whole = Priced(price=table)
    assert "price_matched_by" not in result_of(await complete().run(whole, "x")).metadata


@pytest.mark.parametrize(
    ("count_tokens", "counted", "said"),
    [
        (None, 6, "estimate"),
        ("bytes", 47, "bytes"),
        (count_seven, 7, "count_tokens"),
    ],
)
async def test_a_prompt_is_reserved_as_the_provider_counts_it(
    count_tokens: Any, counted: int, said: str
) -> None:
    price = Price(1_000_000, 0)
    model = Priced(lambda asked: reply("x", 3, 2), price, count_tokens=count_tokens)
    result = result_of(await complete().run(model, "x", max_cost=usd(counted)))
    assert result.metadata["input_counted_by"] == said
    error = error_of(await complete().run(model, "x", max_cost=usd(counted - 1)))
    assert f"may come to ${counted}.00 with" in str(error)
    unlimited = result_of(await complete().run(model, "x"))
    assert "input_counted_by" not in unlimited.metadata


@pytest.mark.parametrize("count_tokens", ["bytes", count_seven])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"description": "z" * 999}}},
        {"extra_body": {"documents": ["z" * 999]}},
        {"functions": ({"name": "f", "description": "z" * 999},)},
    ],
)
async def test_fields_that_may_become_a_part_of_the_prompt_are_bounded_as_well(
    count_tokens: Any, fields: dict[str, Any]
) -> None:
    async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        answer = await provider.complete([user(prompt)], max_tokens=20, **fields)
        return PatternResult(answer.content)

    model = Priced(lambda asked: reply("x", 999, 2), Price(1_000_000, 0), count_tokens=count_tokens)
    assert isinstance(error_of(await step(ask).run(model, "x", max_cost=usd(998))), BudgetExhaustedError)
    assert model.calls == 0
    assert result_of(await step(ask).run(model, "x", max_cost=usd(1500))).cost.usd == 999


@pytest.mark.parametrize("count_tokens", ["bytes", count_seven])
@pytest.mark.parametrize("is_pool", [False, True])
async def test_fields_that_a_provider_adds_to_every_request_are_bounded_as_well(
    count_tokens: Any, is_pool: bool
) -> None:
    model = Priced(lambda asked: reply("x", 999, 2), Price(1_000_000, 0), count_tokens=count_tokens)
    model.extra_body = {"documents": ["z" * 999]}  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    asked: Any = Pool([model]) if is_pool else model
    error = error_of(await complete().run(asked, "x", max_cost=usd(998)))
    assert (type(error), model.calls) == (BudgetExhaustedError, 0)
    assert result_of(await complete().run(asked, "x", max_cost=usd(1500))).cost.usd == 999


@pytest.mark.parametrize("answer", [-1, 2.5, "many", None, True])
async def test_a_count_that_is_none_ends_the_stage(answer: Any) -> None:
    model = Priced(count_tokens=lambda messages, tools: answer)
    error = error_of(await complete().run(model, "x", max_cost=usd(99)))
    assert isinstance(error, StageError)
    assert "count_tokens returned" in str(error)
    assert model.calls == 0


async def test_a_count_that_raises_ends_the_stage() -> None:
    def count(messages: object, tools: object) -> int:
        raise OSError("no tokenizer")

    error = error_of(await complete().run(Priced(count_tokens=count), "x", max_cost=usd(99)))
    assert isinstance(error, StageError)
    assert "count_tokens raised OSError: no tokenizer" in str(error)


async def test_a_prompt_that_may_reach_a_tier_is_reserved_at_its_price() -> None:
    price = Price(1_000_000, 0, tiers=(Tier(10, 10_000_000, 0),))
    model = Priced(lambda asked: reply("x", 4, 2), price, count_tokens=lambda messages, tools: 11)
    assert result_of(await complete().run(model, "x", max_cost=usd(110))).cost.usd == 4
    assert "may come to $110.00" in str(error_of(await complete().run(model, "x", max_cost=usd(109))))


async def test_several_answers_of_one_request_fit_together() -> None:
    model = Priced(price=Price(0, 1_000_000))
    context = new_context(model, Account(None, usd(50)), Settings(NEVER, None, None))
    await context.complete([user("x")], max_tokens=20, n=3)
    assert (model.asked[0].max_tokens, model.asked[0].options["n"]) == (16, 3)
    for limit in (usd(2), TokenUsage(output_tokens=2)):
        tight = new_context(model, Account(None, limit), Settings(NEVER, None, None))
        with pytest.raises(BudgetExhaustedError):
            await tight.complete([user("x")], max_tokens=20, n=3)
    assert model.calls == 1


async def test_usage_that_is_missing_settles_at_the_worst() -> None:
    price = Price(1_000_000, 2_000_000, cache_write=3_000_000)
    model = Priced(lambda asked: LLMResponse("x"), price)
    result = result_of(await complete(max_tokens=10).run(model, "x", max_cost=usd(100)))
    assert result.cost == TokenUsage(6, 10, 1, usd=Decimal(6 * 3 + 10 * 2))
    assert result.metadata["usage_estimated"] == 1


async def test_every_attempt_that_was_billed_counts() -> None:
    model = Priced(each(ProviderError("cut", cost=TokenUsage(7, 3, 1)), ProviderError("down"), reply()))
    assert result_of(await complete().run(model, "x", retry=AT_ONCE)).cost == TokenUsage(
        10, 5, 3, usd=Decimal(15)
    )


async def test_prices_are_asked_once_a_provider_and_run() -> None:
    asked: Counter[tuple[str, str]] = Counter()

    class Counting:
        def price(self, model: str, base_url: str) -> Price:
            asked[model, base_url] += 1
            return DOLLAR_A_TOKEN

    model = Priced(price=Counting())
    for _ in range(2):
        result_of(await (consensus(5) >> complete()).run(model, "x"))
    assert asked == {("m", model.base_url): 2}


async def test_money_spent_past_the_ledger_is_charged() -> None:
    async def own(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await provider.complete([user(prompt)])
        return PatternResult("done", cost=TokenUsage(30, 20, 3, usd=Decimal(40)))

    result = result_of(await step(own).run(Priced(), "x"))
    assert result.cost == TokenUsage(30, 20, 3, usd=Decimal(40))
    assert "unpriced_calls" not in result.metadata

    async def silent(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        await provider.complete([user(prompt)])
        return PatternResult("done", cost=TokenUsage(30, 20, 3))

    result = result_of(await step(silent).run(Priced(), "x"))
    assert result.cost.usd == 5
    assert result.metadata["unpriced_calls"] == 2


async def test_a_wrapper_around_the_metered_provider_pays_once() -> None:
    class Wrapper:
        def __init__(self, inner: LLMProvider) -> None:
            self.inner = inner

        async def complete(self, messages: Any, **options: Any) -> LLMResponse:
            return await self.inner.complete(messages, **options)

    async def wrapping(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        return await compat.consensus(Wrapper(provider), prompt, num_samples=2)

    result = result_of(await step(wrapping).run(Priced(), "x", max_cost=usd(5_000)))
    assert result.cost == TokenUsage(6, 4, 2, usd=Decimal(10))


async def test_a_pattern_that_catches_failures_cannot_overspend() -> None:
    async def greedy(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        for _ in range(20):
            try:
                await provider.complete([user(prompt)], max_tokens=30)
            except ExecutionKitError:
                continue
        return PatternResult("done")

    def answer(asked: Asked) -> LLMResponse:
        return reply("x", 1, asked.max_tokens or 0)

    result = result_of(await step(greedy).run(Priced(answer, Price(0, 1_000_000)), "x", max_cost=usd(100)))
    assert result.cost.usd == 90


def test_five_of_twenty_calls_at_once_are_made_with_money_for_five() -> None:
    benchmark = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "money.py"), run_name="money")
    assert asyncio.run(benchmark["ours"]()) == (5, Decimal("0.05"))
