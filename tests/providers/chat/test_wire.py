"""Whatever a server answers is a completion or a reason; what is sent is JSON or a clear error."""

import itertools
import json
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executionkit.core.usage import TokenUsage
from executionkit.errors import PermanentError
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.chat import wire
from executionkit.providers.chat.deltas import Assembly, StreamChunk
from executionkit.providers.chat.redaction import NOTHING_SECRET, Redactor
from executionkit.providers.chat.wire import (
    Unusable,
    decode_completion,
    encode_request,
    error_object,
    reported_usage,
    unique_calls,
)

KEY = "sk-12345678"
SHAPES = int(os.environ.get("EXECUTIONKIT_SHAPES", "2000"))
"""Shapes of an answer that the parser is tried on; fewer where the whole suite runs again and again."""

JUNK: list[Any] = [
    *(None, True, 0, -7, 10**30, 1.5, float("nan"), float("inf"), "", "stop", "\0", "\ud800", "a" * 1000),
    *([], [None], [[]], [{}], [1, "a"], {}, {"": None}, {"a": {"b": [1]}}, [[[[[[]]]]]], {"content": "x"}),
]
TEXTS = ["", "Paris", "stop", "{}", '{"a": 1}', "[1]", "c1", "a\u2028b"]


def any_body(chance: random.Random) -> Any:
    """Draw something like a completion, any part of which may be missing or junk."""

    def odd(value: Any) -> Any:
        return chance.choice(JUNK) if chance.random() < 0.12 else value

    def some(**fields: Any) -> Any:
        return odd({name: odd(value) for name, value in fields.items() if chance.random() < 0.85})

    def text() -> str:
        return chance.choice(TEXTS)

    def call() -> Any:
        return some(id=text(), index=chance.randint(0, 2), function=some(name=text(), arguments=text()))

    def message() -> Any:
        calls = [call() for _ in range(chance.randint(0, 3))]
        return some(role="assistant", content=text(), tool_calls=calls, refusal=text(), other=text())

    def choice() -> Any:
        return some(message=message(), delta=message(), finish_reason=text(), index=0)

    usage = some(prompt_tokens=chance.randint(-5, 10**10), completion_tokens=chance.randint(0, 9))
    error = some(message=text(), code=chance.randint(0, 999)) if chance.random() < 0.2 else None
    return some(choices=[choice() for _ in range(chance.randint(0, 2))], usage=usage, error=error)


def check_response(response: LLMResponse) -> None:
    assert isinstance(response.content, str)
    assert isinstance(response.finish_reason, str)
    assert response.total_tokens >= 0
    identities = [call.id for call in response.tool_calls]
    assert len(set(identities)) == len(identities)
    assert all(identities)


@pytest.mark.timeout(60 + SHAPES // 100)
@settings(max_examples=SHAPES, deadline=None)
@given(st.integers(min_value=0))
def test_any_json_is_read_or_refused(seed: int) -> None:
    answer = decode_completion(json.dumps(any_body(random.Random(seed))).encode(), NOTHING_SECRET)
    if isinstance(answer, LLMResponse):
        check_response(answer)
    else:
        assert answer.reason
        assert answer.usage.llm_calls == 1
        assert answer.usage.total_tokens >= 0


@settings(max_examples=1_000, deadline=None)
@given(st.integers(min_value=0))
def test_any_pieces_are_read_or_refused(seed: int) -> None:
    """Five pieces for each of a thousand seeds."""
    chance = random.Random(seed)
    assembly, texts = Assembly(Redactor("sk-12345678")), list[str]()
    for _ in range(5):
        chunk = assembly.take(json.dumps(any_body(chance)))
        if isinstance(chunk, StreamChunk):
            texts.append(chunk.text)
    texts.append(assembly.flush(is_sound=True))
    check_response(assembly.finished())
    assert "".join(texts) == assembly.text


def test_a_fresh_id_takes_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def counted(start: int) -> Iterator[int]:
        for number in itertools.count(start):
            steps.append(number)
            yield number

    monkeypatch.setattr(wire, "count", counted)
    taken = [ToolCall(f"call_{number}", "f", {}) for number in range(1, 500)]
    unique = unique_calls([*taken, *[ToolCall("", "f", {})] * 500, *[ToolCall("a", "f", {})] * 500])
    assert len({call.id for call in unique}) == 1_499
    assert len(steps) <= 2_000


def test_what_a_call_holds_beside_is_kept() -> None:
    call = {
        "id": "a",
        "type": "function",
        "index": 0,
        "function": {"name": "f", "arguments": "{}"},
        "no": None,
    }
    message = {"tool_calls": [{**call, "extra_content": {"signature": KEY}}, {"function": {"name": "g"}}]}
    answer = decode_completion(json.dumps({"choices": [{"message": message}]}).encode(), Redactor(KEY))
    assert isinstance(answer, LLMResponse)
    first, second = answer.tool_calls
    assert first == ToolCall("a", "f", {}, {"extra_content": {"signature": "***"}})
    assert (second.extra, repr(second)) == ({}, "ToolCall(id='call_1', name='g', arguments={})")


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [{"id": "a", "name": "f", "arguments": {"x": 1}}]},
        {"tool_calls": [{"id": "a", "name": "f", "args": '{"x": 1}'}]},
        {"tool_calls": [{"id": "a", "function": {"name": "f", "input": {"x": 1}}}]},
        {"tool_calls": [{"id": "a", "function": {"name": "f", "parameters": {"x": 1}, "arguments": None}}]},
        {"tool_calls": [], "function_call": {"id": "a", "name": "f", "arguments": '{"x": 1}'}},
        {"function_call": {"id": "a", "name": "f", "arguments": {"x": 1}}},
    ],
)
def test_a_call_is_read_where_it_stands(message: dict[str, Any]) -> None:
    answer = decode_completion(json.dumps({"choices": [{"message": message}]}).encode(), Redactor(KEY))
    assert isinstance(answer, LLMResponse)
    (call,) = answer.tool_calls
    assert (call.name, call.arguments, call.extra, answer.extra) == ("f", {"x": 1}, {}, {})


@pytest.mark.parametrize("odd", ["none", None, {}, [], 5])
def test_what_is_no_function_call_is_none(odd: object) -> None:
    message = {"content": "Paris", "function_call": odd}
    answer = decode_completion(json.dumps({"choices": [{"message": message}]}).encode(), Redactor(KEY))
    assert isinstance(answer, LLMResponse)
    assert (answer.content, answer.tool_calls) == ("Paris", ())


def test_an_error_within_the_message_is_one() -> None:
    message = {"content": "Par", "error": {"message": "upstream is gone", "code": 502}}
    answer = decode_completion(json.dumps({"choices": [{"message": message}]}).encode(), Redactor(KEY))
    assert isinstance(answer, Unusable)
    assert answer.error is not None
    assert answer.error["message"] == "upstream is gone"


@settings(max_examples=1_000, deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert isinstance(decode_completion(body, NOTHING_SECRET), (LLMResponse, Unusable))


@given(st.lists(st.sampled_from(["", "a", "a_2", "call_1", "b"]), max_size=8))
def test_ids_are_unique_and_kept_where_they_are(given_ids: list[str]) -> None:
    unique = unique_calls(ToolCall(identity, "f", {}) for identity in given_ids)
    identities = [call.id for call in unique]
    assert len(set(identities)) == len(given_ids)
    assert all(identities)
    for index, identity in enumerate(given_ids):
        if identity and identity not in given_ids[:index]:
            assert identities[index] == identity


def answer(**message: Any) -> LLMResponse:
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    decoded = decode_completion(json.dumps(body).encode(), NOTHING_SECRET)
    assert isinstance(decoded, LLMResponse)
    return decoded


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Paris"}', {"city": "Paris"}),
        ({"city": "Paris"}, {"city": "Paris"}),
        ("", {}),
        (" ", {}),
        ("null", {}),
        (None, {}),
        ('{"city": ', '{"city": '),
        ("[1]", "[1]"),
        ("[" * 500, "[" * 500),
    ],
)
def test_arguments_stay_as_they_came_where_they_are_no_object(arguments: Any, expected: Any) -> None:
    call = answer(content=None, tool_calls=[{"id": "1", "function": {"name": "f", "arguments": arguments}}])
    assert call.tool_calls[0].arguments == expected


def test_unknown_fields_of_a_message_survive() -> None:
    response = answer(content="hi", reasoning_content="hm", thought_signature={"a": [1]}, refusal=None)
    assert response.extra == {"reasoning_content": "hm", "thought_signature": {"a": [1]}}


def test_a_key_that_hides_in_escapes_is_found() -> None:
    body = rb'{"choices":[{"message":{"content":"key \u0073k-12345678", "x": ["sk-12345678"]}}]}'
    decoded = decode_completion(body, Redactor("sk-12345678"))
    assert isinstance(decoded, LLMResponse)
    assert decoded.content == "key ***"
    assert "sk-12345678" not in repr(decoded)


@given(st.lists(st.integers(1, 40), max_size=6))
def test_a_key_that_comes_in_pieces_is_found(cuts: list[int]) -> None:
    key = "sk-12345678-abcdefgh"
    text = f"your key is {key}, keep it"
    bounds = [0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    assembly = Assembly(Redactor(key))
    for start, end in pairwise(bounds):
        assembly.take(json.dumps({"choices": [{"delta": {"content": text[start:end]}}]}))
    assembly.flush(is_sound=True)
    assert assembly.text == "your key is ***, keep it"


def test_streamed_tool_calls_are_put_together() -> None:
    assembly = Assembly(NOTHING_SECRET)
    deltas: list[dict[str, Any]] = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x"'}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    ]
    for delta in deltas:
        assembly.take(json.dumps({"choices": [{"delta": {"tool_calls": [delta]}}]}))
    assert assembly.finished().tool_calls == (ToolCall("a", "f", {"x": 1}), ToolCall("b", "g", {}))


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\ud800", "a text holds a lone surrogate; repair it with text.encode(errors='replace').decode()"),
        (_cycle(), "a part of it is nested too deep, or inside itself"),
        (object(), "objects of type object have no JSON form"),
        ({(1, 2): 1}, "objects of type tuple have no JSON form"),
    ],
)
def test_what_has_no_json_form_is_refused(content: Any, says: str) -> None:
    with pytest.raises(PermanentError) as caught:
        encode_request({"messages": [{"content": content}]})
    assert str(caught.value) == f"the request cannot be written as JSON: {says}"


def test_read_only_mappings_are_sent_as_objects() -> None:
    encoded = encode_request({"messages": [MappingProxyType({"a": (1, frozenset({2}))})]})
    assert msgspec.json.decode(encoded) == {"messages": [{"a": [1, [2]]}]}


def test_sets_of_somebody_elses_are_sent_as_lists_in_order() -> None:
    assert encode_request({"stop": {"b": 1, "a": 2}.keys()}) == b'{"stop":["a","b"]}'


def decoded(body: object) -> LLMResponse | Unusable:
    return decode_completion(body if isinstance(body, bytes) else json.dumps(body).encode(), NOTHING_SECRET)


def choice(finish: str | None = None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
CHARGED = TokenUsage(3, 2, 1)
CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}


def called(**fields: Any) -> LLMResponse | Unusable:
    return decoded(choice(tool_calls=[fields]))


REFUSED: list[tuple[object, Unusable]] = [
    (b"", Unusable("the answer is not JSON: it is empty")),
    (b"[]", Unusable("the answer is not a JSON object but a list")),
    (b"null", Unusable("the answer is not a JSON object but a NoneType")),
    (b'"busy"', Unusable("the answer is not a JSON object but a str", begins="busy")),
    (
        b"busy",
        Unusable("the answer is not JSON: JSON is malformed: invalid character (byte 0)", begins="busy"),
    ),
    ({}, Unusable("the answer has no choices")),
    ({"choices": None, "usage": USAGE}, Unusable("the answer has no choices", CHARGED)),
    ({"choices": [], "usage": USAGE}, Unusable("the answer has no choices", CHARGED)),
    ({"choices": [{}], "usage": USAGE}, Unusable("the answer's first choice has no message", CHARGED)),
    (
        {"error": {"code": 5}, "usage": USAGE},
        Unusable("the server answered with an error", CHARGED, {"code": 5}),
    ),
    ({"error": "no"}, Unusable("the server answered with an error", error={"message": "no"})),
    (
        {"choices": [{"message": {"content": 1}}], "usage": USAGE},
        Unusable(
            "the answer is not a completion: Expected `str | array | null`, got `int`"
            " - at `$.choices[0].message.content`",
            CHARGED,
        ),
    ),
]


@pytest.mark.parametrize(("body", "unusable"), REFUSED)
def test_what_is_no_completion_says_why_and_what_it_cost(body: object, unusable: Unusable) -> None:
    assert decoded(body) == unusable


@pytest.mark.parametrize(
    ("body", "response"),
    [
        (choice(content="hi"), LLMResponse("hi")),
        (choice("length", content="hi"), LLMResponse("hi", finish_reason="length")),
        (choice(content=None), LLMResponse("")),
        ({**choice(content="hi"), "usage": USAGE}, LLMResponse("hi", usage=USAGE)),
        ({**choice(content="hi"), "usage": "many"}, LLMResponse("hi")),
        ({**choice(content="hi"), "error": {"code": 5}}, LLMResponse("hi")),
        (choice(tool_calls=[CALL]), LLMResponse("", (ToolCall("a", "f", {}),), "tool_calls")),
        (choice("stop", tool_calls=[CALL]), LLMResponse("", (ToolCall("a", "f", {}),), "stop")),
        (choice(role="assistant", content="hi", x=1, y=None), LLMResponse("hi", extra={"x": 1})),
        (
            choice(content=[{"type": "text", "text": "a"}, {"text": "b"}, {"type": "image", "text": "c"}]),
            LLMResponse("ab"),
        ),
        (
            choice(content=[{"type": "output_text", "text": "a"}, {"type": "text", "text": 5}]),
            LLMResponse("a"),
        ),
        ({"choices": [*choice(content="a")["choices"], *choice(content="b")["choices"]]}, LLMResponse("a")),
    ],
)
def test_a_completion_by_hand(body: dict[str, Any], response: LLMResponse) -> None:
    answered = decoded(body)
    assert isinstance(answered, LLMResponse)
    assert answered.raw == body
    assert msgspec.structs.replace(answered, raw=None) == response


@pytest.mark.parametrize(
    ("fields", "call"),
    [
        ({}, ToolCall("call_1", "", {})),
        ({"id": 0, "function": None}, ToolCall("0", "", {})),
        ({"id": 7, "function": {"name": None, "arguments": '{"a": 1}'}}, ToolCall("7", "", {"a": 1})),
        ({"id": "a", "function": {"name": "f", "arguments": None}}, ToolCall("a", "f", {})),
    ],
)
def test_a_call_by_hand(fields: dict[str, Any], call: ToolCall) -> None:
    response = called(**fields)
    assert isinstance(response, LLMResponse)
    assert response.tool_calls == (call,)


@pytest.mark.parametrize(
    ("given_ids", "ids"),
    [
        (["", ""], ["call_1", "call_2"]),
        (["a", "a", "a"], ["a", "a_1", "a_2"]),
        (["a", "a", "a_1"], ["a", "a_2", "a_1"]),
        (["", "call_1"], ["call_2", "call_1"]),
    ],
)
def test_fresh_ids_by_hand(given_ids: list[str], ids: list[str]) -> None:
    calls = [ToolCall(identity, f"f{number}", {}) for number, identity in enumerate(given_ids)]
    unique = unique_calls(calls)
    assert [call.id for call in unique] == ids
    assert [call.name for call in unique] == [call.name for call in calls]


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (None, TokenUsage(0, 0, 1)),
        (USAGE, CHARGED),
        ({"input_tokens": 4, "output_tokens": -1}, TokenUsage(4, 0, 1)),
        ({"output_tokens": 4}, TokenUsage(0, 4, 1)),
    ],
)
def test_reported_usage_is_the_cost_of_one_call(usage: object, cost: TokenUsage) -> None:
    assert reported_usage(usage) == cost


def test_an_error_object_is_a_mapping() -> None:
    assert error_object({"a": 1}) == {"a": 1}
    assert error_object("no") == {"message": "no"}
    assert error_object(5) == {"message": "5"}


def test_a_key_escaped_in_arguments_is_kept_out_of_them() -> None:
    key = "sk-12345678-abcdefgh"
    escaped = key.replace("-", "\\u002d")
    calls = [{"id": "1", "function": {"name": "f", "arguments": f'{{"key": "{escaped}"}}'}}]
    body = json.dumps({"choices": [{"message": {"tool_calls": calls}}]}).encode()
    answer = decode_completion(body, Redactor(key))
    assert isinstance(answer, LLMResponse)
    assert answer.tool_calls == (ToolCall("1", "f", {"key": "***"}),)


def test_thoughts_are_kept_apart() -> None:
    message = {"content": "<think>3 of 10?</think>\n\nScore: 9", "role": "assistant"}
    assert (answer(**message).content, answer(**message).reasoning) == ("Score: 9", "3 of 10?")
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "9"},
        {"type": "refusal", "refusal": "no"},
    ]
    said = answer(content=parts)
    assert (said.content, said.reasoning, said.refusal) == ("9", "hm", "no")
    field = answer(content="9", reasoning_content="hm")
    assert (field.reasoning, field.extra) == ("hm", {"reasoning_content": "hm"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud83d", r"\ud83d"),
        (r"\ude00\ud83d!", "\ufffd\ufffd!"),
    ],
)
def test_half_a_surrogate_pair_is_no_reason_to_refuse(text: str, shown: str) -> None:
    body = json.dumps({**choice(content="@"), "usage": USAGE}).replace("@", text)
    response = decoded(body.encode())
    assert isinstance(response, LLMResponse)
    assert (response.content, response.total_tokens) == (shown, 5)
    broken = decoded(body.encode().replace(b"prompt", b"\xff"))
    assert isinstance(broken, LLMResponse | Unusable)


@pytest.mark.parametrize(
    "body",
    [
        {**choice(content="hi"), "x_groq": {"usage": USAGE}},
        {"choices": [{"message": {"content": "hi"}, "usage": USAGE}]},
    ],
)
def test_usage_is_found_wherever_it_stands(body: dict[str, Any]) -> None:
    response = decoded(body)
    assert isinstance(response, LLMResponse)
    assert response.total_tokens == 5


@pytest.mark.parametrize("identity", ["", None])
def test_calls_without_ids_have_unique_ones(identity: Any) -> None:
    response = decoded(choice(tool_calls=[{**CALL, "id": identity}, {**CALL, "id": identity}, CALL, CALL]))
    assert isinstance(response, LLMResponse)
    assert len({call.id for call in response.tool_calls} - {""}) == 4
