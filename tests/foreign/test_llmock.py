"""Against llmock, a published server that breaks on request and gives a verdict on how its client took it.

It takes requests of equal bodies for retries, so each run here has a prompt of its own and makes one call after
the other. A gap between retries that is no longer than the one before is a "constant interval" to it, which
full jitter does draw: so the jitter is fixed here.
"""

import random
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from returns.result import Success

from executionkit import RetryConfig, Stage, Tool, complete, consensus, react, refine
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, LLMError, PermanentError
from executionkit.events import CallFinished, Event
from executionkit.outcome import Outcome
from executionkit.providers.chat.status import judge_status
from executionkit.providers.openai import Provider
from tests.conftest import BARE
from tests.foreign.processes import fetched, served

if BARE:
    pytest.importorskip("llmock")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

KEY = "sk-Secret/1+2=3"
BUSY = 0.25
"""Seconds that the server asks to wait: well above the back-off, so that a client that ignores them is found out."""
RETRY = RetryConfig(base_delay=0.06, max_delay=3.0)
STATUSES = (*(400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 425, 429), *(500, 501, 502, 503, 504, 529))


class Judge:
    """The server's control interface."""

    def __init__(self, port: int) -> None:
        self._home = f"http://127.0.0.1:{port}"

    def provider(self) -> Provider:
        return Provider(f"{self._home}/v1", "gpt-4o", KEY, timeout=20.0)

    def begin(self, *behaviours: dict[str, object]) -> None:
        """Forget what was, and have the next requests met with this."""
        fetched(f"{self._home}/_llmock/reset", {})
        if behaviours:
            fetched(f"{self._home}/_llmock/scenario", {"behaviors": behaviours})

    @property
    def requests(self) -> int:
        count: int = fetched(f"{self._home}/_llmock/requests")["count"]
        return count

    def check(self) -> None:
        """Fail unless the verdict has neither error nor warning."""
        verdict = fetched(f"{self._home}/_llmock/verdict")
        assert (verdict["errors"], verdict["warnings"]) == (0, 0), verdict["findings"]


@pytest.fixture(scope="module")
def server() -> Iterator[Judge]:
    with served(sys.executable, "-c", "from llmock.cli import app; app()", "serve", "--port") as port:
        yield Judge(port)


@pytest.fixture
def judge(server: Judge, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setattr("random.random", lambda: 0.9)
    return server


def cost_of(outcome: Outcome[Any]) -> TokenUsage:
    ended: Any = outcome.unwrap() if isinstance(outcome, Success) else outcome.failure()
    cost: TokenUsage = ended.cost
    assert KEY not in repr(ended)
    return cost


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [*((status, BUSY) for status in STATUSES), (400, None), (500, None), (529, None)],
)
async def test_a_status_is_retried_as_it_should_be(
    status: int, retry_after: float | None, judge: Judge
) -> None:
    judge.begin({"type": "fail", "status": status, "retry_after": retry_after})
    async with judge.provider() as provider:
        outcome = await complete().run(provider, "Where?", retry=RETRY)
    verdict = judge_status(status)
    assert isinstance(outcome, Success) is verdict.retryable, outcome
    assert cost_of(outcome).llm_calls == judge.requests == 1 + verdict.retryable
    if verdict.kind == "permanent":
        assert isinstance(outcome.failure(), PermanentError)
    judge.check()


@pytest.mark.parametrize(("status", "retry_after"), [(429, BUSY), (503, BUSY), (500, None)])
async def test_an_outage_is_left_alone_after_the_last_retry(
    status: int, retry_after: float | None, judge: Judge
) -> None:
    judge.begin({"type": "fail", "status": status, "times": None, "retry_after": retry_after})
    async with judge.provider() as provider:
        outcome = await complete().run(provider, "Where?", retry=RETRY)
    assert isinstance(outcome.failure(), LLMError)
    assert cost_of(outcome).llm_calls == judge.requests == 4
    judge.check()


async def test_a_long_retry_after_is_not_slept(judge: Judge) -> None:
    judge.begin(
        {"type": "fail", "status": 503, "retry_after": BUSY},
        {"type": "fail", "status": 429, "retry_after": 3600},
    )
    async with judge.provider() as provider:
        error = (await complete().run(provider, "Where?", retry=RETRY)).failure()
    assert isinstance(error, LLMError)
    assert error.retry_after == 3600
    assert error.cost.llm_calls == judge.requests == 2
    judge.check()


async def test_an_exhausted_quota_is_not_retried(judge: Judge) -> None:
    judge.begin({"type": "fail", "status": 402, "code": "insufficient_quota"})
    async with judge.provider() as provider:
        error = (await complete().run(provider, "Where?", retry=RETRY)).failure()
    assert error.cost.llm_calls == judge.requests == 1
    judge.check()


TEMPERATURE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}


class Weather:
    """A tool that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.tool = Tool("get_weather", "Get the weather of a city.", TEMPERATURE, self._answer)

    async def _answer(self, **arguments: object) -> str:
        self.asked.append(arguments)
        return "18 degrees"


TOOL_SCENARIOS: dict[str, tuple[int, list[dict[str, object]]]] = {
    "sound": (1, []),
    "malformed arguments": (0, [{"type": "tool_fault", "kind": "malformed_arguments"}]),
    "an unknown tool": (0, [{"type": "tool_fault", "kind": "unknown_tool"}]),
    "wrong arguments": (
        0,
        [{"type": "reply", "tool_calls": [{"name": "get_weather", "arguments": {"days": "many"}}]}],
    ),
    "two at once": (
        2,
        [{"type": "reply", "tool_calls": [{"name": "get_weather", "arguments": {"city": "Rome"}}] * 2}],
    ),
    "busy first": (1, [{"type": "fail", "status": 429, "retry_after": BUSY, "times": 2}]),
    "broken, then down": (
        0,
        [
            {"type": "tool_fault", "kind": "malformed_arguments"},
            {"type": "fail", "status": 500, "times": 2},
        ],
    ),
}


@pytest.mark.parametrize("name", TOOL_SCENARIOS)
async def test_a_loop_with_tools_copes(name: str, judge: Judge) -> None:
    runs, behaviours = TOOL_SCENARIOS[name]
    judge.begin(*behaviours)
    weather = Weather()
    async with judge.provider() as provider:
        outcome = await react([weather.tool]).run(provider, "What is the weather in Rome?", retry=RETRY)
    assert isinstance(outcome, Success), outcome
    assert len(weather.asked) == runs
    assert outcome.unwrap().cost.llm_calls == judge.requests
    judge.check()


def any_stage(chance: random.Random) -> Stage[str, Any]:
    return chance.choice(
        [
            complete(),
            consensus(n=3, max_concurrency=1),
            refine(lambda text: 0.5, max_iterations=1),
            react([Weather().tool]),
            complete() >> complete(),
            complete(stream=True) | complete(),
        ]
    )


def any_behaviour(chance: random.Random) -> dict[str, object]:
    status = chance.choice([*STATUSES, 429, 500, 502, 503, 529])
    return chance.choice(
        [
            {"type": "fail", "status": status, "retry_after": BUSY},
            {"type": "tool_fault", "kind": chance.choice(["malformed_arguments", "unknown_tool"])},
            {"type": "delay", "seconds": 0.02},
        ]
    )


@pytest.mark.parametrize("seed", range(3))
async def test_many_runs_at_once_through_random_scenarios(seed: int, judge: Judge) -> None:
    chance = random.Random(seed)
    judge.begin(*(any_behaviour(chance) for _ in range(40)))
    stages = [any_stage(chance) for _ in range(20)]
    limits = [TokenUsage(llm_calls=chance.choice([0, 4, 9])) for _ in stages]
    costs: list[TokenUsage] = []
    async with judge.provider() as provider, anyio.create_task_group() as group:

        async def play(number: int) -> None:
            limit = limits[number]
            outcome = await stages[number].run(
                provider, f"Question {seed}-{number}?", max_cost=limit or None, retry=RETRY
            )
            if not isinstance(outcome, Success):
                assert isinstance(outcome.failure(), ExecutionKitError)
            costs.append(cost_of(outcome))
            assert not limit.llm_calls or costs[-1].llm_calls <= limit.llm_calls

        for number in range(len(stages)):
            group.start_soon(play, number)
    assert sum(cost.llm_calls for cost in costs) == judge.requests
    judge.check()


@pytest.mark.parametrize("kind", ["truncate", "disconnect"])
async def test_a_stream_that_breaks_before_its_text_is_asked_for_again(kind: str, judge: Judge) -> None:
    judge.begin({"type": "stream_fault", "kind": kind, "after_chunks": 1})
    async with judge.provider() as provider:
        outcome = await complete(stream=True).run(provider, "Where?", retry=RETRY)
    assert isinstance(outcome, Success), outcome
    assert outcome.unwrap().cost.llm_calls == judge.requests == 2
    judge.check()


@pytest.mark.parametrize("kind", ["truncate", "malformed", "disconnect", "stall"])
async def test_a_stream_that_breaks_later_is_an_error_with_its_text(kind: str, judge: Judge) -> None:
    judge.begin(
        {"type": "reply", "text": "one two three four five"},
        {"type": "stream_fault", "kind": kind, "after_chunks": 4, "stall_seconds": 5},
    )
    ends: list[Event] = []
    async with judge.provider() as provider:
        patient = provider if kind != "stall" else Provider(provider.base_url, "m", timeout=0.5)
        async with patient:
            outcome = await complete(stream=True).run(patient, "Count.", retry=RETRY, trace=ends.append)
    error = outcome.failure()
    assert error.metadata["text"] == "one two three "
    assert error.metadata["usage_estimated"] == 1
    assert error.cost.llm_calls == 1
    assert [end.error for end in ends if isinstance(end, CallFinished)] == ["ProviderError"]
