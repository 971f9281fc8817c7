"""`doctor`: it finds out of every fake what it takes, and says what that cost."""

from typing import Any

import httpx
import pytest

from executionkit import Dialect, PermanentError, Provider, TokenUsage
from executionkit.doctor import MOST_CALLS, TOKENS_A_CALL, diagnose
from executionkit.providers.chat.servers import dialect_for
from tests.servers.fake import KEY, Fake
from tests.servers.known import FAKES


def provider_of(fake: Fake, **settings: Any) -> Provider:
    return Provider(fake.base_url, fake.model, KEY, transport=fake.transport(), **settings)


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAKES)
async def test_it_reconstructs_the_dialect(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.doctor.SHORTEST_WAIT", 0.0)
    fake = FAKES[name]()
    diagnosis = await diagnose(provider_of(fake))
    assert diagnosis.dialect == dialect_for(fake.base_url, fake.model)
    assert diagnosis.cost == fake.cost
    assert len(fake.asked) <= MOST_CALLS
    for asked in fake.asked:
        limits = [asked.body.get(limit) for limit in ("max_tokens", "max_completion_tokens")]
        assert [limit for limit in limits if limit is not None] == [TOKENS_A_CALL]


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAKES)
async def test_what_it_prints_can_be_pasted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.doctor.SHORTEST_WAIT", 0.0)
    fake = FAKES[name]()
    diagnosis = await diagnose(provider_of(fake))
    assert eval(repr(diagnosis.dialect), {"Dialect": Dialect}) == diagnosis.dialect


@pytest.mark.anyio
async def test_what_the_provider_believes_plays_no_part() -> None:
    fake = FAKES["openai"]()
    wrong = Dialect(takes_n=False, response_formats=())
    diagnosis = await diagnose(provider_of(fake, dialect=wrong))
    assert diagnosis.dialect == dialect_for(fake.base_url, fake.model)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body"),
    [(401, "no such key"), (404, "no such model"), (400, "This model does not chat.")],
)
async def test_a_server_that_does_not_answer_at_all_is_quoted(status: int, body: str) -> None:
    asked: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, json={"error": {"message": body}})

    provider = Provider("https://x.example/v1", "m", KEY, transport=httpx.MockTransport(refuse))
    with pytest.raises(PermanentError, match=body) as caught:
        await diagnose(provider)
    assert len(asked) <= 2
    assert caught.value.cost == TokenUsage(llm_calls=len(asked))


@pytest.mark.anyio
async def test_it_never_asks_more_often_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.doctor.SHORTEST_WAIT", 0.0)
    fake = FAKES["together"]()
    answers = iter(range(10_000))

    def busy(request: httpx.Request) -> httpx.Response:
        if next(answers) % 4:
            return httpx.Response(503, json={"error": {"message": "busy"}})
        reply = fake.answer(request.url.path, "", dict(request.headers), request.content)
        return httpx.Response(reply.status, headers=reply.headers, content=reply.body)

    provider = Provider(fake.base_url, fake.model, KEY, transport=httpx.MockTransport(busy))
    with pytest.raises(PermanentError, match="not found out within 20 calls") as caught:
        await diagnose(provider)
    assert next(answers) == MOST_CALLS
    assert caught.value.cost.llm_calls == MOST_CALLS
