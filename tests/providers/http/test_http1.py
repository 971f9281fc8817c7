"""One connection, without a network: whatever comes in is an answer, or an `ExchangeError`."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executionkit.providers.http.http1 import Connection, ExchangeError, Request

pytestmark = pytest.mark.anyio

REQUEST = Request("/v1/chat/completions?a=b", [("Host", "example.com"), ("Content-Length", "2")], b"{}")
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Id: 7\r\n\r\n"
    b"3;note=1\r\nfoo\r\n4\r\nbar!\r\n0\r\nX-Id: trailer\r\n\r\n"
)
MEASURED = b"HTTP/1.1 103 Hint\r\nX-Id: early\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 7\r\nx-iD: 7\r\n\r\nfoobar!"
UNMEASURED = b"HTTP/1.1 200\r\nX-Id: 7\r\n\r\nfoobar!"


class Wire:
    """A socket whose other end has these pieces to say, and then hangs up."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.written = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes | memoryview) -> None:
        self.written += data

    def is_stale(self) -> bool:
        return bool(self.pieces)

    async def abort(self) -> None:
        self.pieces.clear()


async def exchange(wire: Wire) -> tuple[int, dict[str, str], bytes, bool]:
    connection = Connection(wire)
    head = await connection.send(REQUEST)
    body = b""
    while piece := await connection.read():
        body += piece
    return head.status, head.headers, body, connection.is_reusable()


async def test_a_request_as_it_is_sent() -> None:
    wire = Wire(MEASURED)
    await exchange(wire)
    assert wire.written == (
        b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\n{}"
    )


@settings(max_examples=200)
@given(answer=st.sampled_from([CHUNKED, MEASURED, UNMEASURED]), cuts=st.sets(st.integers(1, 130)))
async def test_any_split_of_the_bytes_gives_the_same_answer(answer: bytes, cuts: set[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    pieces = [answer[start:end] for start, end in pairwise(edges)]
    _, headers, body, is_reusable = await exchange(Wire(*pieces))
    assert headers["x-id"] == "7"
    assert body == b"foobar!"
    assert is_reusable is (answer is not UNMEASURED)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfoo", "in the middle"),
        (CHUNKED[:-5], "in the middle"),
        (b"SSH-2.0\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nfoo", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nfoo", "not HTTP/1.1"),
        (b"HTTP/1.1 101 Go\r\nUpgrade: ws\r\nConnection: upgrade\r\n\r\n", "another protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "too long"),
    ],
)
async def test_what_is_no_answer(answer: bytes, message: str) -> None:
    with pytest.raises(ExchangeError, match=message):
        await exchange(Wire(answer))


async def test_headers_that_never_end_are_not_kept() -> None:
    wire = Wire(b"HTTP/1.1 200 OK\r\n", *[b"X: x\r\n" * 1000] * 100)
    with pytest.raises(ExchangeError, match="too long"):
        await exchange(wire)
    assert len(wire.pieces) > 80
    trailers = Wire(CHUNKED[:-2], *[b"X: x\r\n" * 1000] * 100)
    with pytest.raises(ExchangeError, match="too long"):
        await exchange(trailers)
    early = Wire(*[b"HTTP/1.1 103 Hint\r\nX: x\r\n\r\n" * 1000] * 100)
    with pytest.raises(ExchangeError, match="too long"):
        await exchange(early)


async def test_what_came_before_the_break_is_read_first() -> None:
    wire = Wire(CHUNKED[: CHUNKED.index(b"4\r\n")] + b"zz\r\n", b"not waited for")
    connection = Connection(wire)
    await connection.send(REQUEST)
    assert await connection.read() == b"foo"
    for _ in range(2):
        with pytest.raises(ExchangeError, match="not HTTP/1.1"):
            await connection.read()
    assert wire.pieces == [b"not waited for"]


@pytest.mark.parametrize(
    ("answer", "is_reusable"),
    [
        (MEASURED, True),
        (MEASURED.replace(b"\r\n", b"\n"), True),
        (MEASURED + b"junk", False),
        (MEASURED + MEASURED, False),
        (MEASURED.replace(b"x-iD", b"Connection: close\r\nx-iD"), False),
        (MEASURED.replace(b"/1.1 201", b"/1.0 201"), False),
        (UNMEASURED, False),
    ],
)
async def test_whether_a_connection_may_carry_another_exchange(answer: bytes, is_reusable: bool) -> None:
    *_, body, reusable = await exchange(Wire(answer))
    assert body == b"foobar!"
    assert reusable is is_reusable


async def test_an_unread_answer_leaves_nothing_to_reuse() -> None:
    connection = Connection(Wire(MEASURED[:-1], MEASURED[-1:]))
    await connection.send(REQUEST)
    assert not connection.is_reusable()
    assert not Connection(Wire()).is_reusable()


async def test_a_connection_carries_one_exchange_after_the_other() -> None:
    connection = Connection(Wire(MEASURED, CHUNKED))
    for status in (201, 200):
        assert (await connection.send(REQUEST)).status == status
        assert await connection.read() == b"foobar!"
        assert await connection.read() == b""
        assert connection.is_reusable()
