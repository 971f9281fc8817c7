"""What is kept of an answer: every field of it, those that are still to come included."""

import pytest

from executionkit.core.journal import Body, Taught, as_bytes, from_bytes
from executionkit.provider import LLMResponse, ToolCall
from executionkit.runtime.journal.replies import as_reply, as_response

FULL = LLMResponse(
    "Paris",
    (ToolCall("call-1", "look_up", {"city": ["Paris"]}, {"index": 0}),),
    "tool_calls",
    {"prompt_tokens": 3, "completion_tokens": 2},
    {"choices": [{"index": 0}]},
    {"reasoning_details": [1]},
    "hm",
    "chatcmpl-1",
    "a-model",
    "req-1",
    200,
)


def test_every_field_of_an_answer_is_kept() -> None:
    empty = LLMResponse("")
    for name in LLMResponse.__struct_fields__:
        assert getattr(FULL, name) != getattr(empty, name), name
    again = as_response(as_reply(FULL, raw=True))
    for name in LLMResponse.__struct_fields__:
        assert getattr(again, name) == getattr(FULL, name), name


@pytest.mark.parametrize("text", ["Paris", "\ud800", str(2**80)])
def test_a_row_comes_back_as_it_was_written(text: str) -> None:
    """Also where the fast way of writing JSON refuses what is in it."""
    lessons: dict[str, object] = {"max_tokens": "max_completion_tokens"}
    body = Body(taught={0: Taught(lessons, ["n"]), 3: Taught(proven=["json_schema"])}, text=text)
    assert from_bytes(as_bytes(body, b"place"), b"place") == body
