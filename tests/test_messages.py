"""What a user gets to read who makes a mistake: what was wrong, and what to do, in a line."""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final, Literal

import httpx
import msgspec
import pytest

from executionkit import (
    Dialect,
    Provider,
    RetryConfig,
    ScriptedProvider,
    complete,
    consensus,
    react,
    step,
    structured,
)
from executionkit.plan import diff, mermaid
from executionkit.voting import beta

ONCE: Final = RetryConfig(max_retries=0)
consensus_of: Any = consensus
react_with: Any = react
dialect: Any = Dialect


class Plain:
    """No struct, no dataclass."""


def look_up(name: str) -> str:
    """Look something up."""
    return name


def joined(other: object) -> object:
    stage: Any = complete()
    return stage >> other


MISTAKES: Final[dict[str, tuple[Callable[[], object], type[Exception], str]]] = {
    "the facade's name of n": (
        lambda: consensus_of(num_samples=5),
        TypeError,
        (
            "consensus(...) makes a stage, to be run by `await consensus(...).run(provider, prompt)`; what takes "
            "(provider, prompt, ...) is executionkit.compat.consensus; what it calls num_samples is n in a stage"
        ),
    ),
    "a function in a pipeline": (
        lambda: joined(str.upper),
        TypeError,
        ">> joins stages, and upper is a function: call it if it makes a stage, or else give it to .map",
    ),
    "a function that makes a stage, not called": (
        lambda: joined(complete),
        TypeError,
        ">> joins stages, and complete is a function: call it if it makes a stage, or else give it to .map",
    ),
    "a provider in a pipeline": (
        lambda: joined(ScriptedProvider("x")),
        TypeError,
        ">> joins stages; give a provider to .using, or to run",
    ),
    "a class that JSON cannot express": (
        lambda: structured(Plain),
        TypeError,
        "Plain has no form in JSON: use a struct, a dataclass or a Pydantic model in its place",
    ),
    "such a class within another": (
        lambda: structured(msgspec.defstruct("Outer", [("inner", Plain)])),
        TypeError,
        "Plain has no form in JSON: use a struct, a dataclass or a Pydantic model in its place",
    ),
    "a value for a type": (
        lambda: consensus_of(output_type={"a": 1}),
        TypeError,
        "Type '{'a': 1}' is not supported",
    ),
    "no tools": (
        lambda: react_with(None),
        TypeError,
        "tools must be a sequence of tools, as [weather], not NoneType",
    ),
    "a function for a tool": (
        lambda: react_with([look_up]),
        TypeError,
        "a tool must be a Tool, not function; @tool makes one of a function",
    ),
    "a rule that was not called": (
        lambda: consensus_of(stop=beta),
        TypeError,
        "stop must be a StoppingRule such as certain() or beta(), not beta, which has to be called",
    ),
    "a strategy that there is not": (
        lambda: consensus_of(strategy="most"),
        ValueError,
        "strategy must be 'majority' or 'unanimous', not 'most'",
    ),
    "a whole endpoint for a base URL": (
        lambda: Provider("https://api.example.com/v1/chat/completions/", "m"),
        ValueError,
        "base_url must end before /chat/completions, which every request adds",
    ),
    "a list of traces": (
        lambda: complete().run_sync(ScriptedProvider("x"), "?", trace=[print]),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        TypeError,
        "a trace must be callable, or a tuple of such, not list",
    ),
    "a function that makes a stage, drawn": (
        lambda: mermaid(complete),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        TypeError,
        "a stage is wanted, not function; call complete(...) if it makes one",
    ),
    "a text for a stage, compared": (
        lambda: diff(complete(), "complete()"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        TypeError,
        "a stage is wanted, not str",
    ),
    "a dialect that no server has": (
        lambda: dialect(tool_ids="ten"),
        ValueError,
        "tool_ids of a dialect: Invalid enum value 'ten'; there are any, nine",
    ),
    "a list that would change": (
        lambda: dialect(response_formats=["json_object"]),
        TypeError,
        "response_formats of a dialect must not be a list",
    ),
    "a flag that is text": (
        lambda: dialect(takes_n="no"),
        ValueError,
        "takes_n of a dialect: Expected `bool`, got `str`",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_call_is_refused_where_it_is_made(name: str) -> None:
    make, kind, message = MISTAKES[name]
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


FAILURES: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    "a list for a prompt": (
        lambda: complete().run_sync(ScriptedProvider("x"), [{"role": "user"}]),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        "a prompt must be text, not list; put .map(str) or prompt(...) before the stage",
    ),
    "a plain function for a step": (
        lambda: step(lambda provider, text: text).run_sync(ScriptedProvider("x"), "?"),  # type: ignore[arg-type,return-value] # pyright: ignore
        "step <lambda> is not async; a step is an async function that returns a PatternResult",
    ),
    "a script that is too short": (
        lambda: consensus(n=2).run_sync(ScriptedProvider(["x"]), "Why?"),
        "the script has no answer for call 2; add one for 'Why?'",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_mistake_that_a_run_finds_is_told_in_a_line(name: str) -> None:
    run, message = FAILURES[name]
    assert str(run().failure()) == message


@pytest.mark.anyio
@pytest.mark.parametrize("transport", ["httpx", "auto"])
async def test_a_server_that_is_not_there_is_named_with_the_reason(
    transport: Literal["httpx", "auto"],
) -> None:
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        authority = f"127.0.0.1:{bound.getsockname()[1]}"
        async with Provider(f"http://{authority}/v1", "m", transport=transport) as provider:
            error = (await complete().run(provider, "?", retry=ONCE)).failure()
    assert str(error) == (
        f"the exchange with the server failed: no connection to {authority} ({os.strerror(errno.ECONNREFUSED)}); "
        f"check its address, and that it runs (m at {authority})"
    )


def test_a_server_says_what_it_calls_the_output_limit() -> None:
    """Nobody has to know the name: the refusal has it."""
    seen: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        body = msgspec.json.decode(request.content)
        seen.append(body)
        if "max_output_tokens" in body:
            return httpx.Response(200, json={"choices": [{"message": {"content": "Paris"}}]})
        refusal = "Unknown parameter 'max_tokens'. Use 'max_output_tokens' instead."
        return httpx.Response(400, json={"error": {"message": refusal}})

    provider = Provider("https://llm.example.com/v1", "m", transport=httpx.MockTransport(handle))
    result = complete(max_tokens=50).run_sync(provider, "Capital of France?").unwrap()
    assert (result.value, result.cost.llm_calls) == ("Paris", 2)
    assert seen[1]["max_output_tokens"] == 50
    assert "max_tokens" not in seen[1]
    complete().run_sync(provider, "And of Italy?").unwrap()
    assert len(seen) == 3
