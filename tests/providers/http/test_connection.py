"""The connection below httpcore: one piece a request, reads that end when they are told to."""

import math
import socket
import ssl
from typing import Any

import anyio
import httpcore
import pytest
from typing_extensions import override

from executionkit.providers.http.connection import Connection, Connector, WouldWaitError

pytestmark = pytest.mark.anyio


class Stream(httpcore.AsyncNetworkStream):
    """A stream that notes what is written, and answers."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.written: list[bytes] = []
        self.timeouts: list[float | None] = []
        self.breaks = breaks
        self.tls: object = None

    @override
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self.breaks:
            raise httpcore.WriteError
        self.written.append(buffer)

    @override
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.timeouts.append(timeout)
        return b"answer"

    @override
    def get_extra_info(self, info: str) -> Any:
        return {"ssl_object": self.tls, "is_readable": self.breaks}.get(info)


class Received:
    """What stands for a TLS object: what was received and not yet read."""

    def __init__(self, left: bytes) -> None:
        self.left = left

    def read(self, most: int) -> bytes:
        if not self.left:
            raise ssl.SSLWantReadError
        return self.left[:most]


async def test_a_request_goes_out_in_one_piece_once_its_answer_is_waited_for() -> None:
    stream = Stream()
    connection = Connection(stream)
    await connection.write(b"head ")
    await connection.write(b"body")
    assert stream.written == []
    assert await connection.read(100) == b"answer"
    assert await connection.read(100) == b"answer"
    assert stream.written == [b"head body"]


async def test_what_is_long_is_not_copied_and_stays_in_order() -> None:
    stream, long = Stream(), bytes(2**17)
    connection = Connection(stream)
    await connection.write(b"head")
    await connection.write(long)
    assert stream.written == [b"head", long]
    assert stream.written[1] is long
    await connection.write(b"tail")
    await connection.read(100)
    assert stream.written[2:] == [b"tail"]


async def test_an_answer_is_read_though_the_request_could_not_be_sent() -> None:
    connection = Connection(Stream(breaks=True))
    await connection.write(b"head")
    assert await connection.read(100) == b"answer"


async def test_reads_end_when_they_are_told_to() -> None:
    stream = Stream()
    connection = Connection(stream)
    await connection.read(100)
    connection.reads_end_at = anyio.current_time() + 50
    await connection.read(100)
    connection.reads_end_at = anyio.current_time() - 50
    await connection.read(100)
    first, second, third = stream.timeouts
    assert (first, third) == (None, 0.0)
    assert second is not None
    assert 49 < second <= 50
    connection.reads_end_at = None
    with pytest.raises(WouldWaitError):
        await connection.read(100)
    connection.reads_end_at = math.inf
    await connection.read(100)


class Plain(Stream):
    """A stream whose TLS streams, one above the other, have received so much that nobody read."""

    def __init__(self, *left: bytes) -> None:
        super().__init__()
        self.left = left

    @override
    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        above = Plain(*self.left[1:])
        above.tls = Received(self.left[0])
        return above


@pytest.mark.parametrize("left", [[b""], [b"more"], [b"", b""], [b"", b"more"], [b"more", b""]])
async def test_what_came_over_tls_and_was_not_read_is_noticed(left: list[bytes]) -> None:
    connection = Connection(Plain(*left))
    assert not connection.has_unread
    for _ in left:
        await connection.start_tls(ssl.create_default_context())
    assert connection.has_unread is (b"more" in left)


@pytest.mark.parametrize("spare", [b"", b"more"])
async def test_what_came_in_one_piece_with_what_was_read_is_noticed(spare: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = await Connector().connect_tcp("127.0.0.1", listening.getsockname()[1])
        assert isinstance(connection, Connection)
        with listening.accept()[0] as server:
            server.sendall(bytes(2**16) + spare)
            assert len(await connection.read(2**16)) == 2**16
            # asyncio takes all from the system at once, trio what is asked for.
            assert (connection.has_unread or connection.is_stale) is bool(spare)
        await connection.aclose()


async def test_a_connection_that_failed_to_be_made_is_none() -> None:
    connector = Connector()
    with pytest.raises(httpcore.ConnectError):
        await connector.connect_tcp("127.0.0.1", 1, timeout=5)
    assert connector.connection is None
