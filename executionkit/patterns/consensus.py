"""Consensus: ask several times and take the answer given most often."""

from typing import Literal

from typing_extensions import override

from executionkit.context import Context
from executionkit.core.checks import check_completion, check_count
from executionkit.core.voting import VotingStrategy, fold, tally_of
from executionkit.errors import BudgetExhaustedError, ConsensusFailedError
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, opening
from executionkit.stage import Stage

__all__ = ["Consensus", "consensus"]


class Consensus(Stage[str, str], frozen=True):
    """A vote; see `consensus`."""

    n: int = 5
    strategy: VotingStrategy = VotingStrategy.MAJORITY
    temperature: float | None = 0.9
    max_tokens: int = DEFAULT_MAX_TOKENS
    max_concurrency: int = 5

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_count("max_concurrency", self.max_concurrency)
        check_completion(self.temperature, self.max_tokens)

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        messages = opening(value)
        votes: dict[int, str] = {}
        context.report(lambda: {"votes": tuple([votes[index] for index in sorted(votes)])})

        async def draw(index: int) -> None:
            response = await context.complete(
                messages, temperature=self.temperature, max_tokens=self.max_tokens
            )
            votes[index] = response.content

        # Where the budget ends the vote, the samples in flight are paid for: they are worth waiting for.
        await context.gather(draw, self.n, self.max_concurrency, finish_on=(BudgetExhaustedError,))
        samples = [votes[index] for index in range(self.n)]
        tally = tally_of(map(fold, samples))
        verdict = tally.verdict(self.strategy)
        if verdict is None:
            raise ConsensusFailedError(f"the {self.n} samples gave {tally.unique} different answers")
        metadata = {
            "agreement_ratio": verdict.agreement,
            "unique_responses": tally.unique,
            "tie_count": tally.ties,
        }
        return PatternResult(samples[verdict.index], verdict.agreement, metadata=metadata)


def consensus(
    n: int = 5,
    *,
    strategy: VotingStrategy | Literal["majority", "unanimous"] = VotingStrategy.MAJORITY,
    temperature: float | None = 0.9,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    max_concurrency: int = 5,
) -> Consensus:
    """Ask `n` times and take the answer given most often (Wang et al. 2022, "Self-Consistency", section 2).

    Samples vote by their text, stripped and with runs of white space folded; the first seen wins a tie. The
    value is the winner's original text, the score its share of the votes.

    Args:
        n: Samples to draw.
        strategy: `"majority"`, or `"unanimous"`, which fails on any difference.
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most, a sample.
        max_concurrency: Samples in flight at once.

    Metadata:
        agreement_ratio (float): The winner's share of the votes.
        unique_responses (int): Different answers.
        tie_count (int): Answers that share the most votes; 1 is a clean win.
        votes (tuple of str): On an error: the samples drawn before it.

    Returns (on `run`):
        ConsensusFailedError: A unanimous vote with any difference.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range, or the strategy is unknown.
    """
    return Consensus(n, VotingStrategy(strategy), temperature, max_tokens, max_concurrency)
