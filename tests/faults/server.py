"""A raw HTTP server that misbehaves on request, in a thread with an event loop of its own.

The first part of a path says how: `/{fault}/v1/chat/completions` plays the fault of that name,
`/{any}~{fault}/...` as well but with an account of its own, and
`/schedule-{seed}/...` plays faults drawn with that seed, one a request, `/schedule-fast-{seed}/...` none that
the transport "fast" is stricter with. `/then-{fault}/...` plays the fault once and answers from then on.
"""

import asyncio
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress

from executionkit.core.usage import NO_USAGE, TokenUsage
from tests.faults.kinds import BY_NAME, FAULTS, HEAVY, STRICTER, UNANNOUNCED
from tests.faults.script import CLOSE, ECHO_KEY, RESET, STALL, Drip, Fault, Flood, Pause, Step
from tests.faults.streams import STREAMS

__all__ = ["FaultServer", "fault_server"]

_STREAMS = {fault.name: fault for fault in STREAMS}
_TLS_HANDSHAKE = b"\x16"


def any_fault(chance: random.Random) -> Fault:
    """Draw one fault, or half of the time a plain answer."""
    return BY_NAME["good-plain"] if chance.random() < 0.5 else chance.choice(QUICK)


# Those that hang up unannounced have tests of their own: what they leave of a next request is up to the kernel.
QUICK = tuple(fault for fault in FAULTS if not fault.slow and fault.name not in HEAVY | UNANNOUNCED)


class FaultServer:
    """What was asked of the server, and what it reported, by the first part of the path."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: dict[str, int] = {}
        self.reported: dict[str, TokenUsage] = {}
        self.connections = 0
        self.open_connections = 0
        self.most_connections = 0
        self.unreported: dict[str, int] = {}
        self._chances: dict[str, random.Random] = {}

    def url(self, route: str) -> str:
        """Return the base URL of a route."""
        return f"http://127.0.0.1:{self.port}/{route}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play one connection."""
        self.connections += 1
        self.open_connections += 1
        self.most_connections = max(self.most_connections, self.open_connections)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._exchange(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            self.open_connections -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if first == _TLS_HANDSHAKE:
            writer.write(b"HTTP/1.1 400 This is not TLS\r\n\r\n")
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        route = head.split(" ")[1].split("/")[1]
        fault = self._fault(route)
        self.calls[route] = self.calls.get(route, 0) + 1
        self.reported[route] = self.reported.get(route, NO_USAGE) + fault.usage
        self.unreported[route] = self.unreported.get(route, 0) + (not fault.reports)
        if not fault.early:
            await reader.readexactly(int(_header(head, "content-length")))
        key = _header(head, "authorization").removeprefix("Bearer ")
        return all([await _play(step, key, reader, writer) for step in fault.steps])

    def _fault(self, route: str) -> Fault:
        if route.startswith("then-"):
            return BY_NAME[route.removeprefix("then-") if route not in self.calls else "good-plain"]
        if not route.startswith("schedule-"):
            kind = route.partition("~")[2] or route
            return BY_NAME.get(kind) or _STREAMS[kind]
        chance = self._chances.setdefault(route, random.Random(route))
        fault = any_fault(chance)
        while fault.name in STRICTER and route.startswith("schedule-fast"):
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
