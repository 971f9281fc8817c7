"""A raw HTTP server that misbehaves on request, in a thread with an event loop of its own.

The first part of a path says how: `/{fault}/v1/chat/completions` plays the fault of that name,
`/{any}~{fault}/...` as well but with an account of its own, and
`/schedule-{seed}/...` plays faults drawn with that seed, one a request, `/schedule-aiohttp-{seed}/...` none that
aiohttp takes otherwise. `/then-{fault}/...` plays the fault once and answers from then on.

A server that hangs up without a word may meet a request that is on its way, and never read it: an attempt all
the same. Where attempts are counted (an account of its own, a schedule) it therefore says goodbye and reads on,
to count what still comes; elsewhere it really closes.
"""

import asyncio
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress

import anyio

from executionkit.core.usage import NO_USAGE, TokenUsage
from tests.faults.kinds import BY_NAME, FAULTS, HEAVY, NOT_KEPT, UNANNOUNCED
from tests.faults.script import CLOSE, ECHO_KEY, RESET, STALL, Drip, Fault, Flood, Pause, Step
from tests.faults.streams import STREAMS

__all__ = ["FaultServer", "fault_server"]

_STREAMS = {fault.name: fault for fault in STREAMS}
_TLS_HANDSHAKE = b"\x16"


def any_fault(chance: random.Random) -> Fault:
    """Draw one fault, or half of the time a plain answer."""
    return BY_NAME["good-plain"] if chance.random() < 0.5 else chance.choice(QUICK)


QUICK = tuple(fault for fault in FAULTS if not fault.slow and fault.name not in HEAVY)


class FaultServer:
    """What was asked of the server, and what it reported, by the first part of the path."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.calls: dict[str, int] = {}
        self.reported: dict[str, TokenUsage] = {}
        self.connections = 0
        self.open_connections = 0
        self.most_connections = 0
        self.unreported: dict[str, int] = {}
        self._chances: dict[str, random.Random] = {}
        self._open: dict[str, int] = {}

    def url(self, route: str) -> str:
        """Return the base URL of a route."""
        return f"http://{self.host}:{self.port}/{route}/v1"

    async def has_read(self, route: str) -> None:
        """Return once the server has read all that came on connections that the client has closed."""
        with anyio.fail_after(20):
            # It lives in another thread, where no event of this loop can be set.
            while self._open.get(route):  # noqa: ASYNC110
                await anyio.sleep(0.001)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play one connection."""
        self.connections += 1
        self.open_connections += 1
        self.most_connections = max(self.most_connections, self.open_connections)
        routes: list[str] = []
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._exchange(reader, writer, routes):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            self.open_connections -= 1
            for route in routes:
                self._open[route] -= 1
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, routes: list[str]
    ) -> bool:
        first = await reader.readexactly(1)
        if first == _TLS_HANDSHAKE:
            writer.write(b"HTTP/1.1 400 This is not TLS\r\n\r\n")
            return False
        head, route = await self._counted(first, reader)
        if not routes:
            routes.append(route)
            self._open[route] = self._open.get(route, 0) + 1
        fault = self._fault(route)
        self.reported[route] = self.reported.get(route, NO_USAGE) + fault.usage
        self.unreported[route] = self.unreported.get(route, 0) + (not fault.reports)
        if not fault.early:
            await reader.readexactly(int(_header(head, "content-length")))
        key = _header(head, "authorization").removeprefix("Bearer ")
        for step in fault.steps:
            if step == CLOSE and ("~" in route or route.startswith("schedule-")):
                writer.write_eof()
                await self._read_on(reader, int(_header(head, "content-length")) if fault.early else 0)
                return False
            if not await _play(step, key, reader, writer):
                return False
        return True

    async def _counted(self, first: bytes, reader: asyncio.StreamReader) -> tuple[str, str]:
        """Read the head of a request, of which a byte is there, and count it."""
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        route = head.split(" ")[1].split("/")[1]
        self.calls[route] = self.calls.get(route, 0) + 1
        return head, route

    async def _read_on(self, reader: asyncio.StreamReader, left: int) -> None:
        """Count requests that nobody will answer, until the client hangs up; `left` bytes belong to the last."""
        while True:
            await reader.readexactly(left)
            head, _ = await self._counted(b"", reader)
            left = int(_header(head, "content-length"))

    def _fault(self, route: str) -> Fault:
        if route.startswith("then-"):
            return BY_NAME[route.removeprefix("then-") if self.calls[route] == 1 else "good-plain"]
        if not route.startswith("schedule-"):
            kind = route.partition("~")[2] or route
            return BY_NAME.get(kind) or _STREAMS[kind]
        chance = self._chances.setdefault(route, random.Random(route))
        fault = any_fault(chance)
        while fault.name in {*NOT_KEPT["aiohttp"], *UNANNOUNCED} and route.startswith("schedule-aiohttp"):
            fault = any_fault(chance)
        return fault


async def _play(step: Step, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Do one step; False where the connection is over."""
    match step:
        case bytes():
            writer.write(_echoing(step, key))
            await writer.drain()
        case Pause(seconds):
            await asyncio.sleep(seconds)
        case Drip(piece):
            while not reader.at_eof() and not writer.is_closing():
                writer.write(piece)
                await asyncio.sleep(0.01)
        case Flood(piece, times):
            for _ in range(times):
                writer.write(piece)
                await writer.drain()
        case _ if step == STALL:
            await reader.read(1)
        case _ if step == RESET:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        case _:
            assert step == CLOSE
            writer.close()
            await writer.wait_closed()
            return False
    return True


def _echoing(piece: bytes, key: str) -> bytes:
    """Put the key where it belongs, and mend the length that this changes."""
    if ECHO_KEY not in piece:
        return piece
    head, _, body = piece.replace(ECHO_KEY, key.encode()).partition(b"\r\n\r\n")
    start, length, _ = head.rpartition(b"Content-Length: ")
    if not length:
        return head + b"\r\n\r\n" + body
    return start + b"Content-Length: %d" % len(body) + b"\r\n\r\n" + body


def _header(head: str, name: str) -> str:
    for line in head.split("\r\n"):
        if line.lower().startswith(name + ":"):
            return line.partition(":")[2].strip()
    return ""


@contextmanager
def fault_server(tls: ssl.SSLContext | None = None) -> Generator[FaultServer, None, None]:
    """Run a server in a thread of its own."""
    server, started = FaultServer(), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        listening = await asyncio.start_server(
            server.serve, None, 0, family=socket.AF_INET, backlog=2048, limit=2**24, ssl=tls
        )
        server.port = listening.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        listening.close()

    thread = threading.Thread(target=_run, args=(loop, main), name="fault server")
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop, main: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
