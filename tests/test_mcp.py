"""Tools over MCP: a published server that is not ours, and a client that is not ours."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from tests.conftest import BARE

if BARE:
    pytest.importorskip("mcp")

from mcp import Client
from mcp.server.mcpserver import MCPServer

from executionkit.core.schema import Rejected
from executionkit.core.usage import TokenUsage
from executionkit.mcp import StdioServerParameters, mcp_server, mcp_tools
from executionkit.patterns.complete import complete
from executionkit.patterns.react import react
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
def address() -> Iterator[str]:
    """The address of a server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SERVED, str(port)], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(20)


async def test_streamable_http(address: str) -> None:
    await _listening(int(address.split(":")[2].split("/", maxsplit=1)[0]))
    async with mcp_tools(address) as tools:
        provider = Talking(calls(("ask", {"prompt": "2 + 2?"}), ("ask", {"prompt": 3})), "done")
        await react(tools).run(provider, "go")
    told = results(provider.asked[1])
    assert told[0] == "four"
    assert told[1].startswith("Error: InvalidArguments")


async def _listening(port: int) -> None:
    with anyio.fail_after(60):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                await anyio.sleep(0.1)
            else:
                return


async def test_a_foreign_client_calls_our_stage() -> None:
    server = mcp_server(
        Talking("four", RuntimeError("down")), {"ask": complete()}, descriptions={"ask": "Ask."}
    )
    async with Client(server) as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.description) == ("ask", "Ask.")
        assert tool.input_schema["required"] == ["prompt"]
        answer = await client.call_tool("ask", {"prompt": "2 + 2?"})
        assert (answer.content[0].type, answer.is_error) == ("text", False)
        assert "four" in str(answer.content)
        failed = await client.call_tool("ask", {"prompt": "again"})
        assert failed.is_error
        assert "ProviderError" in str(failed.content)


async def test_a_budget_bounds_each_call() -> None:
    server = mcp_server(
        Talking("a", "b"), {"ask": complete() >> complete()}, max_cost=TokenUsage(llm_calls=1)
    )
    async with mcp_tools(server) as tools:
        provider = Talking(calls(("ask", {"prompt": "x"})), "done")
        await react(tools).run(provider, "go")
    assert "BudgetExhaustedError" in results(provider.asked[1])[0]


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
