"""One HTTP/1.1 connection: llhttp knows the protocol, a `ByteSocket` moves the bytes."""

from typing import Final

import httptools
import msgspec

from executionkit.providers.http.sockets import ByteSocket

__all__ = ["Connection", "ExchangeError", "Head", "Request"]

_HEADERS_LIMIT: Final = 65_536
"""Bytes that may come before the head is complete, between two pieces of the body, and after the last."""


class ExchangeError(Exception):
    """An exchange with a server that broke, on whatever transport.

    Args:
        message: What happened.
        is_tls: Whether TLS could not be agreed on: then another attempt would end the same way.
    """

    def __init__(self, message: str, *, is_tls: bool = False) -> None:
        super().__init__(message)
        self.is_tls = is_tls


class Request(msgspec.Struct, frozen=True):
    """A request. Its headers hold the key, so its repr shows none of them.

    Args:
        target: Path and query.
        headers: Names and values; `Content-Length` is among them.
        body: The content.
        method: What is asked of the server.
    """

    target: str
    headers: list[tuple[str, str]]
    body: bytes
    method: str = "POST"

    def __repr__(self) -> str:
        return f"Request({len(self.body)} bytes)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("size", len(self.body))]


class Head(msgspec.Struct, frozen=True):
    """What precedes an answer's body.

    Args:
        status: The HTTP status.
        headers: Header values by lower-case name; the last one where a name comes twice.
    """

    status: int
    headers: dict[str, str]

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def __repr__(self) -> str:
        # A server may have put the key into any of them.
        return f"Head({self.status})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("status", self.status)]


class Connection:
    """A connection that carries one exchange after the other."""

    def __init__(self, sock: ByteSocket) -> None:
        self._socket = sock
        self._answer = _Answer()
        self.idle_since: float = 0.0

    async def send(self, request: Request) -> Head:
        """Send a request and return the head of its answer.

        Raises:
            OSError: The connection broke.
            ExchangeError: What came back is not HTTP/1.1.
        """
        self._answer = answer = _Answer()
        # A memoryview, because its repr shows nothing: no frame of a traceback may show the key.
        await self._socket.write(memoryview(_serialised(request)))
        while answer.head is None:
            answer.check()
            answer.feed(await self._socket.read())
        return answer.head

    async def read(self) -> bytes:
        """Return the next piece of the body, `b""` at its end.

        Raises:
            OSError: The connection broke.
            ExchangeError: The body ended early, or its framing is broken.
        """
        while not (piece := self._answer.take()) and not self._answer.is_over:
            self._answer.check()
            self._answer.feed(await self._socket.read())
        return piece

    def is_reusable(self) -> bool:
        """Whether the exchange is over, and the connection may carry another one."""
        return self._answer.is_over and self._answer.keeps_alive

    def is_stale(self) -> bool:
        """Whether the server hung up, or spoke unasked, since the last exchange."""
        return self._socket.is_stale()

    async def abort(self) -> None:
        """Close at once."""
        await self._socket.abort()


def _serialised(request: Request) -> bytes:
    # One expression: a local name would show the key in a traceback.
    return b"%b\r\n\r\n%b" % (
        "\r\n".join(
            (
                f"{request.method} {request.target} HTTP/1.1",
                *(f"{name}: {value}" for name, value in request.headers),
            )
        ).encode("ascii"),
        request.body,
    )


class _Answer:
    """One answer as its bytes come in. The `on_` methods are llhttp's callbacks."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.is_over = False
        self.keeps_alive = False
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._failure: ExchangeError | None = None
        self._headers_size = 0
        self._parser = httptools.HttpResponseParser(self)
        # What other clients forgive, too: bare line feeds, and spaces that pad the size of a chunk.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: bytes) -> None:
        """Take in what the server sent; `b""` says that it hung up."""
        self._failure = self._take_in(data)

    def check(self) -> None:
        """Raise what is wrong, before more is waited for; what came before it is taken first.

        Raises:
            ExchangeError: What came in is not HTTP/1.1, or ended early.
        """
        if self._failure is not None:
            raise self._failure

    def take(self) -> bytes:
        """Return what has come of the body since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_in(self, data: bytes) -> ExchangeError | None:
        if not data:
            return self._end()
        head, parts = self.head, len(self._pieces)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return ExchangeError("the server switched to another protocol")
        except httptools.HttpParserError as error:
            return self._broken(error)
        is_progress = self.head is not head or len(self._pieces) > parts
        self._headers_size = 0 if is_progress else self._headers_size + len(data)
        if self._headers_size > _HEADERS_LIMIT:
            return ExchangeError("the answer's headers are too long")
        return None

    def _broken(self, error: Exception) -> ExchangeError | None:
        """Return what is wrong with the answer; nothing, if it was over before that."""
        self.keeps_alive = False
        return None if self.is_over else ExchangeError(f"the answer is not HTTP/1.1: {error}")

    def _end(self) -> ExchangeError | None:
        if self.head is None:
            return ExchangeError("the server hung up without an answer")
        if not self.is_over and not {"content-length", "transfer-encoding"}.isdisjoint(self._headers):
            return ExchangeError("the server hung up in the middle of its answer")
        self.is_over = True
        return None

    def on_message_begin(self) -> None:
        self.keeps_alive = False  # nobody asked for a second answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = {}  # 100 Continue, 103 Early Hints
        elif self.head is None:
            self.head = Head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if not self.is_over:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.head is not None and not self.is_over:
            self.is_over = True
            self.keeps_alive = self._parser.should_keep_alive()
