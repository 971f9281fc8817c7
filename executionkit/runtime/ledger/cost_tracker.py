"""Adding up what calls cost."""

from msgspec.structs import replace

from executionkit.core.money import dollars, picodollars
from executionkit.core.usage import NO_USAGE, TokenUsage, read_usage
from executionkit.provider import LLMResponse

__all__ = ["CostTracker"]


class CostTracker:
    """Adds up calls and tokens in two phases: the call before the await, its tokens after it.

    >>> tracker = CostTracker()
    >>> tracker.reserve_call()
    >>> tracker.record_without_call(LLMResponse("hi", usage={"prompt_tokens": 7, "completion_tokens": 2}))
    >>> tracker.to_usage()
    TokenUsage(input_tokens=7, output_tokens=2, llm_calls=1)
    """

    __slots__ = ("_calls", "_input", "_more", "_output", "_usd", "unpriced")

    def __init__(self) -> None:
        self._calls = self._input = self._output = 0
        self.unpriced: int = 0
        """Calls whose money is not known, once they are settled."""
        self._usd: int | None = None
        """Picodollars; None where no price was known."""
        self._more = NO_USAGE
        """Parts of the tokens: few calls have them."""

    def reserve_call(self) -> None:
        """Count a call that is about to be sent."""
        self._calls += 1

    def record_without_call(self, response: LLMResponse) -> None:
        """Count the tokens of a call that `reserve_call` has counted already."""
        self.settle_call(read_usage(response.usage).or_else(0, 0))

    def record(self, response: LLMResponse) -> None:
        """Count a call and its tokens."""
        self.add_usage(read_usage(response.usage).or_else(0, 0))

    def add_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Count tokens."""
        self._input += input_tokens
        self._output += output_tokens

    def add_usage(self, usage: TokenUsage) -> None:
        """Count calls, tokens and money that were added up elsewhere."""
        self._calls += usage.llm_calls
        self._input += usage.input_tokens
        self._output += usage.output_tokens
        if usage.usd is None:
            self.unpriced += usage.llm_calls
        else:
            self._usd = (self._usd or 0) + picodollars(usage.usd)
        if usage.has_parts:
            self._more += usage

    def settle_call(self, cost: TokenUsage, usd: int | None = None) -> None:
        """Count what a call cost that `reserve_call` has counted already; no call where it was not sent.

        Args:
            cost: Its tokens; money is left out of account here.
            usd: What it cost in picodollars; None where no price is known.
        """
        self._calls -= 1
        self.add_settled(cost, usd)

    def add_settled(self, cost: TokenUsage, usd: int | None = None) -> None:
        """Count calls and what they cost; as `settle_call` for those that no `reserve_call` has counted."""
        self._calls += cost.llm_calls
        self._input += cost.input_tokens
        self._output += cost.output_tokens
        if usd is None:
            self.unpriced += cost.llm_calls
        else:
            self._usd = (self._usd or 0) + usd
        if cost.cache_read_tokens or cost.cache_write_tokens or cost.reasoning_tokens:
            self._more += cost

    def to_usage(self) -> TokenUsage:
        """Return what has been counted."""
        usd = None if self._usd is None else dollars(self._usd)
        if self._more is NO_USAGE:
            return TokenUsage(self._input, self._output, self._calls, usd=usd)
        return replace(
            self._more,
            input_tokens=self._input,
            output_tokens=self._output,
            llm_calls=self._calls,
            usd=usd,
        )

    snapshot = to_usage

    @property
    def picodollars(self) -> int | None:
        """Money counted; None where no price was known."""
        return self._usd

    @property
    def call_count(self) -> int:
        """Calls counted."""
        return self._calls

    @property
    def total_tokens(self) -> int:
        """Tokens counted, both ways."""
        return self._input + self._output
