"""`Anthropic`: every pattern against a fake of the Messages API that refuses what the real one refuses."""

import pickle
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import anyio
import httpx
import msgspec
import pytest
from returns.result import Failure

from executionkit import (
    Anthropic,
    PermanentError,
    ProviderError,
    RateLimit,
    RateLimitError,
    RetryConfig,
    Secret,
    TokenUsage,
    Tool,
    complete,
    consensus,
    react,
    refine,
    structured,
)
from executionkit.core.dialect import Dialect
from executionkit.errors import LLMError
from executionkit.events import Event, TextDelta, with_content
from executionkit.providers.chat.streaming import Stream
from tests.servers.claude import Claude
from tests.servers.fake import KEY

pytestmark = pytest.mark.anyio

LONG = "Consider this. " * 1100
"""A prompt of some 4,000 tokens."""
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass
class City:
    name: str
    people: Annotated[int, msgspec.Meta(ge=1)]
    ranks: dict[str, list[int]] | None = None


def served(claude: Claude, model: str = "claude-sonnet-4-5", **settings: Any) -> Anthropic:
    return Anthropic(model, KEY, transport=claude.transport(), **settings)


async def look_up(place: str) -> str:
    return "in the north"


SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
LOOK_UP = Tool("look_up", "Look a place up.", SCHEMA, look_up)


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-4-7"])
@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}], ids=["plain", "thinking"])
async def test_every_pattern(model: str, thinking: object) -> None:
    claude = Claude()
    provider = served(claude, model, extra_body={"thinking": thinking} if thinking else {})
    answer = await complete().run(provider, "What is the capital of France?")
    assert answer.unwrap().value == "Paris"
    vote = await consensus(n=5).run(provider, "What is the capital of France?")
    assert (vote.unwrap().value, vote.unwrap().score) == ("Paris", 1.0)
    better = await refine().run(provider, "Where is Paris?")
    assert (better.unwrap().value, better.unwrap().score) == ("Paris, on the Seine", 1.0)
    found = await react([LOOK_UP]).run(provider, "Where is it? Use `look_up`.")
    assert found.unwrap().value == "Paris"
    assert found.unwrap().metadata["tool_calls_made"] == 1
    city = await structured(int).run(provider, "How many?")
    assert city.unwrap().value == 2
    assert not claude.refused
    results = [answer, vote, better, found, city]
    assert sum((each.unwrap().cost for each in results), TokenUsage()) == claude.cost
    assert [each.unwrap().cost.llm_calls for each in results] == [1, 5, 4, 2, 1]


async def test_a_schema_is_held_to_as_far_as_the_server_can() -> None:
    claude = Claude()
    outcome = await structured(tuple[Annotated[int, msgspec.Meta(ge=1)], ...]).run(served(claude), "Which?")
    assert outcome.unwrap().value == (2,)
    assert "output_config" in claude.asked[0].body
    free = await structured(City).run(
        served(claude), "Which?"
    )  # `ranks` has keys that the schema cannot name
    assert free.unwrap().value == City("Paris", 2, {})
    assert "output_config" not in claude.asked[1].body
    assert not claude.refused


async def test_thoughts_survive_a_tool_loop_with_their_signatures() -> None:
    claude = Claude()
    provider = served(claude, extra_body={"thinking": {"type": "enabled", "budget_tokens": 1024}})
    outcome = await react([LOOK_UP], on_limit="answer", max_rounds=1).run(provider, "Use `look_up`.")
    assert outcome.unwrap().value == "Paris"
    assert not claude.refused
    sent = claude.asked[1].body["messages"][1]["content"]
    assert [block["type"] for block in sent] == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert claude.asked[1].body["tool_choice"] == {"type": "none"}


async def test_thoughts_survive_a_streamed_answer() -> None:
    claude = Claude()
    provider = served(claude, extra_body={"thinking": {"type": "adaptive"}})
    tools = [LOOK_UP.spec]
    whole = await provider.complete([{"role": "user", "content": "`look_up`"}], tools=tools)
    async with provider.stream([{"role": "user", "content": "`look_up`"}], tools=tools) as pieces:
        texts = [piece.text async for piece in pieces if piece.text]
    streamed = pieces.response
    assert "".join(texts) == streamed.content == whole.content == "Let me see."
    assert msgspec.structs.replace(streamed.tool_calls[0], id="") == msgspec.structs.replace(
        whole.tool_calls[0], id=""
    )
    assert streamed.extra["anthropic_content"][0] == whole.extra["anthropic_content"][0]
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert streamed.usage["output_tokens"] == whole.usage["output_tokens"]
    assert streamed.usage["input_tokens"] == whole.usage["input_tokens"]


async def test_a_pipeline_streams() -> None:
    texts: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, TextDelta):
            texts.append(event.text)

    claude = Claude()
    outcome = await complete(stream=True).run(served(claude), "Capital?", trace=with_content(hear))
    assert outcome.unwrap().value == "Paris"
    assert "".join(texts) == "Paris"
    assert len(texts) > 1
    assert outcome.unwrap().cost == claude.cost


@pytest.mark.parametrize("concurrency", [1, 5, 10])
async def test_a_vote_of_ten_writes_its_prompt_once_and_reads_it_nine_times(concurrency: int) -> None:
    claude = Claude()
    outcome = await consensus(n=10, max_concurrency=concurrency).run(served(claude), LONG)
    cost = outcome.unwrap().cost
    assert cost == claude.cost
    whole = cost.input_tokens // 10
    assert whole > 4000
    assert (cost.cache_write_tokens, cost.cache_read_tokens) == (whole, 9 * whole)
    plain = cost.input_tokens - cost.cache_write_tokens - cost.cache_read_tokens
    price = plain + Decimal("1.25") * cost.cache_write_tokens + Decimal("0.1") * cost.cache_read_tokens
    assert price <= Decimal("0.25") * cost.input_tokens


async def test_without_a_cache_all_go_at_once() -> None:
    claude = Claude()
    outcome = await consensus(n=10, max_concurrency=10).run(served(claude, cache=False), LONG)
    assert outcome.unwrap().cost.cache_write_tokens == claude.reads == claude.writes == 0


async def test_a_tool_loop_reads_what_it_has_written() -> None:
    claude = Claude()
    outcome = await react([LOOK_UP]).run(served(claude), f"{LONG} Use `look_up`.")
    cost = outcome.unwrap().cost
    assert cost.cache_read_tokens > 4000
    assert cost.cache_write_tokens < 1.1 * cost.cache_read_tokens


@pytest.mark.parametrize(
    ("status", "kind", "error", "retryable"),
    [
        (400, "invalid_request_error", PermanentError, False),
        (401, "authentication_error", PermanentError, False),
        (403, "permission_error", PermanentError, False),
        (404, "not_found_error", PermanentError, False),
        (413, "request_too_large", PermanentError, False),
        (429, "rate_limit_error", RateLimitError, True),
        (500, "api_error", ProviderError, True),
        (504, "timeout_error", ProviderError, True),
        (529, "overloaded_error", ProviderError, True),
    ],
)
async def test_errors_are_typed(status: int, kind: str, error: type[LLMError], retryable: bool) -> None:
    claude = Claude()
    said = {"type": "error", "error": {"type": kind, "message": f"About {KEY}."}, "request_id": "req_011"}
    claude.next = [httpx.Response(status, json=said, headers={"request-id": "req_011"})]
    with pytest.raises(error) as caught:
        await served(claude).complete(QUESTION)
    assert caught.value.retryable is retryable
    assert caught.value.metadata["status"] == status
    assert caught.value.metadata["request_id"] == "req_011"
    assert "About ***." in caught.value.message
    assert caught.value.cost == TokenUsage(llm_calls=1)


async def test_x_should_retry_and_retry_after_are_heeded() -> None:
    claude = Claude()
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    claude.next = [httpx.Response(529, json=said, headers={"x-should-retry": "false", "retry-after": "7"})]
    with pytest.raises(ProviderError) as caught:
        await served(claude).complete(QUESTION)
    assert not caught.value.retryable
    assert caught.value.retry_after == 7.0


async def test_an_overloaded_server_is_asked_again() -> None:
    claude = Claude()
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    claude.next = [httpx.Response(529, json=said)]
    outcome = await complete().run(served(claude), "Q", retry=RetryConfig(base_delay=0.0))
    assert outcome.unwrap().cost.llm_calls == 2


async def test_a_model_that_refuses_a_temperature_is_learned() -> None:
    claude = Claude()
    provider = served(claude, "claude-opus-4-7", dialect=Dialect(response_formats=("json_schema",)))
    outcome = await consensus(n=5).run(provider, "Capital?")
    assert outcome.unwrap().value == "Paris"
    assert len(claude.refused) >= 1
    assert "temperature" not in claude.asked[-1].body
    assert outcome.unwrap().cost == claude.cost


async def test_a_refusal_is_no_answer() -> None:
    claude = Claude()
    refusal: dict[str, Any] = {
        "type": "message",
        "content": [],
        "stop_reason": "refusal",
        "stop_details": {"category": "cyber", "explanation": "That would do harm."},
        "usage": {"input_tokens": 4, "output_tokens": 1},
    }
    claude.next = [httpx.Response(200, json=refusal)]
    response = await served(claude).complete(QUESTION)
    assert response.was_refused
    assert response.refusal == "That would do harm."
    assert response.finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause_turn"),
        (None, "stop"),
    ],
)
async def test_why_it_stopped(reason: str | None, finish: str) -> None:
    claude = Claude()
    claude.next = [
        httpx.Response(200, json={"content": [{"type": "text", "text": "x"}], "stop_reason": reason})
    ]
    assert (await served(claude).complete(QUESTION)).finish_reason == finish


BAD_ANSWERS: list[Any] = [
    [],
    None,
    {},
    {"content": None},
    {"content": "text"},
    {"content": [1]},
    {"content": [{"text": "no type"}]},
    {"content": [{"type": "text", "text": 5}]},
    {"content": [{"type": "tool_use", "id": 5}]},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"error": "Overloaded"},
]


@pytest.mark.parametrize("body", BAD_ANSWERS, ids=str)
async def test_what_is_no_message_is_an_error(body: Any) -> None:
    claude = Claude()
    claude.next = [httpx.Response(200, json=body)]
    with pytest.raises(ProviderError) as caught:
        await served(claude).complete(QUESTION)
    assert caught.value.cost.llm_calls == 1
    assert "Overloaded" in caught.value.message or "Overloaded" not in str(body)


ODD_ANSWERS: list[Any] = [
    {"content": []},
    {"content": [{"type": "text", "text": ""}]},
    {
        "content": [{"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}],
        "stop_reason": None,
    },
    {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": None}]},
    {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": [1]}]},
    {"content": [{"type": "new_kind", "whatever": 1}], "usage": "none"},
]


@pytest.mark.parametrize("body", ODD_ANSWERS, ids=str)
async def test_what_is_odd_is_an_answer(body: Any) -> None:
    claude = Claude()
    claude.next = [httpx.Response(200, json=body)]
    response = await served(claude).complete(QUESTION)
    assert response.content == ""
    assert all(isinstance(call.arguments, dict | str) for call in response.tool_calls)


def stream(*events: Any) -> httpx.Response:
    lines = [b"data: " + (each if isinstance(each, bytes) else msgspec.json.encode(each)) for each in events]
    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, content=b"\n\n".join([*lines, b""]), headers=headers)


START = {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Par"}}
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}


async def told(claude: Claude) -> Stream:
    pieces = served(claude).stream(QUESTION)
    async with pieces:
        async for _ in pieces:
            pass
    return pieces


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([START, TEXT], "ended without a finish reason"),
        (
            [START, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}],
            "Overloaded",
        ),
        ([START, b"{"], "not JSON"),
        ([START, b"[]"], "not a JSON object"),
        ([START, {"type": "content_block_start", "index": 0, "content_block": {"type": 5}}], "not a part"),
        ([START, {"type": "content_block_start", "index": "x"}], "not a part"),
        ([START, {"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}}], "not a part"),
    ],
    ids=str,
)
async def test_a_stream_that_breaks_off_is_an_error(events: list[Any], text: str) -> None:
    claude = Claude()
    claude.next = [stream(*events)]
    with pytest.raises(ProviderError, match=text) as caught:
        await told(claude)
    assert caught.value.cost.llm_calls == 1
    assert caught.value.cost.input_tokens == 7


@pytest.mark.parametrize(
    "events",
    [
        [START, TEXT, STOP],
        [START, {"type": "ping"}, {"type": "from_the_future", "x": 1}, TEXT, STOP, {"type": "message_stop"}],
        [TEXT, STOP],
        [
            START,
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Par"}},
            STOP,
        ],
    ],
    ids=str,
)
async def test_a_stream_that_is_odd_is_an_answer(events: list[Any]) -> None:
    claude = Claude()
    claude.next = [stream(*events)]
    pieces = await told(claude)
    assert pieces.response.content == "Par"
    assert pieces.response.finish_reason == "stop"
    assert pieces.cost.output_tokens == 3


async def test_a_call_whose_arguments_are_cut_is_seen_as_text() -> None:
    claude = Claude()
    begin = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "a", "name": "f"},
    }
    part = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "input_json_delta", "partial_json": '{"a'},
    }
    stop = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}
    claude.next = [stream(START, begin, part, stop)]
    pieces = await told(claude)
    assert pieces.response.tool_calls[0].arguments == '{"a'
    assert pieces.response.was_truncated


async def test_its_rate_limit_headers_are_heeded() -> None:
    claude = Claude(
        reports={
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2999-01-01T00:00:00Z",
        }
    )
    provider = served(claude, rate_limit=RateLimit(requests_per_minute=1000))
    await provider.complete(QUESTION)
    with anyio.move_on_after(0.05) as waiting:
        await provider.complete(QUESTION)
    assert waiting.cancelled_caught
    assert len(claude.asked) == 1


async def test_the_key_is_hidden() -> None:
    provider = Anthropic("claude-sonnet-4-5", KEY)
    assert KEY not in repr(provider)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(provider)
    other = Anthropic("claude-sonnet-4-5", Secret.from_env("ANTHROPIC_API_KEY"))
    assert pickle.loads(pickle.dumps(other)) == other
    claude = Claude()
    claude.next = [httpx.Response(200, json={"content": [{"type": "text", "text": f"It is {KEY}."}]})]
    assert (await served(claude).complete(QUESTION)).content == "It is ***."
    claude.next = [stream(START, {**TEXT, "delta": {"type": "text_delta", "text": f"It is {KEY}."}}, STOP)]
    assert (await told(claude)).response.content == "It is ***."


async def test_a_wrong_key_is_said_plainly() -> None:
    claude = Claude()
    provider = Anthropic("claude-sonnet-4-5", "sk-ant-wrong", transport=claude.transport())
    outcome = await complete().run(provider, "Q")
    assert isinstance(outcome, Failure)
    assert "401" in str(outcome.failure())
    assert "invalid x-api-key" in str(outcome.failure())


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"model": ""}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"default_max_tokens": 0}, ValueError),
        ({"base_url": "ftp://x"}, ValueError),
        ({"dialect": "anthropic"}, TypeError),
        ({"headers": {"x-api-key": "k"}}, ValueError),
        ({"extra_body": {"model": "x"}}, ValueError),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Anthropic(settings.pop("model", "m"), **settings)
