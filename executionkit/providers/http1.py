"""One HTTP/1.1 connection: h11 knows the protocol, a `ByteSocket` moves the bytes."""

from typing import Final

import h11
import msgspec

from executionkit.providers.sockets import ByteSocket

__all__ = ["Connection", "Head", "Request"]

_HEAD_LIMIT: Final = 65_536


class Request(msgspec.Struct, frozen=True):
    """A POST. Its headers hold the key, so its repr shows none of them.

    Args:
        target: Path and query.
        headers: Names and values; `Content-Length` is among them.
        body: The content.
    """

    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def __repr__(self) -> str:
        return f"Request({len(self.body)} bytes)"


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


class Connection:
    """A connection that carries one exchange after the other."""

    def __init__(self, sock: ByteSocket) -> None:
        self._socket = sock
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
        self.idle_since: float = 0.0
        self._is_over = False

    async def send(self, request: Request) -> Head:
        """Send a request and return the head of its answer.

        Raises:
            OSError: The connection broke.
            h11.RemoteProtocolError: What came back is not HTTP/1.1.
        """
        # A memoryview, because its repr shows nothing: no frame of a traceback may show the key.
        await self._socket.write(memoryview(self._serialise(request)))
        while not isinstance(event := await self._next_event(), h11.Response):
            pass  # 100 Continue, 103 Early Hints
        return Head(event.status_code, _as_text([*event.headers]))

    async def read(self) -> bytes:
        """Return the next piece of the body, `b""` at its end.

        Raises:
            OSError: The connection broke.
            h11.RemoteProtocolError: The body ended early, or its framing is broken.
        """
        pieces: list[bytes] = []
        if self._is_over:
            return b""
        event: object = await self._next_event()
        while isinstance(event, h11.Data):
            pieces.append(bytes(event.data))
            event = self._already_here()
        self._is_over = isinstance(event, h11.EndOfMessage)
        return b"".join(pieces)

    def _already_here(self) -> object:
        """Return the next event if its bytes have come: many small chunks are read as one piece."""
        try:
            return self._state.next_event()
        except h11.RemoteProtocolError:
            return None  # raised again by the next read, after what was sound

    def _serialise(self, request: Request) -> bytes:
        head = self._state.send(h11.Request(method="POST", target=request.target, headers=request.headers))
        body = self._state.send(h11.Data(data=request.body))
        self._state.send(h11.EndOfMessage())
        return (head or b"") + (body or b"")

    async def _next_event(self) -> h11.Event:
        while isinstance(event := self._state.next_event(), type):
            if event is h11.PAUSED:
                raise h11.RemoteProtocolError("the server switched to another protocol")
            data = await self._socket.read()
            if not data and self._state.their_state is h11.SEND_RESPONSE:
                raise h11.RemoteProtocolError("the server hung up without an answer")
            self._state.receive_data(data)
        return event

    def recycle(self) -> bool:
        """Make ready for another request; False where the connection cannot carry one."""
        leftover, has_ended = self._state.trailing_data
        is_done = self._state.our_state is self._state.their_state is h11.DONE
        if not is_done or leftover or has_ended:
            return False
        self._state.start_next_cycle()
        self._is_over = False
        return True

    def is_stale(self) -> bool:
        """Whether the server hung up, or spoke unasked, since the last exchange."""
        return self._socket.is_stale()

    async def abort(self) -> None:
        """Close at once."""
        await self._socket.abort()


def _as_text(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
