"""What is kept of an answer: every field of it, those that are still to come included."""

from executionkit.provider import LLMResponse, ToolCall
from executionkit.runtime.replies import as_reply, as_response

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
