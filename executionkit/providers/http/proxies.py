"""The way through a proxy that the environment names."""

import base64
import ssl
from contextlib import suppress
from functools import partial
from typing import Final, Self
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import anyio
import msgspec

from executionkit.errors import PermanentError
from executionkit.providers.chat.failures import refused
from executionkit.providers.chat.redaction import NOTHING_SECRET
from executionkit.providers.http.address import Address, parse_address
from executionkit.providers.http.connecting import connect
from executionkit.providers.http.foreign import TransportAdapter
from executionkit.providers.http.http1 import Connection, Request
from executionkit.providers.http.sockets import ByteSocket
from executionkit.providers.http.tls import secured
from executionkit.providers.http.transport import KEEPALIVE, Exchange, Pool, Transport, shared_tls_context
from executionkit.providers.secret import Secret

__all__ = ["proxied", "proxy_for"]

_UNUSABLE: Final = (
    "the proxy that the environment names cannot be used: "
    "check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY; a SOCKS proxy needs httpx[socks]"
)


def proxy_for(address: Address) -> Secret | None:
    """Return the proxy that `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for an address.

    It may hold a password, so no local name has it.

    Raises:
        PermanentError: It could not be the address of one.
    """
    if proxy_bypass(f"{address.host}:{address.port}"):  # with its port: NO_PROXY may name one
        return None
    with suppress(ValueError):
        return Secret(_named("https" if address.tls else "http") or _named("all")) or None
    raise PermanentError(_UNUSABLE)


def _named(scheme: str) -> str:
    return getproxies().get(scheme, "")


def proxied(
    address: Address, proxy: Secret, tls: ssl.SSLContext | None, timeout: float, limit: int
) -> Transport:
    """Return a transport through a proxy: the pool, or httpx's where SOCKS is spoken.

    Raises:
        PermanentError: The proxy's address is none, or of a kind that is not installed.
    """
    with suppress(ImportError, ValueError):
        if proxy.reveal().lower().startswith("socks"):
            return _through_httpx(address, proxy, tls, timeout, limit)
        return _Proxy.read(proxy).transport(address, tls, limit)
    # Not raised where that failed: what failed there holds a password.
    raise PermanentError(_UNUSABLE)


class _Proxy(msgspec.Struct, frozen=True):
    """A proxy that speaks HTTP: it passes plain requests on, and opens tunnels for TLS (RFC 9110, 9.3.6)."""

    address: Address
    authorization: Secret

    @classmethod
    def read(cls, proxy: Secret) -> Self:
        """Read the value of an environment variable.

        Raises:
            ValueError: It is not the address of such a proxy.
        """
        scheme, found, _ = proxy.reveal().rpartition("://")
        host = proxy.reveal().rpartition("://")[2].rpartition("@")[2]
        address = parse_address(f"{scheme.lower() if found else 'http'}://{host}")
        return cls(address, Secret(_basic(*proxy.reveal().rpartition("://")[2].rpartition("@")[:2])))

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What tells the proxy who asks."""
        return [("Proxy-Authorization", self.authorization.reveal())] if self.authorization else []

    def transport(self, address: Address, tls: ssl.SSLContext | None, limit: int) -> Transport:
        """Return a pool of connections through this proxy."""
        if tls is None:
            return _Forwarding(self, address, Pool(self.address.authority, self.connect, limit))
        return Pool(address.authority, partial(self.tunnel, address, tls), limit)

    async def connect(self) -> ByteSocket:
        """Open a connection to the proxy."""
        return await connect(self.address, shared_tls_context(trust_env=True) if self.address.tls else None)

    async def tunnel(self, address: Address, tls: ssl.SSLContext) -> ByteSocket:
        """Open a connection to a server behind the proxy.

        Raises:
            OSError: As `connect`, to either of them.
            ExchangeError: The proxy does not speak HTTP.
            LLMError: It would not, or could not; as if the server had answered so.
        """
        opened = await self.connect()
        try:
            authority = f"{f'[{address.host}]' if ':' in address.host else address.host}:{address.port}"
            request = Request(authority, [("Host", authority), *self.headers], b"", "CONNECT")
            head = await Connection(opened).send(request)
            if not head.is_success:
                raise refused(head, b"", NOTHING_SECRET, "the proxy")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await opened.abort()
            raise
        return await secured(opened, tls, address.host)


def _basic(user: str, found: str) -> str:
    """Return what tells who asks, by RFC 7617; a user without a password has an empty one."""
    if not found:
        return ""
    return f"Basic {base64.b64encode(unquote(user if ':' in user else f'{user}:').encode()).decode()}"


class _Forwarding:
    """Asks a proxy to pass plain requests on."""

    def __init__(self, proxy: _Proxy, address: Address, pool: Pool) -> None:
        self._proxy = proxy
        self._url = address.url
        self._pool = pool

    async def send(self, request: Request) -> Exchange:
        """Send a request and return once the head of the answer is there."""
        return await self._pool.send(
            msgspec.structs.replace(
                request, target=self._url, headers=[*request.headers, *self._proxy.headers]
            )
        )

    async def aclose(self) -> None:
        """Close every idle connection; those in use close when their exchange is finished."""
        await self._pool.aclose()


def _through_httpx(
    address: Address, proxy: Secret, tls: ssl.SSLContext | None, timeout: float, limit: int
) -> Transport:
    import httpx  # only where there is such a proxy, for it takes long

    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit, keepalive_expiry=KEEPALIVE)
    try:
        transport = httpx.AsyncHTTPTransport(
            verify=tls or True, trust_env=False, limits=limits, proxy=proxy.reveal()
        )
    except httpx.InvalidURL:
        raise ValueError("the proxy's address is none") from None
    return TransportAdapter(transport, address.url, timeout, transport.aclose)
