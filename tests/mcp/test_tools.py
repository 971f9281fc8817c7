"""The tools of servers that are not ours, and of ones in this process."""

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conftest import BARE

if BARE:
    pytest.importorskip("mcp")

from mcp.server.mcpserver import MCPServer

from executionkit.core.schema.validation import Rejected
from executionkit.errors import ExecutionKitError
from executionkit.journal import Journal
from executionkit.mcp import Server, StdioServerParameters, mcp_tools
from executionkit.patterns.react import react
from executionkit.tools import ToolError
from tests.foreign.processes import node, served
from tests.talking import Talking, calls, results

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TIME = ["-m", "mcp_server_time", "--local-timezone", "UTC"]


async def test_a_published_server_over_stdio() -> None:
    async with mcp_tools(StdioServerParameters(command=sys.executable, args=TIME), prefix="t_") as tools:
        names = {tool.name for tool in tools}
        assert names == {"t_get_current_time", "t_convert_time"}
        noon = {"source_timezone": "UTC", "target_timezone": "Asia/Tokyo", "time": "12:00"}
        provider = Talking(
            calls(
                ("t_convert_time", noon),
                ("t_convert_time", {**noon, "time": "noon"}),
                ("t_convert_time", {"time": "12:00"}),
            ),
            "nine in the evening",
        )
        result = (await react(tools).run(provider, "go")).unwrap()
    told = results(provider.asked[1])
    assert "21:00" in told[0]
    assert told[1].startswith("Error: ToolError: ")
    assert told[2].startswith("Error: InvalidArguments: ")
    assert result.value == "nine in the evening"


async def test_the_process_ends_with_the_block() -> None:
    server = StdioServerParameters(command=sys.executable, args=TIME)
    with anyio.move_on_after(30) as scope:
        async with mcp_tools(server):
            scope.cancel()
            await anyio.sleep_forever()
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    ours = [
        line
        for line in listed.splitlines()
        if "mcp_server_time" in line and line.split()[0] == str(os.getpid())
    ]
    assert not ours


SERVED = """
import sys
from executionkit.mcp import mcp_server
from executionkit.patterns.complete import complete
from tests.talking import Talking
server = mcp_server(Talking(*["four"] * 9), {"ask": complete()})
server.run("streamable-http", port=int(sys.argv[1]))
"""


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server of our own stages."""
    with served(sys.executable, "-c", SERVED) as port:
        yield port


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """The port of the published reference server for streamable HTTP, which `just test` installs."""
    if (engine := node()) is None or not EVERYTHING.exists():
        pytest.skip("Node or @modelcontextprotocol/server-everything is not installed beside this Python")
    with served(engine, EVERYTHING, "streamableHttp") as port:
        yield port


EVERYTHING = (
    Path(sys.prefix) / "mcp-server/node_modules/@modelcontextprotocol/server-everything/dist/index.js"
)


@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")  # the SDK's, on trio
async def test_a_published_server_over_streamable_http(foreign_port: int) -> None:
    async with mcp_tools(f"http://127.0.0.1:{foreign_port}/mcp") as tools:
        provider = Talking(
            calls(
                ("echo", {"message": "hello"}),
                ("get-sum", {"a": 19, "b": 23}),
                ("get-sum", {"a": "x", "b": 1}),
                ("get-tiny-image", {}),
                ("get-structured-content", {"location": "Bonn"}),
            ),
            "done",
        )
        await react(tools).run(provider, "go")
    told = results(provider.asked[1])
    assert told[0] == "Echo: hello"
    assert "42" in told[1]
    assert told[2] == 'Error: InvalidArguments: a: "x" is not of type "number"'
    assert "[image]" in told[3]
    assert told[4].startswith("Error: InvalidArguments: location: ")


async def test_streamable_http(port: int) -> None:
    async with mcp_tools(f"http://127.0.0.1:{port}/mcp") as tools:
        provider = Talking(calls(("ask", {"prompt": "2 + 2?"}), ("ask", {"prompt": 3})), "done")
        await react(tools).run(provider, "go")
    told = results(provider.asked[1])
    assert told[0] == "four"
    assert told[1].startswith("Error: InvalidArguments")


UNREACHABLE = [
    pytest.param("http://127.0.0.1:9/mcp", id="nobody listens"),
    pytest.param(StdioServerParameters(command="no-such-command-anywhere"), id="no such command"),
    pytest.param(StdioServerParameters(command=sys.executable, args=["-c", "pass"]), id="ends at once"),
]


@pytest.mark.parametrize("server", UNREACHABLE)
async def test_a_connection_that_fails_is_one_error_of_ours(server: Server) -> None:
    with pytest.raises(ExecutionKitError, match="MCP server"):
        async with mcp_tools(server):
            pytest.fail("connected")


@pytest.mark.parametrize("server", [MCPServer("s"), StdioServerParameters(command=sys.executable, args=TIME)])
async def test_what_the_block_raises_leaves_it_as_it_is(server: Server) -> None:
    raised = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with mcp_tools(server):
            raise raised
    assert caught.value is raised


ODD = """
import json, sys

listed, called = map(json.loads, sys.argv[1:])
hello = {"capabilities": {"tools": {}}, "serverInfo": {"name": "odd", "version": "1"}}
for line in sys.stdin:
    asked = json.loads(line)
    answers = {"initialize": {"result": hello}, "tools/list": listed, "tools/call": called}
    answer = answers.get(asked["method"], {"error": {"code": -32601, "message": "no such method"}})
    if asked["method"] == "initialize":
        hello["protocolVersion"] = asked["params"]["protocolVersion"]
    if answer == "gone":
        break
    if answer and "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
"""


def odd(called: object, *, schema: object = None, listed: object = None) -> StdioServerParameters:
    """A server with one tool, which answers what it is told to; None for nothing at all."""
    one = {"name": "odd", "inputSchema": {"type": "object"} if schema is None else schema}
    listed = {"result": {"tools": [one]}} if listed is None else listed
    given = [json.dumps(answer) for answer in (listed, called)]
    return StdioServerParameters(command=sys.executable, args=["-c", ODD, *given])


SILENT = [
    pytest.param(
        StdioServerParameters(command=sys.executable, args=["-c", "import sys; [*sys.stdin]"]), id="hears"
    ),
    pytest.param(odd(None, listed={}), id="does not list"),
]


@pytest.mark.parametrize("server", SILENT)
async def test_a_silent_server_is_not_waited_for(server: Server) -> None:
    with anyio.fail_after(9), pytest.raises(ExecutionKitError, match="MCP server"):  # the SDK alone takes ten
        async with mcp_tools(server, timeout=0.3):
            pytest.fail("connected")


async def test_a_silent_address_is_not_waited_for() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with anyio.fail_after(9), pytest.raises(ExecutionKitError, match="did not answer within"):
            async with mcp_tools(f"http://127.0.0.1:{deaf.getsockname()[1]}/mcp", timeout=0.3):
                pytest.fail("connected")


IMAGE = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
NOTE = {"type": "resource", "resource": {"uri": "x://note", "text": "a note"}}
LINK = {"type": "resource_link", "uri": "x://more", "name": "more"}


@pytest.mark.parametrize(
    ("called", "observation"),
    [
        pytest.param(None, "Error: TimeoutError", id="silent"),
        pytest.param("gone", "Error: MCPError", id="gone"),
        pytest.param({"error": {"code": -1, "message": "sk-secret"}}, "Error: MCPError", id="error"),
        pytest.param({"result": {"content": 7}}, "Error: ValidationError", id="nonsense"),
        pytest.param({"result": {"content": [], "structuredContent": {"a": 1}}}, '{"a":1}', id="structured"),
        pytest.param({"result": {"structuredContent": [1], "isError": None}}, "[1]", id="structured only"),
        pytest.param(
            {"result": {"content": [{"type": "hologram"}, NOTE]}}, "[hologram]\na note", id="new kind"
        ),
        pytest.param(
            {"result": {"content": [IMAGE, NOTE, LINK]}},
            "[image]\na note\n[resource_link: x://more]",
            id="other content",
        ),
        pytest.param(
            {"result": {"content": [{"type": "text", "text": "no such city"}], "isError": True}},
            "Error: ToolError: no such city",
            id="tool error",
        ),
    ],
)
async def test_whatever_a_call_comes_to_is_an_observation(called: object, observation: str) -> None:
    provider = Talking(calls(("odd", {})), "done")
    async with mcp_tools(odd(called)) as tools:
        assert tools[0].timeout == 30
        with anyio.fail_after(20):
            result = (
                await react(tools, tool_timeout=0.5 if called is None else None).run(provider, "go")
            ).unwrap()
    assert (results(provider.asked[1]), result.value) == ([observation], "done")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "object", "properties": {"a": {"$ref": "other.json"}}},
        {"type": "object", "properties": {"a": 7}},
        {"type": "string"},
        True,
        None,
    ],
)
async def test_a_tool_that_cannot_be_used_is_left_out(schema: object) -> None:
    fine = {"name": "fine", "inputSchema": {"type": "object"}}
    server = odd(None, listed={"result": {"tools": [{"name": "odd", "inputSchema": schema}, fine]}})
    with pytest.warns(UserWarning, match="'odd' is left out"):
        async with mcp_tools(server) as tools:
            assert [tool.name for tool in tools] == ["fine"]
    with pytest.warns(UserWarning, match="'odd' is left out"):
        async with mcp_tools(server, only=["odd"]) as tools:
            assert tools == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody asked for it
        async with mcp_tools(server, without=["odd"]) as tools:
            assert [tool.name for tool in tools] == ["fine"]


async def test_a_tool_is_known_by_what_is_read_of_it() -> None:
    schema = {"properties": {"a": {"type": "integer"}}}
    told = {"name": "odd", "inputSchema": schema, "outputSchema": {"type": "array"}, "icons": 7}
    result = {"content": [{"type": "text", "text": "fine"}], "structuredContent": {"b": 1}}
    server = odd({"result": result}, listed={"result": {"tools": [told]}})
    provider = Talking(calls(("odd", {"a": 1}), ("odd", {"a": "x"})), "done")
    async with mcp_tools(server) as tools:
        assert tools[0].parameters == {**schema, "type": "object"}
        await react(tools).run(provider, "go")
    assert results(provider.asked[1])[0] == "fine"
    assert results(provider.asked[1])[1].startswith("Error: InvalidArguments: a: ")


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
async def test_a_time_out_out_of_range_is_refused_before_connecting(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        async with mcp_tools("http://127.0.0.1:9/mcp", timeout=timeout):
            pytest.fail("connected")


async def test_names_are_made_to_fit_and_schemas_checked() -> None:
    server: MCPServer = MCPServer("s")

    async def shout(text: str) -> str:
        """Shout."""
        return text.upper()

    server.add_tool(shout, name="a.b")
    async with mcp_tools(server) as (tool,):
        assert tool.name == "a_b"
        assert isinstance(tool.prepare({"text": 3}), Rejected)
        assert await tool.execute(text="x") == "X"


def named(*names: str) -> StdioServerParameters:
    return odd(
        None, listed={"result": {"tools": [{"name": n, "inputSchema": {"type": "object"}} for n in names]}}
    )


async def test_long_names_stay_apart() -> None:
    long = ["x" * 60 + "_first", "x" * 60 + "_second", "a.b", "a_b"]
    async with mcp_tools(named(*long), prefix="server_") as tools:
        names = [tool.name for tool in tools]
    assert len(set(names)) == 4
    assert all(len(name) <= 64 for name in names)
    async with mcp_tools(named(*long), prefix="server_") as tools:
        assert [tool.name for tool in tools] == names
    assert names[2] == "server_a_b"


async def test_tools_are_chosen_by_name() -> None:
    server = named("read", "write", "drop")
    async with mcp_tools(server, only=["read", "write"], without=["write"], prefix="db_") as tools:
        assert [tool.name for tool in tools] == ["db_read"]
    async with mcp_tools(server, without={"drop"}) as tools:
        assert [tool.name for tool in tools] == ["read", "write"]


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [({"only": ["raed"]}, ValueError), ({"without": ["dorp"]}, ValueError), ({"only": "read"}, TypeError)],
)
async def test_a_name_that_the_server_lacks_is_refused(chosen: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"raed|dorp|read"):
        async with mcp_tools(named("read"), **chosen):
            pytest.fail("connected")


NOT_UTF8 = """
import sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("latin")
def say():
    sys.__stdout__.buffer.write("f\u00fcr\\n".encode("latin-1"))
    sys.__stdout__.buffer.flush()
@server.tool()
def echo(text: str) -> str:
    say()
    return text
say()
server.run()
"""


async def test_a_line_that_is_not_utf8_ends_no_connection() -> None:
    server = StdioServerParameters(command=sys.executable, args=["-c", NOT_UTF8])
    async with mcp_tools(server, timeout=10) as (tool,):
        assert [await tool.execute(text=text) for text in ("a", "b")] == ["a", "b"]


@pytest.mark.parametrize("in_process", [True, False])
async def test_half_a_surrogate_pair_ends_no_connection(in_process: bool) -> None:
    def echo(text: Any) -> str:
        return json.dumps(text)

    server = MCPServer("echo")
    server.add_tool(echo)
    command = StdioServerParameters(command=sys.executable, args=["-c", NOT_UTF8])
    async with mcp_tools(server if in_process else command, timeout=10) as (tool,):
        assert "fffd" in json.dumps(await tool.execute(text="\ud800"))
        assert "b" in await tool.execute(text="b")
        if in_process:
            assert await tool.execute(text={"\ud800": ["\ud800"]}) == '{"\\ufffd": ["\\ufffd"]}'


DYING = """
import os, sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("dying")
@server.tool()
def add(a: int, b: int) -> int:
    if a < 0:
        os._exit(1)
    return a + b
server.run(sys.argv[1], **({"port": int(sys.argv[2])} if len(sys.argv) > 2 else {}))
"""


async def _outlives(server: Server) -> None:
    async with mcp_tools(server, timeout=10) as tools:
        provider = Talking(
            calls(("add", {"a": 1, "b": 2})),
            calls(("add", {"a": -1, "b": 2}), ("add", {"a": -1, "b": 3})),
            calls(("add", {"a": 3, "b": 4})),
            "done without it",
        )
        with anyio.fail_after(60):
            result = (await react(tools, tool_timeout=10).run(provider, "go")).unwrap()
        await anyio.sleep(0.05)
        entered = True
    assert entered
    assert result.value == "done without it"
    told = results(provider.asked[3])
    assert told[0] == "3"
    assert all(text.startswith("Error: ") for text in told[1:])
    assert len(told) == 4
    assert tools[0].name == "add"
    with pytest.raises(ToolError):
        await tools[0].execute(a=1, b=2)


@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")  # the SDK's, on trio
async def test_a_server_that_goes_away_over_http_ends_neither_loop_nor_block() -> None:
    with served(sys.executable, "-c", DYING, "streamable-http") as port:
        await _outlives(f"http://127.0.0.1:{port}/mcp")


async def test_a_server_that_goes_away_over_stdio_ends_neither_loop_nor_block() -> None:
    await _outlives(StdioServerParameters(command=sys.executable, args=["-c", DYING, "stdio"]))


async def test_a_journal_knows_the_tools_of_a_server_in_another_connection(tmp_path: Path) -> None:
    server = MCPServer("adds")
    made: list[int] = []

    @server.tool()
    def add(a: int, b: int) -> int:
        made.append(a)
        return a + b

    provider = Talking(calls(("add", {"a": 1, "b": 2})), "three")
    with Journal(tmp_path / "runs.db") as journal:
        for _ in range(2):
            async with mcp_tools(server) as tools:
                outcome = await react(tools).run(provider, "go", journal=journal.run("a"))
                assert outcome.unwrap().value == "three"
    assert made == [1]
    assert len(provider.asked) == 2


def _stdio() -> StdioServerParameters:
    return odd({"result": {"content": [{"type": "text", "text": "fine"}]}})


async def test_a_block_may_be_left_in_another_task_than_it_was_entered_in() -> None:
    entered = mcp_tools(_stdio())
    tools = await entered.__aenter__()
    async with anyio.create_task_group() as group:
        group.start_soon(entered.__aexit__, None, None, None)
    with pytest.raises(ToolError, match="went away"):
        await tools[0].execute()


async def test_a_generator_that_holds_a_block_can_be_closed() -> None:
    async def names() -> AsyncGenerator[str]:
        async with mcp_tools(_stdio()) as tools:
            for tool in tools:
                yield tool.name

    held = names()
    assert await anext(held) == "odd"
    await held.aclose()


async def test_tools_called_in_another_event_loop_say_so_and_stay_sound() -> None:
    elsewhere, here = (Talking(calls(("odd", {})), "done") for _ in range(2))
    async with mcp_tools(_stdio(), timeout=10) as tools:
        loop = react(tools)
        await anyio.to_thread.run_sync(lambda: loop.run_sync(elsewhere, "go"))
        await loop.run(here, "go")
    assert "another event loop" in results(elsewhere.asked[1])[0]
    assert results(here.asked[1]) == ["fine"]


async def test_names_may_come_from_any_iterable() -> None:
    async with mcp_tools(_stdio(), only=(name for name in ["odd"]), without=iter(())) as tools:  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert [tool.name for tool in tools] == ["odd"]
