"""What the runs of a pipeline took that are over, to stand beside what the next one may take. Pure."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from statistics import median_low
from typing import Any, TypeVar

import msgspec

from executionkit.core.money import money_text
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = ["PastRuns", "past_runs"]


class PastRuns(msgspec.Struct, frozen=True):
    """What the runs of a pipeline took that have answered.

    Each figure is counted for itself: the run of the fewest calls need not be that of the fewest tokens.

    Args:
        answered: How many runs there are; the figures are theirs.
        failed: How many runs failed.
        least: The least that one of them took; in `usd` None where no price was known.
        median: The median, of an even number of runs the lower one of the two in the middle.
        most: The most that one of them took.

    >>> str(past_runs([TokenUsage(80, 40, 6), TokenUsage(90, 70, 9), TokenUsage(80, 50, 6)], failed=1))
    '3 runs took 6 to 9 calls (median 6), 40 to 70 output tokens (median 50); 1 failed'
    """

    answered: int = 0
    failed: int = 0
    least: TokenUsage = NO_USAGE
    median: TokenUsage = NO_USAGE
    most: TokenUsage = NO_USAGE

    def __str__(self) -> str:
        """Return calls, output tokens and money on one line, and how many runs failed."""
        failed = f"{self.failed} failed" if self.failed else ""
        if not self.answered:
            return failed or "no run"
        least, median, most = self.least, self.median, self.most
        parts = [
            _span(least.llm_calls, median.llm_calls, most.llm_calls, _calls),
            _span(least.output_tokens, median.output_tokens, most.output_tokens, _tokens),
        ]
        if least.usd is not None and median.usd is not None and most.usd is not None:
            parts.append(_span(least.usd, median.usd, most.usd, money_text))
        runs = "1 run" if self.answered == 1 else f"{self.answered:,} runs"
        return "; ".join(filter(None, [f"{runs} took {', '.join(parts)}", failed]))


_N = TypeVar("_N", int, Decimal)


def _span(least: _N, median: _N, most: _N, text: Callable[[_N], str]) -> str:
    if least == most:
        return text(most)
    return f"{text(least).split(' ')[0]} to {text(most)} (median {text(median).split(' ')[0]})"


def _calls(count: int) -> str:
    return f"{count:,} call{'' if count == 1 else 's'}"


def _tokens(count: int) -> str:
    return f"{count:,} output token{'' if count == 1 else 's'}"


def past_runs(costs: Sequence[TokenUsage], *, failed: int = 0) -> PastRuns:
    """Return what runs took, of which each cost so much; money of those whose price was known."""
    if not costs:
        return PastRuns(failed=failed)
    return PastRuns(len(costs), failed, *[_each(pick, costs) for pick in (min, median_low, max)])


def _each(pick: Callable[[list[Any]], Any], costs: Sequence[TokenUsage]) -> TokenUsage:
    """Return what is picked among the figures of all runs, field by field."""
    counts = [name for name in TokenUsage.__struct_fields__ if name != "usd"]
    figures = {name: pick([getattr(cost, name) for cost in costs]) for name in counts}
    money = [cost.usd for cost in costs if cost.usd is not None]
    return TokenUsage(**figures, usd=pick(money) if money else None)
