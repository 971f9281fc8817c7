"""Which proxy the environment names."""

from contextlib import suppress
from typing import Final
from urllib.request import getproxies, proxy_bypass

from executionkit.errors import PermanentError
from executionkit.providers.http.address import Address
from executionkit.providers.secret import Secret

__all__ = ["UNUSABLE_PROXY", "proxy_for"]

UNUSABLE_PROXY: Final = (
    "the proxy that the environment names cannot be used: check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY; "
    'a SOCKS proxy needs an extra; in the clone, run: pip install ".[socks]"'
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
    raise PermanentError(UNUSABLE_PROXY)


def _named(scheme: str) -> str:
    proxy = getproxies().get(scheme, "")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
