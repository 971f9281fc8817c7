"""What each known refusal teaches, in the words of the server that it is from."""

from typing import Any

import pytest

from executionkit.core.dialect import Dialect, JsonForm, Request, spell
from executionkit.core.learning import Refusal, learn

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "A"},
    {"role": "system", "content": "B"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "3"},
]
FORM = JsonForm("x", {"type": "object"})
ASKED = Request(TALK, 0.5, 100, n=2, form=FORM, logprobs=True, options={"tool_choice": "required"})
PLAIN = Request(TALK, 0.5, 100, options={"tool_choice": "required"})
"""The same without what could be left out."""

LESSONS: list[tuple[str, dict[str, Any]]] = [
    (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        {"output_limit": "max_completion_tokens"},
    ),
    (
        "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
        {"takes_temperature": False},
    ),
    (
        "Unknown parameter 'max_tokens'. Use 'max_output_tokens' instead.",
        {"output_limit": "max_output_tokens"},
    ),
    ("`max_tokens` is not allowed; did you mean `n_predict`?", {"output_limit": "n_predict"}),
    ("Unsupported parameter: 'temperature' is not supported with this model.", {"takes_temperature": False}),
    ("invalid temperature: only 1 is allowed for this model", {"takes_temperature": False}),
    ("`temperature` is deprecated for this model.", {"takes_temperature": False}),
    ("'n' : number must be at most 1", {"takes_n": False}),
    ("Invalid n value (currently only n = 1 is supported)", {"takes_n": False}),
    ("Only one candidate can be specified in the current model", {"takes_n": False}),
    ("Multiple candidates is not enabled for this model", {"takes_n": False}),
    ("`logprobs` is not supported with this model", {"takes_logprobs": False}),
    ("Logprobs is not enabled for models/gemini-2.5-pro", {"takes_logprobs": False}),
    ("deepseek-reasoner does not support the parameter logprobs", {"takes_logprobs": False}),
    ("This response_format type is unavailable now", {"response_formats": ("json_object",)}),
    (
        "This model does not support response format `json_schema`. See supported models at https://console.groq.com",
        {"response_formats": ("json_object",)},
    ),
    ("deepseek-reasoner does not support Json Output.", {"response_formats": ("json_object",)}),
    (
        "The response_format parameter is unsupported at the moment. Leave it unset.",
        {"response_formats": ("json_object",)},
    ),
    ("body.n: Extra inputs are not permitted", {"takes_n": False}),
    ("body.logprobs: Extra inputs are not permitted", {"takes_logprobs": False}),
    ("body.temperature: Extra inputs are not permitted", {"takes_temperature": False}),
    ("body.max_tokens: Extra inputs are not permitted", {"output_limit": "max_completion_tokens"}),
    ("output_config: Extra inputs are not permitted", {"response_formats": ("json_object",)}),
]
OF_TALKS: list[tuple[str, dict[str, Any]]] = [
    ("deepseek-reasoner does not support this tool_choice", {"forced_tools": False}),
    ("Thinking mode does not support this tool_choice", {"forced_tools": False}),
    ("tool_choice 'required' is incompatible with thinking enabled", {"forced_tools": False}),
    ("No endpoints found that support the provided 'tool_choice' value.", {"forced_tools": False}),
    ("Extra inputs are not permitted, field: 'stream_options'", {"stream_usage": False}),
    ("Unrecognized request argument supplied: stream_options", {"stream_usage": False}),
    ("body.stream_options.include_usage: Extra inputs are not permitted", {"stream_usage": False}),
    (
        "body.messages.3.assistant.reasoning_content: Extra inputs are not permitted",
        {"echo_reasoning": False},
    ),
    (
        "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
        {"tool_ids": "nine"},
    ),
    ("System message must be at the beginning.", {"one_system_message": True}),
    ("Conversation roles must alternate user/assistant/user/assistant/...", {"one_system_message": True}),
    (
        (
            "'messages.3' : for 'role:assistant' the following must be satisfied[('messages.3' : property "
            "'reasoning_content' is unsupported)]"
        ),
        {"echo_reasoning": False},
    ),
    ("Extra inputs are not permitted, field: 'messages[3].reasoning_content'", {"echo_reasoning": False}),
]


def changed(learned: Dialect | None) -> dict[str, Any]:
    assert learned is not None
    plain = Dialect()
    return {
        name: getattr(learned, name)
        for name in plain.__struct_fields__
        if getattr(learned, name) != getattr(plain, name)
    }


@pytest.mark.parametrize(("text", "lesson"), LESSONS, ids=[text for text, _ in LESSONS])
def test_a_refusal_of_a_field_teaches(text: str, lesson: dict[str, Any]) -> None:
    assert changed(learn(Dialect(), ASKED, Refusal(text))) == lesson


@pytest.mark.parametrize(("text", "lesson"), OF_TALKS, ids=[text for text, _ in OF_TALKS])
def test_a_refusal_of_a_conversation_teaches(text: str, lesson: dict[str, Any]) -> None:
    assert changed(learn(Dialect(), PLAIN, Refusal(text))) == lesson


def test_only_the_form_that_was_asked_for_is_given_up() -> None:
    asked = Dialect(response_formats=("json_object",))
    learned = learn(asked, ASKED, Refusal("'response_format.type' must be 'json_schema' or 'text'"))
    assert learned == Dialect(response_formats=())


@pytest.mark.parametrize(
    "text",
    [
        "thinking is enabled but reasoning_content is missing in assistant tool call message at index 3",
        "Missing `reasoning_content` field in the assistant message at message index 3.",
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
    ],
)
def test_reasoning_that_is_missed_goes_back(text: str) -> None:
    silent = Dialect(echo_reasoning=False)
    assert learn(silent, PLAIN, Refusal(text)) == Dialect()
    always = learn(Dialect(), PLAIN, Refusal(text))  # of the calls of a model that had none
    assert always is not None
    assert always == Dialect(echo_reasoning="always")
    assert learn(always, PLAIN, Refusal(text)) is None
    assert learn(Dialect(), Request([]), Refusal(text)) is None


def test_a_call_without_reasoning_goes_back_with_a_blank_one_where_some_is_always_wanted() -> None:
    bare = {name: value for name, value in TALK[3].items() if name != "reasoning_content"}
    sent = spell(Request([*TALK, bare]), Dialect(echo_reasoning="always"), None).messages
    assert [message.get("reasoning_content") for message in sent] == [None, None, None, "hm", None, " "]
    again = spell(Request(sent), Dialect(echo_reasoning="always"), None).messages
    assert again == sent


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens is too large: 50000. This model supports at most 16384 completion tokens.",
        "Requests with max_tokens > 4096 must have stream=true",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "temperature: range: 0..1",
        "Invalid request",
        "Function call is missing a thought_signature in functionCall parts.",
        "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.",
        "body.messages.0.temperature: Extra inputs are not permitted",
        "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
        "registry.ollama.ai/library/gemma:2b does not support tools",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "You exceeded your current quota, please check your plan and billing details.",
    ],
)
def test_a_refusal_for_another_cause_teaches_nothing(text: str) -> None:
    assert learn(Dialect(), PLAIN, Refusal(text)) is None
