"""One pipeline on three servers: OpenAI, Azure and Ollama. No wrapper: each is asked in its own dialect.

Needs the keys in the environment, and Ollama on this machine; leave out what you have not.
"""

from collections.abc import Mapping

import msgspec

from executionkit import Failure, LLMProvider, Provider, Secret, Success, TokenUsage, consensus, structured


class City(msgspec.Struct):
    """What is asked for."""

    name: str
    people: int


SERVERS: Mapping[str, LLMProvider] = {
    "OpenAI": Provider("https://api.openai.com/v1", "gpt-5-mini", Secret.from_env("OPENAI_API_KEY")),
    "Azure": Provider(
        "https://example.openai.azure.com/openai/v1",
        "our-deployment",
        Secret.from_env("AZURE_OPENAI_API_KEY"),
    ),
    "Ollama": Provider("http://localhost:11434/v1", "llama3.2"),
}

pipeline = consensus(n=3).map(
    lambda city: f"Which city is this, and how many live there? {city}"
) >> structured(City)


def compare(servers: Mapping[str, LLMProvider]) -> None:
    """Ask each, and print what came of it and what it cost."""
    for name, provider in servers.items():
        outcome = pipeline.run_sync(
            provider, "What is the capital of France?", max_cost=TokenUsage(llm_calls=10), deadline=60
        )
        match outcome:
            case Success(result):
                print(f"{name}: {result.value}, {result.cost.llm_calls} calls")
            case Failure(error):
                print(f"{name}: {type(error).__name__}: {error}, {error.cost.llm_calls} calls")


if __name__ == "__main__":
    compare(SERVERS)
