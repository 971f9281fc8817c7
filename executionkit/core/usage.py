"""What a run costs: tokens and calls, as one value that adds and subtracts."""

from collections.abc import Mapping
from typing import Final, cast

import msgspec

__all__ = ["NO_USAGE", "TokenUsage", "checked_budget", "read_usage", "sane_usage"]

_LARGEST_SANE_COUNT: Final = 1_000_000_000
_INPUT_KEYS: Final = ("prompt_tokens", "input_tokens")
_OUTPUT_KEYS: Final = ("completion_tokens", "output_tokens")


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens and calls, spent or allowed.

    As a budget (`max_cost`), 0 in a field means no limit there and a positive number is the limit.

    Args:
        input_tokens: Prompt tokens.
        output_tokens: Completion tokens.
        llm_calls: Requests sent to a model, failed attempts included.

    >>> TokenUsage(10, 5, 1) + TokenUsage(20, 5, 2)
    TokenUsage(input_tokens=30, output_tokens=10, llm_calls=3)
    >>> TokenUsage(10, 5, 1) - TokenUsage(4, 5, 0)
    TokenUsage(input_tokens=6, output_tokens=0, llm_calls=1)
    """

    input_tokens: int = 0
    output_tokens: int = 0
    llm_calls: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.llm_calls + other.llm_calls,
        )

    def __sub__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.llm_calls - other.llm_calls,
        )


NO_USAGE: Final = TokenUsage()


def checked_budget(budget: object) -> TokenUsage | None:
    """Return a usable budget, or None where nothing is limited.

    Raises:
        TypeError: It is not a `TokenUsage`, or a field is not an `int`.
        ValueError: A field is negative.
    """
    if budget is None:
        return None
    if not isinstance(budget, TokenUsage):
        raise TypeError(f"a budget must be a TokenUsage, not {type(budget).__name__}")
    for name in TokenUsage.__struct_fields__:
        count: object = getattr(budget, name)
        if type(count) is not int:
            raise TypeError(f"budget {name} must be an int, not {type(count).__name__}")
        if count < 0:
            raise ValueError(f"budget {name} must be 0 (no limit) or positive, not {count}")
    return budget if budget != NO_USAGE else None


def sane_usage(usage: object) -> TokenUsage | None:
    """Return a usage that can be counted; None where it is none, or a figure is negative or absurd.

    >>> sane_usage(TokenUsage(0, -5, 1)) is None
    True
    """
    if not isinstance(usage, TokenUsage):
        return None
    figures: tuple[object, ...] = (usage.input_tokens, usage.output_tokens, usage.llm_calls)
    return usage if all(map(_is_sane, figures)) else None


def _is_sane(count: object) -> bool:
    return type(count) is int and 0 <= count <= _LARGEST_SANE_COUNT


def read_usage(usage: object) -> tuple[int | None, int | None]:
    """Read reported input and output tokens, in the OpenAI or the Anthropic key dialect.

    None stands for a figure that is missing or absurd: negative, not a whole number, or above 10**9.

    >>> read_usage({"prompt_tokens": 12, "completion_tokens": 3})
    (12, 3)
    >>> read_usage({"input_tokens": 12, "output_tokens": -3})
    (12, None)
    """
    if type(usage) is not dict and not isinstance(usage, Mapping):
        return None, None
    counts = cast("Mapping[object, object]", usage)
    return _read_count(counts, _INPUT_KEYS), _read_count(counts, _OUTPUT_KEYS)


def _read_count(usage: Mapping[object, object], keys: tuple[str, str]) -> int | None:
    for key in keys:
        count = usage.get(key)
        if type(count) is int and 0 <= count <= _LARGEST_SANE_COUNT:
            return count
        if count is not None:
            return None
    return None
