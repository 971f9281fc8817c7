"""The tools of a server as tools of a loop."""

import re
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Container, Coroutine
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Final

import anyio
from mcp.types import Tool as Described

from executionkit.core.mcp import text_of_result
from executionkit.mcp.connection import Connection, Server
from executionkit.runtime.tasks.background import Background
from executionkit.tools import DEFAULT_TIMEOUT, Effects, Tool, ToolError, check_timeout

__all__ = ["mcp_tools"]

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME: Final = 64
_LEAVING: Final = 15.0
"""Seconds that a process has to end in, once its standard input is closed and it is told to."""


@asynccontextmanager
async def mcp_tools(
    server: Server,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    prefix: str = "",
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> AsyncGenerator[tuple[Tool, ...]]:
    """Connect to a server and hand out its tools; they work until the block ends.

    Descriptions and schemas come from the server: connect only to one you trust to speak to your model. What
    a tool returns is data like any other result; one that the server calls an error is a `ToolError`.

    What a server hints of a tool (`readOnlyHint`, `idempotentHint`) sets its `effects`.

    A server that goes away while the block runs ends neither it nor a tool loop in it: its calls fail. Over
    HTTP a call that breaks off fails alone. A tool whose schema is none, is not one of an object, refers
    elsewhere, or takes too long to check is left out, with a `UserWarning`.

    Args:
        server: Address of a streamable HTTP server, `StdioServerParameters(command=..., args=[...])`, or an
            `MCPServer` of this process.
        timeout: Seconds a call may take, connecting until all tools are listed, and leaving. A process that
            does not end by itself then takes a few more to be ended.
        prefix: Put before each tool's name, so that the tools of two servers do not collide. Characters that
            OpenAI does not allow in a name become `_`; a name that is too long then, or taken, is cut and
            ends in a hash of the whole.
        only: Names of the tools to take, as the server has them; None for all.
        without: Names of tools to leave out.

    What the block raises leaves it as it is, not in the groups that the SDK's tasks would wrap it in. The
    block may be entered in one task and left in another, as fixtures and the lifespan of an application do.
    The tools are to be called in the event loop that it was entered in.

    Raises:
        ExecutionKitError: The server cannot be reached, does not answer in time, or goes away while it lists
            its tools.
        TypeError: `timeout` is no number, or `only` or `without` is a text.
        ValueError: `timeout` is not positive; the server has no tool of a name in `only` or `without`.
    """
    check_timeout("timeout", timeout)
    for setting, names in (("only", only), ("without", without)):
        if isinstance(names, str):
            raise TypeError(f"{setting} takes a list of names, not a text; write [{names!r}]")
    connection = Connection(server, timeout)
    serving = Background(connection.serve, "the connection to an MCP server")
    serving.start()
    try:
        listed = await connection.tools()
        chosen = _chosen(
            {*connection.left_out, *(each.name for each in listed)},
            None if only is None else {*only},
            {*without},
        )
        for name, reason in connection.left_out.items():
            if name in chosen:
                _warn(name, reason)
        yield _as_tools(connection, [each for each in listed if each.name in chosen], timeout, prefix)
    finally:
        connection.stop()
        try:
            with anyio.move_on_after(timeout):
                await serving.wait()
        finally:
            await serving.stop(_LEAVING)
            serving.raise_interrupt()


def _chosen(known: set[str], only: Collection[str] | None, without: Collection[str]) -> set[str]:
    unknown = {*(only or ()), *without} - known
    if unknown:
        raise ValueError(
            f"the server has no tool {min(unknown)!r}; it has: {', '.join(sorted(known)) or 'none'}"
        )
    return (known if only is None else {*only}) - {*without}


def _warn(name: str, reason: object) -> None:
    warnings.warn(f"the server's tool {name!r} is left out: {reason}", stacklevel=3)


def _as_tools(
    connection: Connection, listed: list[Described], timeout: float, prefix: str
) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for described in listed:
        name = _fitting(prefix + described.name, tools)
        execute = _calling(connection, described.name)
        try:
            tools[name] = Tool(
                name,
                described.description or "",
                described.input_schema,
                execute,
                timeout,
                effects=_effects_of(described),
            )
        except (ValueError, TypeError) as error:
            _warn(described.name, error)
    return tuple(tools.values())


def _effects_of(described: Described) -> Effects:
    """Return what a call does to the world, as the server's hints have it."""
    hints = described.annotations
    if hints is not None and hints.read_only_hint:
        return "none"
    return "idempotent" if hints is not None and hints.idempotent_hint else "once"


def _fitting(name: str, taken: Container[str]) -> str:
    """Return a name that OpenAI takes; one that would be cut, or is taken, ends in a hash of the whole."""
    fitting = _NOT_IN_NAMES.sub("_", name) or "_"
    if len(fitting) <= _LONGEST_NAME and fitting not in taken:
        return fitting
    mark = sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{fitting[: _LONGEST_NAME - 9]}_{mark}"


def _calling(connection: Connection, name: str) -> Callable[..., Coroutine[Any, Any, str]]:
    async def execute(**arguments: Any) -> str:
        result = await connection.call(name, arguments)
        text = text_of_result(result.model_dump(mode="json", by_alias=True, exclude_none=True))
        if result.is_error:
            raise ToolError(text)
        return text

    return execute
