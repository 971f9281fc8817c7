"""However a loop ends, what was sent was legal, and its transcript can be handed on."""

import json
from random import Random
from typing import Any

import anyio
import pytest

from executionkit.approval import Approve, Decision, Deny, Edit, Proposal, Stop
from executionkit.core.transcript import transcript_of
from executionkit.core.usage import TokenUsage
from executionkit.errors import ProviderError
from executionkit.outcome import Outcome, is_success
from executionkit.patterns.complete import complete
from executionkit.patterns.react import React, react
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.scripted import Answer, ScriptedProvider
from executionkit.retry import RetryConfig
from executionkit.tools import tool

pytestmark = pytest.mark.anyio

AT_ONCE = RetryConfig(max_retries=1, base_delay=0.0)


@tool
async def echo(n: int = 1) -> object:
    """Give something back."""
    return {"n": n, "half": "\ud800"}


@tool
async def fail() -> str:
    """Fail."""
    raise ValueError("secret")


@tool
async def hang() -> str:
    """Never end."""
    await anyio.sleep_forever()
    raise AssertionError


class TextModel(ScriptedProvider):
    """A model without tool calls."""

    supports_tools: Any = False


class Drawn:
    """A loop, what its model says, and how it ends, all of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.is_text = self.random.random() < 0.4
        pick = self.random.choice
        output_type: Any = pick([None, None, int])
        self.stage: React[Any] = react(
            [echo, fail, hang],
            max_rounds=self.random.randrange(1, 6),
            on_limit="answer" if self.random.random() < 0.5 else "fail",
            max_history_messages=pick([None, 1, 3, 6]),
            output_type=output_type,
            output_retries=self.random.randrange(3),
            approve=pick([None, self.decide]),
            max_tool_calls=pick([None, 2]),
            max_observation_chars=pick([12_000, 5, 60]),
            summarise=pick([None, None, complete()]),
        )
        self.budget = pick(
            [
                None,
                TokenUsage(llm_calls=self.random.randrange(1, 6)),
                TokenUsage(input_tokens=self.random.randrange(20, 900)),
                TokenUsage(output_tokens=self.random.randrange(20, 9_000)),
            ]
        )
        self.pieces = pick([None, None, None, self.random.randrange(1, 9)])

    async def decide(self, proposal: Proposal) -> Decision:
        decisions: list[Decision] = [Approve(), Approve(), Deny("no"), Edit({"n": 5}), Stop("enough")]
        return self.random.choice(decisions)

    def call(self) -> ToolCall:
        pick = self.random.choice
        name = pick(["echo", "fail", "hang", "nope", "od d/n\u00e4me", "", "x" * 90])
        arguments: Any = pick(["{}", '{"n":2}', '{"n"', "[]", "", {"n": float("nan")}, {"n": "\ud800"}])
        return ToolCall(pick(["a", "b", "", "c"]), name, arguments)

    def reply(self) -> Answer:
        pick = self.random.choice
        kind, ending = self.random.randrange(10), pick(["stop", "stop", "length", "content_filter", ""])
        if kind == 0:
            return ProviderError("down")
        if kind < 3:
            return LLMResponse(pick(["", "done"]), finish_reason=ending, extra=pick([{}, {"refusal": "no"}]))
        if self.is_text:
            texts = [
                '{"tool":"echo"}',
                '{"tool":"hang"}',
                '{"tool":"fail"}',
                '{"tool":',
                '{"answer":7}',
                "prose",
            ]
            return LLMResponse(pick(texts), finish_reason=ending)
        extra: Any = pick(
            [{}, {"reasoning_content": "hm"}, {"role": "x", "content": 5}, {"tool_calls": [{"id": "z"}]}]
        )
        asked = tuple(self.call() for _ in range(self.random.randrange(1, 4)))
        return LLMResponse(pick(["", "text", "\ud800"]), asked, ending, extra=extra)

    async def end(self, model: ScriptedProvider) -> Outcome[Any]:
        if self.pieces is None:
            return await self.stage.run(model, "go", max_cost=self.budget, deadline=0.2, retry=AT_ONCE)
        async with self.stage.stream(model, "go", max_cost=self.budget, deadline=0.2, retry=AT_ONCE) as run:
            left = self.pieces
            async for _ in run:
                left -= 1
                if not left:
                    break
        return run.outcome


def sent(model: ScriptedProvider) -> list[list[dict[str, Any]]]:
    return [[dict(message) for message in request.messages] for request in model.requests]


@pytest.mark.parametrize("part", range(4))
async def test_however_a_loop_ends_its_transcript_can_be_handed_on(part: int) -> None:
    handed_on = 0
    for seed in range(part * 30, part * 30 + 30):
        drawn = Drawn(seed)
        model = (TextModel if drawn.is_text else ScriptedProvider)([drawn.reply() for _ in range(30)])
        outcome = await drawn.end(model)
        for messages in sent(model):
            transcript_of(messages)
        told = (outcome.unwrap() if is_success(outcome) else outcome.failure()).metadata
        if "transcript" not in told:  # it was left before its first round
            continue
        for form in (told["transcript"], json.loads(json.dumps(list(told["transcript"])))):
            for kind in (ScriptedProvider, TextModel):
                again = kind(["fine"])
                result = await react([echo], transcript=form).run(again, "go on")
                assert result.unwrap().value == "fine", seed
                transcript_of(sent(again)[0])
                handed_on += 1
    assert handed_on > 90
