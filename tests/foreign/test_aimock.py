"""Against aimock, a published server that fails at random: it writes down what it was asked, and we what we paid."""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from returns.result import Success

from executionkit import RetryConfig, Stage, Tool, complete, consensus, react, refine
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.outcome import Outcome
from executionkit.providers.openai import Provider
from tests.foreign.processes import fetched, node, served

AIMOCK = Path(sys.prefix) / "aimock/node_modules/@copilotkit/aimock/dist/cli.js"
KEY = "sk-Secret/1+2=3"
RUNS, AT_ONCE = 150, 16

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CALL = {"name": "look_up", "arguments": {"city": "Paris"}}
FIXTURES = [
    {
        "match": {"toolName": "look_up", "hasToolResult": False},
        "response": {"toolCalls": [CALL], "usage": USAGE},
    },
    {"match": {}, "response": {"content": "Paris. Score: 7", "usage": USAGE}},
]
# Drawn one after the other, each of what the ones before left: 20, 20, 5 and 10 % of all.
FAULTS = {"drop": 0.2, "malformed": 0.25, "ratelimit": 0.0833, "disconnect": 0.1818}


class Journal:
    """What the server says it was asked."""

    def __init__(self, port: int) -> None:
        self._home = f"http://127.0.0.1:{port}"

    def provider(self, name: str) -> Provider:
        return Provider(f"{self._home}/v1?testId={name}", "m", KEY, timeout=20.0)

    def entries(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = fetched(f"{self._home}/__aimock/journal?testId={name}")
        return found


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    if (engine := node()) is None or not AIMOCK.exists():
        pytest.skip("Node or @copilotkit/aimock is not installed beside this Python")
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": FIXTURES}))
    chaos = [word for name, rate in FAULTS.items() for word in (f"--chaos-{name}", str(rate))]
    options = ["--journal-max", "0", "--fixtures", str(fixtures), *chaos]
    with served(engine, AIMOCK, *options, "--port") as port:
        yield Journal(port)


async def look_up(city: str) -> str:
    return city


LOOK_UP = Tool("look_up", "Look a city up.", {"type": "object", "properties": {"city": {}}}, look_up)


def any_stage(chance: random.Random) -> tuple[Stage[str, Any], int]:
    """Draw a stage, and how many of its calls may be in flight at once."""
    samples = chance.randint(2, 5)
    stages: list[tuple[Stage[str, Any], int]] = [
        (complete(), 1),
        (consensus(n=samples, max_concurrency=1), 1),
        (consensus(n=samples, max_concurrency=samples), samples),
        (refine(max_iterations=1), 1),
        (refine(lambda text: 0.5, max_iterations=2), 1),
        (react([LOOK_UP]), 1),
        (complete() >> complete(), 1),
        (complete() | complete() | complete(), 1),
    ]
    return chance.choice(stages)


async def play(name: str, journal: Journal) -> tuple[TokenUsage, int]:
    chance = random.Random(name)
    stage, at_once = any_stage(chance)
    limit = TokenUsage(llm_calls=chance.choice([0, 0, 1, 3, 10]))
    retry = RetryConfig(
        max_retries=chance.randint(0, 4), base_delay=0.0, max_delay=chance.choice([0.5, 0.5, 2.0])
    )
    async with journal.provider(name) as provider:
        with anyio.fail_after(60):
            outcome = await stage.run(provider, "Where is it?", max_cost=limit or None, retry=retry)
    cost, entries = _cost_of(outcome), journal.entries(name)
    assert not limit.llm_calls or cost.llm_calls <= limit.llm_calls, name
    if at_once == 1:
        answered = sum("chaosAction" not in entry["response"] for entry in entries)
        assert cost == TokenUsage(7 * answered, 3 * answered, len(entries)), (name, cost, entries)
    else:  # calls that a failure beside them cancelled while they were sent may not have got there
        assert len(entries) <= cost.llm_calls <= len(entries) + at_once - 1, (name, cost)
    return cost, len(entries)


def _cost_of(outcome: Outcome[Any]) -> TokenUsage:
    ended: Any = outcome.unwrap() if isinstance(outcome, Success) else outcome.failure()
    assert isinstance(outcome, Success) or isinstance(ended, ExecutionKitError)
    assert KEY not in repr((ended, ended.metadata, getattr(ended, "__cause__", None)))
    cost: TokenUsage = ended.cost
    return cost


async def test_its_journal_has_what_we_paid_for(journal: Journal, anyio_backend: str) -> None:
    turns, counted = anyio.Semaphore(AT_ONCE), list[tuple[TokenUsage, int]]()

    async def one(name: str) -> None:
        async with turns:
            counted.append(await play(name, journal))

    async with anyio.create_task_group() as group:
        for number in range(RUNS):
            group.start_soon(one, f"{anyio_backend}-{number}")
    assert sum(requests for _, requests in counted) > 2 * RUNS


async def test_more_than_half_of_what_it_does_is_a_fault(journal: Journal, anyio_backend: str) -> None:
    """The comparison above means little if the server behaves."""
    name = f"faults-{anyio_backend}"
    async with journal.provider(name) as provider:
        for _ in range(240):
            await complete().run(provider, "Where is it?", retry=RetryConfig(max_retries=0))
    actions = [entry["response"].get("chaosAction") for entry in journal.entries(name)]
    assert len(actions) == 240
    assert {None, "drop", "malformed", "rateLimit", "disconnect"} == set(actions)
    assert actions.count(None) < 150
