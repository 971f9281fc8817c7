"""The public test double: what it says, what it remembers, what it claims to cost."""

import pickle
from collections.abc import Awaitable, Callable

import anyio
import pytest

from executionkit import LLMProvider, LLMResponse, PermanentError, ToolCall, complete, consensus
from executionkit.core.usage import NO_USAGE
from executionkit.provider import StreamingProvider, ToolCallingProvider, user
from executionkit.providers.scripted import Answer, ScriptedProvider, ScriptedRequest
from executionkit.retry import RetryConfig

pytestmark = pytest.mark.anyio


async def test_answers_come_in_order_and_requests_are_kept() -> None:
    provider = ScriptedProvider(["one", "two"])
    first = await provider.complete([user("a")], temperature=0.2, max_tokens=9, seed=4)
    second = await provider.complete([user("b")])
    assert (first.content, second.content) == ("one", "two")
    assert provider.requests == [
        ScriptedRequest((user("a"),), 0.2, 9, (), {"seed": 4}, 0),
        ScriptedRequest((user("b"),), index=1),
    ]
    assert provider.unused == ()


async def test_what_is_remembered_does_not_change_with_the_conversation() -> None:
    provider = ScriptedProvider("again")
    conversation = [user("a")]
    await provider.complete(conversation)
    conversation.append(user("b"))
    assert provider.requests[0].messages == (user("a"),)


async def test_a_script_that_ends_says_so_and_is_not_retried() -> None:
    provider = ScriptedProvider(["only one"])
    await provider.complete([user("a")])
    with pytest.raises(PermanentError, match="no answer for call 2; add one for 'b'") as caught:
        await provider.complete([user("b")])
    assert not caught.value.retryable


def plain(request: ScriptedRequest) -> Answer:
    return f"{request.index}: {request.prompt}"


async def awaited(request: ScriptedRequest) -> Answer:
    return plain(request)


@pytest.mark.parametrize("script", [plain, awaited])
async def test_a_function_answers(script: Callable[[ScriptedRequest], Answer | Awaitable[Answer]]) -> None:
    provider = ScriptedProvider(script)
    answers = [(await provider.complete([user(text)])).content for text in ("a", "b")]
    assert answers == ["0: a", "1: b"]


async def test_each_kind_of_answer() -> None:
    whole = LLMResponse("whole", finish_reason="length")
    call = ToolCall("1", "add", {"a": 1})
    provider = ScriptedProvider([whole, call, OSError("down")])
    assert await provider.complete([user("a")]) is whole
    called = await provider.complete([user("a")])
    assert (called.tool_calls, called.finish_reason) == ((call,), "tool_calls")
    with pytest.raises(OSError, match="down"):
        await provider.complete([user("a")])


async def test_a_wrong_answer_is_named() -> None:
    provider = ScriptedProvider(lambda _: 3)  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="not 3"):
        await provider.complete([user("a")])


async def test_usage_is_estimated_from_the_texts() -> None:
    response = await ScriptedProvider("x" * 400).complete([user("y" * 800)])
    assert response.output_tokens == 101
    assert 200 <= response.input_tokens < 220


async def test_budgets_settle_on_the_estimate() -> None:
    outcome = await complete().run(ScriptedProvider("Paris is the capital."), "What is the capital?")
    cost = outcome.unwrap().cost
    assert cost.llm_calls == 1
    assert cost.input_tokens > 0
    assert cost.output_tokens > 0
    assert "usage_estimated" not in outcome.unwrap().metadata


async def test_a_failure_in_the_script_is_retried_like_any_other() -> None:
    provider = ScriptedProvider([OSError("down"), "Paris"])
    outcome = await complete().run(provider, "Capital?", retry=RetryConfig(base_delay=0))
    assert outcome.unwrap().value == "Paris"
    assert outcome.unwrap().cost.llm_calls == 2


async def test_a_delay_makes_calls_overlap() -> None:
    running = 0
    all_three = anyio.Event()

    async def answer(_: ScriptedRequest) -> Answer:
        nonlocal running
        running += 1
        if running == 3:
            all_three.set()
        with anyio.fail_after(10):
            await all_three.wait()
        return "yes"

    outcome = await consensus(n=6, max_concurrency=3).run(ScriptedProvider(answer, delay=0.001), "Sky blue?")
    assert outcome.unwrap().cost.llm_calls == 6


def test_it_has_the_shape_of_a_provider_and_pickles_with_its_list() -> None:
    provider = ScriptedProvider(["one", "two"])
    assert isinstance(provider, LLMProvider)
    assert isinstance(provider, ToolCallingProvider)
    copy = pickle.loads(pickle.dumps(provider))
    assert copy.unused == ("one", "two")
    assert repr(copy) == "ScriptedProvider(0 requests, 2 answers unused)"


@pytest.mark.anyio
class TestStreams:
    @pytest.mark.parametrize("text", ["", "one", "two words", " a\n\nb  c ", "  "])
    async def test_the_pieces_are_the_text(self, text: str) -> None:
        provider = ScriptedProvider(text)
        async with provider.stream([user("x")]) as pieces:
            found = [piece.text async for piece in pieces]
        assert "".join(found) == text == pieces.response.content
        assert len(found) == max(len(text.split()), bool(text))
        assert pieces.cost.llm_calls == 1

    async def test_nothing_is_asked_before_the_first_piece(self) -> None:
        provider = ScriptedProvider(["one two"])
        stream = provider.stream([user("x")], temperature=0.5)
        assert provider.requests == []
        assert stream.cost == NO_USAGE
        with pytest.raises(RuntimeError, match="not ended"):
            _ = stream.response
        assert (await anext(stream)).text == "one "
        assert provider.requests[0].temperature == 0.5
        assert stream.cost.output_tokens == 1
        with pytest.raises(RuntimeError, match="not ended"):
            _ = stream.response

    async def test_tools_are_called_and_errors_raised_as_without(self) -> None:
        call = ToolCall("1", "add", {"left": 1})
        provider = ScriptedProvider([call, PermanentError("gone")])
        stream = provider.stream([user("x")])
        pieces = [piece async for piece in stream]
        assert not any(piece.text for piece in pieces)
        assert "".join(part.arguments for piece in pieces for part in piece.calls) == '{"left":1}'
        assert stream.response.tool_calls == (call,)
        with pytest.raises(PermanentError, match="gone"):
            await anext(provider.stream([user("x")]))

    async def test_it_has_the_shape_of_a_provider_that_streams(self) -> None:
        provider: StreamingProvider = ScriptedProvider("x")
        assert isinstance(provider, StreamingProvider)
