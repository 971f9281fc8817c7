"""An exchange whose response is of httpx's shape, whichever package it comes from."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import anyio

from executionkit.core.groups import leaves, reason
from executionkit.providers.http.exchange import (
    CONNECT_TIMEOUT,
    Exchange,
    ExchangeError,
    Head,
    is_tls_failure,
    no_connection,
)

__all__ = ["UNLOGGED", "ResponseExchange", "body_type", "broken", "by_name", "check_cancelled", "refusal"]

_LEFT_AT_MOST: Final = 10_000
"""Pieces of an answer that may have come in one read."""


UNLOGGED: Final[ContextVar[bool]] = ContextVar("executionkit_unlogged", default=False)
"""Whether the running exchange is ours: its debug log would show what the server said, maybe the key."""

for _name in ("httpcore.http11", "httpcore2.http11"):
    logging.getLogger(_name).addFilter(lambda _: not UNLOGGED.get())


class ResponseExchange:
    """An exchange from a response of httpx's shape.

    Args:
        response: The response; its body is still to be read.
        headers: Its headers by lower-case name.

    Raises:
        ExchangeError: It is not the end of an exchange.
    """

    def __init__(self, response: Any, headers: dict[str, str]) -> None:
        self.head: Head = Head(int(response.status_code), headers)
        if self.head.status < 200:
            raise ExchangeError(f"the status {self.head.status} cannot be that of an answer")
        self._response = response
        self._chunks: AsyncIterator[bytes] | None = None
        self.is_over: bool = False  # whether the body was read to its end

    def end_reads_at(self, deadline: float) -> bool:  # noqa: ARG002 - a caller says it to every exchange
        """Leave it to the caller."""
        return False

    async def read(self) -> bytes:
        """Return the next piece of the body as sent, `b""` at its end."""
        if self._chunks is None:
            self._chunks = aiter(self._response.stream)
        unlogged = UNLOGGED.set(True)
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
            raise broken(error) from None
        except BaseException as cancelled:
            cancelled.__traceback__ = None  # the frames below may hold what the server said
            raise
        finally:
            UNLOGGED.reset(unlogged)
        self.is_over = True
        return b""

    async def finish(self) -> None:
        """Close the response."""
        with anyio.CancelScope(shield=True):
            await self._response.aclose()
        if self._chunks is not None and not self.is_over:
            await _exhaust(self._chunks)


async def _exhaust(chunks: AsyncIterator[bytes]) -> None:
    """Let the generators behind a body end that nobody reads on: trio complains of those that are dropped.

    Their response is closed, so what is left is what was received already; nothing is waited for.
    """
    with anyio.move_on_after(0, shield=True), suppress(Exception):
        for _ in range(_LEFT_AT_MOST):
            await anext(chunks)
    close = getattr(chunks, "aclose", None)  # an async generator has one
    if close is not None:
        with anyio.CancelScope(shield=True), suppress(RuntimeError):  # another task reads on, and ends them
            await close()


@cache
def body_type(package: Any) -> Callable[[bytes], Any]:
    """Return the class of a request's body for a package of httpx's shape, which checks for its own."""

    class Body(package.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, body: bytes) -> None:
            self._body = body

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _OnePiece(self._body)

    return Body


class _OnePiece:
    def __init__(self, body: bytes) -> None:
        self._left = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece, self._left = self._left, b""
        if not piece:
            raise StopAsyncIteration
        return piece


class _Refusal:
    """The answer of a proxy that would not open a tunnel, as an exchange."""

    def __init__(self, head: Head, words: bytes) -> None:
        self.head = head
        self._words = words

    def end_reads_at(self, deadline: float) -> bool:  # noqa: ARG002 - a caller says it to every exchange
        return True  # there is nothing to wait for

    async def read(self) -> bytes:
        words, self._words = self._words, b""
        return words

    async def finish(self) -> None:
        """Do nothing: its connection is closed."""


def refusal(error: Exception, headers: dict[str, str]) -> Exchange | None:
    """Return what a proxy answered, where httpx raised that: it keeps the status and the words beside it."""
    status, _, words = str(error).partition(" ")
    if type(error).__name__ != "ProxyError" or not (len(status) == 3 and status.isdecimal()):
        return None
    said = {name: value for name, value in headers.items() if not name.startswith("content-")}
    return _Refusal(Head(int(status), said, "the proxy"), words.encode())


def check_cancelled(error: Exception) -> None:
    """Raise the cancellation that anyio made this error of, where it is that.

    On asyncio anyio swallows one that strikes as its attempts to connect start, an interrupt say, and then
    has no error of theirs to tell.
    """
    if isinstance(error, ValueError) and "must be a non-empty sequence" in str(error):
        with suppress(RuntimeError):  # no event loop of asyncio runs
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None


def broken(error: Exception, authority: str = "the server") -> ExchangeError:
    """Return the error for what httpx raised, without the request that it holds."""
    if isinstance(error, ExchangeError):
        return error
    if type(error).__name__ == "ConnectTimeout":
        return ExchangeError(f"no connection to {authority} within {CONNECT_TIMEOUT:g} s")
    is_tls = is_tls_failure(error)
    if type(error).__name__ != "ConnectError":
        said = str(error) or str(_cause(error))
        return ExchangeError(f"{type(error).__name__}{said and ': '}{said}", is_tls=is_tls)
    if is_tls:
        return ExchangeError(f"{type(error).__name__}: {_cause(error)}", is_tls=True)
    return no_connection(authority, _cause(error))


def _cause(error: BaseException) -> BaseException:
    """Return what the system said, at the end of the chain."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        error, found = found, reason(found)
        found = None if found is None else next(leaves(found))  # of a host with several addresses the first
    return error


def by_name(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return header values by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
