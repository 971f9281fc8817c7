"""Clients and transports that a user hands in: httpx's, httpx2's, or anything of their shape."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from executionkit.providers.http.exchange import (
    CONNECT_TIMEOUT,
    Exchange,
    HTTPClient,
    HTTPTransport,
    Request,
)
from executionkit.providers.http.httpx_exchange import (
    UNLOGGED,
    ResponseExchange,
    body_type,
    broken,
    check_cancelled,
    refusal,
)

__all__ = ["ForeignClient", "ForeignTransport"]


class ForeignTransport:
    """Sends through a transport that a user hands in. Its limits and its life are the owner's business.

    Args:
        transport: The transport. Requests are made with the classes of the package that it comes from.
        url: Where requests go.
        timeout: Seconds that any of its waits may take; the whole is bounded by the provider.
    """

    def __init__(self, transport: HTTPTransport, url: str, timeout: float) -> None:
        self._transport = transport
        self._package = _package_of(transport, "AsyncBaseTransport")
        self._url = url
        self._timeouts = {"connect": CONNECT_TIMEOUT, "read": timeout, "write": timeout, "pool": timeout}

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: The transport raised.
        """
        return await _foreign_exchange(
            lambda: self._transport.handle_async_request(
                _streaming(
                    self._package.Request(
                        "POST",
                        self._url,
                        headers=request.headers,
                        content=request.body,
                        extensions={"timeout": self._timeouts},
                    ),
                    self._package,
                    request.body,
                )
            )
        )

    async def aclose(self) -> None:
        """Do nothing: whoever made the transport closes it."""


class ForeignClient:
    """Sends through a client that a user hands in. Its limits and its life are the owner's business.

    Args:
        client: The client.
        url: Where requests go.
        timeout: Seconds that any of its waits may take; the whole is bounded by the provider.
    """

    def __init__(self, client: HTTPClient, url: str, timeout: float) -> None:
        self._client = client
        self._package = _package_of(client, "AsyncClient")
        self._url = url
        self._timeout = timeout

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there.

        Raises:
            ExchangeError: The client raised.
        """
        return await _foreign_exchange(
            lambda: self._client.send(
                _streaming(
                    self._client.build_request(
                        "POST",
                        self._url,
                        content=request.body,
                        headers=request.headers,
                        timeout=self._timeout,
                    ),
                    self._package,
                    request.body,
                ),
                stream=True,
                follow_redirects=False,
            )
        )

    async def aclose(self) -> None:
        """Do nothing: whoever opened the client closes it."""


async def _foreign_exchange(send: Callable[[], Awaitable[Any]]) -> Exchange:
    unlogged = UNLOGGED.set(True)
    try:
        response = await send()
        return ResponseExchange(
            response, {str(name).lower(): str(value) for name, value in response.headers.items()}
        )
    except Exception as error:  # noqa: BLE001 - a foreign transport may raise anything
        check_cancelled(error)
        answer = refusal(error, {})
        if answer is None:
            raise broken(error) from None
        return answer
    except BaseException as cancelled:
        cancelled.__traceback__ = None  # the frames below may hold the request, key and all
        raise
    finally:
        UNLOGGED.reset(unlogged)


def _package_of(given: object, base: str) -> Any:
    """Return the package (httpx, httpx2) whose `base` this derives from; httpx if it only has the shape."""
    for kind in type(given).__mro__:
        package = sys.modules.get(kind.__module__.partition(".")[0])
        if issubclass(type(given), getattr(package, base, ())):
            return package
    return httpx


def _streaming(request: Any, package: Any, body: bytes) -> Any:
    """Return the request with a body that is a stream object.

    httpx's own is an async generator, of which trio complains when sending is cancelled.
    """
    request.stream = body_type(package)(body)
    return request
