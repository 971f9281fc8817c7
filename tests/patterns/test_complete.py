"""`complete`: one request, its text, and why it ended."""

from typing import Any

import pytest

from executionkit import (
    LLMResponse,
    ProviderError,
    RetryConfig,
    ScriptedProvider,
    TokenUsage,
    complete,
)
from executionkit.errors import InvalidPromptError
from executionkit.patterns.complete import Complete
from tests.talking import filtered, refuses

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


async def test_the_text_is_the_value_and_the_usage_the_cost() -> None:
    provider = ScriptedProvider([LLMResponse("Paris", finish_reason="length", usage=USAGE)])
    result = (await complete().run(provider, "?")).unwrap()
    assert (result.value, result.score, result.cost) == ("Paris", None, TokenUsage(7, 2, 1))
    assert dict(result.metadata) == {"finish_reason": "length"}


async def test_settings_are_sent() -> None:
    provider = ScriptedProvider("Paris")
    await complete(temperature=0.25, max_tokens=12).run(provider, "the prompt")
    await complete().run(provider, "the prompt")
    first, second = provider.requests
    assert first.messages == ({"role": "user", "content": "the prompt"},)
    assert (first.temperature, first.max_tokens, first.tools, first.options) == (0.25, 12, (), {})
    assert (second.temperature, second.max_tokens) == (None, 4096)


async def test_usage_that_is_missing_settles_at_the_reservation_and_says_so() -> None:
    provider = ScriptedProvider([LLMResponse("Paris")])
    result = (await complete(max_tokens=50).run(provider, "what is it?")).unwrap()
    assert (result.cost.output_tokens, result.metadata["usage_estimated"]) == (50, 1)
    assert result.cost.input_tokens > 0


async def test_attempts_that_failed_count() -> None:
    provider = ScriptedProvider([ProviderError("down"), TimeoutError("slow"), "Paris"])
    result = (await complete().run(provider, "?", retry=RetryConfig(base_delay=0.0))).unwrap()
    assert (result.value, result.cost.llm_calls) == ("Paris", 3)


@pytest.mark.parametrize("answer", [None, {"content": "text"}, "text", 7])
async def test_what_is_no_response_is_a_provider_error(answer: object) -> None:
    class Junk:
        async def complete(self, *_: Any, **__: Any) -> Any:
            return answer

    error = (await complete().run(Junk(), "?")).failure()
    assert isinstance(error, ProviderError)
    assert (error.retryable, error.cost.llm_calls) == (False, 1)


async def test_a_provider_of_your_own_may_leave_extra_fields_out() -> None:
    bare = LLMResponse("Paris", extra=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    result = (await complete().run(ScriptedProvider([bare]), "?")).unwrap()
    assert (result.value, "refusal" in result.metadata) == ("Paris", False)


async def test_an_empty_answer_is_an_answer() -> None:
    assert (await complete().run(ScriptedProvider(""), "?")).unwrap().value == ""


@pytest.mark.parametrize("prompt", ["", "\t", b"bytes", None])
async def test_a_prompt_that_is_none_fails_before_any_call(prompt: Any) -> None:
    provider = ScriptedProvider("Paris")
    error = (await complete().run(provider, prompt)).failure()
    assert isinstance(error, InvalidPromptError)
    assert provider.requests == []


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        *(
            ({"max_tokens": 0}, ValueError),
            ({"max_tokens": 1.5}, TypeError),
            ({"max_tokens": True}, TypeError),
        ),
        *(({"temperature": 2.5}, ValueError), ({"temperature": float("nan")}, ValueError)),
        *(({"temperature": "0.5"}, TypeError), ({"max_tokens": None}, TypeError)),
    ],
    ids=str,
)
async def test_settings_out_of_range_fail_when_the_stage_is_built(
    settings: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=next(iter(settings))):
        complete(**settings)
    with pytest.raises(kind):
        Complete(**settings)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (refuses("I cannot."), "I cannot."),
        (filtered("cut"), "content_filter"),
    ],
)
async def test_a_refusal_is_told(answer: LLMResponse, refusal: str) -> None:
    result = (await complete().run(ScriptedProvider([answer]), "?")).unwrap()
    assert (result.value, result.metadata["refusal"]) == (answer.content, refusal)
    assert result.metadata["finish_reason"] == answer.finish_reason
