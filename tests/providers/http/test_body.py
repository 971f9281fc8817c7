"""An answer's body: whole, within its limit, compressed with gzip or not at all."""

import gzip
import zlib

import anyio
import pytest

from executionkit.providers.http.body import (
    BODY_LIMIT,
    ERROR_BODY_LIMIT,
    BodyReader,
    _Gunzip,  # pyright: ignore[reportPrivateUsage]
    read_body,
    read_error_body,
)
from executionkit.providers.http.exchange import ExchangeError, Head

pytestmark = pytest.mark.anyio


class Sent:
    """An exchange that hands over these pieces, and then fails or hangs if told to."""

    def __init__(self, *pieces: bytes, encoding: str | None = None, end: object = None) -> None:
        self.head = Head(200, {} if encoding is None else {"content-encoding": encoding})
        self._pieces = list(pieces)
        self._end = end

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if isinstance(self._end, Exception):
            raise self._end
        if self._end == "never":
            await anyio.sleep_forever()
        return b""

    def end_reads_at(self, deadline: float) -> bool:
        return False

    async def finish(self) -> None: ...


ZIPPED = gzip.compress(b"hello")


@pytest.mark.parametrize(
    ("pieces", "encoding", "body"),
    [
        ([], None, b""),
        ([b"one"], None, b"one"),
        ([b"one", b"two", b"three"], None, b"onetwothree"),
        ([b"one"], " Identity ", b"one"),
        ([b"one"], "", b"one"),
        ([ZIPPED], "gzip", b"hello"),
        ([ZIPPED], " X-GZIP ", b"hello"),
        ([bytes([byte]) for byte in ZIPPED], "gzip", b"hello"),
        ([ZIPPED + gzip.compress(b" again")], "gzip", b"hello again"),
        ([ZIPPED, gzip.compress(b" again")], "gzip", b"hello again"),
    ],
)
async def test_a_body_is_read_whole(pieces: list[bytes], encoding: str | None, body: bytes) -> None:
    assert await read_body(Sent(*pieces, encoding=encoding)) == body
    assert await read_error_body(Sent(*pieces, encoding=encoding)) == body


@pytest.mark.parametrize(
    ("pieces", "encoding", "says"),
    [
        ([b"x"], "br", "^the answer is compressed with something other than gzip$"),
        ([ZIPPED[:-1]], "gzip", "^the answer's gzip ends early$"),
        ([], "gzip", "^the answer's gzip ends early$"),
        ([b"plain"], "gzip", "^the answer's gzip is broken: Error -3"),
        ([zlib.compress(b"x")], "gzip", "^the answer's gzip is broken: Error -3"),
        ([ZIPPED, b"trash"], "gzip", "^the answer's gzip is broken: Error -3"),
        ([ZIPPED, zlib.compress(b"x")], "gzip", "^the answer's gzip is broken: Error -3"),
    ],
)
async def test_what_is_wrong_with_a_body_is_said(pieces: list[bytes], encoding: str, says: str) -> None:
    with pytest.raises(ExchangeError, match=says):
        await read_body(Sent(*pieces, encoding=encoding))


async def drained(sent: Sent, limit: int) -> bytes:
    reader, body = BodyReader(sent, limit), b""
    while piece := await reader.read():
        body += piece
    return body


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("cuts", [1, 2, 7])
async def test_a_body_may_reach_its_limit_and_not_pass_it(encoding: str, cuts: int) -> None:
    def sent(size: int) -> Sent:
        whole = b"x" * size if encoding == "identity" else gzip.compress(b"x" * size)
        step = -(-len(whole) // cuts)
        return Sent(*(whole[at : at + step] for at in range(0, len(whole), step)), encoding=encoding)

    assert await drained(sent(50), 50) == b"x" * 50
    with pytest.raises(ExchangeError, match="^the answer is too large$"):
        await drained(sent(51), 50)


async def test_a_bomb_is_noticed_before_it_fills_the_memory() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = bomb.compress(bytes(1_000_000)) + bomb.flush()
    for sent, most in ((data, 1001), (gzip.compress(bytes(600)) * 50, 1001)):
        unzip = _Gunzip()
        assert len(unzip.feed(sent, 1000)) == most
    assert _Gunzip().feed(data, -1) == b""


def test_the_limits_are_those_of_the_documentation() -> None:
    assert (BODY_LIMIT, ERROR_BODY_LIMIT) == (33_554_432, 65_536)


async def test_of_an_error_what_came_is_read() -> None:
    assert await read_error_body(Sent(b"the ", b"reason", end=ExchangeError("broke"))) == b"the reason"
    assert await read_error_body(Sent(b"x", encoding="br")) == b""
    assert await read_error_body(Sent(*[b"x" * 32_768] * 3)) == b"x" * 65_536


@pytest.mark.parametrize("encoding", [None, "gzip"])
async def test_of_a_long_error_the_beginning_is_read(encoding: str | None) -> None:
    body = b"overloaded " + b"x" * (3 * ERROR_BODY_LIMIT)
    sent = Sent(gzip.compress(body) if encoding else body, b"never read", encoding=encoding)
    assert await read_error_body(sent) == body[:ERROR_BODY_LIMIT]
    assert await sent.read() == b"never read"


async def test_the_rest_of_an_error_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.providers.http.body._ERROR_BODY_TIMEOUT", 0.01)
    with anyio.fail_after(10):
        assert await read_error_body(Sent(b"half", end="never")) == b"half"
