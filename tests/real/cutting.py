"""A TCP proxy that cuts, delays and stalls what passes through it, at random points of a seeded draw."""

import random
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketAttribute, SocketStream

__all__ = ["CuttingProxy", "cutting_proxy"]

_FATES = {"pass": 6, "delay": 2, "cut": 3, "reset": 3, "half": 2, "refuse": 2, "stall": 1}
"""What may become of an exchange, and how likely each is."""
_BLANK = b"\r\n\r\n"
_LINGER_NOT = struct.pack("ii", 1, 0)
_UPSTREAM, _STALL = 30.0, 0.5


class CuttingProxy:
    """Passes requests on to a server, one connection for each.

    Args:
        upstream: The server's port on the loopback interface.
        seed: What the draws begin with.
    """

    def __init__(self, upstream: int, seed: str) -> None:
        self._upstream = upstream
        self._chance = random.Random(seed)
        self.port = 0
        self.requests: dict[str, int] = {}
        self.fates: dict[str, int] = {}

    def url(self, route: str) -> str:
        """Return the base URL under which requests are counted for `route`."""
        return f"http://127.0.0.1:{self.port}/{route}/v1"

    async def serve(self, client: SocketStream) -> None:
        """Play one connection to its end."""
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            async with client:
                while await self._exchange(client):
                    pass

    async def _exchange(self, client: SocketStream) -> bool:
        request = _named(await _read_message(client))
        route, sent = request
        self.requests[route] = self.requests.get(route, 0) + 1
        fate = self._chance.choices([*_FATES], [*_FATES.values()])[0]
        self.fates[fate] = self.fates.get(fate, 0) + 1
        if fate == "refuse":
            return False
        if fate == "delay":
            await anyio.sleep(self._chance.uniform(0, 0.1))
        async with await anyio.connect_tcp("127.0.0.1", self._upstream) as server:
            if fate == "half":
                await server.send(sent[: self._chance.randrange(len(sent))])
                return False
            await server.send(sent)
            whole = fate in {"pass", "delay"}
            return await self._answer(server, client, fate, None if whole else self._chance.randrange(900))

    async def _answer(self, server: SocketStream, client: SocketStream, fate: str, left: int | None) -> bool:
        """Hand on the answer, or `left` bytes of it and then the fate."""
        seen = b""
        while not _is_whole(seen):
            with anyio.fail_after(_UPSTREAM):
                piece = await server.receive()
            seen += piece
            if left is not None and len(piece) > left:
                await client.send(piece[:left])
                return await self._end(client, fate)
            left = None if left is None else left - len(piece)
            await client.send(piece)
        return True

    async def _end(self, client: SocketStream, fate: str) -> bool:
        if fate == "stall":
            with anyio.move_on_after(_STALL):
                await client.receive()
        if fate == "reset":
            client.extra(SocketAttribute.raw_socket).setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT
            )
        return False


async def _read_message(stream: SocketStream) -> bytes:
    read = await stream.receive()
    while not _is_whole(read):
        read += await stream.receive()
    return read


def _named(request: bytes) -> tuple[str, bytes]:
    """Take the route out of a request's path."""
    method, path, rest = request.split(b" ", 2)
    route, _, path = path.removeprefix(b"/").partition(b"/")
    return route.decode(), b" ".join((method, b"/" + path, rest))


def _is_whole(message: bytes) -> bool:
    head, blank, body = message.partition(_BLANK)
    if not blank:
        return False
    lines = [line.lower() for line in head.split(b"\r\n")]
    for line in lines:
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0" + _BLANK)


@asynccontextmanager
async def cutting_proxy(upstream: int, seed: str) -> AsyncGenerator[CuttingProxy]:
    """Run a proxy in this event loop, and end it with the block."""
    proxy = CuttingProxy(upstream, seed)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy.port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy.serve)
        yield proxy
        group.cancel_scope.cancel()
