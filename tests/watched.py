"""Random runs to be watched: pipelines of every kind, on servers that fail in every way, cancelled now and then.

Every prompt and every answer holds the word `zebra`, which telemetry without content must not hold. Everything
follows from a number.
"""

from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from typing_extensions import override

from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError, PermanentError, ProviderError, RateLimitError
from executionkit.events import Trace
from executionkit.outcome import PatternResult
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus, select
from executionkit.patterns.react import react
from executionkit.patterns.refine import Evaluation, refine
from executionkit.patterns.step import step
from executionkit.patterns.structured import structured
from executionkit.prices import Price
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolCall, user
from executionkit.providers.pool import Pool
from executionkit.retry import RetryConfig
from executionkit.runtime.context import Context
from executionkit.stage import Stage, identity
from executionkit.tools import Tool, ToolError, tool

__all__ = ["SECRET", "watch"]

Text = Stage[str, str]
SECRET = "zebra"
_FATES = ("answer",) * 16 + ("busy", "down", "foreign", "permanent", "silent", "refused", "cut")
_ANSWERS = (f"{SECRET} yes", f"{SECRET} no", "[1, 2]", "Score: 7", '{"answer": 1}', f"{SECRET} " * 20)
_AT_ONCE = RetryConfig(max_retries=2, base_delay=0.0)


class Server:
    """A server with a name or without, which answers, refuses, fails or hangs a little."""

    supports_tools = True

    def __init__(self, random: Random, cancel_at: int, cancel: Callable[[], None]) -> None:
        self._random = random
        self._cancel_at = cancel_at
        self._cancel = cancel
        self.calls = 0
        if random.random() < 0.8:
            self.model = random.choice(("gpt-x", "claude-y", "llama"))
        if random.random() < 0.7:
            self.port = random.choice((443, 8080))
            host = random.choice(("api.openai.com", "x.openai.azure.com", "localhost", "[::1]"))
            self.server = host if self.port == 443 else f"{host}:{self.port}"
        if random.random() < 0.5:
            self.price = Price(input=Decimal(random.randrange(9)), output=Decimal(random.randrange(30)))

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        random = self._random
        self.calls += 1
        if self.calls == self._cancel_at:
            self._cancel()
        for _ in range(random.choice((0, 0, 1, 3))):
            await checkpoint()
        fate = random.choice(_FATES)
        if fate == "busy":
            raise RateLimitError(SECRET, metadata={"status": 429, "request_id": "r1"}, retry_after=0.0)
        if fate == "down":
            raise ProviderError(SECRET, cost=TokenUsage(random.randrange(9), random.randrange(9), 1))
        if fate == "foreign":
            raise OSError(SECRET)
        if fate == "permanent":
            raise PermanentError(SECRET, metadata={"status": 401})
        if fate == "refused":
            fields = [name for name in ("response_format", "temperature", "n") if name in options]
            said = {"status": 400, "param": random.choice(fields or ["max_tokens"])}
            raise PermanentError(f"{SECRET}: unsupported {said['param']}", metadata=said)
        return self._answer(fate, **options)

    def _answer(self, fate: str, *, tools: object = None, n: int = 1, **_: object) -> LLMResponse:
        random = self._random
        given, taken = random.randint(1, 90), random.randint(1, 40)
        usage = {
            "prompt_tokens": given,
            "completion_tokens": taken,
            "prompt_tokens_details": {
                "cached_tokens": random.choice((0, given // 2)),
                "cache_write_tokens": random.choice((0, given // 3)),
            },
            "completion_tokens_details": {"reasoning_tokens": random.choice((0, taken // 2))},
        }
        usage = {} if fate == "silent" else usage
        names: dict[str, Any] = {"id": "c1", "model": "served"} if random.random() < 0.5 else {}
        if tools and random.random() < 0.6:
            wanted = [
                random.choice(("look", "fail", "ask", f"{SECRET}s")) for _ in range(random.randint(1, 3))
            ]
            calls = [ToolCall(f"t{at}", name, {"what": SECRET}) for at, name in enumerate(wanted)]
            return LLMResponse("", tuple(calls), "tool_calls", usage, **names)
        text = random.choice(_ANSWERS)
        reason = "length" if fate == "cut" else "stop"
        choices = [{"message": {"content": text}, "finish_reason": reason}] * n
        raw = {"choices": choices} if n > 1 else None
        return LLMResponse(text, (), reason, usage, raw, **names)


@tool
def look(what: str) -> str:
    """Look something up."""
    return f"{SECRET} {what}"


@tool
async def fail(what: str) -> str:
    """Fail."""
    raise ToolError(f"{SECRET} {what}")


def _asking_tool(random: Random, trace: Trace) -> Tool:
    @tool
    async def ask(what: str, context: Context) -> str:
        """Ask others, in a run within the run."""
        told = random.choice((None, trace))
        outcome = await consensus(2, max_tokens=20).run(context.provider, f"{SECRET} {what}", trace=told)
        return str(outcome.unwrap().value)

    return ask


async def _grade(text: str, provider: LLMProvider) -> Evaluation:
    await provider.complete([user(f"{SECRET} {text[:20]}")], max_tokens=30)
    return Evaluation((len(text) % 10) / 10, SECRET)


async def _careless(provider: LLMProvider, prompt: str) -> PatternResult[str]:
    for _ in range(2):
        try:
            await provider.complete([user(prompt[:50])], max_tokens=30, top_p=0.5, seed=3, user=SECRET)
        except ExecutionKitError:
            continue
    return PatternResult(SECRET)


class _Voting:
    """A provider of the user's own that asks another one twice for each call."""

    def __init__(self, inner: LLMProvider) -> None:
        self._inner = inner

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        await self._inner.complete(messages, **options)
        return await self._inner.complete(messages, **options)


class Votes(Stage[str, str], frozen=True):
    """A stage that asks through a provider of its own, which asks the run's."""

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        return await context.run(complete(max_tokens=30).using(_Voting(context.provider)), value)


def _leaf(random: Random, trace: Trace) -> Text:
    return random.choice(
        (
            lambda: complete(max_tokens=random.choice((20, 200)), stream=random.random() < 0.5),
            lambda: consensus(random.randint(1, 5), max_tokens=50, one_request=random.random() < 0.3),
            lambda: consensus(4, output_type=list[int]).map(str),
            lambda: consensus(5, quorum=2),
            lambda: select(3, max_tokens=60),
            lambda: refine(_grade, max_iterations=2, max_tokens=90),
            lambda: refine(max_iterations=1, max_tokens=90),
            lambda: react(
                [look, fail, _asking_tool(random, trace)],
                max_rounds=3,
                max_tokens=120,
                on_limit=random.choice(("fail", "answer")),
            ),
            lambda: structured(list[int], max_tokens=100).map(str),
            lambda: step(_careless),
            Votes,
        )
    )()


def _tree(random: Random, servers: list[Server], trace: Trace, depth: int = 3) -> Text:
    if not depth or random.random() < 0.2:
        return _leaf(random, trace)
    one = _tree(random, servers, trace, depth - 1)
    match random.randrange(8):
        case 0:
            return one >> _tree(random, servers, trace, depth - 1)
        case 1:
            return one | _tree(random, servers, trace, depth - 1)
        case 2:
            return (one & _tree(random, servers, trace, depth - 1)).map(str)
        case 3:
            limit = TokenUsage(llm_calls=random.randint(1, 6), output_tokens=random.choice((0, 300)))
            return one.within(limit)
        case 4:
            return one.using(random.choice(servers))
        case 5:
            return one.using(Pool(servers))
        case 6:
            return one.named("a name")
        case _:
            twice = identity(str).map(lambda text: [text, f"{text}!"])
            return (twice >> one.each(max_concurrency=2, name=str)).map(lambda _: SECRET)


async def watch(seed: int, traces: tuple[Trace, ...]) -> None:
    """Make a run of a number, and let it be watched.

    Args:
        seed: The number.
        traces: Who watches.
    """
    random = Random(seed)
    with anyio.move_on_after(30) as scope:
        cancel_at = random.choice((0, 0, 0, random.randint(1, 6)))
        servers = [Server(random, cancel_at, scope.cancel) for _ in range(random.randint(1, 3))]
        stage = _tree(random, servers, traces[-1])
        limit = TokenUsage(llm_calls=random.choice((0, 0, random.randint(1, 12))))
        deadline = random.choice((None, None, None, 0.001))
        await stage.run(
            servers[0], f"{SECRET}?", trace=traces, retry=_AT_ONCE, max_cost=limit, deadline=deadline
        )
