"""The README's example, on a real server: start Ollama and pull llama3.2 first."""

from returns.result import Failure, Success

from executionkit import Provider, TokenUsage, consensus, refine


def is_short(text: str) -> float:
    """Score a draft from 0 to 1."""
    return min(1.0, 300 / max(1, len(text)))


pipeline = consensus(n=5) >> refine(is_short, max_iterations=2)  # a value: nothing has run yet
provider = Provider("http://localhost:11434/v1", "llama3.2")  # Ollama, or any other such server

outcome = pipeline.run_sync(provider, "Why is the sky blue?", max_cost=TokenUsage(llm_calls=20))
match outcome:
    case Success(result):
        print(result.value, result.score, result.cost)
    case Failure(error):
        print(type(error).__name__, error, error.cost)
