"""Prices as data: by hand, in a table, or out of `genai-prices` (extra `prices`).

A provider has its price in an attribute `price`: a `Price`, or `Prices` that are asked once a provider and
run. With it every cost has `usd`, and `max_cost=TokenUsage(usd=Decimal("0.50"))` limits money.
"""

from collections.abc import Mapping
from decimal import Context, Decimal
from importlib.util import find_spec
from typing import Any, Final, Protocol, cast, runtime_checkable

import msgspec
from msgspec.structs import replace

from executionkit.core.money import Dollars, Price, Tier

__all__ = ["Dollars", "Price", "PriceTable", "Prices", "Tier", "genai_prices"]


@runtime_checkable
class Prices(Protocol):
    """Knows prices. No inheritance is needed, only this method."""

    def price(self, model: str, base_url: str) -> Price | None:
        """Return the price of a model.

        Args:
            model: Its name as the server has it.
            base_url: The server's address; empty where the provider names none.

        Returns:
            The price, or None where it is not known. Never a guess that does not say so in `matched_by`.
        """
        ...


class PriceTable:
    """Prices by model, or by model and server.

    A row for the model at this server is taken first, then one for the model anywhere, then what `then` knows
    by the whole name. Only where there is none of these is a row taken whose name the model's begins with, up
    to a `-`, `:`, `@` or `/`, the longest first. That is a dated version, mostly, but it may be another
    model: the price says `matched_by="prefix"`, and so does every result that it priced.

    Args:
        rows: Prices by the name of the model, or by the pair of that and the server's host (with its port,
            where it has one) or address.
        then: What to ask for a model that is in no row.

    Raises:
        TypeError: A row's name is neither text nor a pair of texts, or its price is not a `Price`.
        ValueError: A name is empty.

    >>> table = PriceTable({"gpt-5-mini": Price("0.25", "2"), ("llama", "localhost:8080"): Price.free()})
    >>> table.price("gpt-5-mini", "https://api.openai.com/v1")
    Price(input=Decimal('0.25'), output=Decimal('2'), per_call=Decimal('0'))
    >>> table.price("gpt-5-mini-2025-08-07", "https://api.openai.com/v1").matched_by
    'prefix'
    >>> table.price("gpt-5", "https://api.openai.com/v1")
    """

    __slots__ = ("_rows", "_then")

    def __init__(self, rows: Mapping[str | tuple[str, str], Price], *, then: Prices | None = None) -> None:
        self._rows: Final = {_checked_name(name): _checked_price(name, price) for name, price in rows.items()}
        self._then: Final = _checked_prices(then)

    def price(self, model: str, base_url: str) -> Price | None:
        """Return the price of a model; see `Prices`."""
        host = _host(base_url)
        row = self._rows.get((model, host)) or self._rows.get((model, ""))
        if row is not None:
            return row
        found = None if self._then is None else self._then.price(model, base_url)
        if found is not None and found.matched_by == "name":
            return found
        begun = [key for key in self._rows if key[1] in {host, ""} and _begins_with(model, key[0])]
        if not begun:
            return found
        longest = max(begun, key=lambda key: (len(key[0]), key[1]))
        return replace(self._rows[longest], matched_by="prefix")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PriceTable):
            return NotImplemented
        return (self._rows, self._then) == (other._rows, other._then)

    def __hash__(self) -> int:
        return hash((frozenset(self._rows.items()), self._then))

    def __repr__(self) -> str:
        then = "" if self._then is None else f", then={self._then!r}"
        return f"{type(self).__name__}({len(self._rows)} rows{then})"

    def __reduce__(self) -> tuple[object, ...]:
        return _table, (self._rows, self._then)


def _table(rows: Mapping[str | tuple[str, str], Price], then: Prices | None) -> PriceTable:
    return PriceTable(rows, then=then)


def _checked_name(name: object) -> tuple[str, str]:
    model, server = cast("tuple[object, ...]", name) if _is_pair(name) else (name, "")
    if not isinstance(model, str) or not isinstance(server, str):
        raise TypeError(f"a row is named by a model, or by a pair of model and server, not {name!r:.80}")
    if not model:
        raise ValueError("a row has no name; name the model that it is the price of")
    return model, _host(server)


def _is_pair(name: object) -> bool:
    return isinstance(name, tuple) and len(cast("tuple[object, ...]", name)) == 2


def _checked_price(name: object, price: object) -> Price:
    if not isinstance(price, Price):
        raise TypeError(f"the price of {name!r:.80} must be a Price, not {type(price).__name__}")
    return price


def _checked_prices(prices: object) -> Prices | None:
    if prices is None or (isinstance(prices, Prices) and not isinstance(prices, type)):
        return prices
    raise TypeError(f"then must have a method price(model, base_url), not be {type(prices).__name__}")


def _host(address: str) -> str:
    """Return the host of an address, with its port where it has one; a bare host as it is.

    >>> _host("https://user@api.openai.com/v1"), _host("localhost:8080"), _host("")
    ('api.openai.com', 'localhost:8080', '')
    """
    return address.rpartition("://")[2].partition("/")[0].rpartition("@")[2].lower()


def _begins_with(model: str, name: str) -> bool:
    return model.startswith(name) and model[len(name) : len(name) + 1] in {"-", ":", "@", "/"}


_NOT_BY_THE_TOKEN: Final = frozenset({"output_reasoning_mtok", "output_citation_mtok"})
"""Prices of parts of the output that no server reports apart."""
_KINDS: Final = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")


class _GenaiPrices(msgspec.Struct, frozen=True):
    provider: str | None

    def price(self, model: str, base_url: str) -> Price | None:
        """Return the price of a model; see `Prices`."""
        from genai_prices.data_snapshot import get_snapshot  # takes 0.4 s to import

        address = None if self.provider else base_url
        if not (self.provider or address):
            return None
        try:
            owner, info = get_snapshot().find_provider_model(model, None, self.provider, address)
        except LookupError:
            return None
        if owner.id == "azure" and not self.provider:
            return None  # a deployment is called what its owner likes
        return _read(owner, info, model)


def genai_prices(*, provider: str | None = None) -> Prices:
    """Return the prices of the package `genai-prices` (extra `prices`), which is imported when first asked.

    A model that it finds by the beginning of the name is flagged `"prefix"`, one in the list of a server that
    passes others' models on `"other server"`. Not known are: servers that it does not have, models whose
    price for input or output it lacks, and deployments at Azure, whose names say nothing of the model. What
    is not counted in text tokens (audio, images, searches, cache kept for an hour) is not priced. A price
    that depends on the hour is that of the moment when the run first asks the provider.

    Args:
        provider: Which of its providers to look in, such as `"openai"`; None to go by the server's address.

    Raises:
        ModuleNotFoundError: It is not installed; the message says how to.
    """
    if find_spec("genai_prices") is None:
        raise ModuleNotFoundError(
            'genai-prices is not installed; in the clone, run: pip install ".[prices]"', name="genai_prices"
        )
    return _GenaiPrices(provider)


def _read(owner: Any, info: Any, model: str) -> Price | None:
    """Return what `genai-prices` knows of a model as our own; None where that is not enough."""
    from datetime import UTC, datetime

    found: Any = info.get_prices(datetime.now(UTC))
    given: dict[str, Any] = found.__dict__
    prices: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not {"input_mtok", "output_mtok"} <= prices.keys() or _NOT_BY_THE_TOKEN & prices.keys():
        return None
    limits = sorted({tier.start for name in _KINDS for tier in getattr(prices.get(name), "tiers", ())})
    per_thousand = prices.get("requests_kcount", Decimal(0))
    return Price(
        **_amounts(prices, -1),
        tiers=tuple([Tier(limit, **_amounts(prices, limit)) for limit in limits]),
        per_call=getattr(per_thousand, "base", per_thousand).scaleb(-3, Context(prec=60)),
        matched_by=_matched(owner, info, model.lower()),
    )


def _amounts(prices: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Return the amounts that hold above a limit of input tokens; -1 for those without one."""
    return {name.removesuffix("_mtok"): _at(prices.get(name), limit) for name in _KINDS}


def _at(price: Any, limit: int) -> Any:
    if not hasattr(price, "tiers"):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= limit]
    return reached[-1] if reached else price.base


def _matched(owner: Any, info: Any, model: str) -> Any:
    if not any(own is info for own in owner.models):
        return "other server"
    return "name" if model == info.id.lower() or _equals(info.match, model) else "prefix"


def _equals(clause: Any, model: str) -> bool:
    """Tell whether a rule names a model whole."""
    if hasattr(clause, "or_"):
        return any(_equals(part, model) for part in clause.or_)
    return getattr(clause, "equals", "").lower() == model
