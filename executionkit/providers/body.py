"""An answer's body: decompressed piece by piece, never above a limit."""

import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import anyio

from executionkit.providers.transport import BROKEN, Exchange, ExchangeError

__all__ = ["BODY_LIMIT", "ERROR_BODY_LIMIT", "body_chunks", "read_body", "read_error_body"]

BODY_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of an answer, decompressed, that are read at most."""

ERROR_BODY_LIMIT: Final = 64 * 1024
"""Bytes of an error's body that are read at most; the rest is not waited for."""


_ERROR_BODY_TIMEOUT: Final = 5.0


async def read_body(exchange: Exchange) -> bytes:
    """Read the whole body.

    Raises:
        ExchangeError: It is larger than `BODY_LIMIT`, or compressed with something else than gzip.
    """
    return b"".join([chunk async for chunk in body_chunks(exchange, BODY_LIMIT)])


async def read_error_body(exchange: Exchange) -> bytes:
    """Read what is readable of an error's body; what is wrong with it matters less than the error."""
    body = bytearray()
    with anyio.move_on_after(_ERROR_BODY_TIMEOUT), suppress(*BROKEN):
        async for chunk in body_chunks(exchange, ERROR_BODY_LIMIT):
            body += chunk
    return bytes(body)


async def body_chunks(exchange: Exchange, limit: int) -> AsyncIterator[bytes]:
    """Yield the decompressed pieces of a body.

    Raises:
        ExchangeError: There is more of it than `limit` bytes, or its compression is unknown or broken.
    """
    encoding = exchange.head.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise ExchangeError("the answer is compressed with something else than gzip")
    unzip = _Gunzip() if "gzip" in encoding else None
    while sent := await exchange.read():
        for chunk in (sent,) if unzip is None else unzip.feed(sent, limit):
            limit -= len(chunk)
            if limit < 0:
                raise ExchangeError("the answer is too large")
            yield chunk
    if unzip is not None:
        unzip.check_end()


class _Gunzip:
    """Decompresses in pieces of limited size, so that a bomb is noticed before it fills the memory."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)

    def feed(self, data: bytes, limit: int) -> list[bytes]:
        chunks: list[bytes] = []
        while data and limit >= 0:
            if self._member.eof:
                self._member = zlib.decompressobj(31)
            try:
                chunks.append(self._member.decompress(data, limit + 1))
            except zlib.error as error:
                raise ExchangeError(f"the answer's gzip is broken: {error}") from error
            limit -= len(chunks[-1])
            data = self._member.unconsumed_tail or self._member.unused_data
        return chunks

    def check_end(self) -> None:
        if not self._member.eof:
            raise ExchangeError("the answer's gzip ends early")
