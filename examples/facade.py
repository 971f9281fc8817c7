"""The facade: the same patterns as async functions that raise, and their sync twins.

Runs without a model: the provider is scripted.
"""

from executionkit import ScriptedProvider, TokenUsage, compat


def main() -> None:
    """Vote, refine, and see a budget run out, as exceptions."""
    provider = ScriptedProvider("Paris")

    vote = compat.consensus_sync(provider, "What is the capital of France?", num_samples=3)
    print(f"vote:   {vote.value}, agreement {vote.score:.0%}, {vote.cost.llm_calls} calls")

    piped = compat.pipe_sync(provider, "What is the capital of France?", compat.consensus, compat.consensus)
    print(f"pipe:   {piped.value}, {piped.metadata['step_count']} steps, {piped.cost.llm_calls} calls")

    try:
        compat.consensus_sync(provider, "What is the capital of France?", max_cost=TokenUsage(llm_calls=2))
    except compat.BudgetExhaustedError as error:
        print(f"budget: {error.cost.llm_calls} calls spent, votes so far {error.metadata['votes']}")


if __name__ == "__main__":
    main()
