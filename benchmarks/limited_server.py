"""A chat server with room for so many calls at once: `python limited_server.py LATENCY STEP` prints its port.

What comes beyond is refused with a 429. `GET /room/N` sets the room, `GET /begin` begins to count, and
`GET /counts` returns how many calls were answered and refused in each slice of STEP seconds.
"""

import asyncio
import json
import random
import sys
import time

LATENCY, STEP = float(sys.argv[1]), float(sys.argv[2])
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
_ANSWER = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [_CHOICE],
        "usage": _USAGE,
    }
)
_ERROR = json.dumps({"error": {"message": "Too many requests", "type": "rate_limit", "code": "rate_limit"}})


def _raw(status: int, text: str) -> bytes:
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    return (head + text).encode()


class Server:
    """What all connections share."""

    def __init__(self) -> None:
        self.room = self.inside = 0
        self.began = time.monotonic()
        self.slices: dict[int, list[int]] = {}

    def count(self, which: int) -> None:
        """Count a call that was answered (0) or refused (1)."""
        self.slices.setdefault(int((time.monotonic() - self.began) / STEP), [0, 0])[which] += 1


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + size:
                return
            self._data = self._data[end + 4 + size :]
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        server = self._server
        path = head.split(b" ")[1].decode()
        if path.startswith("/v1/"):
            self._ask()
            return
        if path.startswith("/room/"):
            server.room = int(path.removeprefix("/room/"))
        if path == "/begin":
            server.slices.clear()
            server.began = time.monotonic()
        self._transport.write(_raw(200, json.dumps(server.slices)))

    def _ask(self) -> None:
        loop, server = asyncio.get_running_loop(), self._server
        if server.inside < server.room:
            server.inside += 1
            loop.call_later(random.uniform(0.5, 1.5) * LATENCY, self._answer)
        else:
            loop.call_later(LATENCY / 100, self._refuse)

    def _answer(self) -> None:
        self._server.inside -= 1
        self._server.count(0)
        self._transport.write(_raw(200, _ANSWER))

    def _refuse(self) -> None:
        self._server.count(1)
        self._transport.write(_raw(429, _ERROR))


async def _serve() -> None:
    loop, shared = asyncio.get_running_loop(), Server()
    server = await loop.create_server(lambda: _Connection(shared), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
