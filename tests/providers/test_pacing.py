"""`rate_limit=` through the provider, over HTTP: who waits how long, in a time that passes by waiting only."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from executionkit import complete, consensus
from executionkit.core.budget import estimate_input
from executionkit.core.rate_limit import RateLimit
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, LLMError, RateLimitError
from executionkit.provider import user
from executionkit.providers.openai import Provider
from executionkit.runtime.tasks.event_loops import closing_at_exit
from tests.doubles import Clock, error_of, result_of
from tests.faults.server import FaultServer, fault_server

PROMPT = [user("Where?")]
INPUT = estimate_input(PROMPT, None)

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of_pacing(monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as running:
        yield running


@pytest.fixture(autouse=True)
async def _closing(anyio_backend: str) -> AsyncIterator[None]:
    async with closing_at_exit():
        yield


def limited(server: FaultServer, route: str, **limits: int) -> Provider:
    return Provider(server.url(route), "m", rate_limit=RateLimit(**limits), default_max_tokens=100)


async def ask(provider: Provider, max_tokens: int | None = None) -> str:
    return (await provider.complete(PROMPT, max_tokens=max_tokens)).content


async def read(provider: Provider, pieces: int = 100) -> None:
    """Read a stream, but no more than so many pieces of text."""
    async with provider.stream(PROMPT) as stream:
        async for piece in stream:
            pieces -= bool(piece.text)
            if not pieces:
                return


async def at_once(*calls: Any) -> None:
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(*call)


async def test_requests_beyond_the_limit_wait_for_their_turn(server: FaultServer, clock: Clock) -> None:
    async with limited(server, "good-plain", requests_per_minute=2) as provider:
        await at_once(*[(ask, provider)] * 6)
    assert sorted(clock.wakes) == [30, 60, 90, 120]


async def test_runs_share_the_limit(server: FaultServer, clock: Clock) -> None:
    before = server.calls.get("good-plain", 0)
    async with limited(server, "good-plain", requests_per_minute=2) as provider:
        await at_once(*[(consensus(n=2).run, provider, "Where?")] * 2, (complete().run, provider, "Where?"))
    assert sorted(clock.wakes) == [30, 60, 90]
    assert server.calls["good-plain"] == before + 5


async def test_equal_providers_do_not_share_it(server: FaultServer, clock: Clock) -> None:
    one, other = (limited(server, "good-plain", requests_per_minute=1) for _ in range(2))
    assert one == other
    async with one, other:
        await at_once((ask, one), (ask, other))
    assert not clock.wakes


async def test_tokens_are_taken_at_their_worst_and_given_back(server: FaultServer, clock: Clock) -> None:
    worst = INPUT + 100
    async with limited(server, "good-plain", tokens_per_minute=600) as provider:
        for _ in range(20):
            await ask(provider)  # 10 tokens each, as the server reports
        assert not clock.wakes
        level = 600 - 20 * 10
        await at_once(*[(ask, provider)] * 6)
    short = [worst * calls - level for calls in range(1, 7) if worst * calls > level]
    assert sorted(clock.wakes) == [pytest.approx(tokens / 10) for tokens in short]


@pytest.mark.parametrize(
    ("route", "used"),
    [
        ("good-plain", 10),
        ("good-usage-null", INPUT + 100),
        ("status-429", 0),
        ("429-bills", 10),
        ("close-at-once", 0),
    ],
)
async def test_a_call_settles_at_what_it_took(
    route: str, used: int, server: FaultServer, clock: Clock
) -> None:
    provider = limited(server, route, tokens_per_minute=600)
    with suppress(LLMError):
        await ask(provider)
    await check_level(provider, 600 - used, clock)


@pytest.mark.parametrize(
    ("route", "pieces", "used"),
    [
        ("stream-sound", 100, 10),
        ("stream-no-usage", 100, INPUT + 2),
        ("stream-stall", 2, INPUT + 2),
        ("stream-error-later", 100, INPUT + 2),
        ("stream-not-a-stream", 100, 10),
        ("stream-429", 100, 0),
    ],
)
async def test_a_stream_settles_at_what_arrived(
    route: str, pieces: int, used: int, server: FaultServer, clock: Clock
) -> None:
    provider = limited(server, route, tokens_per_minute=600)
    with suppress(LLMError):
        await read(provider, pieces)
    await check_level(provider, 600 - used, clock)


async def check_level(provider: Provider, level: int, clock: Clock) -> None:
    """Find out what is left in the bucket: what takes all of it waits for what is missing."""
    assert not clock.wakes
    async with provider.stream(PROMPT, max_tokens=600 - INPUT) as stream:
        with suppress(LLMError):
            await anext(stream)
    assert clock.wakes == ([(600 - level) / 10] if level < 600 else [])


@pytest.mark.parametrize("several", [{"n": 3}, {"best_of": 3}, {"options": {"num_return_sequences": 3}}])
async def test_several_answers_count_as_several(
    server: FaultServer, clock: Clock, several: dict[str, Any]
) -> None:
    provider = limited(server, "good-plain", tokens_per_minute=600)
    await ask(provider)
    await provider.complete(PROMPT, max_tokens=196, **several)
    assert clock.wakes == [pytest.approx((INPUT + 3 * 196 - 590) / 10)]


async def test_streams_wait_for_their_turn(server: FaultServer, clock: Clock) -> None:
    async with limited(server, "stream-sound", requests_per_minute=2) as provider:
        await at_once(*[(read, provider)] * 3, *[(complete(stream=True).run, provider, "Where?")] * 2)
    assert sorted(clock.wakes) == [30, 60, 90]


@pytest.mark.parametrize(("what", "seconds"), [("requests", 7.5), ("tokens", 60.0)])
@pytest.mark.parametrize("call", [ask, read])
async def test_a_server_that_has_nothing_left_is_not_asked_until_it_has(
    call: Callable[[Provider], Awaitable[object]],
    what: str,
    seconds: float,
    server: FaultServer,
    clock: Clock,
) -> None:
    async with limited(server, f"good-no-{what}-left") as provider:
        await call(provider)
        await at_once(*[(call, provider)] * 3)
    assert clock.wakes == [seconds] * 3


async def test_what_an_answer_says_holds_for_who_waits_already(server: FaultServer, clock: Clock) -> None:
    clock.gate, answers = anyio.Event(), list[str]()
    async with limited(server, "good-no-tokens-left", requests_per_minute=2) as provider:

        async def note() -> None:
            answers.append(await ask(provider))
            if len(answers) == 2 and clock.gate is not None:
                clock.gate.set()

        await at_once(*[(note,)] * 3)
    assert clock.wakes == [30, 60]


async def test_who_is_cancelled_while_it_waits_gives_its_place_back(
    server: FaultServer, clock: Clock
) -> None:
    async with limited(server, "good-plain", requests_per_minute=1, tokens_per_minute=600) as provider:
        await ask(provider)
        clock.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(ask, provider, 500)
            group.start_soon(read, provider)
            for _ in range(5):
                await checkpoint()
            group.cancel_scope.cancel()
        clock.gate = None
        await ask(provider)
    assert clock.wakes == [60]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_beyond_the_deadline_is_not_begun(
    stream: bool, server: FaultServer, clock: Clock
) -> None:
    async with limited(server, "good-plain", requests_per_minute=1) as provider:
        await ask(provider)
        asked = server.calls["good-plain"]
        error = error_of(await complete(stream=stream).run(provider, "Where?", deadline=10.0))
        assert isinstance(error, RateLimitError)
        assert error.retry_after == pytest.approx(60)
        assert error.cost == TokenUsage(llm_calls=1)  # an attempt, as every other
        assert server.calls["good-plain"] == asked
        assert not clock.wakes
        await ask(provider)  # which has the place that was given back
    assert clock.wakes == [60]


async def test_a_wait_that_grows_beyond_the_deadline_ends_then(server: FaultServer, clock: Clock) -> None:
    clock.gate, errors = anyio.Event(), list[ExecutionKitError]()
    async with limited(server, "good-plain", requests_per_minute=2) as provider:
        await at_once(*[(ask, provider)] * 2)

        async def note() -> None:
            errors.append(error_of(await complete().run(provider, "Where?", deadline=40.0)))

        async with anyio.create_task_group() as group:
            group.start_soon(note)
            for _ in range(5):
                await checkpoint()
            said = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m"}
            vars(provider)["Pace"].learn(said, clock.now + 30)
            clock.gate.set()
    assert clock.wakes == [30]
    assert isinstance(errors[0], RateLimitError)
    assert errors[0].retry_after == pytest.approx(60)


async def test_a_wait_within_the_deadline_is_made(server: FaultServer, clock: Clock) -> None:
    async with limited(server, "good-plain", requests_per_minute=1) as provider:
        await ask(provider)
        assert result_of(await complete().run(provider, "Where?", deadline=1000.0)).value == "Paris"
    assert clock.wakes == [60]


async def test_nobody_but_a_run_bounds_the_wait(server: FaultServer) -> None:
    async with limited(server, "good-plain", requests_per_minute=1) as provider:
        await ask(provider)
        with anyio.move_on_after(0.05) as scope:
            await ask(provider)
    assert scope.cancelled_caught
