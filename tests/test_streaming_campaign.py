"""Streams that are left at random moments, over every stage, in this process and over HTTP.

`just long streaming` does so ten thousand times in this process, and as often over HTTP.
"""

import asyncio
import math
import os
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint
from returns.result import Failure, Success
from sniffio import current_async_library

from executionkit import (
    Outcome,
    Provider,
    RetryConfig,
    Stage,
    TokenUsage,
    complete,
    consensus,
    prompt,
    react,
    refine,
    select,
    structured,
)
from executionkit.events import (
    Answered,
    AttemptFinished,
    AttemptStarted,
    Event,
    TextDelta,
    TextVoided,
    with_content,
)
from executionkit.runtime.backlog import Backlog
from executionkit.streaming import Streaming
from tests.conftest import BARE
from tests.doubles import soon
from tests.leaks import running_tasks
from tests.streamed import LOOK_UP, Server, Speaker, Watched, serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600)]

RUNS = int(os.environ.get("EXECUTIONKIT_STREAMS", "40"))
"""Streams in this process, half of them on each event loop."""
RUNS_OVER_HTTP = int(os.environ.get("EXECUTIONKIT_STREAMS_OVER_HTTP", "10"))
"""Streams over HTTP, half of them on each event loop."""
DELTAS = int(os.environ.get("EXECUTIONKIT_DELTAS", "4000"))
RETRY = RetryConfig(max_retries=2, base_delay=0.0)


def upper(text: str) -> str:
    return text.upper()


def half(text: str) -> float:
    return 0.5


STAGES: dict[str, Stage[str, Any]] = {
    "complete": complete(),
    "complete in pieces": complete(stream=True).map(upper),
    "consensus": consensus(n=4, max_concurrency=3),
    "select": select(n=2),
    "refine": refine(max_iterations=1),
    "refine a stage": refine(half, draft=complete(stream=True), max_iterations=1),
    "react": react([LOOK_UP]),
    "structured": structured(list[str]),
    "pipe": complete(stream=True) >> consensus(n=2) >> complete(),
    "fallback": complete() | complete() | consensus(n=2),
    "both": complete(stream=True) & complete(stream=True),
    "named": (complete() >> complete().named("b")).named("a"),
    "within": complete().within(TokenUsage(llm_calls=2)) | complete(),
    "checked": complete().checked(lambda text: "no" if "w9" not in text else None, output_retries=1),
    "with input": complete(stream=True).with_input(),
    "each": prompt("{}").map(lambda text: [text] * 4) >> complete(stream=True).each(max_concurrency=2),
}
Way: TypeAlias = Literal["break", "raise", "cancel", "task", "deadline", "close", "end"]
WAYS: tuple[Way, ...] = ("break", "raise", "cancel", "task", "deadline", "close", "end")


class Left(Exception):
    """The reader's own failure."""


class Scene:
    """One stream, how it is left, and what was seen of it."""

    def __init__(self, rng: random.Random, speaker: Speaker) -> None:
        self.name = rng.choice([*STAGES])
        self.way: Way = rng.choice(WAYS)
        self.after = rng.randrange(40)
        self.ahead = rng.choice([1, 2, 5, 64, math.inf])
        self.naps = rng.choice([0, 0, 1, 7])
        self.speaker = speaker
        self.events: list[Any] = []
        self.traced: list[Event] = []
        self.run: Streaming[Any] | None = None
        self.is_begun = False

    def __repr__(self) -> str:
        return f"{self.name}, {self.way} after {self.after}, ahead {self.ahead}, naps {self.naps}"

    async def play(self, provider: Any) -> None:
        stage = STAGES[self.name]
        deadline = 0.001 * (1 + self.after) if self.way == "deadline" else None
        self.run = stage.stream(
            provider,
            "Where?",
            ahead=self.ahead,
            retry=RETRY,
            deadline=deadline,
            trace=with_content(self.traced.append),
        )
        match self.way:
            case "cancel":
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._read, self.run)
                        for _ in range(self.after * 3):
                            await checkpoint()
                        scope.cancel()
            case "task":
                await self._cancel_its_task(self.run)
            case "raise":
                with suppress(Left):
                    await self._read(self.run)
            case _:
                await self._read(self.run)

    async def _cancel_its_task(self, run: Streaming[Any]) -> None:
        if current_async_library() == "trio":  # it knows no such thing
            with anyio.move_on_after(0.001 * self.after):
                await self._read(run)
            return
        task = asyncio.create_task(self._read(run))
        for _ in range(self.after * 3):
            await checkpoint()
        task.cancel()
        await asyncio.wait([task])

    async def _read(self, run: Streaming[Any]) -> None:
        self.is_begun = True
        async with run:
            async for event in run:
                self.events.append(event)
                for _ in range(self.naps):
                    await checkpoint()
                if len(self.events) > self.after:
                    if self.way == "break":
                        break
                    if self.way == "raise":
                        raise Left
                    if self.way == "close":
                        await run.aclose()

    @property
    def sent(self) -> int:
        """How many attempts were sent."""
        return sum(isinstance(event, AttemptStarted) for event in self.traced)

    def check(self) -> None:
        assert self.run is not None
        if not self.is_begun:  # its task was cancelled before its first step
            assert not self.speaker.said
            return
        cost, outcome = self.run.cost, self.run.outcome
        carried = outcome.failure().cost if isinstance(outcome, Failure) else outcome.unwrap().cost
        assert carried == cost, self
        finished = [event for event in self.traced if isinstance(event, AttemptFinished)]
        ledger = sum([event.cost for event in finished], TokenUsage())
        assert (len(finished), ledger) == (self.sent, cost), self
        records = [event for event in self.events if not isinstance(event, Answered)]
        assert self.traced[: len(records)] == records, self
        if self.has_ended:
            last: Answered[Any] = self.events[-1]
            self._check_text(last.outcome)

    @property
    def has_ended(self) -> bool:
        """Whether it was read to its end."""
        return bool(self.events) and type(self.events[-1]).__name__ == "Answered"

    def _check_text(self, outcome: Outcome[Any]) -> None:
        said: dict[int, str] = {}
        for event in self.events:
            if isinstance(event, TextDelta) and event.is_answer and event.kind == "text":
                said[event.call] = said.get(event.call, "") + event.text
            elif isinstance(event, TextVoided):
                said.pop(event.call, None)
        text = "".join(said.values())
        match outcome:
            case Success(result):
                value = result.value
                assert text in {"", value if isinstance(value, str) else '{"answer": ["a", "b", "c"]}'}, self
            case Failure(_):
                assert text == "", self


class Buffered:
    """How much a backlog held at most when a piece of text came in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.excess = -math.inf
        add = Backlog.add

        def watched(backlog: Backlog, record: object) -> None:
            add(backlog, record)
            if isinstance(record, TextDelta):
                ahead: float = backlog._ahead  # pyright: ignore[reportPrivateUsage]
                self.excess = max(self.excess, len(backlog.records) - ahead)

        monkeypatch.setattr(Backlog, "add", watched)


def random_speaker(rng: random.Random) -> Speaker:
    breaks = {rng.randrange(6): rng.randrange(5)} if rng.random() < 0.4 else {}
    return Speaker(words=rng.choice([3, 6, 20]), breaks=breaks)


async def test_left_at_any_moment(monkeypatch: pytest.MonkeyPatch, anyio_backend: str) -> None:
    buffered, ways = Buffered(monkeypatch), Counter[str]()
    for seed in range(RUNS // 2):
        rng = random.Random(f"{anyio_backend} {seed}")
        speaker = random_speaker(rng)
        provider, scene = Watched(speaker), Scene(rng, speaker)
        known = frozenset(await running_tasks())
        await soon(scene.play(provider))
        calls = len(speaker.said)
        left = await running_tasks(known)
        assert not left, f"{scene}: {left}"
        scene.check()
        assert len(speaker.said) == calls, f"{scene}: a call after the end"
        assert provider.open == 0, scene
        assert scene.run is not None
        # What was pulled out of the model is what is charged, to the token.
        assert scene.run.cost == speaker.truth, scene
        ways[f"{scene.way} {'ended' if scene.has_ended else 'left'}"] += 1
    assert buffered.excess <= 0
    print(f"\n{anyio_backend}, in process: {sum(ways.values())} streams, {dict(sorted(ways.items()))}")


TRANSPORTS = ["httpx", "aiohttp"]


async def test_left_at_any_moment_over_http(monkeypatch: pytest.MonkeyPatch, anyio_backend: str) -> None:
    buffered, runs, exact = Buffered(monkeypatch), 0, 0
    transports = ["httpx"] if BARE or anyio_backend == "trio" else TRANSPORTS
    for seed in range(RUNS_OVER_HTTP // 2):
        rng = random.Random(f"{anyio_backend} http {seed}")
        speaker = random_speaker(rng)
        scene = Scene(rng, speaker)
        known = frozenset(await running_tasks())
        async with serving(speaker) as server:
            provider = Provider(
                f"http://127.0.0.1:{server.port}/v1",
                "m",
                max_connections=3,
                transport=rng.choice(transports),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            )
            async with provider:
                await soon(scene.play(provider))
                sent = scene.sent  # the server may have yet to read a request that was sent before
                for _ in range(5):
                    await checkpoint()
                scene.check()
                assert scene.sent == sent, f"{scene}: a call after the end"
            await soon(server.wait_until_idle())
            exact += check_count(scene, speaker)
        left = await running_tasks(known)
        assert not left, f"{scene}: {left}"
        runs += 1
    assert buffered.excess <= 0
    print(f"\n{anyio_backend}, over HTTP: {runs} streams, the server's count met exactly in {exact}")


def check_count(scene: Scene, speaker: Speaker) -> bool:
    """Hold the cost against the server's count: what it sent to its end is charged exactly.

    Of an exchange that was broken off the reader's side knows what arrived, the server what it sent.
    """
    assert scene.run is not None
    cost, truth = scene.run.cost, speaker.truth
    whole = sum(
        event.cost.output_tokens
        for event in scene.traced
        if isinstance(event, AttemptFinished) and event.error is None
    )
    assert whole <= cost.output_tokens <= truth.output_tokens, (scene, cost, truth)
    assert cost.llm_calls >= truth.llm_calls, (scene, cost, truth)
    return cost.output_tokens == truth.output_tokens and cost.llm_calls == truth.llm_calls


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no such file")
async def test_memory_is_flat_however_much_is_said(anyio_backend: str) -> None:
    """A reader that pauses now and then, and a provider that keeps nothing: what is kept is `ahead` records."""
    provider, seen, most = _Endless(DELTAS), 0, 0
    sizes: list[int] = []
    async with complete().stream(provider, "x", ahead=16) as run:
        async for event in run:
            if isinstance(event, TextDelta):
                seen += 1
                if seen % 1000 == 0:
                    for _ in range(20):
                        await checkpoint()
                    most = max(most, provider.sent - seen)
                if seen % (DELTAS // 8) == 0:
                    sizes.append(resident())
    assert seen == DELTAS
    assert most <= 17  # those that are buffered, and one that waits for room
    assert max(sizes) - sizes[0] < 4_000_000, sizes
    print(f"\n{anyio_backend}: {seen} pieces, {most} ahead at most, {max(sizes) - sizes[0]} bytes more")


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class _Endless:
    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.sent = 0

    async def complete(self, messages: list[Any], **options: Any) -> Any:
        raise AssertionError("it streams")

    def stream(self, messages: list[Any], **options: Any) -> Any:
        return _Letters(self)


class _Letters:
    def __init__(self, owner: _Endless) -> None:
        self._owner = owner

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        from executionkit.providers.scripted import ScriptedPiece

        if self._owner.sent == self._owner.pieces:
            raise StopAsyncIteration
        self._owner.sent += 1
        await checkpoint()
        return ScriptedPiece("a")

    @property
    def cost(self) -> TokenUsage:
        return TokenUsage(1, self._owner.sent, 1)

    @property
    def response(self) -> Any:
        from executionkit import LLMResponse

        usage = {"prompt_tokens": 1, "completion_tokens": self._owner.sent}
        return LLMResponse("a" * self._owner.pieces, usage=usage)


async def test_the_readers_pauses_are_no_time_of_the_providers() -> None:
    speaker = Speaker(words=60)
    async with serving(speaker) as server:
        provider = Provider(f"http://127.0.0.1:{server.port}/v1", "m", timeout=2.0)
        async with provider:
            run = complete().stream(provider, "x", ahead=2)
            async with run:
                await anext(run)
                await anyio.sleep(2.5)
                events = [event async for event in run]
            assert isinstance(events[-1], Answered)
            assert isinstance(run.outcome, Success), run.outcome
    assert isinstance(server, Server)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stream_of_a_provider_that_is_dropped_frees_its_connection(
    transport: Any, anyio_backend: str
) -> None:
    if transport == "aiohttp" and BARE:
        pytest.importorskip("aiohttp")
    async with serving(Speaker(words=5000)) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        chosen: Any = "httpx" if anyio_backend == "trio" else transport
        async with Provider(url, "m", max_connections=1, transport=chosen) as provider:
            for _ in range(3):  # with one connection, each needs the one before to be freed
                pieces = provider.stream([{"role": "user", "content": "x"}])
                assert (await soon(anext(pieces))).text == "w0 "
                held = [pieces]
                del pieces
                with pytest.warns(ResourceWarning, match="dropped before its end"):
                    held.clear()
        await soon(server.wait_until_idle())
