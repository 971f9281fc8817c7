"""Rewrite a question, search with tools, answer with citations, improve against a critic; with a plan B.

Runs without a model: the provider is scripted, and one tool fails at its first call.
"""

import msgspec

import executionkit as ek

PAGES = {"refunds": "Refunds take 5 days.", "cards": "To cards, refunds take 9 days."}
FAILURES = [ConnectionError("the index is down")]


class Answer(msgspec.Struct):
    """What is asked for."""

    text: str
    pages: list[str]


@ek.tool
async def search(word: str) -> list[str]:
    """Return the names of the pages with this word in them."""
    if FAILURES:
        raise FAILURES.pop()
    return [name for name, text in PAGES.items() if word in text]


@ek.tool
async def read(page: str) -> str:
    """Return a page."""
    return PAGES[page]


def cites(answer: Answer) -> str | None:
    return None if answer.pages and set(answer.pages) <= set(PAGES) else f"cite pages among {list(PAGES)}"


async def critic(answer: Answer, provider: ek.LLMProvider) -> ek.Evaluation:
    rating = (await ek.structured(int).run(provider, f"Rate this from 0 to 10: {answer}")).unwrap()
    return ek.Evaluation(rating.value / 10, "Every sentence needs a page that says so.")


draft = ek.react([search, read], output_type=Answer, check=cites).named("search")
better = ek.prompt("{task}\nSo far: {value}\nMissing: {critique}") >> ek.structured(Answer, check=cites)
rewrite = ek.complete(system="Rewrite the question as a task for a researcher.").named("rewrite")
answering = rewrite >> ek.refine(critic, output_type=Answer, draft=draft, improve=better, max_iterations=2)
plan_b = ek.complete(system="Say what you know.").map(lambda text: Answer(text, []))
pipeline = answering.or_else(plan_b, on=(ek.MaxIterationsError, ek.InvalidOutputError))

if __name__ == "__main__":
    calls = [ek.ToolCall(str(n), "search", {"word": "refunds"}) for n in range(2)]
    first, second = '{"text": "Soon.", "pages": ["cards"]}', '{"text": "In 9 days.", "pages": ["cards"]}'
    double = ek.ScriptedProvider(["Find out how long refunds take.", *calls, first, "4", second, "9"])
    limit = ek.TokenUsage(llm_calls=20)
    result = pipeline.run_sync(double, "When do I get my money?", max_cost=limit, deadline=60).unwrap()
    print(result.value, result.score, result.cost.llm_calls, "calls")
    print(*[message["content"] for message in double.requests[3].messages if message["role"] == "tool"])
