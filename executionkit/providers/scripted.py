"""`ScriptedProvider`: a model made from a list of answers or a function, for tests and examples."""

import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from executionkit.core.budget import estimate_input
from executionkit.core.encoding import json_text
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.errors import PermanentError
from executionkit.prices import Price, Prices
from executionkit.provider import CallPiece, LLMResponse, Message, ToolCall, ToolSpec
from executionkit.runtime.ledger.terms import checked_terms

__all__ = ["Answer", "ScriptedPiece", "ScriptedProvider", "ScriptedRequest", "ScriptedStream"]

_WORD: Final = re.compile(r"\s*\S+\s*|\s+")

Answer: TypeAlias = str | ToolCall | LLMResponse | Exception
"""What a script says: a text, a request to call a tool, a whole response, or an exception to raise."""


class ScriptedRequest(msgspec.Struct, frozen=True):
    """What a `ScriptedProvider` was asked.

    Args:
        messages: The conversation in OpenAI's format.
        temperature: Sampling temperature, None where the caller left it open.
        max_tokens: Output tokens at most, None where the caller left it open.
        tools: Tools the model may call, in OpenAI's format.
        options: Further request fields.
        index: How many requests came before.
    """

    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    options: Mapping[str, Any] = {}
    index: int = 0

    @property
    def prompt(self) -> str:
        """The text of the last message."""
        return str(self.messages[-1].get("content") or "") if self.messages else ""


class ScriptedPiece(msgspec.Struct, frozen=True):
    """A piece of a streamed answer.

    Args:
        text: What it adds to the text.
        reasoning: What it adds to the reasoning.
        calls: What it adds to tool calls.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


class ScriptedStream:
    """An answer of a `ScriptedProvider` in pieces: a word each, with the white space behind it.

    Reasoning comes first, tool calls last; these in two pieces each, the first with the name alone.

    Args:
        ask: Gives the whole answer.
    """

    def __init__(self, ask: Callable[[], Awaitable[LLMResponse]]) -> None:
        self._ask = ask
        self._whole: LLMResponse | None = None
        self._left: deque[ScriptedPiece] = deque()
        self._seen = 0

    @property
    def cost(self) -> TokenUsage:
        """What it has cost so far: a token for each piece, and the whole once all are there."""
        if self._whole is None:
            return NO_USAGE
        if not self._left:
            return TokenUsage(self._whole.input_tokens, self._whole.output_tokens, 1)
        return TokenUsage(self._whole.input_tokens, self._seen, 1)

    @property
    def is_cost_final(self) -> bool:
        """Whether the whole is there."""
        return self._whole is not None and not self._left

    @property
    def response(self) -> LLMResponse:
        """The whole, once all pieces are there.

        Raises:
            RuntimeError: They are not.
        """
        if self._whole is None or self._left:
            raise RuntimeError("the stream has not ended; iterate it to its end first")
        return self._whole

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: there is no connection."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ScriptedPiece:
        if self._whole is None:
            self._whole = await self._ask()
            self._left.extend(_pieces(self._whole))
        else:
            await checkpoint()
        if not self._left:
            raise StopAsyncIteration
        self._seen += 1
        return self._left.popleft()


def _pieces(answer: LLMResponse) -> Iterator[ScriptedPiece]:
    for word in _WORD.findall(answer.reasoning or ""):
        yield ScriptedPiece(reasoning=word)
    for word in _WORD.findall(answer.content or ""):
        yield ScriptedPiece(word)
    for index, call in enumerate(answer.tool_calls or ()):
        yield ScriptedPiece(calls=(CallPiece(call.name, "", index),))
        given = call.arguments if isinstance(call.arguments, str) else json_text(call.arguments)
        yield ScriptedPiece(calls=(CallPiece(call.name, given, index),))


Script: TypeAlias = Callable[[ScriptedRequest], Answer | Awaitable[Answer]]


class ScriptedProvider:
    """A provider that says what it is told to, and remembers what it was asked.

    Token counts are estimated from the texts, a token for every four characters, so that budgets settle on
    figures that make sense. A whole `LLMResponse` is passed on as it is, its usage too. Texts are not cut to
    `max_tokens`.

    Args:
        answers: The answers in order, or one text for every call, or a function (plain or async) of the
            `ScriptedRequest`.
        delay: Seconds each answer takes. Without it an answer comes at once and calls never overlap.
        price: What its calls cost, for costs and budgets in money.

    >>> provider = ScriptedProvider(["Paris", "Rome", TimeoutError("no answer")])
    >>> from executionkit import complete
    >>> complete().run_sync(provider, "What is the capital of France?").unwrap().value
    'Paris'
    >>> provider.requests[0].prompt, len(provider.unused)
    ('What is the capital of France?', 2)
    >>> shouting = ScriptedProvider(lambda request: request.prompt.upper())
    >>> complete().run_sync(shouting, "hello").unwrap().value
    'HELLO'
    """

    supports_tools: Literal[True] = True

    def __init__(
        self,
        answers: "str | Iterable[Answer] | Script",
        *,
        delay: float = 0.0,
        price: Price | Prices | None = None,
    ) -> None:
        checked_terms(price, None)
        self.price: Price | Prices | None = price
        self._script: Script | None = None
        self._answers: tuple[Answer, ...] = ()
        if isinstance(answers, str):
            self._script = lambda _: answers
        elif callable(answers):
            self._script = answers
        else:
            self._answers = tuple(answers)
        self._delay = delay
        self.requests: list[ScriptedRequest] = []
        """What was asked, in order."""

    @property
    def unused(self) -> tuple[Answer, ...]:
        """The answers that nobody asked for yet; empty where a function answers."""
        return self._answers[len(self.requests) :]

    def stream(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> "ScriptedStream":
        """Give the next answer word by word; it is asked for with the first piece, as a server would be.

        What `complete` raises is raised by the iteration.
        """
        ask = partial(
            self.complete,
            messages,
            temperature=temperature,
            max_tokens=max_tokens,
            tools=tools,
            **kwargs,
        )
        return ScriptedStream(ask)

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Give the next answer.

        Raises:
            PermanentError: The script has no more answers.
            Exception: Whatever exception is the next answer.
        """
        index = len(self.requests)
        request = ScriptedRequest(tuple(messages), temperature, max_tokens, tuple(tools or ()), kwargs, index)
        self.requests.append(request)
        if self._delay:
            await anyio.sleep(self._delay)
        answer = self._next(request)
        return _response(await answer if isawaitable(answer) else answer, request)

    def _next(self, request: ScriptedRequest) -> Answer | Awaitable[Answer]:
        if self._script is not None:
            return self._script(request)
        if request.index < len(self._answers):
            return self._answers[request.index]
        raise PermanentError(
            f"the script has no answer for call {request.index + 1}; add one for {request.prompt[:80]!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.requests)} requests, {len(self.unused)} answers unused)"


def _response(answer: object, request: ScriptedRequest) -> LLMResponse:
    match answer:
        case LLMResponse():
            return answer
        case str():
            return LLMResponse(answer, usage=_usage(request, answer))
        case ToolCall():
            return LLMResponse("", (answer,), "tool_calls", _usage(request, json_text(answer)))
        case Exception():
            raise answer
        case _:
            raise TypeError(f"a script answers with str, ToolCall, LLMResponse or Exception, not {answer!r}")


def _usage(request: ScriptedRequest, said: str) -> dict[str, int]:
    """Estimate as the ledger does, with less care: the double must not be what a benchmark measures."""
    heard = sum(4 + len(message.get("content") or "") // 4 for message in request.messages)
    told = estimate_input(request.tools) if request.tools else 0
    return {"prompt_tokens": heard + told, "completion_tokens": 1 + len(said) // 4}
