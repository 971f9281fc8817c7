"""Why a model stopped has many names."""

import pytest

from executionkit.core.endings import is_cut, is_failed, is_filtered
from executionkit.provider import LLMResponse


@pytest.mark.parametrize(
    "reason",
    [
        *("length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", " Length "),
        *("FINISH_REASON_MAX_TOKENS", "model_context_window_exceeded"),
        *("max_tokens_reached", "incomplete", "token limit reached", "truncated", "pause_turn"),
    ],
)
def test_names_for_a_cut(reason: str) -> None:
    assert is_cut(reason)
    assert not is_filtered(reason)
    assert not is_failed(reason)
    assert LLMResponse("x", finish_reason=reason).was_truncated


@pytest.mark.parametrize(
    "reason",
    [
        *("content_filter", "SAFETY", "safety", "blocked", "RECITATION", "content-filter", "sensitive"),
        *("refusal", "SAFETY_CHECK", "content policy", "LANGUAGE", "image_prohibited_content"),
    ],
)
def test_names_for_a_filter(reason: str) -> None:
    assert is_filtered(reason)
    assert not is_cut(reason)
    assert LLMResponse("x", finish_reason=reason).refusal == "content_filter"


@pytest.mark.parametrize(
    "reason",
    [
        *("error", "ERROR", "network_error", "insufficient_system_resource", "abort", "failed", "timeout"),
        *("timed_out", "cancelled", "canceled", "engine_overloaded", "UNEXPECTED_TOOL_CALL"),
        "rate_limit_exceeded",
    ],
)
def test_names_for_a_failure(reason: str) -> None:
    assert is_failed(reason)
    assert not is_filtered(reason)


@pytest.mark.parametrize(
    "reason",
    [
        "stop",
        "tool_calls",
        "end_turn",
        "eos",
        "stop_sequence",
        "COMPLETE",
        "unknown",
        "",
        None,
        5,
        ["length"],
    ],
)
def test_what_is_none_of_them(reason: object) -> None:
    assert not any(named(reason) for named in (is_cut, is_filtered, is_failed))
