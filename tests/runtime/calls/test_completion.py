"""One completion: the provider's retry quota, and an answer in pieces."""

import ssl
from collections.abc import AsyncIterator
from typing import Any, Self

import anyio
import msgspec
import pytest
from returns.primitives.exceptions import UnwrapFailedError
from returns.result import Failure

from executionkit import (
    DeadlineExceededError,
    LLMResponse,
    Message,
    PermanentError,
    ProviderError,
    RateLimitError,
    RetryConfig,
    Stage,
    TokenUsage,
    complete,
    structured,
)
from executionkit.core.retry_quota import RetryQuota
from executionkit.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    TextDelta,
    WaitFinished,
    WaitStarted,
    with_content,
)
from executionkit.outcome import PatternResult
from executionkit.providers.scripted import ScriptedProvider, ScriptedRequest
from executionkit.runtime.calls.endpoints import memory_of
from executionkit.runtime.context import Context
from tests.doubles import error_of, result_of

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(max_retries=100, base_delay=0, max_delay=0)


class Down:
    """A server that is down, or busy, until it has been asked often enough."""

    def __init__(
        self, error: ProviderError | RateLimitError, capacity: int, well_after: int = 10_000
    ) -> None:
        self.error = error
        self.retry_quota = RetryQuota(capacity)
        self.well_after = well_after
        self.calls = 0

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        self.calls += 1
        if self.calls <= self.well_after:
            raise self.error
        return LLMResponse("yes", usage={"prompt_tokens": 1, "completion_tokens": 1})


@pytest.mark.parametrize(
    ("error", "attempts"), [(ProviderError("503"), 1 + 100 // 14), (RateLimitError("429"), 1 + 100 // 5)]
)
async def test_retries_draw_on_the_quota_of_the_provider(
    error: ProviderError | RateLimitError, attempts: int
) -> None:
    model = Down(error, capacity=100)
    failure = error_of(await complete().run(model, "q", retry=AT_ONCE))
    assert model.calls == failure.cost.llm_calls == failure.metadata["attempts"] == attempts
    assert error_of(await complete().run(model, "q", retry=AT_ONCE)).cost.llm_calls <= 2


async def test_a_success_refills_the_quota() -> None:
    model = Down(ProviderError("503"), capacity=14, well_after=1)
    result_of(await complete().run(model, "q", retry=AT_ONCE))
    assert model.retry_quota.tokens == 1


class Piece(msgspec.Struct):
    text: str


class Pieces:
    """An answer in pieces, which may break off or never end."""

    def __init__(self, texts: list[str], error: Exception | None, stuck: bool) -> None:
        self.texts = texts
        self.error = error
        self.stuck = stuck
        self.seen = 0
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for text in self.texts:
            self.seen += 1
            yield Piece(text)
        if self.stuck:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error

    @property
    def cost(self) -> TokenUsage:
        return TokenUsage(2, self.seen, 1)

    @property
    def response(self) -> LLMResponse:
        usage = {"prompt_tokens": 2, "completion_tokens": self.seen}
        return LLMResponse("".join(self.texts), usage=usage)


class Streaming:
    """A provider that streams, and answers in one piece where it is not asked to."""

    def __init__(
        self,
        error: Exception | None = None,
        stuck: bool = False,
        texts: tuple[str, ...] = ("a", "", "b"),
    ) -> None:
        self.error = error
        self.stuck = stuck
        self.texts = texts
        self.streams: list[Pieces] = []

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        return LLMResponse("in one piece", usage={"prompt_tokens": 2, "completion_tokens": 9})

    def stream(self, messages: list[Message], **kwargs: Any) -> Pieces:
        self.streams.append(Pieces([*self.texts], self.error, self.stuck))
        return self.streams[-1]


async def test_a_streamed_answer_is_traced_in_pieces_and_charged_once() -> None:
    events: list[Event] = []
    model = Streaming()
    result = result_of(await complete(stream=True).run(model, "q", trace=with_content(events.append)))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "b"]
    assert (result.value, result.cost) == ("ab", TokenUsage(2, 3, 1))
    assert model.streams[0].closed


async def test_pieces_are_no_business_of_a_trace_that_wants_no_content() -> None:
    events: list[Event] = []
    result_of(await complete(stream=True).run(Streaming(), "q", trace=events.append))
    assert not any(isinstance(event, TextDelta) for event in events)


async def test_an_answer_is_not_streamed_unasked() -> None:
    assert result_of(await complete().run(Streaming(), "q")).value == "in one piece"


async def test_a_stream_that_breaks_off_costs_what_arrived() -> None:
    broken = ProviderError("broke off", cost=TokenUsage(2, 3, 1), metadata={"text": "ab"}, retryable=False)
    model = Streaming(broken)
    error = error_of(await complete(stream=True).run(model, "q"))
    assert (error.cost, error.metadata["text"], len(model.streams)) == (TokenUsage(2, 3, 1), "ab", 1)


@pytest.mark.parametrize(
    "error",
    [
        ProviderError("broke off"),
        ProviderError("broke off", retryable=True),
        PermanentError("broke off"),
        ConnectionResetError("reset"),
        KeyError("broken"),
    ],
    ids=repr,
)
async def test_text_that_was_handed_out_is_not_asked_for_again(error: Exception) -> None:
    model, events = Streaming(error), list[Event]()
    policy = RetryConfig(base_delay=0, retryable=(Exception,))
    trace = with_content(events.append)
    failure = error_of(await complete(stream=True).run(model, "q", retry=policy, trace=trace))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "b"]
    assert len(model.streams) == failure.metadata["attempts"] == 1
    assert not failure.retryable


async def test_a_stream_that_breaks_before_its_text_is_asked_for_again() -> None:
    model = Streaming(ProviderError("broke off"), texts=("", ""))
    policy = RetryConfig(max_retries=2, base_delay=0)
    error_of(await complete(stream=True).run(model, "q", retry=policy))
    assert len(model.streams) == 3


@pytest.mark.parametrize("stream", [True, None])
async def test_what_only_has_the_name_of_a_stream_is_asked_in_one_piece(stream: object) -> None:
    model = Streaming()
    model.stream = stream  # type: ignore[method-assign, assignment]  # pyright: ignore[reportAttributeAccessIssue]
    assert result_of(await complete(stream=True).run(model, "q")).value == "in one piece"


async def test_a_stream_that_is_cancelled_costs_what_arrived() -> None:
    error = error_of(await complete(stream=True).run(Streaming(stuck=True), "q", deadline=0.05))
    assert error.cost == TokenUsage(2, 3, 1)


async def test_a_trace_sees_each_attempt() -> None:
    events: list[Event] = []
    model = Down(ProviderError("503", cost=TokenUsage(3, 0, 1)), capacity=500, well_after=1)
    retry = RetryConfig(max_retries=1, base_delay=0, max_delay=0)
    budget = TokenUsage(output_tokens=50)
    result = result_of(await complete().run(model, "q", retry=retry, trace=events.append, max_cost=budget))
    assert result.cost == TokenUsage(4, 1, 2)
    kinds = CallStarted | CallFinished | AttemptStarted | AttemptFinished | WaitStarted | WaitFinished
    call, first, failed, again, waited, second, answered, ended = (
        event for event in events if isinstance(event, kinds)
    )
    assert isinstance(call, CallStarted)
    assert (call.ordinal, call.max_tokens, call.prompt) == (0, 4096, None)
    assert isinstance(first, AttemptStarted)
    assert (first.attempt, first.max_tokens, first.parent) == (1, 50, call.id)
    assert isinstance(failed, AttemptFinished)
    assert (failed.attempt, failed.cost, failed.error) == (1, TokenUsage(3, 0, 1), "ProviderError")
    assert isinstance(again, WaitStarted)
    assert (again.reason, again.delay, again.error) == ("back_off", 0.0, "ProviderError")
    assert isinstance(waited, WaitFinished)
    assert isinstance(second, AttemptStarted)
    assert second.attempt == 2
    assert isinstance(answered, AttemptFinished)
    assert (answered.attempt, answered.cost, answered.error) == (2, TokenUsage(1, 1, 1), None)
    assert isinstance(ended, CallFinished)
    assert (ended.attempts, ended.cost, ended.finish_reason, ended.text) == (2, result.cost, "stop", None)
    assert 0 <= answered.duration <= ended.duration < 60
    assert 0 <= failed.duration < 60


async def test_a_trace_that_wants_content_sees_prompt_and_answer() -> None:
    events: list[Event] = []
    model = Down(ProviderError("503"), capacity=500, well_after=0)
    result_of(await complete().run(model, "q", trace=with_content(events.append)))
    (started,) = (event for event in events if isinstance(event, CallStarted))
    (finished,) = (event for event in events if isinstance(event, CallFinished))
    assert started.prompt == '[{"role":"user","content":"q"}]'
    assert finished.text == "yes"


async def test_a_pause_that_the_deadline_would_cut_is_not_begun() -> None:
    model = Down(ProviderError("busy", retry_after=100.0), capacity=500)
    retry = RetryConfig(max_retries=1, base_delay=0, max_delay=200)
    error = error_of(await complete().run(model, "q", retry=retry, deadline=30))
    assert isinstance(error, ProviderError)
    assert (error.retry_after, error.cost.llm_calls, model.calls) == (100.0, 1, 1)


async def test_a_pause_that_the_deadline_allows_is_made() -> None:
    model = Down(ProviderError("busy"), capacity=500, well_after=1)
    result = result_of(await complete().run(model, "q", retry=AT_ONCE, deadline=30))
    assert result.cost.llm_calls == model.calls == 2


async def test_a_quota_of_another_make_is_none_of_ours() -> None:
    model = Down(ProviderError("503"), capacity=0, well_after=2)
    vars(model)["retry_quota"] = "plenty"
    assert result_of(await complete().run(model, "q", retry=AT_ONCE)).cost.llm_calls == 3


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (ConnectionResetError("reset"), 101),
        (ssl.SSLEOFError("hung up"), 101),
        (ssl.SSLCertVerificationError("expired"), 1),
        (ValueError("no"), 1),
        (KeyError("no"), 1),
    ],
)
async def test_of_foreign_exceptions_only_those_of_the_system_are_retried(
    error: Exception, calls: int
) -> None:
    class Foreign:
        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            raise error

    failure = error_of(await complete().run(Foreign(), "q", retry=AT_ONCE))
    assert isinstance(failure, ProviderError)
    assert failure.__cause__ is error
    assert str(failure) == f"the provider raised {type(error).__name__}: {error}"
    assert (failure.cost.llm_calls, failure.retryable) == (calls, calls > 1)


@pytest.mark.parametrize("named", [OSError, Exception])
async def test_tls_that_failed_is_not_tried_again_whatever_is_named(named: type[Exception]) -> None:
    class Foreign:
        calls = 0

        async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
            self.calls += 1
            raise ssl.SSLCertVerificationError("expired")

    model = Foreign()
    error_of(await complete().run(model, "q", retry=RetryConfig(base_delay=0, retryable=(named,))))
    assert model.calls == 1


class Recording:
    """Remembers what it was asked, whole or in pieces."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], dict[str, Any]]] = []

    async def complete(self, messages: list[Message], **kwargs: Any) -> LLMResponse:
        self.asked.append((messages, kwargs))
        return LLMResponse("yes")

    def stream(self, messages: list[Message], **kwargs: Any) -> Pieces:
        self.asked.append((messages, kwargs))
        return Pieces(["y"], None, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_reaches_the_provider_as_it_was_made(stream: bool) -> None:
    class Asking(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            messages: list[Message] = [{"role": "user", "content": value}]
            response = await context.complete(messages, temperature=0.3, max_tokens=33, seed=7, stream=stream)
            return PatternResult(response.content)

    model = Recording()
    trace = with_content(lambda event: None)
    result_of(await Asking().run(model, "q", trace=trace))
    told = {"temperature": 0.3, "max_tokens": 33, "seed": 7}
    assert model.asked == [([{"role": "user", "content": "q"}], told)]


async def test_a_trace_sees_that_a_call_was_cancelled() -> None:
    events: list[Event] = []
    outcome = complete(stream=True).run(Streaming(stuck=True), "q", deadline=0.05, trace=events.append)
    assert error_of(await outcome).cost == TokenUsage(2, 3, 1)
    (finished,) = (event for event in events if isinstance(event, AttemptFinished))
    assert (finished.attempt, finished.cost) == (1, TokenUsage(2, 3, 1))
    assert finished.error in {"CancelledError", "Cancelled"}


async def test_a_stage_that_does_not_listen_buys_nothing_after_the_deadline() -> None:
    said: list[str] = []

    class Deaf(Stage[str, str], frozen=True):
        async def perform(self, value: str, context: Context) -> PatternResult[str]:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.03)
                try:
                    await context.complete([{"role": "user", "content": value}])
                except DeadlineExceededError as error:
                    said.append(str(error))
            return PatternResult("late")

    model = Recording()
    await Deaf().run(model, "q", deadline=0.01)
    assert said == ["not sent: the run's deadline has passed"]
    assert not model.asked


async def test_a_server_that_refuses_both_names_of_a_limit_teaches_once() -> None:
    seen: list[str] = []

    def answer(request: ScriptedRequest) -> Exception:
        named = "max_completion_tokens" if "max_completion_tokens" in request.options else "max_tokens"
        seen.append(named)
        return PermanentError(f"Unsupported parameter: {named}", metadata={"status": 400})

    provider = ScriptedProvider(answer)
    error = error_of(await complete().run(provider, "q"))
    assert isinstance(error, PermanentError)
    assert seen == ["max_tokens", "max_completion_tokens"]
    assert error.cost.llm_calls == 2
    assert memory_of(provider).dialect.output_limit == "max_completion_tokens"


async def test_what_is_learned_without_an_option_holds_in_the_same_call() -> None:
    unnamed = PermanentError("Bad Request", metadata={"status": 400})
    named = PermanentError("Use 'max_completion_tokens' instead of 'max_tokens'.", metadata={"status": 400})
    provider = ScriptedProvider([unnamed, named, "1"])
    assert result_of(await structured(int).run(provider, "x", retry=RetryConfig(max_retries=0))).value == 1
    assert [
        ("response_format" in request.options, "max_completion_tokens" in request.options)
        for request in provider.requests
    ] == [(True, False), (False, False), (False, True)]


def billed(tokens: int) -> ProviderError:
    return ProviderError("down", cost=TokenUsage(2, tokens, 1))


SAME = billed(9)
GROUPS: dict[str, tuple[list[Exception], TokenUsage]] = {
    "several": ([billed(3), billed(5)], TokenUsage(4, 8, 1)),
    "among others": ([ValueError("x"), billed(3), OSError()], TokenUsage(2, 3, 1)),
    "nested": ([ExceptionGroup("inner", [billed(3), billed(4)]), billed(5)], TokenUsage(6, 12, 1)),
    "unwrapped": ([UnwrapFailedError(Failure(billed(3))), billed(5)], TokenUsage(4, 8, 1)),
    "one twice": ([SAME, SAME], TokenUsage(2, 9, 1)),
    "none of ours": ([ValueError("x"), OSError()], TokenUsage(0, 0, 1)),
    "absurd": ([billed(3), billed(-5)], TokenUsage(2, 50, 1)),
}


@pytest.mark.parametrize("name", GROUPS)
async def test_a_group_of_failures_costs_what_all_of_them_say(name: str) -> None:
    failures, cost = GROUPS[name]
    provider = ScriptedProvider([ExceptionGroup("several", failures)])
    outcome = await complete(max_tokens=50).run(provider, "q", retry=RetryConfig(max_retries=0))
    assert error_of(outcome).cost == cost
