"""A transport or client that the user hands in: httpx's, or anything of its shape."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import anyio

from executionkit.providers.http.http1 import ExchangeError, Head, Request
from executionkit.providers.http.transport import CONNECT_TIMEOUT, Exchange, is_tls_failure

__all__ = ["ClientAdapter", "HTTPClient", "HTTPTransport", "TransportAdapter"]


class HTTPTransport(Protocol):
    """The shape of `httpx.AsyncBaseTransport`."""

    @property
    def handle_async_request(self) -> Callable[[Any], Awaitable[Any]]:
        """Take an httpx request, return an httpx response whose body is still to be read."""
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


class TransportAdapter:
    """Sends through an httpx transport. Its limits and its life are the owner's business.

    Args:
        transport: The transport.
        url: Where requests go.
        timeout: Seconds that any of its waits may take; the whole is bounded by the provider.
        aclose: How to close the transport, where it belongs to the provider.
    """

    def __init__(
        self,
        transport: HTTPTransport,
        url: str,
        timeout: float,
        aclose: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._transport = transport
        self._url = url
        self._timeouts = {"connect": CONNECT_TIMEOUT, "read": timeout, "write": timeout, "pool": timeout}
        self._aclose = aclose

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: The transport raised.
        """
        import httpx  # only where a transport is handed in, for it takes long

        try:
            return _ForeignExchange(
                await self._transport.handle_async_request(
                    httpx.Request(
                        "POST",
                        self._url,
                        headers=request.headers,
                        content=request.body,
                        extensions={"timeout": self._timeouts},
                    )
                )
            )
        except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
            # Not chained: what httpx raises holds the request, key and all.
            raise _as_exchange_error(error) from None
        except BaseException as cancelled:
            cancelled.__traceback__ = None  # the frames below may hold the request, key and all
            raise

    async def aclose(self) -> None:
        """Close the transport, where it belongs to the provider."""
        if self._aclose is not None:
            await self._aclose()


class ClientAdapter:
    """Sends through an httpx client. Its limits and its life are the owner's business.

    Args:
        client: The client.
        url: Where requests go.
        timeout: Seconds that any of its waits may take; the whole is bounded by the provider.
    """

    def __init__(self, client: HTTPClient, url: str, timeout: float) -> None:
        self._client = client
        self._url = url
        self._timeout = timeout

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: The client raised.
        """
        try:
            built = self._client.build_request(
                "POST", self._url, content=request.body, headers=request.headers, timeout=self._timeout
            )
            return _ForeignExchange(await self._client.send(built, stream=True, follow_redirects=False))
        except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
            raise _as_exchange_error(error) from None
        except BaseException as cancelled:
            cancelled.__traceback__ = None  # the frames below may hold the request, key and all
            raise

    async def aclose(self) -> None:
        """Do nothing: who opened the client closes it."""


class _ForeignExchange:
    def __init__(self, response: Any) -> None:
        headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
        self.head = Head(int(response.status_code), headers)
        self._response = response
        self._chunks: AsyncIterator[bytes] = aiter(response.stream)

    async def read(self) -> bytes:
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
            raise _as_exchange_error(error) from None
        except BaseException as cancelled:
            cancelled.__traceback__ = None  # the frames below may hold what the server said
            raise
        return b""

    async def finish(self) -> None:
        with anyio.CancelScope(shield=True):
            close_chunks = getattr(self._chunks, "aclose", None)  # an async generator has one
            if close_chunks is not None:
                await close_chunks()
            await self._response.aclose()


def _as_exchange_error(error: Exception) -> ExchangeError:
    return ExchangeError(f"{type(error).__name__}: {error}", is_tls=is_tls_failure(error))
