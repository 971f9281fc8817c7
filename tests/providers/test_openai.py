"""What a provider is told of its server: its dialect, its retries, further headers and fields."""

import pickle
from typing import Any

import httpx
import msgspec
import pytest
from returns.result import Failure

from executionkit import Dialect, Provider, RetryConfig, Secret, TokenUsage, complete
from executionkit.providers.chat.servers import SERVERS, dialect_for, server_for
from tests.servers.fake import KEY

URL = "https://gateway.example.com/v1"
QUESTION = [{"role": "user", "content": "Q"}]
GOOD = {"choices": [{"message": {"content": "Paris"}, "finish_reason": "stop"}]}


class Wire:
    """A transport that notes requests and answers what it is told."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[httpx.Request] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        return httpx.Response(status, json=GOOD if status == 200 else {"error": {"message": "no"}})

    @property
    def body(self) -> dict[str, Any]:
        return msgspec.json.decode(self.requests[-1].content, type=dict[str, Any])


@pytest.mark.anyio
async def test_a_dialect_by_hand_goes_before_the_table() -> None:
    wire = Wire()
    by_hand = Dialect(output_limit="max_tokens", takes_temperature=False)
    provider = Provider(
        "https://api.openai.com/v1", "gpt-5-mini", KEY, transport=wire.transport(), dialect=by_hand
    )
    assert provider.known_dialect == by_hand
    await complete(max_tokens=9).run(provider, "Q")
    assert wire.body == {"model": "gpt-5-mini", "messages": QUESTION, "max_tokens": 9}


@pytest.mark.anyio
async def test_a_call_past_the_patterns_is_said_in_the_dialect_too() -> None:
    wire = Wire()
    provider = Provider("https://api.openai.com/v1", "o4-mini", KEY, transport=wire.transport())
    await provider.complete(QUESTION, temperature=0.3, logprobs=True)
    assert wire.body == {"model": "o4-mini", "messages": QUESTION, "max_completion_tokens": 4096}


@pytest.mark.anyio
async def test_an_output_limit_in_the_callers_own_spelling_stays() -> None:
    wire = Wire()
    provider = Provider(URL, "m", KEY, transport=wire.transport())
    await provider.complete(QUESTION, max_completion_tokens=7)
    assert wire.body["max_completion_tokens"] == 7
    assert "max_tokens" not in wire.body


@pytest.mark.anyio
async def test_further_fields_and_headers_go_along() -> None:
    wire = Wire()
    provider = Provider(
        URL,
        "m",
        KEY,
        transport=wire.transport(),
        headers={"X-Title": "tests"},
        extra_body={"seed": 1, "provider": {"order": ["a", "b"]}},
    )
    await provider.complete(QUESTION)
    assert wire.requests[0].headers["x-title"] == "tests"
    assert wire.body["provider"] == {"order": ["a", "b"]}
    await provider.complete(QUESTION, seed=2)
    assert wire.body["seed"] == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fixed", "named"),
    [
        ({"max_completion_tokens": 50_000}, "max_completion_tokens"),
        ({"max_output_tokens": 50_000}, "max_output_tokens"),
        ({"max_tokens": 50_000}, "max_tokens"),
        ({"options": {"num_predict": 50_000}}, "max_tokens"),
    ],
)
async def test_the_output_limit_of_a_call_goes_before_that_of_the_body(
    fixed: dict[str, Any], named: str
) -> None:
    wire = Wire()
    provider = Provider(URL, "m", KEY, transport=wire.transport(), extra_body=fixed)
    await complete().run(provider, "?", max_cost=TokenUsage(output_tokens=100))
    assert wire.body[named] == 100
    assert "50000" not in str(wire.body)
    await provider.complete(QUESTION)
    assert wire.body[named] == 50_000


def test_it_stays_a_value() -> None:
    body = {"provider": {"order": ["a", "b"]}}
    one, other = (Provider(URL, "m", extra_body=body, headers={"X-A": "b"}) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Provider(URL, "m", extra_body={}, headers={"X-A": "b"})
    named = msgspec.structs.replace(one, api_key=Secret.from_env("SOME_KEY"))
    assert pickle.loads(pickle.dumps(named)) == named
    body["provider"] = {}
    assert one.extra_body == {"provider": {"order": ["a", "b"]}}


@pytest.mark.anyio
async def test_its_own_retries_hold_where_the_run_has_none() -> None:
    policy = RetryConfig(max_retries=1, base_delay=0.0)
    wire = Wire(500, 500, 500, 500)
    provider = Provider(URL, "m", transport=wire.transport(), retry=policy)
    assert isinstance(await complete().run(provider, "Q"), Failure)
    assert len(wire.requests) == 2
    assert isinstance(await complete().run(provider, "Q", retry=RetryConfig(max_retries=0)), Failure)
    assert len(wire.requests) == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "header", "value"),
    [
        ("https://contoso.openai.azure.com/openai/v1", "api-key", KEY),
        ("https://CONTOSO.openai.azure.com/openai/deployments/d?api-version=2024-10-21", "api-key", KEY),
        ("https://contoso.cognitiveservices.azure.com/openai/v1", "api-key", KEY),
        ("https://openai.azure.com.example.com/v1", "authorization", f"Bearer {KEY}"),
        ("https://api.openai.com/v1", "authorization", f"Bearer {KEY}"),
    ],
)
async def test_the_key_goes_where_the_server_looks_for_it(url: str, header: str, value: str) -> None:
    wire = Wire()
    await Provider(url, "m", KEY, transport=wire.transport()).complete(QUESTION)
    assert wire.requests[0].headers[header] == value
    assert sum(KEY in sent for sent in wire.requests[0].headers.values()) == 1


@pytest.mark.parametrize(
    ("url", "model", "name"),
    [
        ("https://api.openai.com/v1", "gpt-5-mini", "OpenAI: o-series, gpt-5 and later"),
        ("https://API.OPENAI.COM/v1", "O3", "OpenAI: o-series, gpt-5 and later"),
        ("https://api.openai.com/v1", "gpt-4.1-mini", "OpenAI: other models"),
        ("http://127.0.0.1:11434/v1", "qwen3", "Ollama"),
        ("http://[::1]:1234/v1", "qwen3", "LM Studio"),
        ("http://localhost:8000/v1", "m", "vLLM"),
        ("http://10.0.0.1:8000/v1", "m", None),
        ("https://api.openai.com.example.com/v1", "gpt-5", None),
        ("https://notapi.openai.com/v1", "gpt-5", None),
        ("http://localhost:99999/v1", "m", None),
    ],
)
def test_servers_are_known_by_their_host(url: str, model: str, name: str | None) -> None:
    found = server_for(url, model)
    assert (None if found is None else found.name) == name
    assert dialect_for(url, model) == (None if found is None else found.dialect)


def test_the_table_has_about_twenty_rows_and_none_in_vain() -> None:
    """Each row is reached by some model: no row before it takes all that it is about."""
    assert 15 <= len(SERVERS) <= 25
    assert len({row.name for row in SERVERS}) == len(SERVERS)
    for row in SERVERS:
        host = row.hosts[0]
        url = f"http://localhost{host}" if host.startswith(":") else f"https://{host.removeprefix('.')}"
        url = url.replace("https://", "https://x.") if host.startswith(".") else url
        assert server_for(url, (row.models or ("whatever",))[0]) is row
