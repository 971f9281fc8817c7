"""Every pattern on every fake server, through an unwrapped `Provider`: known by its host, or learned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from executionkit import (
    Anthropic,
    Outcome,
    Provider,
    RetryConfig,
    Tool,
    complete,
    consensus,
    react,
    refine,
    structured,
)
from executionkit.events import Event, TextDelta, with_content
from executionkit.providers.chat.servers import dialect_for
from executionkit.stage import Stage
from tests.servers.claude import Claude
from tests.servers.fake import KEY, Fake, served
from tests.servers.known import FAKES

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(base_delay=0.0)
TAKING_BEARERS = [name for name, make in FAKES.items() if make().key_header in {"authorization", None}]
"""Servers to which an unknown host sends the key in the right header."""
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


@dataclass
class City:
    name: str
    people: int
    kind: Literal["capital", "other"]


async def look_up(place: str) -> str:
    return f"{place} is in the north"


LOOK_UP = Tool("look_up", "Look a place up.", SCHEMA, look_up)

CASES: dict[str, tuple[Stage[str, Any], str, Any, int]] = {
    "complete": (complete(), "What is the capital of France?", "Paris", 1),
    "streamed": (complete(stream=True), "What is the capital of France?", "Paris", 1),
    "consensus": (consensus(n=5), "What is the capital of France?", "Paris", 5),
    "refine": (refine(), "Where is Paris?", "Paris, on the Seine", 4),
    "react": (react([LOOK_UP]), "Where is it? Use `look_up`.", "Paris", 2),
    "structured": (structured(City), "Which city?", City("Paris", 2, "capital"), 1),
}
"""The stage, its prompt, the value, and the calls that it takes."""


def provider_of(fake: Fake, base_url: str | None = None, **settings: Any) -> Provider:
    return Provider(base_url or fake.base_url, fake.model, KEY, transport=fake.transport(), **settings)


def elsewhere(fake: Fake) -> str:
    """Return the address of the same server behind a host that nobody knows."""
    parts = urlsplit(fake.base_url)
    return f"https://gateway.example.com{parts.path}{'?' if parts.query else ''}{parts.query}"


@pytest.mark.parametrize("name", FAKES)
@pytest.mark.parametrize("case", CASES)
async def test_a_known_server_refuses_nothing(name: str, case: str) -> None:
    fake = FAKES[name]()
    stage, prompt, value, calls = CASES[case]
    outcome = await stage.run(provider_of(fake), prompt, retry=AT_ONCE)
    assert outcome.unwrap().value == value
    loading = [refusal.status for refusal in fake.refused]
    assert loading == ([503] if name == "llama.cpp" else [])
    assert outcome.unwrap().cost.llm_calls == calls + len(loading)
    assert_same(outcome, fake)


def assert_same(outcome: Outcome[Any], fake: Fake) -> None:
    """The cost is what the server counted."""
    assert outcome.unwrap().cost == fake.cost
    assert "usage_estimated" not in outcome.unwrap().metadata


@pytest.mark.parametrize("name", TAKING_BEARERS)
@pytest.mark.parametrize("case", CASES)
async def test_an_unknown_server_is_learned(name: str, case: str) -> None:
    fake = FAKES[name]()
    stage, prompt, value, calls = CASES[case]
    provider = provider_of(fake, elsewhere(fake))
    outcome = await stage.run(provider, prompt, retry=AT_ONCE)
    assert outcome.unwrap().value == value
    assert outcome.unwrap().cost.llm_calls == calls + len(fake.refused)
    assert_same(outcome, fake)
    lessons = len(fake.refused)
    again = await stage.run(provider, prompt, retry=AT_ONCE)
    assert again.unwrap().cost.llm_calls == calls
    assert len(fake.refused) == lessons


@pytest.mark.parametrize("name", FAKES)
async def test_a_vote_in_one_request(name: str) -> None:
    """Where `n` is not taken the samples are drawn one by one."""
    fake = FAKES[name]()
    provider = provider_of(fake)
    await complete().run(provider, "Capital?", retry=AT_ONCE)  # llama.cpp is still loading its model
    before = fake.cost
    outcome = await consensus(n=4, one_request=True).run(provider, "Capital?")
    assert outcome.unwrap().value == "Paris"
    known = dialect_for(fake.base_url, fake.model)
    assert known is not None
    assert outcome.unwrap().cost.llm_calls == (1 if known.takes_n else 4)
    assert outcome.unwrap().cost == fake.cost - before


@pytest.mark.parametrize("name", FAKES)
async def test_pieces_of_a_stream_are_handed_out(name: str) -> None:
    fake = FAKES[name]()
    texts: list[str] = []
    outcome = await complete(stream=True).run(
        provider_of(fake), "Capital?", trace=with_content(_into(texts)), retry=AT_ONCE
    )
    assert outcome.unwrap().value == "Paris" == "".join(texts)
    assert len(texts) > 1


def _into(texts: list[str]) -> Callable[[Event], None]:
    def hear(event: Event) -> None:
        if isinstance(event, TextDelta) and event.kind == "text":
            texts.append(event.text)

    return hear


@pytest.mark.parametrize("name", FAKES)
async def test_thoughts_are_kept_apart(name: str) -> None:
    fake = FAKES[name]()
    response = await _patiently(provider_of(fake), fake)
    assert response.content == "Paris"
    assert bool(response.reasoning) is (fake.shape.reasoning is not None)


async def _patiently(provider: Provider, fake: Fake) -> Any:
    from executionkit.errors import ProviderError

    question = [{"role": "user", "content": "Capital?"}]
    try:
        return await provider.complete(question)
    except ProviderError:
        return await provider.complete(question)


@pytest.mark.parametrize("name", FAKES)
async def test_a_conversation_moves_there_from_another_server_and_back(name: str) -> None:
    """Thoughts, signatures and ids of one server are no reason for another to refuse a transcript."""
    if name == "gemini":
        pytest.skip("it takes tool calls with signatures of its own only")
    claude = Claude()
    thinking = {"thinking": {"type": "adaptive"}}
    other = Anthropic("claude-sonnet-4-5", KEY, transport=claude.transport(), extra_body=thinking)
    first = await react([LOOK_UP]).run(other, "Where is it? Use `look_up`.")
    fake = FAKES[name]()
    there = await react([LOOK_UP], transcript=first.unwrap().metadata["transcript"]).run(
        provider_of(fake), "And where is it? Use `look_up`.", retry=AT_ONCE
    )
    assert there.unwrap().value == "Paris"
    plain = Anthropic("claude-sonnet-4-5", KEY, transport=claude.transport())
    back = await react([LOOK_UP], transcript=there.unwrap().metadata["transcript"]).run(plain, "So?")
    assert back.unwrap().value == "Paris"
    assert not claude.refused


@pytest.mark.parametrize("name", ["openai", "gemini", "ollama"])
async def test_over_real_http(name: str) -> None:
    fake = FAKES[name]()
    async with served(fake) as url, Provider(f"{url}/v1", fake.model, KEY) as provider:
        for stage, prompt, value, _ in CASES.values():
            outcome = await stage.run(provider, prompt)
            assert outcome.unwrap().value == value
