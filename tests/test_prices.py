"""Prices by table and out of `genai-prices`: found, flagged, or not known; never zero in silence."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any, Final, cast

import pytest

from executionkit.core.money import dollars
from executionkit.core.usage import TokenUsage
from executionkit.patterns.complete import complete
from executionkit.prices import Price, Prices, PriceTable, Tier, genai_prices
from executionkit.providers.openai import Provider
from tests.conftest import needs
from tests.doubles import Model, error_of, reply, result_of

pytestmark = pytest.mark.anyio

OPENAI = "https://api.openai.com/v1"
MINI, LOCAL, LARGE = Price("0.25", "2"), Price.free(), Price(2, 8)
TABLE = PriceTable(
    {
        "gpt-5-mini": MINI,
        "command-a": LARGE,
        "gpt-5": LARGE,
        ("llama", "localhost:8080"): LOCAL,
        ("llama", "https://api.groq.com/openai/v1"): MINI,
    }
)


@pytest.mark.parametrize(
    ("model", "base_url", "price"),
    [
        ("gpt-5-mini", OPENAI, MINI),
        ("gpt-5-mini", "", MINI),
        ("llama", "http://localhost:8080/v1", LOCAL),
        ("llama", "https://key@API.groq.com/other", MINI),
        ("llama", OPENAI, None),
        ("llama", "", None),
        ("gpt-5.1", OPENAI, None),
        ("gpt-5mini", OPENAI, None),
        ("GPT-5", OPENAI, None),
        ("openai/gpt-5", OPENAI, None),
        ("", OPENAI, None),
    ],
)
def test_a_row_is_found_by_the_whole_name(model: str, base_url: str, price: Price | None) -> None:
    assert TABLE.price(model, base_url) == price


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("gpt-5-mini-2025-08-07", 2),
        ("gpt-5-nano", 8),
        ("command-a-vision", 8),
        ("gpt-5:free", 8),
        ("gpt-5@eu", 8),
    ],
)
def test_a_row_found_by_the_beginning_says_so(model: str, output: int) -> None:
    found = TABLE.price(model, OPENAI)
    assert found is not None
    assert (found.output, found.matched_by) == (output, "prefix")


def test_a_table_that_follows_is_asked_before_a_prefix_is_taken() -> None:
    exact = PriceTable({"gpt-5-nano": Price(1, 1)})
    table = PriceTable({"gpt-5": LARGE}, then=exact)
    assert table.price("gpt-5-nano", "") == Price(1, 1)
    assert table.price("gpt-5", "") == LARGE
    begun = table.price("gpt-5-nano-2025", "")
    assert begun == Price(2, 8, matched_by="prefix")
    fallback = PriceTable({}, then=PriceTable({"gpt": LARGE}))
    assert fallback.price("gpt-5", "") == Price(2, 8, matched_by="prefix")


def test_a_table_is_a_value() -> None:
    same = PriceTable({"gpt-5": Price("2", "8.0")})
    assert same == PriceTable({"gpt-5": LARGE})
    assert hash(same) == hash(PriceTable({"gpt-5": LARGE}))
    assert same != PriceTable({"gpt-5": MINI})
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE
    assert isinstance(TABLE, Prices)
    provider = Provider(OPENAI, "gpt-5", price=same)
    assert hash(provider) == hash(Provider(OPENAI, "gpt-5", price=PriceTable({"gpt-5": LARGE})))


@pytest.mark.parametrize(
    ("rows", "then", "kind", "words"),
    [
        ({5: MINI}, None, TypeError, "a row is named by a model"),
        ({("a", "b", "c"): MINI}, None, TypeError, "a row is named by a model"),
        ({"": MINI}, None, ValueError, "has no name"),
        ({"a": 0.5}, None, TypeError, "the price of 'a' must be a Price, not float"),
        ({}, MINI, TypeError, "then must have a method price"),
        ({}, PriceTable, TypeError, "then must have a method price"),
    ],
)
def test_a_wrong_table_is_refused(rows: Any, then: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        PriceTable(rows, then=then)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"price": 0.5}, TypeError, "price must be a Price"),
        ({"price": Price}, TypeError, "price must be a Price"),
        ({"price": PriceTable}, TypeError, "price must be a Price"),
        ({"count_tokens": "characters"}, ValueError, 'must be "bytes" or a function'),
        ({"count_tokens": 4}, TypeError, 'must be "bytes" or a function, not int'),
    ],
)
def test_a_provider_checks_its_terms(settings: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Provider(OPENAI, "gpt-5", **settings)


def following(prices: Callable[[], Prices]) -> Prices:
    return PriceTable({}, then=prices())


class Failing:
    """Prices of somebody else's, which are none."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def price(self, model: str, base_url: str) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def failing(answer: object) -> Prices:
    return Failing(answer)


GENAI = partial(genai_prices)
UNHEARD = "command-a-unheard-of"
CASES = [
    *((TABLE, model, OPENAI) for model in ("gpt-5.1", "GPT-5", "openai/gpt-5", "o3", "llama", "mini", " gpt-5", "gpt-5 ")),
    *((TABLE, model, OPENAI) for model in ("gpt-5-nano", "gpt-5-mini-2025-08-07", "command-a-reasoning", "gpt-5:free")),
    *((TABLE, "llama", url) for url in ("", "http://localhost/v1", "http://localhost:8081", "https://groq.com")),
    *((GENAI, model, OPENAI) for model in ("my-model", "gpt-99", "text-embedding-3-small", "", "llama-3.3-70b")),
    *((GENAI, "gpt-5", url) for url in ("", "http://localhost:8000/v1", "https://x.openai.azure.com/openai/v1")),
    *((GENAI, "gpt-4o", url) for url in ("https://proxy.example/v1", "http://10.0.0.1/v1")),
    *((GENAI, UNHEARD, "https://api.cohere.com/v2"), (GENAI, "sonar-deep-research", "https://api.perplexity.ai")),
    *((partial(genai_prices, provider=name), "gpt-5", "") for name in ("nobody", "anthropic", "deepseek")),
    *((partial(following, GENAI), model, OPENAI) for model in ("gpt-99", "my-tune")),
    *((given, "gpt-5", OPENAI) for given in (0.5, "2", {"input": 1}, Price, None)),
    *((partial(failing, answer), "gpt-5", OPENAI) for answer in (None, 0, RuntimeError("no list"))),
]  # fmt: skip
"""Who is to know the price, the model, and the address: none of these is certain."""


@needs("genai_prices")
@pytest.mark.parametrize(("given", "model", "base_url"), CASES)
async def test_a_price_that_is_not_certain_is_refused_or_flagged(
    given: Any, model: str, base_url: str
) -> None:
    provider = Model(lambda asked: reply("Paris", 1000, 500))
    if isinstance(given, partial):
        given = cast("partial[Prices]", given)()
    provider.price, provider.model, provider.base_url = given, model, base_url  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    limited = await complete().run(provider, "x", max_cost=TokenUsage(usd=Decimal(1)))
    free = result_of(await complete().run(provider, "x"))
    if provider.calls == 2:
        assert (
            result_of(limited).metadata["price_matched_by"] == free.metadata["price_matched_by"] == "prefix"
        )
        assert (free.cost.usd or 0) > 0
    else:
        assert "give its provider a price" in str(error_of(limited))
        assert error_of(limited).cost == TokenUsage()
        assert free.cost.usd is None
        assert free.metadata.get("unpriced_calls") == (None if given is None else 1)


def test_there_are_forty_such_cases() -> None:
    assert len(CASES) >= 40


@needs("genai_prices")
@pytest.mark.parametrize(
    ("model", "base_url", "matched_by"),
    [
        ("gpt-5-mini", OPENAI, "name"),
        ("claude-sonnet-4-5", "https://api.anthropic.com/v1", "name"),
        ("claude-sonnet-4-5-20250929", "https://api.anthropic.com/v1", "prefix"),
        ("gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1beta/openai", "name"),
    ],
)
def test_genai_prices_are_flagged_as_they_were_found(model: str, base_url: str, matched_by: str) -> None:
    found = genai_prices().price(model, base_url)
    assert found is not None
    assert found.matched_by == matched_by


SIX = ("openai", "anthropic", "google", "openrouter", "mistral", "x-ai")


def models() -> Iterator[tuple[str, str]]:
    from genai_prices.data_snapshot import get_snapshot

    for provider in get_snapshot().providers:
        if provider.id in SIX:
            for model in provider.models:
                yield provider.id, model.id


def differing(models: Iterable[tuple[str, str]], random: Random, usages: int) -> tuple[int, list[Any]]:
    """Return how many models have a price, and the usages that cost something else than at `genai_prices`."""
    from genai_prices import Usage, calc_price

    priced, different = 0, list[Any]()
    for provider, model in models:
        price = genai_prices(provider=provider).price(model, "")
        if price is None:
            continue
        priced += 1
        for _ in range(usages):
            given, taken = random.choice((900, 300_000, 2_000_000)), random.randint(0, 200_000)
            given = random.randint(0, given)
            read = random.randint(0, given)
            write = random.randint(0, given - read)
            usage = Usage(
                input_tokens=given, output_tokens=taken, cache_read_tokens=read, cache_write_tokens=write
            )
            theirs = calc_price(usage, model, provider_id=provider).total_price
            ours = dollars(price.rates.cost(given, taken, read, write))
            if abs(ours - theirs) > Decimal("1e-12"):
                different.append((provider, model, given, taken, read, write, ours, theirs))
    return priced, different


USAGES: Final = int(os.environ.get("EXECUTIONKIT_USAGES", "3"))


@needs("genai_prices")
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_costs_are_those_of_genai_prices() -> None:
    """All models of six providers; in the long form a thousand usages each."""
    priced, different = differing(models(), Random(5), USAGES)
    assert different == []
    assert priced > 800


@needs("genai_prices")
def test_the_package_never_imports_it() -> None:
    program = "import executionkit.prices, sys; executionkit.prices.genai_prices(); print('genai_prices' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.prices.find_spec", {"genai_prices": None}.get)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[prices\]"'):
        genai_prices()


def test_a_tier_holds_for_all_tokens_of_a_longer_call() -> None:
    rates = Price(1, 2, tiers=(Tier(100, 10, 20), Tier(1000, 100, 200))).rates
    assert [dollars(rates.cost(tokens, 0)) for tokens in (100, 101, 1001)] == [
        Decimal("0.0001"),
        Decimal("0.00101"),
        Decimal("0.1001"),
    ]
