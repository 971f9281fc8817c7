"""Random mixtures of what real servers send: an answer, or a typed error with the server's words, at its count.

`EXECUTIONKIT_MIXTURES=10000` is the long form (`just long wire`).
"""

import json
import os
import random
from decimal import Decimal
from typing import Any, Final

import httpx
import msgspec
import pytest

from executionkit.core.usage import TokenUsage, read_usage
from executionkit.errors import ExecutionKitError, LLMError
from executionkit.outcome import Outcome
from executionkit.patterns.complete import complete
from executionkit.provider import user
from executionkit.providers.openai import Provider
from executionkit.retry import RetryConfig

pytestmark = pytest.mark.anyio

MIXTURES: Final = int(os.environ.get("EXECUTIONKIT_MIXTURES", "200"))
WORDS: Final = "the flux is full"
OTHER_KEY: Final = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
KEY: Final = "sk-Secret/1+2=3"
HTML: Final = f"<!doctype html><style>p {{x: y}}</style><h1>Oh</h1><p>{WORDS}</p>"


class Expected(msgspec.Struct, frozen=True):
    """What must come of a mixture.

    Args:
        text: The answer's text; None for an error that has the words in it.
        cost: What the server counted; None where it did not count.
        reasoning: The thoughts.
    """

    text: str | None
    cost: TokenUsage | None
    reasoning: str = ""


class Sent(msgspec.Struct, frozen=True):
    """What a server sends."""

    status: int
    headers: dict[str, str]
    body: bytes


def a_bill(chance: random.Random) -> tuple[Any, TokenUsage | None]:
    """Draw a usage in some server's spelling, and what it means."""
    given, taken = chance.randint(8, 99), chance.randint(3, 99)
    plain = {"prompt_tokens": given, "completion_tokens": taken}
    cost = TokenUsage(given, taken, 1)
    cached, dear = (
        msgspec.structs.replace(cost, cache_read_tokens=7),
        msgspec.structs.replace(cost, usd=Decimal("0.25")),
    )
    thought = msgspec.structs.replace(cost, reasoning_tokens=2)
    beside = {"input_tokens": given, "output_tokens": taken, "cache_read_input_tokens": 5}
    return chance.choice(
        [
            (plain, cost),
            ({**plain, "total_tokens": given + taken}, cost),
            ({**plain, "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": None}}, cached),
            ({**plain, "prompt_cache_hit_tokens": 7}, cached),
            ({**plain, "completion_tokens_details": {"reasoning_tokens": 2}}, thought),
            ({**plain, "cost": 0.25, "cost_details": {"x": None}}, dear),
            (beside, TokenUsage(given + 5, taken, 1, cache_read_tokens=5)),
            (None, None),
            ({"prompt_tokens": 0, "completion_tokens": 0}, None),
            ({"prompt_tokens": -1, "completion_tokens": "many"}, None),
        ]
    )


def a_message(chance: random.Random) -> tuple[dict[str, Any], str, str]:
    """Draw a message with a text, and say what the text and the thoughts in it are."""
    sent, text = chance.choice(
        [
            ("Paris", "Paris"),
            ("half \ud83d", "half \ufffd"),
            ("\U0001f600", "\U0001f600"),
            ('{"a": "<think>"}',) * 2,
        ]
    )
    messages: list[tuple[dict[str, Any], str]] = [
        ({"content": sent}, ""),
        ({"content": f"<think>hm</think>\n\n{sent}"}, "hm"),
        ({"content": f"<thinking>hm</thinking>{sent}", "reasoning": None}, "hm"),
        ({"content": sent, "reasoning_content": "hm", "reasoning": "hm"}, "hm"),
        ({"content": sent, "reasoning": "hm"}, "hm"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": sent}]}, "hm"),
        ({"content": [{"type": "text", "text": sent}], "tool_calls": None}, ""),
    ]
    message, thoughts = chance.choice(messages)
    return {"role": "assistant", **message}, text, thoughts


def a_complaint(chance: random.Random) -> dict[str, Any]:
    """Draw an object in which a server says what went wrong."""
    words = chance.choice([WORDS, f"{WORDS}, you sent Bearer {OTHER_KEY}", f"{WORDS}: {KEY}"])
    code = chance.choice([None, 400, 429, 502, "insufficient_quota", "server_error"])
    complaints: list[dict[str, Any]] = [
        {"error": {"message": words, "code": code}},
        {"error": words},
        {"detail": words},
        {"detail": {"error": {"message": words, "type": code}}},
        {"detail": [{"loc": ["body", "n"], "msg": words, "type": "x"}]},
        {"errors": [{"message": words, "code": code}]},
        {"base_resp": {"status_code": 2049, "status_msg": words}},
        {"message": words, "code": code},
        {"error_msg": words, "error_code": 17},
        {"fault": {"faultstring": words}},
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": json.dumps({"error": words})},
            }
        },
    ]
    return chance.choice(complaints)


def a_refusal(chance: random.Random) -> tuple[Sent, Expected]:
    status = chance.choice([400, 401, 402, 403, 404, 422, 429, 500, 502, 503, 529])
    usage, cost = a_bill(chance)
    complaint = a_complaint(chance)
    body = chance.choice(
        [
            json.dumps(complaint),
            json.dumps([complaint]),
            json.dumps({**complaint, "usage": usage}),
            HTML,
            WORDS,
        ]
    )
    headers = chance.choice(
        [{}, {"retry-after": "1"}, {"x-ratelimit-reset": "5"}, {"content-type": "text/html"}]
    )
    is_billed = '"usage"' in body and usage is not None
    counted = read_usage(usage).or_else(0, 0) if is_billed else TokenUsage(llm_calls=1)
    return Sent(status, {"x-request-id": f"r {OTHER_KEY}", **headers}, body.encode()), Expected(
        None, cost or counted if is_billed else counted
    )


def a_success(chance: random.Random, *, streams: bool) -> tuple[Sent, Expected]:
    """Draw an answer or something in its place, whole or as a stream, under whatever label."""
    usage, cost = a_bill(chance)
    message, text, thoughts = a_message(chance)
    label = {"content-type": chance.choice(["application/json", "text/event-stream", "text/plain"])}
    failed = chance.random() < 0.3
    complaint = a_complaint(chance)
    if not streams or chance.random() < 0.2:
        choice = {"message": message, "finish_reason": chance.choice(["stop", None, ""])}
        whole = {"choices": None, **complaint} if failed else {"choices": [choice]}
        if failed and chance.random() < 0.3:
            half = {**choice, "finish_reason": "error", "error": {"message": WORDS}}
            whole = {"choices": [half]}
        body = json.dumps({**whole, "usage": usage})
        if failed and chance.random() < 0.1:
            body, usage, cost = HTML, None, None
        counted = cost or read_usage(usage).or_else(0, 0)
        return Sent(200, label, body.encode()), Expected(
            None if failed else text, counted if failed else cost, thoughts
        )
    return a_stream(chance, label, failed=failed)


def a_stream(chance: random.Random, label: dict[str, str], *, failed: bool) -> tuple[Sent, Expected]:
    usage, cost = a_bill(chance)
    message, text, thoughts = a_message(chance)
    content = message.pop("content")
    pieces = (
        [content[at : at + 3] for at in range(0, len(content), 3)] if isinstance(content, str) else [content]
    )
    events: list[Any] = [{"choices": [], "prompt_filter_results": []}] if chance.random() < 0.5 else []
    events += [{"choices": [{"index": 0, "delta": message, "finish_reason": None}]}]
    events += [
        {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces
    ]
    kind = ""
    if failed:
        cut = chance.randint(0, len(events))
        complaint = a_complaint(chance)
        kind = chance.choice(["", "event: error\n"])
        events = [*events[:cut], complaint]
    else:
        empty: dict[str, Any] = {}
        last = {"choices": [{"index": 0, "delta": empty, "finish_reason": "stop"}]}
        bills: list[Any] = [{"choices": [], "usage": usage}, {"choices": [], "x_groq": {"usage": usage}}]
        billed = chance.choice(bills)
        events += [last, billed] if usage else [last]
    lines = [f"data: {json.dumps(each)}\n\n" for each in events]
    lines[-1] = kind + lines[-1]
    end = "" if chance.random() < 0.3 else "data: [DONE]\n\n"
    return Sent(200, label, ("".join(lines) + end).encode()), Expected(
        None if failed else text, None if failed else cost, thoughts
    )


def a_mixture(seed: int, *, streams: bool) -> tuple[Sent, Expected]:
    chance = random.Random(seed)
    return a_refusal(chance) if chance.random() < 0.3 else a_success(chance, streams=streams)


def served(sent: Sent) -> Provider:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(sent.status, headers=sent.headers, content=sent.body)

    transport = httpx.MockTransport(answer)
    return Provider("https://api.example.com/v1", "m", KEY, transport=transport)


def check_error(error: ExecutionKitError, expected: Expected) -> None:
    assert isinstance(error, LLMError)
    assert expected.text is None, error
    assert WORDS in str(error)
    assert OTHER_KEY not in str(error) + str(error.metadata)
    assert KEY not in str(error)
    assert error.metadata["status"] >= 200
    if expected.cost is not None:
        assert error.cost == expected.cost


async def test_a_mixture_asked_for_whole() -> None:
    for seed in range(MIXTURES):
        sent, expected = a_mixture(seed, streams=False)
        async with served(sent) as provider:
            outcome = await complete().run(provider, "Where?", retry=RetryConfig(max_retries=0))
        try:
            check_outcome(outcome, expected)
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}: {sent}, {expected}") from problem


def check_outcome(outcome: Outcome[str], expected: Expected) -> None:
    if expected.text is None:
        check_error(outcome.failure(), expected)
        return
    result = outcome.unwrap()
    assert result.value == expected.text
    if expected.cost is None:
        assert result.metadata["usage_estimated"] == 1
    else:
        assert result.cost == expected.cost


async def test_a_mixture_asked_for_in_pieces() -> None:
    for seed in range(MIXTURES):
        sent, expected = a_mixture(seed, streams=True)
        async with served(sent) as provider:
            stream = provider.stream([user("Where?")])
            try:
                texts = [piece async for piece in stream]
            except LLMError as error:
                check_error(error, expected)
                continue
        response = stream.response
        assert response.content == expected.text == "".join(piece.text for piece in texts), (seed, sent)
        assert response.reasoning == expected.reasoning == "".join(piece.reasoning for piece in texts), (
            seed,
            sent,
        )
        if expected.cost is not None:
            assert stream.cost == read_usage(response.usage).or_else(0, 0) == expected.cost
