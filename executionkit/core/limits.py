"""When a loop should answer with what it has, while there is still budget for that."""

from decimal import Decimal

from executionkit.core.usage import TokenUsage

__all__ = ["is_last_call"]

_GROWTH = 1.25
"""What a round adds to the next request, as a factor; a guess on the safe side."""

_LEAST_OUTPUT = 128


def is_last_call(left: TokenUsage | None, last: TokenUsage) -> bool:
    """Tell whether a budget has room for one more call, but hardly for two.

    Args:
        left: What is left; 0 in a field means no limit there, None that something has run out.
        last: What the last call took.

    >>> is_last_call(TokenUsage(llm_calls=1), TokenUsage(200, 20, 1))
    True
    >>> is_last_call(TokenUsage(input_tokens=450), TokenUsage(200, 20, 1))
    True
    >>> is_last_call(TokenUsage(input_tokens=4500), TokenUsage(200, 20, 1))
    False
    """
    if left is None:
        return False
    needed_input = last.input_tokens * _GROWTH * (1 + _GROWTH)
    needed_output = last.output_tokens + _LEAST_OUTPUT
    return (
        left.llm_calls == 1
        or 0 < left.input_tokens < needed_input
        or 0 < left.output_tokens < needed_output
        or (left.usd is not None and left.usd < (last.usd or 0) * Decimal(_GROWTH * (1 + _GROWTH)))
    )
