"""Evaluators: a plain function with a critique, and an async one that asks a model on the run's ledger.

Runs without a model: the provider is scripted.
"""

from executionkit import Evaluation, LLMProvider, PatternResult, ScriptedProvider, complete, refine


def mentions_refund(text: str) -> Evaluation:
    """Score a reply by rule, and say what is missing."""
    if "refund" in text:
        return Evaluation(1.0)
    return Evaluation(0.4, "Say when the refund arrives.")


async def asks_critic(text: str, provider: LLMProvider) -> float:
    """Score a reply by asking: this call counts, and obeys the budget, like any other."""
    outcome = await complete(temperature=0.0, max_tokens=5).run(provider, f"Polite? yes or no:\n{text}")
    return 1.0 if outcome.unwrap().value == "yes" else 0.0


def show(title: str, result: PatternResult[str]) -> None:
    """Print the best draft, every score and the calls."""
    print(f"{title}: {result.value} {result.metadata['score_history']}, {result.cost.llm_calls} calls")


def main() -> None:
    """Refine a reply by rule, then another by asking."""
    prompt = "Reply to: where is my money?"

    drafts = ScriptedProvider(["We are on it.", "Your refund arrives on Monday."])
    show("by rule", refine(mentions_refund).run_sync(drafts, prompt).unwrap())

    script = ScriptedProvider(["Wait.", "no", "Thank you for your patience.", "yes"])
    show("by asking", refine(asks_critic).run_sync(script, prompt).unwrap())


if __name__ == "__main__":
    main()
