"""An answer's body: decompressed piece by piece, never above a limit."""

import zlib
from contextlib import suppress
from typing import Final

import anyio

from executionkit.providers.http.exchange import Exchange, ExchangeError

__all__ = ["BODY_LIMIT", "ERROR_BODY_LIMIT", "BodyReader", "read_body", "read_error_body"]

BODY_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of an answer, decompressed, that are read at most."""

ERROR_BODY_LIMIT: Final = 64 * 1024
"""Bytes of an error's body that are read at most; the rest is not waited for."""

_ERROR_BODY_TIMEOUT: Final = 5.0


async def read_body(exchange: Exchange) -> bytes:
    """Read the whole body.

    Raises:
        ExchangeError: It is larger than `BODY_LIMIT`, or compressed with something other than gzip.
    """
    reader = BodyReader(exchange, BODY_LIMIT)
    pieces = [await reader.read()]
    while pieces[-1]:
        pieces.append(await reader.read())
    return pieces[0] if len(pieces) <= 2 else b"".join(pieces)


async def read_error_body(exchange: Exchange) -> bytes:
    """Read what is readable of an error's body; what is wrong with it matters less than the error."""
    body = bytearray()
    with anyio.move_on_after(_ERROR_BODY_TIMEOUT), suppress(ExchangeError):
        reader = BodyReader(exchange, ERROR_BODY_LIMIT)
        while piece := await reader.read():
            body += piece
    return bytes(body)


class BodyReader:
    """Reads a body and undoes its compression.

    Args:
        exchange: Where it comes from.
        limit: Decompressed bytes at most.

    Raises:
        ExchangeError: It is compressed with something other than gzip.
    """

    def __init__(self, exchange: Exchange, limit: int) -> None:
        encoding = exchange.head.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise ExchangeError("the answer is compressed with something other than gzip")
        self._exchange = exchange
        self._left = limit
        self._unzip = _Gunzip() if "gzip" in encoding else None

    async def read(self) -> bytes:
        """Return the next piece, `b""` at the end. What is within the limit comes before the error.

        Raises:
            ExchangeError: There is more than the limit, or the compression is broken.
        """
        while self._left >= 0 and (sent := await self._exchange.read()):
            piece = sent if self._unzip is None else self._unzip.feed(sent, self._left)
            within = piece[: self._left]
            self._left -= len(piece)
            if within:
                return within
        if self._left < 0:
            raise ExchangeError("the answer is too large")
        if self._unzip is not None:
            self._unzip.check_end()
        return b""


class _Gunzip:
    """Decompresses in pieces of limited size, so that a bomb is noticed before it fills the memory."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return what `data` decompresses to, at most one byte more than the limit."""
        pieces: list[bytes] = []
        while data and limit >= 0:
            if self._member.eof:
                self._member = zlib.decompressobj(31)
            try:
                pieces.append(self._member.decompress(data, limit + 1))
            except zlib.error as error:
                raise ExchangeError(f"the answer's gzip is broken: {error}") from error
            limit -= len(pieces[-1])
            data = self._member.unconsumed_tail or self._member.unused_data
        return b"".join(pieces)

    def check_end(self) -> None:
        """Raise where the last member is cut."""
        if not self._member.eof:
            raise ExchangeError("the answer's gzip ends early")
