"""Budgets: what a run may spend, what a stage may spend, and what a failure tells.

Runs without a model: the provider is scripted.
"""

from executionkit import Failure, Outcome, ScriptedProvider, Success, TokenUsage, complete, consensus


def report(title: str, outcome: Outcome[str]) -> None:
    """Print what came of a run and what it cost."""
    match outcome:
        case Success(result):
            print(f"{title}: {result.value!r}, {result.cost.llm_calls} calls")
        case Failure(error):
            print(f"{title}: {type(error).__name__} after {error.cost.llm_calls} calls: {error}")


def main() -> None:
    """Run one pipeline under three budgets."""
    provider = ScriptedProvider("Paris")
    pipeline = consensus(n=5) >> complete()
    prompt = "What is the capital of France?"

    report("no limit       ", pipeline.run_sync(provider, prompt))
    report("three calls    ", pipeline.run_sync(provider, prompt, max_cost=TokenUsage(llm_calls=3)))
    # Slow, not wrong: a sample that would not fit beside those in flight waits for them.
    report("300 output tok.", pipeline.run_sync(provider, prompt, max_cost=TokenUsage(output_tokens=300)))

    modest = consensus(n=5).within(TokenUsage(llm_calls=2)) | complete()
    report("stage's ceiling", modest.run_sync(provider, prompt))


if __name__ == "__main__":
    main()
