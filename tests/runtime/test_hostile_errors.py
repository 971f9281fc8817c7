"""Exceptions that will not be looked at, and a `GeneratorExit` of somebody's own, wherever foreign code is."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
from typing_extensions import override

from executionkit import (
    ExecutionKitError,
    LLMProvider,
    LLMResponse,
    Message,
    PatternResult,
    PermanentError,
    ProviderError,
    RetryConfig,
    ScriptedProvider,
    complete,
    consensus,
    react,
    refine,
    step,
    tool,
)
from executionkit.approval import Decision, Proposal
from executionkit.errors import EvaluationError, StageError
from executionkit.provider import ToolCall
from executionkit.stage import Stage
from tests.doubles import error_of, result_of, soon

pytestmark = pytest.mark.anyio

ONCE_MORE = RetryConfig(max_retries=1, base_delay=0, max_delay=0)


class Hidden(Exception):
    """Raises whatever of it is asked for."""

    @override
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"nobody may see {name}")


class HiddenOurs(PermanentError):
    """The same, as an error of ours."""

    @override
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"nobody may see {name}")


class Lying(Exception):
    """Says that it is an error of ours."""

    @override
    def __getattribute__(self, name: str) -> Any:
        return PermanentError if name == "__class__" else super().__getattribute__(name)


class Uncertain(Exception):
    """Is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("neither")


class Unreadable(PermanentError):
    """An error of ours whose metadata cannot be read."""

    @override
    def __getattribute__(self, name: str) -> Any:
        if name == "metadata":
            raise RuntimeError("no")
        return super().__getattribute__(name)


def led_to_by_hidden() -> Exception:
    error = ValueError("it followed")
    error.__cause__ = Hidden()
    return error


def in_a_group() -> BaseException:
    return ExceptionGroup("several", [Hidden(), ValueError("beside")])


def beside_a_cancellation() -> BaseException:
    return BaseExceptionGroup("several", [Hidden(), asyncio.CancelledError()])


def exit_in_a_group() -> BaseException:
    return BaseExceptionGroup("several", [GeneratorExit(), ValueError("beside")])


Raises = Callable[[], BaseException]
RAISED: list[Raises] = [
    Hidden,
    HiddenOurs,
    Lying,
    Uncertain,
    Unreadable,
    led_to_by_hidden,
    in_a_group,
    beside_a_cancellation,
    GeneratorExit,
    exit_in_a_group,
]


class Failing:
    """A provider that raises it."""

    def __init__(self, made: Raises) -> None:
        self._made = made

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        await anyio.lowlevel.checkpoint()
        raise self._made()


def functions(made: Raises) -> "dict[str, Stage[str, Any]]":
    def plain(*_: object) -> Any:
        raise made()

    async def awaited(*_: object) -> Any:
        await anyio.lowlevel.checkpoint()
        raise made()

    return {
        "evaluator": refine(awaited),
        "plain evaluator": refine(plain),
        "step": complete() >> step(awaited),
        "map": complete().map(plain),
        "fallback": complete().map(plain) | complete().map(plain),
        "key": consensus(n=3, key=plain),
    }


@pytest.mark.parametrize("made", RAISED)
@pytest.mark.parametrize("stage", [complete(), consensus(n=3), complete() & complete()], ids=lambda s: s.name)
@pytest.mark.parametrize("deadline", [None, 60])
async def test_of_a_provider_are_failures_of_the_provider(
    made: Raises, stage: Stage[str, Any], deadline: float | None
) -> None:
    error = error_of(await soon(stage.run(Failing(made), "q", retry=ONCE_MORE, deadline=deadline)))
    assert isinstance(error, ProviderError | PermanentError)
    assert error.cost.llm_calls >= 1


@pytest.mark.parametrize("made", RAISED)
@pytest.mark.parametrize("where", functions(Hidden))
async def test_of_other_code_are_typed_and_lose_nothing(made: Raises, where: str) -> None:
    error = error_of(await soon(functions(made)[where].run(ScriptedProvider(lambda _: "a"), "q")))
    assert error.cost.llm_calls == {"fallback": 2, "key": 3}.get(where, 1)


@pytest.mark.parametrize("made", RAISED)
@pytest.mark.parametrize("is_plain", [True, False])
async def test_of_a_tool_are_observations(made: Raises, is_plain: bool) -> None:
    def plain() -> str:
        raise made()

    async def awaited() -> str:
        await anyio.lowlevel.checkpoint()
        raise made()

    fails = tool(plain if is_plain else awaited, name="fails")
    model = ScriptedProvider([ToolCall("a", "fails", {}), "done"])
    assert result_of(await soon(react([fails]).run(model, "q"))).value == "done"
    assert model.requests[1].prompt.startswith("Error: ")


@pytest.mark.parametrize("made", RAISED)
async def test_of_an_approval_hook_are_denials(made: Raises) -> None:
    async def approve(proposal: Proposal) -> Decision:
        await anyio.lowlevel.checkpoint()
        raise made()

    model = ScriptedProvider([ToolCall("a", "never", {}), "done"])
    never = tool(lambda: "made", name="never", description="")
    assert result_of(await soon(react([never], approve=approve).run(model, "q"))).value == "done"
    assert model.requests[1].prompt.startswith("Error: Denied")


@pytest.mark.parametrize("made", [*RAISED, asyncio.CancelledError])
async def test_of_a_trace_end_no_run(
    made: Raises, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    told: list[object] = []

    def trace(event: object) -> None:
        told.append(event)
        raise made()

    assert result_of(await soon(complete().run(ScriptedProvider("a"), "q", trace=trace))).value == "a"
    assert len(told) == 1
    assert "is not called again" in caplog.records[-1].getMessage()


class Waiting:
    """A provider that notes whether it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        try:
            await anyio.sleep(60)
        except GeneratorExit:
            self.is_closed = True
            raise
        return LLMResponse("late")


async def test_a_run_that_is_closed_is_closed() -> None:
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("nobody closes a coroutine that waits for something of trio's")
    model = Waiting()
    run = complete().run(model, "q")
    run.send(None)
    run.close()
    assert model.is_closed


async def test_an_exit_that_only_an_evaluator_raises_is_told() -> None:
    async def leaves(text: str, provider: LLMProvider) -> float:
        raise GeneratorExit

    error = error_of(await soon(refine(leaves).run(ScriptedProvider("a"), "q")))
    assert isinstance(error, EvaluationError)
    assert "raised GeneratorExit" in str(error)


async def test_an_exit_in_a_stage_of_ones_own_is_a_stage_error() -> None:
    async def leaves(provider: LLMProvider, prompt: str) -> PatternResult[str]:
        raise GeneratorExit

    error: ExecutionKitError = error_of(await soon(step(leaves).run(ScriptedProvider("a"), "q")))
    assert isinstance(error, StageError)
    assert isinstance(error.__cause__, RuntimeError)
