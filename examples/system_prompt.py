"""System prompts: one for all inputs, and one made of the input. It goes with every sample, draft and round.

Runs without a model: the provider is scripted.
"""

from executionkit import LLMProvider, ScriptedProvider, consensus, prompt, refine


def is_short(text: str) -> float:
    """Score a reply by its length; no model is asked, so nobody needs to be told how to judge."""
    return 1.0 if len(text) < 40 else 0.2


def in_the_language_of(task: str) -> str:
    """Return what the model is told before it writes; `task` is the input of the stage."""
    language = "German" if "Rechnung" in task else "English"
    return f"You answer for the support team, in {language}, in one sentence."


sort = consensus(
    n=3, system="Sort the ticket. Answer with one word: billing, delivery or technical.", max_tokens=200
)
write = refine(is_short, max_iterations=1, system=in_the_language_of, max_tokens=60)
pipeline = sort.with_input() >> prompt("Ticket: {0}\nQueue: {1}\nWrite the reply.") >> write


def reply(provider: LLMProvider, ticket: str) -> str:
    """Return a reply to a ticket."""
    return pipeline.run_sync(provider, ticket).unwrap().value


if __name__ == "__main__":
    drafts = ["Sehr geehrte Kundin, wir bedauern das sehr.", "Wir erstatten Ihnen den Betrag."]
    double = ScriptedProvider(["billing", "billing", "technical", *drafts])
    print(reply(double, "Meine Rechnung kam zweimal."))
    for request in double.requests:
        system, user = request.messages
        print(f"{system['content']} | {user['content'].splitlines()[0]}")
