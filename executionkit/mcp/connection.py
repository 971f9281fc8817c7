"""The connection to a server: the SDK's client, kept up by a task of its own."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias, cast

import anyio
import httpx2
from anyio.lowlevel import current_token
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared.message import SessionMessage
from mcp.types import CallToolResult, JSONRPCResponse
from mcp.types import Tool as Described

from executionkit.core.json import whole_text
from executionkit.core.mcp import usable_result, usable_tools
from executionkit.errors import ExecutionKitError
from executionkit.runtime.tasks.timeouts import A_LIFETIME
from executionkit.tools import ToolError

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams

__all__ = ["Command", "Connection", "Served", "Server"]

_MOST_PAGES: Final = 100
_OPENING: Final = 30.0
"""Seconds for a connection over HTTP to open and to take a request: the SDK's own."""
_SILENCE: Final = 300.0
"""Seconds that an exchange over HTTP may be silent, at the least: the SDK's own."""
_GONE: Final = "the MCP server went away"
_ELSEWHERE: Final = "the MCP server is connected in another event loop; call its tools there"


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


class Connection:
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
                given = cast("dict[str, Any]", _whole(arguments))
                return await self._client.call_tool(name, given, read_timeout_seconds=A_LIFETIME)
            finally:
                self._calls.discard(scope)
        raise ToolError(_GONE)


@asynccontextmanager
async def _transport(
    server: "str | StdioServerParameters", connection: Connection
) -> AsyncGenerator["TransportStreams"]:
    """Speak to a server as the SDK does, but outlive an exchange that fails, and read what can be read."""
    if isinstance(server, StdioServerParameters):
        if "encoding_error_handler" not in server.model_fields_set:
            # The SDK decodes strictly: after one line that is not UTF-8 it would hear nothing more.
            server = server.model_copy(update={"encoding_error_handler": "replace"})
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

    def __init__(self, connection: Connection) -> None:
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


def _whole(value: object) -> object:
    """Return JSON without halves of surrogate pairs: the SDK's connection would end over one."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {whole_text(name): _whole(item) for name, item in items}
    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in cast("list[object]", value)]
    return value


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
