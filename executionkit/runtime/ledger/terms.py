"""On which terms a provider is asked: what its calls cost, and how the tokens of a prompt are counted."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from executionkit.core.budget import Refused, bound_input, estimate_input
from executionkit.core.dialect import Message, Request, ToolSpec
from executionkit.core.foreign import described
from executionkit.core.frozen import EMPTY
from executionkit.core.money import Matched, Price, Rates
from executionkit.errors import StageError
from executionkit.errors.handling import wrapping
from executionkit.prices import Prices

__all__ = ["NO_TERMS", "CountTokens", "Counted", "Terms", "checked_terms", "terms_of"]

CountTokens: TypeAlias = Callable[[list[Message], list[ToolSpec] | None], int]
"""Returns the input tokens of a request, or a bound of them."""

Counted: TypeAlias = Literal["estimate", "bytes", "count_tokens"]
"""What a reservation of input rests on: an estimate of four bytes a token, a bound of one byte a token, or a
function of the provider's."""

_REMEDY: Final = (
    "give its provider a price, such as Provider(..., price=Price(input=..., output=...)), "
    "Price.free() where it costs nothing, or executionkit.prices.genai_prices()"
)


class Terms(msgspec.Struct, frozen=True):
    """What a call to a provider costs, and how its input is counted.

    Args:
        rates: Its price as whole numbers; None where none is known.
        matched_by: How the price was found.
        unknown: Why no price is known.
        is_wanted: Whether the provider names prices at all, so that a missing one is to be told.
        counted_by: How its input is counted.
        count: The function that counts it, where that is the provider's.
        added: Fields that the provider adds to every request.
        is_notable: Whether a result has to say how its calls were priced.
    """

    rates: Rates | None = None
    matched_by: Matched = "name"
    unknown: str = "the provider has no price"
    is_wanted: bool = False
    counted_by: Counted = "estimate"
    count: CountTokens | None = None
    added: Mapping[str, Any] = EMPTY
    is_notable: bool = False

    @property
    def refusal(self) -> Refused:
        """Why a budget in money cannot be held where no price is known."""
        return Refused(f"it is in money, and {self.unknown}", is_unpriced=True, remedy=_REMEDY)

    def input_of(self, request: Request) -> int:
        """Count the input tokens of a request.

        Raises:
            StageError: The provider's own function raised, or returned no count.
        """
        messages, tools = request.messages, request.tools
        if self.counted_by == "estimate":
            return estimate_input(messages, tools)
        # What is neither a message nor a tool may become a part of the prompt as well.
        others: list[Mapping[str, Any]] = [] if request.form is None else [request.form.schema]
        others += [fields for fields in (request.options, self.added) if fields]
        if self.count is None:
            return bound_input(messages, tools, *others)
        with wrapping(StageError, "count_tokens"):
            counted: object = self.count(messages, tools)
        if type(counted) is not int or counted < 0:
            raise StageError(f"count_tokens returned {counted!r:.80}; a count is a whole number of 0 or more")
        return counted + bound_input(*others) if others else counted


NO_TERMS: Final = Terms()


def terms_of(provider: object, attribute: Callable[[object, str], Any]) -> Terms:
    """Return the terms of a provider, as its attributes `price` and `count_tokens` have them.

    Args:
        provider: The provider.
        attribute: Looks an attribute up, and returns None where there is none.
    """
    given, counts = attribute(provider, "price"), attribute(provider, "count_tokens")
    if given is None and counts is None:
        return NO_TERMS
    count: CountTokens | None = cast("CountTokens", counts) if callable(counts) else None
    counted_by: Counted = (
        "count_tokens" if count is not None else "bytes" if counts == "bytes" else "estimate"
    )
    further = attribute(provider, "extra_body")
    added: Mapping[str, Any] = cast("Mapping[str, Any]", further) if isinstance(further, Mapping) else EMPTY
    if given is None:
        return Terms(counted_by=counted_by, count=count, added=added)
    model, base_url = attribute(provider, "model"), attribute(provider, "base_url")
    price, unknown = _price(
        given, model if isinstance(model, str) else "", base_url if isinstance(base_url, str) else ""
    )
    if price is None:
        return Terms(None, "name", unknown, True, counted_by, count, added, is_notable=True)
    is_notable = price.matched_by != "name"
    return Terms(price.rates, price.matched_by, "", True, counted_by, count, added, is_notable)


def checked_terms(price: object, count_tokens: object) -> None:
    """Check what a provider says of its price and of how tokens are counted.

    Raises:
        TypeError: The price is neither a `Price` nor `Prices`, or what counts is not callable.
        ValueError: What counts is a text other than `"bytes"`.
    """
    is_price = isinstance(price, Price | Prices) and not isinstance(price, type)
    if price is not None and not is_price:
        raise TypeError(f"price must be a Price, or have a method price(model, base_url), not {price!r:.80}")
    if isinstance(count_tokens, str):
        if count_tokens != "bytes":
            raise ValueError(f'count_tokens must be "bytes" or a function, not {count_tokens!r:.80}')
    elif count_tokens is not None and not callable(count_tokens):
        raise TypeError(f'count_tokens must be "bytes" or a function, not {type(count_tokens).__name__}')


def _price(given: object, model: str, base_url: str) -> tuple[Price | None, str]:
    """Return the price of a model, or why it is not known."""
    if isinstance(given, Price):
        return given, ""
    if not isinstance(given, Prices) or isinstance(given, type):
        return None, f"the provider's `price` is {type(given).__name__}, neither a Price nor Prices"
    try:
        found: object = given.price(model, base_url)
    except Exception as error:  # noqa: BLE001 - whatever a table of somebody else's raises
        return None, f"its prices raised {described(error)}"
    if isinstance(found, Price):
        return found, ""
    place = f" at {base_url.partition('?')[0].rpartition('@')[2]}" if base_url else ""
    return None, f"no price is known for the model {model!r}{place}"
