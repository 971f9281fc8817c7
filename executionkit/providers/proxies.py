"""The way through a proxy that the environment names."""

import ssl
from urllib.request import getproxies, proxy_bypass

from executionkit.providers.address import Address
from executionkit.providers.foreign import TransportAdapter
from executionkit.providers.transport import KEEPALIVE, Transport

__all__ = ["proxied", "proxy_for"]


def proxy_for(address: Address) -> str | None:
    """Return the proxy that `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for an address."""
    proxies = getproxies()
    proxy = proxies.get("https" if address.tls else "http") or proxies.get("all")
    return None if proxy is None or proxy_bypass(address.host) else proxy


def proxied(
    address: Address, proxy: str, tls: ssl.SSLContext | None, timeout: float, limit: int
) -> Transport:
    """Return a transport through a proxy: httpx's own, which speaks to every kind of them."""
    import httpx  # only where there is a proxy, for it takes long

    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit, keepalive_expiry=KEEPALIVE)
    transport = httpx.AsyncHTTPTransport(verify=tls or True, trust_env=False, limits=limits, proxy=proxy)
    return TransportAdapter(transport, address.url, timeout, transport.aclose)
