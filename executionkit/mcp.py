"""Tools over the Model Context Protocol, both ways; needs the extra `mcp` (the official SDK).

`mcp_tools` turns a server's tools into `Tool`s for as long as an `async with` lasts; `mcp_server` serves
stages as the tools of a server.
"""

import re
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Container, Coroutine, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias, cast

import anyio
from anyio.lowlevel import current_token
from returns.result import Failure, Success

try:
    import httpx2
    from mcp import Client, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError as ServedToolError
    from mcp.shared.message import SessionMessage
    from mcp.types import CallToolResult, JSONRPCResponse
    from mcp.types import Tool as Described
except ImportError as _missing:  # pragma: no cover - the extra is installed where this is tested
    message = 'executionkit.mcp needs the official SDK; in the clone, run: pip install ".[mcp]"'
    raise ImportError(message) from _missing

from executionkit.core.mcp import text_of_result, usable_result, usable_tools
from executionkit.core.usage import TokenUsage
from executionkit.errors import ExecutionKitError
from executionkit.provider import LLMProvider
from executionkit.runtime.tasks.background import Background
from executionkit.runtime.tasks.timeouts import A_LIFETIME
from executionkit.stage import Stage
from executionkit.tools import DEFAULT_TIMEOUT, Effects, Tool, ToolError, as_text, check_timeout

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams

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
_OPENING: Final = 30.0
"""Seconds for a connection over HTTP to open and to take a request: the SDK's own."""
_SILENCE: Final = 300.0
"""Seconds that an exchange over HTTP may be silent, at the least: the SDK's own."""
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
    connection = _Connection(server, timeout)
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


class _Connection:
    """The SDK's client, in a task of its own: what cancels it does not cancel the block that uses it."""

    def __init__(self, server: Server, timeout: float) -> None:
        self.left_out: dict[str, str] = {}
        """Tools of the server that cannot be used, and why."""
        given = cast("str | StdioServerParameters | MCPServer", server)
        if isinstance(given, (str, StdioServerParameters)):
            self._client = Client(_transport(given, self), read_timeout_seconds=timeout)
        else:
            self._client = Client(given, read_timeout_seconds=timeout)
        self.timeout = timeout
        self.refusal: int | None = None
        """The status of the last answer over HTTP, where that was a refusal."""
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
        with anyio.move_on_after(self.timeout):
            await self._ready.wait()
        if self._listed is not None:
            return self._listed
        if self._failure is not None:
            what = type(self._failure).__name__
            if self.refusal is not None:
                what = f"{what}, status {self.refusal}"
            raise ExecutionKitError(
                f"the connection to the MCP server failed: {what}; check where it is, and that it runs"
            ) from self._failure
        self._connecting.cancel()
        raise ExecutionKitError(
            f"the MCP server did not answer within {self.timeout} s; start it, or raise timeout"
        )

    @property
    def is_up(self) -> bool:
        """Whether the tools are listed: what fails from now on is a call."""
        return self._listed is not None

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


@asynccontextmanager
async def _transport(
    server: "str | StdioServerParameters", connection: _Connection
) -> AsyncGenerator["TransportStreams"]:
    """Speak to a server as the SDK does, but outlive an exchange that fails, and read what can be read."""
    if isinstance(server, StdioServerParameters):
        async with stdio_client(server) as (received, sent):
            yield _Readable(received, connection.left_out), sent
        return
    async with (
        _Steady(connection) as client,
        streamable_http_client(server, http_client=client) as (received, sent),
    ):
        yield _Readable(received, connection.left_out), sent


class _Steady(httpx2.AsyncClient):
    """A client whose exchanges are answers, also where they fail, once the tools are listed.

    What it raised would end the SDK's connection, and every other call on it.
    """

    def __init__(self, connection: _Connection) -> None:
        super().__init__(timeout=httpx2.Timeout(_OPENING, read=max(_SILENCE, connection.timeout)))
        self._connection = connection

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
            if response.headers.get("content-type", "").lower().startswith("application/json"):
                try:
                    await response.aread()  # the SDK reads it next, and does not expect that to fail
                except BaseException:
                    await response.aclose()
                    raise
        except Exception:
            if not self._connection.is_up:
                raise
            return httpx2.Response(502, request=request)
        if request.method == "POST":
            self._connection.refusal = response.status_code if response.is_error else None
        return response


class _Readable:
    """What a server sends, in which one odd tool does not spoil the list, nor one odd part a result."""

    def __init__(self, stream: "ReadStream[SessionMessage | Exception]", left_out: dict[str, str]) -> None:
        self._stream = stream
        self._left_out = left_out

    @property
    def last_context(self) -> object:
        """The sender's context, where the stream has it: the SDK asks for it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        return self._read(await self._stream.receive())

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> "ReadStream[SessionMessage | Exception]":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return self._read(await self._stream.__anext__())

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc_val, exc_tb)

    def _read(self, received: SessionMessage | Exception) -> SessionMessage | Exception:
        if isinstance(received, SessionMessage) and isinstance(received.message, JSONRPCResponse):
            answer = received.message
            tools: object = answer.result.get("tools")
            if isinstance(tools, list):
                usable, left_out = usable_tools(cast("list[object]", tools))
                self._left_out.update(left_out)
                answer.result = {**answer.result, "tools": usable}
            else:
                answer.result = usable_result(answer.result)
        return received


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


def _calling(connection: _Connection, name: str) -> Callable[..., Coroutine[Any, Any, str]]:
    async def execute(**arguments: Any) -> str:
        result = await connection.call(name, arguments)
        text = text_of_result(result.model_dump(mode="json", by_alias=True, exclude_none=True))
        if result.is_error:
            raise ToolError(text)
        return text

    return execute


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
