"""Spans and metrics of runs: by the conventions, equal to the ledger, in the right place, on both event loops."""

import asyncio
import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from typing_extensions import override

from executionkit import Stage, complete, consensus, identity, otel, react, refine, step, tool
from executionkit.core.usage import TokenUsage
from executionkit.errors import PermanentError, ProviderError, RateLimitError
from executionkit.events import Event, RunStarted
from executionkit.journal import Journal
from executionkit.otel import Otel
from executionkit.outcome import PatternResult
from executionkit.patterns.refine import Evaluation
from executionkit.prices import Price
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolCall, user
from executionkit.providers.pool import Pool
from executionkit.providers.scripted import ScriptedPiece, ScriptedProvider
from executionkit.runtime.context import Context
from tests.conventions import Recording
from tests.doubles import AT_ONCE, Asked, Model, each, error_of, reply, result_of

PRICE = Price(input=Decimal(3), output=Decimal(15))


@pytest.fixture(params=["plain", "content"])
def recording(request: pytest.FixtureRequest) -> Iterator[Recording]:
    """A recording whose telemetry must not deviate, with content and without."""
    recording = Recording(content=request.param == "content")
    yield recording
    assert recording.deviations(secret="zebra") == []
    recording.close()


@pytest.fixture
def seen() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    assert recording.deviations(secret="zebra") == []
    recording.close()


class Named(Model):
    """A model with an address and a price."""

    model = "gpt-x"
    server = "api.openai.com"
    port = 443
    price = PRICE


class Shielded(Named):
    """A provider that does not hear of a cancellation until the test lets it."""

    def __init__(self, answer: LLMResponse) -> None:
        super().__init__()
        self.answer = answer
        self.may_end = anyio.Event()

    @override
    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        with anyio.CancelScope(shield=True):
            while not self.may_end.is_set():
                with suppress(BaseException):
                    await self.may_end.wait()
        return self.answer


class Clock:
    """A clock that moves when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Streamer(Named):
    """A model that streams, and takes a second for each piece."""

    def __init__(self, clock: Clock, pieces: int) -> None:
        super().__init__()
        self.clock = clock
        self.pieces = pieces

    def stream(self, messages: list[Message], **options: Any) -> "_Pieces":
        return _Pieces(self.clock, self.pieces)


class _Pieces:
    cost = TokenUsage(3, 1, 1)
    response = reply("zebra")

    def __init__(self, clock: Clock, pieces: int) -> None:
        self.clock = clock
        self.left = pieces

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ScriptedPiece:
        if not self.left:  # no turn of the event loop here: the reader's clock would go on meanwhile
            raise StopAsyncIteration
        self.left -= 1
        self.clock.now += 1.0
        return ScriptedPiece("zebra")


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def elsewhere(span: ReadableSpan) -> dict[str, Any]:
    """Return what a run says that no call of it was charged."""
    start = "executionkit.cost.elsewhere."
    return {name.removeprefix(start): value for name, value in of(span).items() if name.startswith(start)}


def trace_of(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.trace_id


def parent_of(span: ReadableSpan, recording: Recording) -> ReadableSpan | None:
    known = {each.context.span_id: each for each in recording.spans if each.context is not None}
    return None if span.parent is None else known.get(span.parent.span_id)


def lineage(span: ReadableSpan, recording: Recording) -> list[str]:
    names: list[str] = []
    above: ReadableSpan | None = span
    while above is not None:
        names.append(above.name)
        above = parent_of(above, recording)
    return names


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"zebra {what}"


@tool
async def broken(what: str) -> str:
    """Break."""
    raise KeyError(what)


def _asks(*names: str) -> LLMResponse:
    calls = tuple([ToolCall(f"id{index}", name, {"what": "zebra"}) for index, name in enumerate(names)])
    return LLMResponse("", calls, "tool_calls", {"prompt_tokens": 4, "completion_tokens": 6})


@pytest.mark.anyio
class TestSpans:
    async def test_a_call_is_one_client_span_with_what_was_asked_and_answered(
        self, recording: Recording
    ) -> None:
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
        answer = LLMResponse("zebra", usage=usage, id="c1", model="gpt-x-1", request_id="r1", status=200)
        stage = complete(temperature=0.5, max_tokens=40)
        await stage.run(Named(each(answer)), "zebra?", trace=recording.traces)
        [span] = recording.named("chat")
        found = of(span)
        content = {name: found.pop(name) for name in list(found) if name.endswith("messages")}
        assert bool(content) is recording.content
        if content:
            assert content["gen_ai.input.messages"] == (
                '[{"role":"user","parts":[{"type":"text","content":"zebra?"}]}]'
            )
        assert found == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-x",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.max_tokens": 40,
            "server.address": "api.openai.com",
            "server.port": 443,
            "gen_ai.response.id": "c1",
            "gen_ai.response.model": "gpt-x-1",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 5,
            "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.usage.cache_write.input_tokens": 2,
            "gen_ai.usage.reasoning.output_tokens": 4,
            "operation.cost": pytest.approx(0.000096),
            "executionkit.run": recording.events[0].run,
            "executionkit.path": "",
            "executionkit.call.ordinal": 0,
            "executionkit.call.attempts": 1,
            "executionkit.cost.llm_calls": 1,
        }
        assert span.kind is SpanKind.CLIENT
        assert lineage(span, recording) == ["chat gpt-x", "stage Complete", "invoke_workflow Complete"]
        [attempt] = span.events
        assert (attempt.attributes or {})["executionkit.attempt.request_id"] == "r1"
        assert (attempt.attributes or {})["executionkit.attempt.status"] == 200

    async def test_retries_and_waits_are_events_of_the_one_span(self, recording: Recording) -> None:
        failure = RateLimitError("zebra", metadata={"status": 429, "request_id": "r0"}, retry_after=0.0)
        model = Named(each(failure, ProviderError("zebra"), reply("zebra")))
        await complete().run(model, "zebra?", retry=AT_ONCE, trace=recording.traces)
        [span] = recording.named("chat")
        assert [event.name.removeprefix("executionkit.") for event in span.events] == [
            *("attempt", "wait", "attempt", "wait", "attempt"),
        ]
        first = span.events[0].attributes or {}
        assert first["executionkit.attempt.error"] == "RateLimitError"
        assert first["executionkit.attempt.status"] == 429
        assert first["executionkit.attempt.request_id"] == "r0"
        assert (span.events[1].attributes or {})["executionkit.wait.reason"] == "back_off"
        assert span.status.status_code is StatusCode.UNSET
        assert of(span)["executionkit.cost.llm_calls"] == 3

    async def test_a_vote_has_a_call_for_each_sample_and_tells_its_count(self, recording: Recording) -> None:
        outcome = await consensus(n=4).run(
            Named(each(reply("zebra"), reply("zebra 2"), reply("zebra"))), "zebra?", trace=recording.traces
        )
        assert result_of(outcome).cost.llm_calls == 4
        assert len(recording.named("chat")) == 4
        [span] = recording.named("stage Consensus")
        found = of(span)
        assert found["executionkit.vote.samples"] == 4
        assert found["executionkit.vote.unique_responses"] == 2
        assert found["executionkit.vote.agreement_ratio"] == found["executionkit.score"]
        assert found["executionkit.cost.llm_calls"] == 4

    async def test_several_answers_to_one_request_are_one_span(self, seen: Recording) -> None:
        choices = [{"finish_reason": "stop"}, {"finish_reason": "length"}]
        raw = {"choices": [{"message": {"content": "zebra"}, **choice} for choice in choices]}
        answer = LLMResponse("zebra", raw=raw, usage={"prompt_tokens": 4, "completion_tokens": 6})
        await consensus(n=2, one_request=True).run(Named(each(answer)), "zebra?", trace=seen.traces)
        [span] = seen.named("chat")
        assert of(span)["gen_ai.request.choice.count"] == 2
        assert of(span)["gen_ai.response.finish_reasons"] == ("stop", "length")

    async def test_a_loop_is_an_agent_with_its_tools(self, recording: Recording) -> None:
        asks = _asks("look", "broken", "zebra-tool")
        model = Named(each(asks, reply("zebra")))
        await react([look, broken]).run(model, "zebra?", trace=recording.traces)
        [agent] = recording.named("invoke_agent")
        assert agent.name == "invoke_agent React"
        assert of(agent)["executionkit.react.rounds"] == 2
        tools = {span.name: span for span in recording.named("execute_tool")}
        assert set(tools) == {"execute_tool look", "execute_tool broken", "execute_tool _OTHER"}
        failed = {name: of(span).get("error.type") for name, span in tools.items()}
        assert failed == {
            "execute_tool look": None,
            "execute_tool broken": "KeyError",
            "execute_tool _OTHER": "UnknownTool",
        }
        found = of(tools["execute_tool look"])
        assert found["gen_ai.tool.call.id"] == "id0"
        assert found["gen_ai.tool.description"] == "Look something up."
        assert ("gen_ai.tool.call.result" in found) is recording.content
        points = recording.points()
        [calls] = points["gen_ai.invoke_agent.inference_calls"][1]
        [made] = points["gen_ai.invoke_agent.tool_calls"][1]
        assert (calls.sum, made.sum) == (2, 3)

    async def test_a_named_loop_is_an_agent_of_that_name(self, seen: Recording) -> None:
        await react([look]).named("clerk").run(Named(), "zebra?", trace=seen.traces)
        assert [span.name for span in seen.named("invoke_agent")] == ["invoke_agent clerk"]

    async def test_each_draft_has_an_evaluation(self, recording: Recording) -> None:
        scores = iter((0.2, 1.0))

        def grade(text: str) -> Evaluation:
            return Evaluation(next(scores), "zebra")

        await refine(grade).run(Named(each(reply("zebra"))), "zebra?", trace=recording.traces)
        [span] = recording.named("stage Refine")
        found = [dict(event.attributes or {}) for event in span.events]
        assert [event["gen_ai.evaluation.score.value"] for event in found] == [0.2, 1.0]
        assert [event["gen_ai.evaluation.name"] for event in found] == ["grade", "grade"]
        assert [event["executionkit.iteration"] for event in found] == [0, 1]
        assert ("gen_ai.evaluation.explanation" in found[0]) is recording.content
        assert of(span)["executionkit.refine.converged"] is True

    async def test_inputs_of_each_have_a_span_of_their_own(self, recording: Recording) -> None:
        stage = complete().each(max_concurrency=2, name=str)
        await stage.run(Named(), ["zebra 1", "zebra 2", ""], trace=recording.traces)
        items = recording.named("item")
        assert sorted(of(span)["executionkit.item.index"] for span in items) == [0, 1, 2]
        assert [span.status.status_code.name for span in items].count("ERROR") == 1
        for span in recording.named("chat"):
            assert lineage(span, recording)[2] == "item"

    async def test_a_failure_is_told_from_the_call_to_the_run(self, recording: Recording) -> None:
        model = Named(each(PermanentError("zebra", metadata={"status": 401})))
        error_of(await complete().run(model, "zebra?", trace=recording.traces))
        assert len(recording.spans) == 3
        for span in recording.spans:
            assert span.status.status_code is StatusCode.ERROR
            assert of(span)["error.type"] == "PermanentError"
        [span] = recording.named("chat")
        assert of(span)["gen_ai.response.finish_reasons"] == ("error",)

    async def test_a_cancelled_run_ends_its_spans_without_a_status(self, recording: Recording) -> None:
        with anyio.CancelScope() as scope:

            def cancelled(asked: Asked) -> int:
                scope.cancel()
                return 3

            model = Named(ticks=cancelled)
            await complete().run(model, "zebra?", trace=recording.traces)
        assert scope.cancelled_caught
        assert len(recording.spans) == 3
        for span in recording.spans:
            assert span.status.status_code is StatusCode.UNSET
            assert of(span)["executionkit.cancelled"] is True
            assert "error.type" not in of(span)

    async def test_a_deadline_is_the_runs_failure_and_not_the_calls(self, seen: Recording) -> None:
        class Hanging(Named):
            async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
                await anyio.sleep_forever()
                raise AssertionError

        await complete().run(Hanging(), "zebra?", trace=seen.traces, deadline=2.0)
        [run] = seen.named("invoke_workflow")
        assert of(run)["error.type"] == "DeadlineExceededError"
        [call] = seen.named("chat")
        assert call.status.status_code is StatusCode.UNSET

    async def test_a_call_that_the_budget_refuses_has_a_span_and_no_usage(self, seen: Recording) -> None:
        limit = TokenUsage(llm_calls=1)
        await consensus(n=2).run(Named(), "zebra?", trace=seen.traces, max_cost=limit)
        refused = [span for span in seen.named("chat") if "error.type" in of(span)]
        assert [of(span)["error.type"] for span in refused] == ["BudgetExhaustedError"]
        assert "gen_ai.usage.input_tokens" not in of(refused[0])
        [point] = seen.points()["gen_ai.client.inference.duration"][1]
        assert point.count == 1

    async def test_usage_that_no_server_reported_is_counted_and_told_apart(self, seen: Recording) -> None:
        await complete(max_tokens=40).run(Named(each(LLMResponse("zebra"))), "zebra?", trace=seen.traces)
        [span] = seen.named("chat")
        assert of(span)["executionkit.usage.estimated"] is True
        [point] = seen.points()["gen_ai.client.inference.usage.output_tokens"][1]
        assert point.attributes["gen_ai.token.modality"] == "unknown"
        assert point.value == 40

    async def test_a_pool_names_the_member_that_was_asked_last(self, seen: Recording) -> None:
        class Other(Named):
            model = "claude-x"
            server = "api.anthropic.com:8443"
            port = 8443

        pool = Pool([Named(each(PermanentError("zebra", metadata={"status": 401}))), Other()])
        await complete().run(pool, "zebra?", retry=AT_ONCE, trace=seen.traces)
        [span] = seen.named("chat")
        assert span.name == "chat claude-x"
        found = of(span)
        assert (found["gen_ai.provider.name"], found["server.address"], found["server.port"]) == (
            *("anthropic", "api.anthropic.com", 8443),
        )

    async def test_a_stream_tells_its_time_to_the_first_piece(self, recording: Recording) -> None:
        provider = ScriptedProvider("zebra two three")
        await complete(stream=True).run(provider, "zebra?", trace=recording.traces)
        [span] = recording.named("chat")
        found = of(span)
        assert found["gen_ai.request.stream"] is True
        [point] = recording.points()["gen_ai.client.inference.time_to_first_chunk"][1]
        assert point.sum == found["gen_ai.response.time_to_first_chunk"]
        [point] = recording.points()["gen_ai.client.inference.time_per_output_chunk"][1]
        assert point.count == 2

    async def test_the_time_of_a_piece_is_the_servers_and_not_the_readers(
        self, seen: Recording, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr("executionkit.runtime.calls.attempts.time", clock)
        provider = Streamer(clock, pieces=9)
        async with complete().stream(provider, "zebra?", trace=seen.traces, ahead=1) as run:
            async for _ in run:
                clock.now += 100.0
        [point] = seen.points()["gen_ai.client.inference.time_per_output_chunk"][1]
        assert (point.count, point.sum, point.max) == (8, 8.0, 1.0)
        assert point.attributes["gen_ai.request.model"] == "gpt-x"
        [run_span] = seen.named("invoke_workflow")
        assert of(run_span).get("executionkit.run.charged_to") is None

    async def test_an_answer_in_one_piece_has_no_time_of_pieces(self, seen: Recording) -> None:
        await complete().run(Named(), "zebra?", trace=seen.traces)
        await complete(stream=True).run(Streamer(Clock(), pieces=1), "zebra?", trace=seen.traces)
        assert "gen_ai.client.inference.time_per_output_chunk" not in seen.points()

    async def test_settings_of_a_request_are_told_and_other_fields_are_not(self, seen: Recording) -> None:
        settings: dict[str, Any] = {"top_p": 1, "seed": 7, "reasoning_effort": "low", "user": "zebra"}
        settings["stop"] = ["end", "###"]

        async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await provider.complete([user(prompt)], max_tokens=5, **settings)
            return PatternResult("zebra")

        await step(ask).run(Named(), "zebra?", trace=seen.traces)
        [span] = seen.named("chat")
        found = of(span)
        assert found["gen_ai.request.top_p"] == 1.0
        assert found["gen_ai.request.seed"] == 7
        assert found["gen_ai.request.reasoning.level"] == "low"
        assert found["gen_ai.request.stop_sequences"] == ("end", "###")

    async def test_what_a_step_spent_elsewhere_stands_on_its_stage_and_on_no_call(self) -> None:
        recording, declared = Recording(), TokenUsage(70, 30, 1)

        async def bought_elsewhere(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await provider.complete([user(prompt)], max_tokens=5)
            return PatternResult("zebra", cost=TokenUsage(73, 32, 2))

        await step(bought_elsewhere).run(Model(), "zebra?", trace=recording.traces)
        assert recording.deviations(secret="zebra") == []
        [stage] = recording.named("stage")
        assert of(stage)["executionkit.cost.input_tokens"] == 73
        [run] = recording.named("invoke_workflow")
        assert elsewhere(run) == {
            "llm_calls": declared.llm_calls,
            "input_tokens": declared.input_tokens,
            "output_tokens": declared.output_tokens,
        }
        recording.close()

    async def test_a_call_that_outlives_its_run_says_what_the_ledger_counts(self, seen: Recording) -> None:
        model = Shielded(reply("zebra"))
        error = error_of(await complete(max_tokens=9).run(model, "zebra?", trace=seen.traces, deadline=0.01))
        [call] = seen.named("chat")
        assert of(call)["gen_ai.request.max_tokens"] == 9
        assert of(call)["executionkit.cost.llm_calls"] == error.cost.llm_calls == 1
        assert of(call)["executionkit.cancelled"] is True
        assert call.status.status_code is StatusCode.UNSET
        model.may_end.set()
        await anyio.wait_all_tasks_blocked()

    async def test_a_call_that_outlives_a_run_within_a_run_says_what_it_came_to(
        self, seen: Recording
    ) -> None:
        model = Shielded(reply("zebra"))

        async def outer(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await complete().run(provider, prompt, deadline=0.01)
            model.may_end.set()
            await anyio.wait_all_tasks_blocked()
            return PatternResult("zebra")

        cost = result_of(await step(outer).run(model, "zebra?", trace=seen.traces)).cost
        [call] = seen.named("chat")
        assert cost.input_tokens > 0
        assert of(call)["gen_ai.usage.input_tokens"] == cost.input_tokens

    async def test_what_a_call_left_behind_begins_lies_within_what_it_hangs_below(
        self, seen: Recording
    ) -> None:
        class Lingering(Named):
            async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
                group.start_soon(late)
                return await super().complete(messages, **options)

        async def late() -> None:
            await is_over.wait()
            await anyio.sleep(0.01)
            await complete().run(Named(), "zebra?", trace=seen.traces)

        is_over = anyio.Event()
        async with anyio.create_task_group() as group:
            await complete().run(Lingering(), "zebra?", trace=seen.traces)
            is_over.set()
        assert len(seen.named("chat")) == 2

    async def test_a_call_on_the_provider_of_another_run_lies_within_what_it_hangs_below(
        self, seen: Recording
    ) -> None:
        kept: list[LLMProvider] = []
        model = Shielded(reply("zebra"))

        class Passing(Named):
            async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
                group.start_soon(ask_kept)
                await anyio.wait_all_tasks_blocked()
                return await super().complete(messages, **options)

        async def ask_kept() -> None:
            await kept[0].complete([user("zebra?")])

        async def keep(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            kept.append(provider)
            return PatternResult(prompt)

        async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await complete().run(Passing(), prompt, trace=seen.traces)
            await anyio.sleep(0.01)
            model.may_end.set()
            await anyio.wait_all_tasks_blocked()
            return PatternResult(prompt)

        async with anyio.create_task_group() as group:
            await (step(keep) >> step(ask)).run(model, "zebra?", trace=seen.traces)
        assert len(seen.named("chat")) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["zebra", ""])
async def test_a_replayed_call_is_told_and_counts_no_tokens(tmp_path: Path, text: str) -> None:
    first, again = Recording(), Recording()
    with Journal(tmp_path / "runs.db") as journal:
        for recording in (first, again):
            stage = consensus(n=2)
            await stage.run(
                Named(each(reply(text))), "zebra?", trace=recording.traces, journal=journal.run("a")
            )
    assert first.deviations(secret="zebra") == []
    assert len(again.named("chat")) == 2
    for span in again.named("chat"):
        assert of(span)["executionkit.replayed"] is True
        assert not {name for name in of(span) if "usage" in name or "cost" in name}
    assert again.deviations(secret="zebra") == []
    [run] = again.named("invoke_workflow")
    assert elsewhere(run)["llm_calls"] == of(run)["executionkit.cost.llm_calls"] == 2
    assert elsewhere(run)["usd"] == of(run)["executionkit.cost.usd"] > 0
    assert "gen_ai.client.inference.duration" not in again.points()
    first.close()
    again.close()


HALF = "half \ud83d"


@tool(description=f"Say something odd: {HALF}.")  # Python 3.13 takes no docstring of this kind
async def odd(what: str) -> str:
    return f"{HALF} {what}"


async def odd_messages(provider: LLMProvider, text: str) -> PatternResult[str]:
    """Ask with messages that no server takes, and settings that no span can hold."""
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text"}, HALF, None, 5]},
        {"role": "assistant", "content": None, "tool_calls": ["no call", {"function": "no function"}]},
        {"tool_calls": "none", "content": 2**80},
        "no message",
    ]
    tools: list[Any] = ["no tool", {"function": {"name": HALF, "parameters": {"maximum": 2**80}}}]
    settings: dict[str, Any] = {
        "top_k": math.inf,
        "seed": math.nan,
        "top_p": 10**400,
        "stop": [HALF],
        "reasoning_effort": HALF,
    }
    answer = await provider.complete(messages, tools=tools, max_tokens=9, **settings)
    return PatternResult(answer.content)


ODD: dict[str, tuple[Stage[str, Any], str, LLMResponse]] = {
    "a prompt": (complete(), HALF, reply()),
    "an answer": (refine(lambda text: 0.5, max_iterations=1), "x", reply(HALF)),
    "names": (complete().named(HALF), "x", replace(reply(), id=HALF, model=HALF, finish_reason=HALF)),
    "a tool": (react([odd]), "x", LLMResponse("", (ToolCall(HALF, "odd", {"what": HALF}),), "tool_calls")),
    "an item": (
        identity(str).map(lambda text: [text]) >> complete().each(name=lambda text: HALF),
        "x",
        reply(),
    ),
    "messages": (step(odd_messages), "x", reply()),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("stage", "text", "answer"), ODD.values(), ids=ODD)
async def test_odd_texts_lose_no_span_and_can_be_exported(
    stage: Stage[str, Any], text: str, answer: LLMResponse
) -> None:
    def answering(asked: Asked) -> LLMResponse:
        return answer if asked.number == 1 else reply()

    for content in (True, False):
        recording = Recording(content=content)
        await stage.run(Named(answering), text, trace=recording.traces)
        assert recording.deviations() == []
        for span in recording.spans:
            for told in (span.name, *map(str, of(span).values())):
                told.encode()  # as an exporter does
        for _, points in recording.points().values():
            for point in points:
                str(point.attributes).encode()
        recording.close()


class Raising(SpanProcessor):
    """A processor that takes no tools."""

    @override
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if span.name.startswith("execute_tool"):
            raise OSError("no room")


@pytest.mark.anyio
async def test_what_a_processor_of_spans_raises_ends_the_spans_and_not_the_run() -> None:
    recording = Recording()  # its deviations are not asked for: spans of a run that is given up are missing
    recording.tracers.add_span_processor(Raising())
    answers = iter([_asks("look"), reply("zebra")])
    outcome = await react([look]).run(Named(lambda asked: next(answers)), "zebra?", trace=recording.otel)
    assert result_of(outcome).value == "zebra"
    assert {span.name for span in recording.spans} == {
        "chat gpt-x",
        "invoke_workflow React",
        "invoke_agent React",
    }
    assert not recording.otel._runs  # pyright: ignore[reportPrivateUsage]
    recording.exporter.clear()
    await complete().run(Named(), "zebra?", trace=recording.otel)
    assert len(recording.spans) == 3
    recording.close()


@pytest.mark.anyio
class TestContext:
    async def test_a_run_hangs_below_the_span_that_is_current_where_it_is_run(self, seen: Recording) -> None:
        tracer = seen.tracers.get_tracer("app")
        with tracer.start_as_current_span("request") as request:
            await complete().run(Named(), "zebra?", trace=seen.traces)
            assert trace.get_current_span() is request
        [run] = seen.named("invoke_workflow")
        assert lineage(run, seen) == ["invoke_workflow Complete", "request"]

    async def test_foreign_code_sees_the_span_it_runs_in(self, seen: Recording) -> None:
        tracer = seen.tracers.get_tracer("app")

        @tool
        async def ask(what: str) -> str:
            """Ask."""
            with tracer.start_as_current_span("in async tool"):
                await checkpoint()
            return what

        @tool
        def compute(what: str) -> str:
            """Compute."""
            with tracer.start_as_current_span("in thread"):
                return what

        async def grade(text: str, provider: LLMProvider) -> float:
            with tracer.start_as_current_span("in evaluator"):
                await provider.complete([user("zebra")], max_tokens=5)
            return 1.0

        class Traced(Named):
            async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
                with tracer.start_as_current_span("POST"):
                    return await super().complete(messages, **options)

        model = Traced(each(_asks("ask", "compute"), reply("zebra")))
        stage = react([ask, compute]) >> refine(grade) >> consensus(n=3)
        await stage.run(model, "zebra?", trace=seen.traces)
        above = {(span.name, lineage(span, seen)[1]) for span in seen.spans if span.parent}
        assert ("in async tool", "execute_tool ask") in above
        assert ("in thread", "execute_tool compute") in above
        assert ("in evaluator", "stage Refine") in above
        assert {lineage(span, seen)[1] for span in seen.named("POST")} == {"chat gpt-x"}
        assert len(seen.named("POST")) == 7
        judged = [span for span in seen.named("chat") if lineage(span, seen)[1] == "in evaluator"]
        assert len(judged) == 1  # a call within a span of the user's own hangs below it

    async def test_a_run_within_a_tool_is_part_of_the_outer_trace(self, seen: Recording) -> None:
        inner: list[Event] = []

        @tool
        async def vote(what: str, context: Context) -> str:
            """Vote."""
            outcome = await consensus(n=3).run(context.provider, "zebra?", trace=inner.append)
            return result_of(outcome).value

        model = Named(each(_asks("vote"), reply("zebra")))
        outcome = await react([vote]).run(model, "zebra?", trace=seen.traces)
        assert result_of(outcome).cost.llm_calls == 5
        [vote_run], [outer] = seen.named("invoke_workflow Consensus"), seen.named("invoke_workflow React")
        assert of(vote_run)["executionkit.run.charged_to"] == of(outer)["executionkit.run"]
        assert lineage(vote_run, seen)[1:3] == ["execute_tool vote", "invoke_agent React"]
        assert sum(isinstance(event, RunStarted) for event in inner) == 1

    async def test_a_run_within_a_run_that_asks_a_provider_of_its_own_is_not_charged_to_it(
        self, seen: Recording
    ) -> None:
        async def asks_elsewhere(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await consensus(n=3).run(Named(), "zebra?", trace=seen.traces)
            return result_of(await complete().run(provider, "zebra?"))

        outcome = await step(asks_elsewhere).run(Named(), "zebra?", trace=seen.traces)
        assert result_of(outcome).cost.llm_calls == 1
        [own], [outer] = seen.named("invoke_workflow Consensus"), seen.named("invoke_workflow asks")
        assert lineage(own, seen)[1] == "stage asks_elsewhere"
        assert "executionkit.run.charged_to" not in of(own)
        calls = [of(span)["executionkit.run"] for span in seen.named("chat")]
        assert sorted(map(calls.count, {*calls})) == [1, 3]
        assert of(outer)["executionkit.cost.llm_calls"] == 1

    async def test_a_provider_that_votes_inside_nests_its_calls_in_the_one_it_makes(
        self, seen: Recording
    ) -> None:
        class Voting:
            def __init__(self, inner: LLMProvider) -> None:
                self.inner = inner

            async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
                answers = [await self.inner.complete(messages, **options) for _ in range(3)]
                return answers[0]

        async def wrapped(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            return result_of(await complete().run(Voting(provider), prompt))

        await step(wrapped).run(Named(), "zebra?", trace=seen.traces)
        assert len(seen.named("chat")) >= 3

    async def test_a_task_that_was_there_before_the_run_hangs_its_calls_below_the_stage(
        self, seen: Recording
    ) -> None:
        send, receive = anyio.create_memory_object_stream[Callable[[], Any]](1)
        done = anyio.Event()

        async def worker() -> None:
            async for work in receive:
                await work()
                done.set()

        async def ask(provider: LLMProvider, prompt: str) -> PatternResult[str]:
            await send.send(lambda: provider.complete([user(prompt)], max_tokens=5))
            await done.wait()
            return PatternResult("zebra")

        async with anyio.create_task_group() as group, send, receive:
            group.start_soon(worker)
            await checkpoint()
            await step(ask).run(Named(), "zebra?", trace=seen.traces)
            group.cancel_scope.cancel()
        [call] = seen.named("chat")
        assert lineage(call, seen)[1] == "stage ask"


class TestSync:
    def test_runs_in_threads_hang_below_their_own_spans(self, seen: Recording) -> None:
        tracer = seen.tracers.get_tracer("app")

        def work(number: int) -> None:
            with tracer.start_as_current_span(f"thread {number}"):
                consensus(n=3).run_sync(Named(), "zebra?", trace=seen.traces)

        threads = [threading.Thread(target=partial(work, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(lineage(run, seen)[1] for run in seen.named("invoke_workflow")) == [
            f"thread {number}" for number in range(4)
        ]
        assert len(seen.named("chat")) == 12
        assert not seen.otel._runs  # pyright: ignore[reportPrivateUsage]

    def test_many_runs_at_once_keep_apart(self, seen: Recording) -> None:
        async def main() -> None:
            runs = [consensus(n=3).run(Named(), "zebra?", trace=seen.traces) for _ in range(20)]
            await asyncio.gather(*runs)

        asyncio.run(main())
        assert len(set(map(trace_of, seen.spans))) == 20
        assert not seen.otel._runs  # pyright: ignore[reportPrivateUsage]

    def test_a_default_for_the_process_traces_every_run_once(self) -> None:
        recording = Recording()
        mine: list[Event] = []
        installed = otel.install(recording.tracers, recording.meters)
        try:
            otel.install(recording.tracers, recording.meters)  # takes the place of the first
            complete().run_sync(Named(), "x", trace=mine.append)
            complete().run_sync(Named(), "x")
        finally:
            otel.uninstall()
        complete().run_sync(Named(), "x")
        assert isinstance(installed, Otel)
        assert len(recording.named("chat")) == 2
        assert any(isinstance(event, RunStarted) for event in mine)
        recording.close()

    def test_without_an_sdk_runs_go_on(self) -> None:
        outcome = consensus(n=2).run_sync(Named(), "x", trace=Otel())
        assert result_of(outcome).value == "ok"

    def test_a_run_that_is_sampled_out_leaves_nothing(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
        recording = Recording()
        otel_ = Otel(provider, recording.meters)
        complete().run_sync(Named(), "x", trace=otel_)
        [point] = recording.points()["gen_ai.client.inference.usage.input_tokens"][1]
        assert point.value == 3  # metrics are not sampled
        assert not recording.spans
        recording.close()

    def test_older_names_on_request(self) -> None:
        old, both = Recording(names="1.41"), Recording(names="both")
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cache_write_tokens": 2},
        }
        model = Named(each(LLMResponse("ok", usage=usage)))
        for recording in (old, both):
            react([look]).run_sync(model, "x", trace=recording.traces)
        assert set(old.points()) == {
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.invoke_agent.duration",
            "gen_ai.invoke_agent.inference_calls",
            "gen_ai.invoke_agent.tool_calls",
            "operation.cost",
        }
        [call], [run] = old.named("chat"), old.named("invoke_workflow")
        assert of(call)["gen_ai.usage.cache_creation.input_tokens"] == 2
        assert of(run)["gen_ai.workflow.name"] == "React"
        assert set(both.points()) > set(old.points())
        [call], [run] = both.named("chat"), both.named("invoke_workflow")
        assert of(call)["gen_ai.usage.cache_write.input_tokens"] == 2
        assert of(run)["gen_ai.agent.name"] == "React"
        with pytest.raises(ValueError, match="names must be one of '0.1', '1.41', 'both', not '2'"):
            Otel(names="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        old.close()
        both.close()

    def test_the_scope_has_the_version_and_the_schema(self) -> None:
        import executionkit

        recording = Recording()
        complete().run_sync(Named(), "x", trace=recording.otel)
        scope = recording.spans[0].instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.version) == ("executionkit", executionkit.__version__)
        assert scope.schema_url == "https://opentelemetry.io/schemas/gen-ai/0.1.0"
        recording.close()


def test_what_viewers_read_is_written() -> None:
    """Every name in the page's table of viewers stands on some span, or is a metric."""
    recording = Recording(content=True, names="both")
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    last = LLMResponse("zebra", usage=usage, model="gpt-x-1")
    react([look]).run_sync(Named(each(_asks("look"), last)), "zebra?", trace=recording.traces)
    complete(stream=True).run_sync(Streamer(Clock(), pieces=2), "zebra?", trace=recording.traces)
    page = (Path(__file__).parents[1] / "docs" / "opentelemetry.md").read_text("utf-8")
    table = page.partition("## Viewers")[2].partition("\n\nA run")[0]
    read = set(re.findall(r"`((?:gen_ai|operation)\.[\w.]+)`", table))
    written = {name for span in recording.spans for name in of(span)} | set(recording.points())
    assert len(read) > 15
    assert read <= written
    recording.close()


def test_the_package_does_not_import_opentelemetry() -> None:
    program = (
        "import sys, executionkit.compat; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_without_the_api_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import executionkit.otel"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert 'pip install ".[otel]"' in done.stderr
