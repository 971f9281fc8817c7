"""The README's example, on a real server: start Ollama and pull llama3.2 first."""

from typing import Literal

from executionkit import Failure, Provider, Success, TokenUsage, complete, consensus, prompt

Queue = Literal["billing", "delivery", "technical"]

vote = consensus(n=5, output_type=Queue, system="Which queue does the ticket belong to?")
write = prompt("Ticket: {0}\nQueue: {1}\nWrite a short reply.") >> complete(system="You answer tickets.")
pipeline = vote.with_input() >> write  # a frozen value: nothing has run yet

provider = Provider("http://localhost:11434/v1", "llama3.2")  # Ollama, or any other such server
outcome = pipeline.run_sync(provider, "I was charged twice in May.", max_cost=TokenUsage(llm_calls=10))
match outcome:
    case Success(result):
        print(result.value, result.cost)
    case Failure(error):
        print(type(error).__name__, error, error.cost)
