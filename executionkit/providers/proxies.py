"""The way through a proxy that the environment names."""

import ssl
from urllib.request import getproxies, proxy_bypass

from executionkit.errors import PermanentError
from executionkit.providers.address import Address
from executionkit.providers.foreign import TransportAdapter
from executionkit.providers.transport import KEEPALIVE, Transport

__all__ = ["proxied", "proxy_for"]


def proxy_for(address: Address) -> str | None:
    """Return the proxy that `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for an address."""
    proxies = getproxies()
    proxy = proxies.get("https" if address.tls else "http") or proxies.get("all")
    # With its port: NO_PROXY may name one.
    return None if proxy is None or proxy_bypass(f"{address.host}:{address.port}") else proxy


def proxied(
    address: Address, proxy: str, tls: ssl.SSLContext | None, timeout: float, limit: int
) -> Transport:
    """Return a transport through a proxy: httpx's own, which speaks to every kind of them.

    Raises:
        PermanentError: The proxy's address is none, or of a kind that is not installed.
    """
    import httpx  # only where there is a proxy, for it takes long

    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit, keepalive_expiry=KEEPALIVE)
    try:
        transport = httpx.AsyncHTTPTransport(verify=tls or True, trust_env=False, limits=limits, proxy=proxy)
    except (ImportError, ValueError, httpx.InvalidURL):
        # Nothing of it is quoted or chained: it may hold a password.
        problem = "check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY; a SOCKS proxy needs httpx[socks]"
        raise PermanentError(f"the proxy that the environment names cannot be used: {problem}") from None
    return TransportAdapter(transport, address.url, timeout, transport.aclose)
