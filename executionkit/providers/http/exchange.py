"""What every transport speaks: a request goes out, and an exchange brings its answer."""

import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from executionkit.core.groups import is_a, reasons

__all__ = [
    "CONNECT_TIMEOUT",
    "KEEPALIVE",
    "Exchange",
    "ExchangeError",
    "HTTPClient",
    "HTTPTransport",
    "Head",
    "Request",
    "Transport",
    "is_tls_failure",
    "no_connection",
]

CONNECT_TIMEOUT: Final = 5.0
KEEPALIVE: Final = 4.0
"""Seconds a connection may idle. Common servers hang up after 5 s; a call must not race with that."""


class ExchangeError(Exception):
    """An exchange with a server that broke, on whatever transport.

    Args:
        message: What happened.
        is_tls: Whether TLS could not be agreed on: then another attempt would end the same way.
    """

    def __init__(self, message: str, *, is_tls: bool = False) -> None:
        super().__init__(message)
        self.is_tls = is_tls


def no_connection(authority: str, error: BaseException) -> ExchangeError:
    """Return the error for a server that could not be reached at all."""
    number: object = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        error = OSError(number, os.strerror(number))
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ExchangeError(f"no connection to {authority} ({said}); check its address, and that it runs")


class Request(msgspec.Struct, frozen=True):
    """A POST. Its headers hold the key, so its repr shows none of them.

    Args:
        headers: Names and values; `Host` and `Content-Length` are among them.
        body: The content.
    """

    headers: list[tuple[str, str]]
    body: bytes

    def __repr__(self) -> str:
        return f"Request({len(self.body)} bytes)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("size", len(self.body))]


class Head(msgspec.Struct, frozen=True):
    """What precedes an answer's body.

    Args:
        status: The HTTP status.
        headers: Header values by lower-case name; the last one where a name comes twice.
        sender: Who answered: `"the server"`, or `"the proxy"` where one would not open a tunnel.
    """

    status: int
    headers: dict[str, str]
    sender: str = "the server"

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def __repr__(self) -> str:
        # A server may have put the key into any of them.
        return f"Head({self.status})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("status", self.status)]


class Exchange(Protocol):
    """One request under way."""

    head: Head

    def end_reads_at(self, deadline: float) -> bool:
        """Have reads raise from this time of the event loop on; False where the caller has to see to it."""
        ...

    async def read(self) -> bytes:
        """Return the next piece of the answer's body as sent, `b""` at its end.

        Raises:
            ExchangeError: The connection broke, or what came is not HTTP/1.1.
        """
        ...

    async def finish(self) -> None:
        """Give the connection back, or close it where the answer was not read to its end."""
        ...


class Transport(Protocol):
    """What carries requests to a server."""

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: No connection, or it broke, or what came back is not HTTP/1.1.
        """
        ...

    async def aclose(self) -> None:
        """Close every idle connection; those in use close when their exchange is finished."""
        ...


class HTTPTransport(Protocol):
    """The shape of `httpx.AsyncBaseTransport`."""

    @property
    def handle_async_request(self) -> Callable[[Any], Awaitable[Any]]:
        """Take a request of httpx's, return a response whose body is still to be read."""
        ...


class HTTPClient(Protocol):
    """The shape of `httpx.AsyncClient`."""

    @property
    def build_request(self) -> Callable[..., Any]:
        """Make a request from method, URL, `content`, `headers` and `timeout`."""
        ...

    @property
    def send(self) -> Callable[..., Awaitable[Any]]:
        """Send it; `stream` and `follow_redirects` are given."""
        ...


def is_tls_failure(error: BaseException) -> bool:
    """Whether TLS itself failed, down the chain of causes; a hang-up in the middle is not that."""
    for link in reasons(error):
        if is_a(link, ssl.SSLError):
            return not is_a(link, ssl.SSLEOFError)
    return False
