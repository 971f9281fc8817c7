"""Tools over the Model Context Protocol, both ways; needs the extra `mcp` (the official SDK).

`mcp_tools` turns a server's tools into `Tool`s for as long as an `async with` lasts; `mcp_server` serves
stages as the tools of a server.
"""

import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
from returns.result import Failure, Success

try:
    from mcp import Client, StdioServerParameters
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError as ServedToolError
    from mcp.types import (
        CallToolResult,
        ContentBlock,
        EmbeddedResource,
        ResourceLink,
        TextContent,
        TextResourceContents,
    )
    from mcp.types import Tool as Described
except ImportError as _missing:  # pragma: no cover - the extra is installed where this is tested
    message = "executionkit.mcp needs the official SDK: pip install 'executionkit[mcp]'"
    raise ImportError(message) from _missing

from executionkit.core.encoding import json_text
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.provider import LLMProvider
from executionkit.runtime.timeouts import A_LIFETIME
from executionkit.stage import Stage
from executionkit.tools import DEFAULT_TIMEOUT, Tool, ToolError, as_text, check_timeout

__all__ = ["Command", "Served", "Server", "StdioServerParameters", "mcp_server", "mcp_tools"]


# By shape, so that the types are known to whoever checks a program without the SDK.
class Command(Protocol):
    """A command to start and to speak to: the SDK's `StdioServerParameters`."""

    @property
    def command(self) -> str:
        """What is started."""
        ...

    @property
    def args(self) -> list[str]:
        """Its arguments."""
        ...


class Served(Protocol):
    """A server in this process: the SDK's `MCPServer`."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    @property
    def run(self) -> Callable[..., None]:
        """Serve until it is interrupted: `run()`, `run("streamable-http", port=...)`."""
        ...


Server: TypeAlias = str | Command | Served
"""A streamable HTTP address, a command to speak to over its standard input and output, or a server in
process."""

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_MOST_PAGES: Final = 100


@asynccontextmanager
async def mcp_tools(
    server: Server, *, timeout: float = DEFAULT_TIMEOUT, prefix: str = ""
) -> AsyncGenerator[tuple[Tool, ...]]:
    """Connect to a server and hand out its tools; they work until the block ends.

    Descriptions and schemas come from the server: connect only to one you trust to speak to your model. What
    a tool returns is data like any other result; one that the server calls an error is a `ToolError`.

    Args:
        server: Address of a streamable HTTP server, `StdioServerParameters(command=..., args=[...])`, or an
            `MCPServer` of this process.
        timeout: Seconds a call may take, and connecting until all tools are listed. A process that does not
            end by itself then takes a few more to be ended.
        prefix: Put before each tool's name, so that the tools of two servers do not collide. Characters that
            OpenAI does not allow in a name become `_`.

    What the block raises leaves it as it is, not in the groups that the SDK's tasks would wrap it in.

    Raises:
        ExecutionKitError: The server cannot be reached, does not answer in time, or went away.
        TypeError: `timeout` is no number.
        ValueError: `timeout` is not positive; the server describes a tool with a schema that is none, refers
            elsewhere, or takes too long.
    """
    check_timeout("timeout", timeout)
    raised: list[Exception] = []
    try:
        with anyio.move_on_after(timeout) as connecting:
            async with Client(
                cast("str | StdioServerParameters | MCPServer", server), read_timeout_seconds=timeout
            ) as client:
                listed = await _listed(client)
                connecting.deadline = inf
                try:
                    yield tuple([_as_tool(client, described, timeout, prefix) for described in listed])
                except Exception as error:
                    raised.append(error)
                    raise
    except Exception as error:
        if raised:
            raise raised[0] from raised[0].__cause__
        cause = _first_of(error)
        raise ExecutionKitError(f"the connection to the MCP server failed: {type(cause).__name__}") from cause
    if connecting.cancelled_caught:
        raise ExecutionKitError(
            f"the MCP server did not answer within {timeout} s; start it, or raise timeout"
        )


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error


async def _listed(client: Client) -> list[Described]:
    found: list[Described] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found.extend(page.tools)
        cursor = page.next_cursor
        if not cursor:
            break
    return found


def _as_tool(client: Client, described: Described, timeout: float, prefix: str) -> Tool:
    name = _NOT_IN_NAMES.sub("_", prefix + described.name)[:64]
    execute = _calling(client, described.name)
    try:
        return Tool(name, described.description or "", described.input_schema, execute, timeout)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the server's tool {described.name!r} cannot be used: {error}") from error


def _calling(client: Client, name: str) -> Callable[..., Coroutine[Any, Any, str]]:
    async def execute(**arguments: Any) -> str:
        result = await client.call_tool(name, arguments, read_timeout_seconds=A_LIFETIME)
        text = _text_of(result)
        if result.is_error:
            raise ToolError(text)
        return text

    return execute


def _text_of(result: CallToolResult) -> str:
    """Return the text of a result; of other content only the kind, since a text model cannot see it."""
    parts = [_text_in(part) for part in result.content]
    if not parts and result.structured_content is not None:
        return json_text(result.structured_content)
    return "\n".join(parts)


def _text_in(part: ContentBlock) -> str:
    if isinstance(part, TextContent):
        return part.text
    if isinstance(part, EmbeddedResource) and isinstance(part.resource, TextResourceContents):
        return part.resource.text
    return f"[{part.type}: {part.uri}]" if isinstance(part, ResourceLink) else f"[{part.type}]"


def mcp_server(
    provider: LLMProvider,
    stages: Mapping[str, Stage[str, Any]],
    *,
    descriptions: Mapping[str, str] | None = None,
    name: str = "executionkit",
    max_cost: TokenUsage | None = None,
) -> Any:  # an `MCPServer`, which no checker knows where the SDK is not installed
    """Return an `MCPServer` with a tool for each stage, which takes a `prompt` and returns the value as text.

    `server.run()` serves standard input and output, `server.run("streamable-http")` HTTP. A failure is the
    tool's error, with its class and message.

    Args:
        provider: The model that the stages ask.
        stages: The stages by the name of their tool.
        descriptions: What to tell clients of each tool, by name.
        name: The server's name.
        max_cost: The budget of each call.
    """
    server: MCPServer = MCPServer(name)
    for tool_name, stage in stages.items():
        about = (descriptions or {}).get(tool_name, f"Run the stage {stage.name} on a prompt.")
        server.add_tool(
            _running(stage, provider, max_cost), name=tool_name, description=about, structured_output=False
        )
    return server


def _running(
    stage: Stage[str, Any], provider: LLMProvider, max_cost: TokenUsage | None
) -> Callable[[str], Coroutine[Any, Any, str]]:
    async def run(prompt: str) -> str:
        outcome = await stage.run(provider, prompt, max_cost=max_cost)
        match outcome:
            case Success(result):
                return as_text(result.value)
            case Failure(error):
                raise ServedToolError(f"{type(error).__name__}: {error}")

    return run
