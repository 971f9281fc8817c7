"""Tools over streamable HTTP from a server that misbehaves: written by hand, so that it can."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from tests.conftest import BARE

if BARE:
    pytest.importorskip("mcp")

from executionkit.errors import DeadlineExceededError, ExecutionKitError
from executionkit.mcp import connection, mcp_tools
from executionkit.patterns.react import react
from tests.talking import Talking, calls, results

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Async generator '(http|mcp):ResourceWarning"),  # the SDK's, on trio
]

Behaviour = Callable[["_Handler"], None]


class _Handler(BaseHTTPRequestHandler):
    """One request, and what the server of this test makes of it."""

    protocol_version = "HTTP/1.1"
    server: "Misbehaving"  # pyright: ignore[reportIncompatibleVariableOverride]  # it is handed no other
    asked: dict[str, Any]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.answer("", 405)

    def do_DELETE(self) -> None:
        self.server.plan.get("DELETE", _Handler.fine)(self)

    def do_POST(self) -> None:
        self.asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, arguments = self.asked["method"], self.asked.get("params", {}).get("arguments", {})
        self.server.plan.get(arguments.get("do", method), _Handler.fine)(self)

    def fine(self) -> None:
        """What a server ought to say."""
        if self.command == "DELETE":
            self.answer("")
        elif "id" not in self.asked:
            self.answer("", 202)
        elif self.asked["method"] == "initialize":
            version = self.asked["params"]["protocolVersion"]
            about = {"name": "odd", "version": "1"}
            self.reply({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about})
        elif self.asked["method"] == "tools/list":
            self.reply({"tools": [{"name": "odd", "inputSchema": {"type": "object"}}]})
        elif self.asked["method"] == "tools/call":
            self.reply({"content": [{"type": "text", "text": "fine"}]})
        else:
            self.answer(json.dumps({"jsonrpc": "2.0", "id": self.asked["id"], "error": NO_METHOD}))

    def reply(self, result: dict[str, Any]) -> None:
        self.answer(json.dumps({"jsonrpc": "2.0", "id": self.asked["id"], "result": result}))

    def answer(
        self, body: str | bytes, status: int = 200, kind: str = "application/json", **more: str
    ) -> None:
        sent = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        headers = {"content-type": kind, "mcp-session-id": "s", "content-length": str(len(sent)), **more}
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(sent)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Say nothing until the client hangs up, or the test is over."""
        self.server.hanging.release()
        self.close_connection = True
        self.connection.settimeout(0.02)
        while not self.server.is_over.is_set():
            with suppress(TimeoutError):
                if not self.connection.recv(1):
                    return


NO_METHOD = {"code": -32601, "message": "no such method"}


class Misbehaving(ThreadingHTTPServer):
    """A server that does what the plan says, by method or by the argument `do` of a call."""

    daemon_threads = True

    def __init__(self, **plan: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan = {key.replace("__", "/"): behaviour for key, behaviour in plan.items()}
        self.hanging = threading.Semaphore(0)
        self.is_over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mcp"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client hung up


Serve = Callable[..., Misbehaving]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Make servers that end with the test."""
    running: list[tuple[Misbehaving, threading.Thread]] = []

    def start(**plan: Behaviour) -> Misbehaving:
        server = Misbehaving(**plan)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _half(handler: _Handler) -> None:
    handler.answer('{"jsonrpc":', content_length="500")
    handler.hang_up()


def _status(code: int, **more: str) -> Behaviour:
    return lambda handler: handler.answer("<h1>oops</h1>", code, "text/html", **more)


def _stream(text: str) -> Behaviour:
    def send(handler: _Handler) -> None:
        handler.answer(text, kind="text/event-stream", content_length="9999")
        handler.hang_up()

    return send


BROKEN: dict[str, Behaviour] = {
    "hangs up": _Handler.hang_up,
    "hangs up in the body": _half,
    "no gzip": lambda handler: handler.answer("no gzip", content_encoding="gzip"),
    "401": _status(401),
    "404 as a session that ended": _status(404),
    "429": _status(429),
    "500": _status(500),
    "202": _status(202),
    "204": _status(204),
    "redirects elsewhere": _status(307, location="http://127.0.0.1:9/"),
    "redirects in a circle": _status(307, location="/mcp"),
    "redirects nowhere": _status(307, location="http://[::1"),
    "empty": lambda handler: handler.answer(""),
    "HTML": _status(200),
    "cut JSON": lambda handler: handler.answer('{"jsonrpc"'),
    "deep JSON": lambda handler: handler.answer("[" * 100_000),
    "bad UTF-8": lambda handler: handler.answer(b"\xff\xfe{"),
    "a list": lambda handler: handler.answer("[1]"),
    "empty stream": _stream(""),
    "cut stream": _stream('event: message\ndata: {"jsonrpc"'),
    "garbage in a stream": _stream("event: message\ndata: {no\n\n"),
    "too large an event": _stream("event: message\ndata: " + "x" * 2_000_000 + "\n\n"),
}


def _waits(handler: _Handler) -> None:
    handler.server.hanging.acquire(timeout=20)
    handler.fine()


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_exchange_fails_its_own_call_and_no_other(serve: Serve, kind: str) -> None:
    def breaks(handler: _Handler) -> None:
        try:
            BROKEN[kind](handler)  # the client may have hung up before the end of it
        finally:
            handler.server.hanging.release()  # only now the other call, sent beside this one, is answered

    server = serve(breaks=breaks, waits=_waits)
    provider = Talking(calls(("odd", {"do": "breaks"}), ("odd", {"do": "waits"})), calls(("odd", {})), "done")
    with anyio.fail_after(30):
        async with mcp_tools(server.url, timeout=20) as tools:
            result = (await react(tools).run(provider, "go")).unwrap()
    assert result.value == "done"
    assert results(provider.asked[2]) == ["Error: MCPError", "fine", "fine"]


async def test_a_call_that_was_given_up_does_not_end_the_connection_later(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_SILENCE", 0.4)
    server = serve(hangs=_Handler.hang)
    provider = Talking(calls(("odd", {"do": "hangs"})), calls(("odd", {})), "done")
    async with mcp_tools(server.url, timeout=0.4) as tools:
        waiting = Talking(calls(("odd", {"do": "hangs"})), "done")
        await react(tools, tool_timeout=0.1).run(waiting, "go")
        assert results(waiting.asked[1]) == ["Error: TimeoutError"]
        await react(tools, tool_timeout=5).run(provider, "go")  # is silent for longer than may be
    assert results(provider.asked[2]) == ["Error: MCPError", "fine"]


async def test_a_call_may_be_silent_for_as_long_as_its_timeout(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_SILENCE", 0.01)

    def slow(handler: _Handler) -> None:
        threading.Event().wait(0.2)
        handler.fine()

    server = serve(slow=slow)
    async with mcp_tools(server.url, timeout=20) as tools:
        assert await tools[0].execute(do="slow") == "fine"


async def test_a_deadline_and_the_caller_end_a_call_that_hangs(serve: Serve) -> None:
    server = serve(hangs=_Handler.hang)
    async with mcp_tools(server.url, timeout=20) as tools:
        provider = Talking(calls(("odd", {"do": "hangs"})), calls(("odd", {"do": "hangs"})), "done")
        error = (await react(tools).run(provider, "go", deadline=0.2)).failure()
        assert isinstance(error, DeadlineExceededError)
        with anyio.move_on_after(0.2) as scope:
            await react(tools).run(provider, "go")
        assert scope.cancelled_caught
        assert await tools[0].execute() == "fine"


@pytest.mark.parametrize(
    "method", ["server__discover", "initialize", "notifications__initialized", "tools__list"]
)
@pytest.mark.parametrize("kind", ["hangs up", "401", "cut JSON", "no gzip"])
async def test_a_server_that_fails_while_it_is_connected_is_one_error(
    serve: Serve, method: str, kind: str
) -> None:
    server = serve(**{method: BROKEN[kind]})
    failure: ExecutionKitError | None = None
    with anyio.fail_after(20):
        try:
            async with mcp_tools(server.url, timeout=10) as tools:
                assert await tools[0].execute() == "fine"
        except ExecutionKitError as error:
            failure = error
    assert failure is not None or method in {"server__discover", "notifications__initialized"}
    if failure is not None:
        assert "the connection to the MCP server failed" in str(failure)
        assert (", status 401;" in str(failure)) == (kind == "401")


@pytest.mark.parametrize("kind", ["hang", "hang_up"])
async def test_a_server_that_does_not_say_goodbye_is_not_waited_for(serve: Serve, kind: str) -> None:
    server = serve(DELETE=getattr(_Handler, kind))
    with anyio.fail_after(9):
        async with mcp_tools(server.url, timeout=0.5) as tools:
            assert await tools[0].execute() == "fine"


async def test_a_block_that_is_cancelled_says_no_goodbye(serve: Serve) -> None:
    server = serve(hangs=_Handler.hang, DELETE=_Handler.hang)
    with anyio.fail_after(9), anyio.move_on_after(0.2) as scope:
        async with mcp_tools(server.url, timeout=20) as tools:
            await tools[0].execute(do="hangs")
    assert scope.cancelled_caught


async def test_of_two_servers_the_other_one_goes_on(serve: Serve) -> None:
    one, other = serve(), serve(dies=_Handler.hang_up)
    async with (
        mcp_tools(one.url, prefix="one_") as ours,
        mcp_tools(other.url, prefix="other_") as theirs,
    ):
        provider = Talking(
            calls(("one_odd", {}), ("other_odd", {"do": "dies"})),
            calls(("one_odd", {}), ("other_odd", {})),
            "done",
        )
        await react([*ours, *theirs]).run(provider, "go")
    assert results(provider.asked[2]) == ["fine", "Error: MCPError", "fine", "fine"]
