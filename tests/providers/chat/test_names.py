"""What an answer is called, who gave it, and under what request: whole, streamed, and with the key hidden."""

import json

import pytest

from executionkit.provider import LLMResponse, finish_reasons_in
from executionkit.providers.chat.deltas import Assembly
from executionkit.providers.chat.failures import headed
from executionkit.providers.chat.redaction import NOTHING_SECRET, Redactor
from executionkit.providers.chat.wire import decode_completion
from executionkit.providers.http.exchange import Head
from executionkit.providers.messages.events import MessageAssembly
from executionkit.providers.messages.wire import decode_message

KEY = "sk-secret-0123456789"


def test_a_whole_answer_tells_its_id_and_model() -> None:
    body = {"id": "c1", "model": f"m-{KEY}", "choices": [{"message": {"content": "hi"}}]}
    answer = decode_completion(json.dumps(body).encode(), Redactor(KEY))
    assert isinstance(answer, LLMResponse)
    assert (answer.id, answer.model) == ("c1", "m-***")


@pytest.mark.parametrize("odd", [None, 7, ["c1"], {}])
def test_a_name_that_is_no_text_is_none(odd: object) -> None:
    body = {"id": odd, "model": odd, "choices": [{"message": {"content": "hi"}}]}
    answer = decode_completion(json.dumps(body).encode(), NOTHING_SECRET)
    assert isinstance(answer, LLMResponse)
    assert (answer.id, answer.model) == ("", "")
    message = {"id": odd, "model": odd, "content": [{"type": "text", "text": "hi"}]}
    answer = decode_message(json.dumps(message).encode(), NOTHING_SECRET)
    assert isinstance(answer, LLMResponse)
    assert (answer.id, answer.model) == ("", "")


def test_a_streamed_answer_tells_them_too() -> None:
    assembly = Assembly(Redactor(KEY))
    assembly.take('{"choices": [{"delta": {"content": "hi"}}]}')
    assembly.take(
        json.dumps({"id": f"c-{KEY}", "model": "m1", "choices": [{"delta": {}, "finish_reason": "stop"}]})
    )
    answer = assembly.finished()
    assert (answer.id, answer.model) == ("c-***", "m1")


def test_so_do_messages() -> None:
    message = {"id": "msg_1", "model": "claude", "content": [{"type": "text", "text": "hi"}]}
    answer = decode_message(json.dumps(message).encode(), NOTHING_SECRET)
    assert isinstance(answer, LLMResponse)
    assert (answer.id, answer.model) == ("msg_1", "claude")
    assembly = MessageAssembly(Redactor(KEY))
    begun = {"type": "message_start", "message": {"id": f"msg_{KEY}", "model": "claude"}}
    assembly.take(json.dumps(begun))
    assert (assembly.finished().id, assembly.finished().model) == ("msg_***", "claude")


def test_the_head_tells_status_and_request() -> None:
    head = Head(201, {"x-request-id": f"r-{KEY}"})
    answer = headed(LLMResponse("hi"), head, Redactor(KEY))
    assert (answer.status, answer.request_id) == (201, "r-***")
    assert headed(LLMResponse("hi"), Head(200, {}), NOTHING_SECRET).request_id == ""


def test_each_answer_has_a_reason_of_its_own() -> None:
    raw = {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}, {}, "odd"]}
    assert finish_reasons_in(LLMResponse("hi", raw=raw)) == ("stop", "length", "unknown", "unknown")
    assert finish_reasons_in(LLMResponse("hi", finish_reason="length")) == ("length",)
    assert finish_reasons_in(LLMResponse("hi", raw={"choices": 7})) == ("stop",)
