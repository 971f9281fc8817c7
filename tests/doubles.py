"""A model made of a function, a few stages, and a driver that tries every moment of a run."""

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import override

from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.outcome import Outcome, PatternResult
from executionkit.provider import LLMProvider, LLMResponse, Message, ToolSpec, user
from executionkit.retry import RetryConfig
from executionkit.runtime.context import Context
from executionkit.runtime.frame import Frame, Settings
from executionkit.runtime.ledger.accounts import Account
from executionkit.stage import Stage

T = TypeVar("T")


def new_context(provider: LLMProvider, account: Account, settings: Settings) -> Context:
    """Return the context of a stage that is run by nobody."""
    tracer = settings.tracer
    return Context(Frame(provider, account, settings, (), None if tracer is None else tracer.span()))


AT_ONCE = RetryConfig(base_delay=0.0)
"""Three retries without a wait."""

NEVER = RetryConfig(max_retries=0)


def shown(value: object) -> str:
    """Name a parameter of a test, the same in every process: what it shows but for addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


class Asked(msgspec.Struct, frozen=True):
    """One request as the model saw it, counted from 1."""

    number: int
    messages: list[Message]
    temperature: float | None
    max_tokens: int | None
    tools: list[ToolSpec] | None
    options: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.messages[-1]["content"])


Answer = Callable[[Asked], object]


def reply(text: str = "ok", input_tokens: int = 3, output_tokens: int = 2) -> LLMResponse:
    return LLMResponse(text, usage={"prompt_tokens": input_tokens, "completion_tokens": output_tokens})


class Model:
    """A provider made of a function: what it returns is answered, an exception is raised.

    `ticks` says how many turns of the event loop an answer takes.
    """

    supports_tools = True

    def __init__(
        self, answer: Answer = lambda asked: reply(), ticks: Callable[[Asked], int] = lambda asked: 1
    ) -> None:
        self._answer = answer
        self._ticks = ticks
        self.asked: list[Asked] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.cancelled = 0

    @property
    def calls(self) -> int:
        return len(self.asked)

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        asked = Asked(self.calls + 1, messages, temperature, max_tokens, tools, kwargs)
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            for _ in range(self._ticks(asked)):
                await checkpoint()
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        answered = self._answer(asked)
        if isinstance(answered, BaseException):
            raise answered
        return answered  # type: ignore[return-value]  # junk is the point  # pyright: ignore[reportReturnType]


def each(*answers: object) -> Answer:
    """Answer with one after the other, and with the last for ever."""
    return lambda asked: answers[min(asked.number, len(answers)) - 1]


class Buy(Stage[str, str], frozen=True):
    """Buys calls one by one, says `mark`, and fails afterwards if told to."""

    mark: str
    calls: int = 1
    error: str = ""

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        for index in range(self.calls):
            await context.complete([user(f"{self.mark}{index}: {value}")], max_tokens=50)
        if self.error:
            raise ExecutionKitError(self.error, metadata={"mark": self.mark})
        return PatternResult(f"{value}{self.mark}", metadata={"mark": self.mark})


Text: TypeAlias = Stage[str, str]


def joined(one: Text, other: Text) -> Text:
    return one >> other


def either(one: Text, other: Text) -> Text:
    return one | other


def paired(one: Text, other: Text) -> Text:
    return (one & other).map(lambda both: f"{both[0]}&{both[1]}")


def shouted(stage: Text) -> Text:
    return stage.map(str.upper)


class Clock:
    """Time that passes when somebody sleeps, for all at once; `gate` keeps who sleeps until it is opened."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wakes: list[float] = []
        self.gate: anyio.Event | None = None

    def monotonic(self) -> float:
        return self.now

    @classmethod
    def of_pacing(cls, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        """Have a provider's rate limit wait by a clock of this kind."""
        faked = cls()
        monkeypatch.setattr("executionkit.providers.pacing.monotonic", faked.monotonic)
        monkeypatch.setattr("executionkit.providers.pacing.sleep", faked.sleep)
        return faked

    async def sleep(self, seconds: float) -> None:
        wakes = self.now + seconds
        await checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        self.wakes.append(round(wakes - 1000, 6))
        self.now = max(self.now, wakes)


async def soon(awaitable: Awaitable[T], seconds: float = 20.0) -> T:
    """Await something that must not hang; the time is a safety net, far above what it takes."""
    with anyio.fail_after(seconds):
        return await awaitable


def held(account: Account) -> TokenUsage:
    """Return what an account holds for calls in flight."""
    return account.held[0]


def error_of(outcome: Outcome[Any]) -> ExecutionKitError:
    """Return the error of a run that must have failed."""
    return outcome.failure()


def result_of(outcome: Outcome[T]) -> PatternResult[T]:
    """Return the result of a run that must have answered."""
    return outcome.unwrap()


def total(costs: "list[TokenUsage] | tuple[TokenUsage, ...]") -> TokenUsage:
    return sum(costs, NO_USAGE)


def odd(n: int) -> str | None:
    """A rule that refuses even numbers."""
    return None if n % 2 else f"{n} is even"


async def odd_soon(n: int) -> str | None:
    """The same as a coroutine function."""
    await checkpoint()
    return odd(n)


async def _later(text: str) -> str:
    return text


def _handed_on(text: str) -> Any:
    return _later(text)


UNTOLD_ASYNC: list[Any] = [_handed_on, lru_cache(_later)]
"""Async functions of which no class says so."""
