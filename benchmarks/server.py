"""A fast local server for the benchmarks: canned answers, asyncio protocols, a process of its own.

Run as a script it prints its port and serves until its standard input ends.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

CHUNKS = 1000
LATENCY = 0.05
"""Seconds, on the route `slow`."""
PAUSE = 0.005
"""Seconds between two pieces, on the route `trickle`."""
USAGE = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
HEADERS = (
    "HTTP/1.1 200 OK\r\nDate: Mon, 02 Nov 2026 00:00:00 GMT\r\nServer: benchmark\r\nX-Request-Id: req-1\r\n"
    "X-RateLimit-Limit-Requests: 10000\r\nX-RateLimit-Remaining-Requests: 9999\r\n"
)


def _answer() -> bytes:
    message = {"role": "assistant", "content": "Paris is the capital of France. " * 4}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    body = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
    }
    encoded = json.dumps(body).encode()
    return (
        f"{HEADERS}Content-Type: application/json\r\nContent-Length: {len(encoded)}\r\n\r\n".encode()
        + encoded
    )


def _piece(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    body = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    event = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _stream() -> list[bytes]:
    head = f"{HEADERS}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    end = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    return [head, *([_piece({"content": "Paris "})] * CHUNKS), _piece({}, "stop"), end]


ANSWER, STREAM = _answer(), _stream()


class _Protocol(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            start = head.index(b"content-length:") + 15
            length = int(head[start:].partition(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        if b" /slow/" in head:
            asyncio.get_running_loop().call_later(LATENCY, self._transport.write, ANSWER)
        elif b" /trickle/" in head:
            self._trickle(0)
        elif b" /stream/" in head:
            # A few pieces a write, as a network hands them over.
            for start in range(0, len(STREAM), 4):
                self._transport.write(b"".join(STREAM[start : start + 4]))
        else:
            self._transport.write(ANSWER)

    def _trickle(self, place: int) -> None:
        """Send a piece at a time, so that a reader can leave in the middle."""
        if place < len(STREAM) and not self._transport.is_closing():
            self._transport.write(STREAM[place])
            asyncio.get_running_loop().call_later(PAUSE, self._trickle, place + 1)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Protocol, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def running() -> Generator[int, None, None]:
    """Run the server in another process and yield its port."""
    command = [sys.executable, str(Path(__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve())
