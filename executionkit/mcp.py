"""Tools over the Model Context Protocol, both ways; needs the extra `mcp` (the official SDK).

`mcp_tools` turns a server's tools into `Tool`s for as long as an `async with` lasts; `mcp_server` serves
stages as the tools of a server.
"""

import re
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Container, Coroutine, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Final, Protocol, TypeAlias, cast

import anyio
from anyio.lowlevel import current_token
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
    message = 'executionkit.mcp needs the official SDK: pip install "./executionkit[mcp]"'
    raise ImportError(message) from _missing

from executionkit.core.encoding import json_text
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.provider import LLMProvider
from executionkit.runtime.tasks.background import Background
from executionkit.runtime.tasks.timeouts import A_LIFETIME
from executionkit.stage import Stage
from executionkit.tools import DEFAULT_TIMEOUT, Effects, Tool, ToolError, as_text, check_timeout

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


_LONGEST_NAME: Final = 64
_LEAVING: Final = 15.0
"""Seconds that a process has to end in, once its standard input is closed and it is told to."""
_GONE: Final = "the MCP server went away"
_ELSEWHERE: Final = "the MCP server is connected in another event loop; call its tools there"


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

    A server that goes away while the block runs ends neither it nor a tool loop in it: its calls fail. A tool
    whose schema is none, refers elsewhere, or takes too long to check is left out, with a `UserWarning`.

    Args:
        server: Address of a streamable HTTP server, `StdioServerParameters(command=..., args=[...])`, or an
            `MCPServer` of this process.
        timeout: Seconds a call may take, and connecting until all tools are listed. A process that does not
            end by itself then takes a few more to be ended.
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
    connection = _Connection(server, timeout)
    serving = Background(connection.serve, "the connection to an MCP server")
    serving.start()
    try:
        listed = _chosen(await connection.tools(), None if only is None else {*only}, {*without})
        yield _as_tools(connection, listed, timeout, prefix)
    finally:
        connection.stop()
        try:
            await serving.wait()
        finally:
            await serving.stop(_LEAVING)
            serving.raise_interrupt()


class _Connection:
    """The SDK's client, in a task of its own: what cancels it does not cancel the block that uses it."""

    def __init__(self, server: Server, timeout: float) -> None:
        given = cast("str | StdioServerParameters | MCPServer", server)
        self._client = Client(given, read_timeout_seconds=timeout)
        self._timeout = timeout
        self._listed: list[Described] | None = None
        self._failure: Exception | None = None
        self._ready = anyio.Event()
        self._over = anyio.Event()
        self._connecting = anyio.CancelScope()
        self._loop = current_token()
        self._is_gone = False
        self._calls: set[anyio.CancelScope] = set()

    def __reduce__(self) -> str:
        """A connection is of this process: what describes a pipeline does not look into it."""
        raise TypeError("a connection to an MCP server cannot be pickled")

    async def serve(self) -> None:
        """Keep the connection up until it is stopped or breaks; never raises, but for cancellation."""
        try:
            with self._connecting:
                async with self._client as client:
                    self._listed = await _listed(client)
                    self._ready.set()
                    await self._over.wait()
        except Exception as error:
            self._failure = _first_of(error)
        finally:
            self._is_gone = True
            self._ready.set()
            for call in self._calls:
                call.cancel()

    async def tools(self) -> list[Described]:
        """Return the server's tools once they are listed.

        Raises:
            ExecutionKitError: It cannot be reached, or does not answer in time.
        """
        with anyio.move_on_after(self._timeout):
            await self._ready.wait()
        if self._listed is not None:
            return self._listed
        if self._failure is not None:
            kind = type(self._failure).__name__
            raise ExecutionKitError(
                f"the connection to the MCP server failed: {kind}; check where it is, and that it runs"
            ) from self._failure
        self._connecting.cancel()
        raise ExecutionKitError(
            f"the MCP server did not answer within {self._timeout} s; start it, or raise timeout"
        )

    def stop(self) -> None:
        """Let the connection end."""
        self._over.set()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Call a tool.

        Raises:
            ToolError: The server went away, or this is another event loop than the connection's.
        """
        if self._is_gone:
            raise ToolError(_GONE)
        if current_token() != self._loop:
            raise ToolError(_ELSEWHERE)
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                return await self._client.call_tool(name, dict(arguments), read_timeout_seconds=A_LIFETIME)
            finally:
                self._calls.discard(scope)
        raise ToolError(_GONE)


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


def _chosen(
    listed: list[Described], only: Collection[str] | None, without: Collection[str]
) -> list[Described]:
    known = {each.name for each in listed}
    unknown = {*(only or ()), *without} - known
    if unknown:
        raise ValueError(
            f"the server has no tool {min(unknown)!r}; it has: {', '.join(sorted(known)) or 'none'}"
        )
    return [each for each in listed if (only is None or each.name in only) and each.name not in without]


def _as_tools(
    connection: _Connection, listed: list[Described], timeout: float, prefix: str
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
            warnings.warn(f"the server's tool {described.name!r} is left out: {error}", stacklevel=2)
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


def _calling(connection: _Connection, name: str) -> Callable[..., Coroutine[Any, Any, str]]:
    async def execute(**arguments: Any) -> str:
        result = await connection.call(name, arguments)
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

    Raises:
        TypeError: `stages` is no mapping.
    """
    if not isinstance(cast("object", stages), Mapping):
        raise TypeError(f"stages are a mapping, as {{'vote': consensus()}}, not {type(stages).__name__}")
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
                try:
                    return as_text(result.value)
                except ToolError as error:
                    raise ServedToolError(str(error)) from None
            case Failure(error):
                raise ServedToolError(f"{type(error).__name__}: {error}")

    return run
