"""Where requests go: a base URL, parsed strictly."""

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

__all__ = ["Address", "parse_address"]

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?\Z")


class Address(msgspec.Struct, frozen=True):
    """A parsed base URL.

    Args:
        tls: Whether to speak TLS.
        host: A host name or an IP address, without brackets.
        port: A port from 1 to 65535.
        path: The path before `/chat/completions`, without a slash at its end.
        query: What follows the path after a question mark, or `""`.
        endpoint: What follows the path before the query.
    """

    tls: bool
    host: str
    port: int
    path: str
    query: str
    endpoint: str = "/chat/completions"

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """The request target of a completion."""
        return f"{self.path}{self.endpoint}{'?' if self.query else ''}{self.query}"

    @property
    def url(self) -> str:
        """The whole address of a completion."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.target}"

    def __repr__(self) -> str:
        # A query may hold a key.
        return f"Address({self.authority}{self.path})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("authority", self.authority), ("path", self.path)]

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.lower() == "localhost" or self.host.lower().endswith(".localhost")
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback  # Python before 3.13 knows no mapped one


def parse_address(base_url: object, endpoint: str = "/chat/completions") -> Address:
    """Parse the base URL of a provider. The errors never quote it, for it may hold a password.

    Raises:
        TypeError: It is not a `str`.
        ValueError: It is not an `http` or `https` URL with a host, or it has user information, a
            fragment, a bad port, white space or control characters.

    >>> parse_address("https://api.example.com/v1/").url
    'https://api.example.com/v1/chat/completions'
    """
    found = _read(base_url, endpoint)
    del base_url  # a traceback that shows local variables must not show a password
    if isinstance(found, Address):
        return found
    raise found


def _read(base_url: object, endpoint: str) -> Address | TypeError | ValueError:
    """Return the address, or what is wrong: an error that was not raised here has no frame of here."""
    if not isinstance(base_url, str):
        return TypeError(f"base_url must be a str, not {type(base_url).__name__}")
    if not (base_url.isascii() and base_url.isprintable()) or {" ", "\\", '"', "<", ">"} & {*base_url}:
        return ValueError("base_url must be plain ASCII without spaces, line breaks or backslashes")
    parts = _split(base_url)
    problem = "base_url has a bad port or a bad IPv6 address" if parts is None else _problem_of(parts)
    if parts is None or problem:
        return ValueError(problem)
    if parts.path.rstrip("/").endswith(endpoint):
        return ValueError(f"base_url must end before {endpoint}, which every request adds")
    return Address(
        tls=parts.scheme == "https",
        host=str(_ipv6(parts)) if "[" in parts.netloc else parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        path=parts.path.rstrip("/"),
        query=parts.query,
        endpoint=endpoint,
    )


def _split(base_url: str) -> SplitResult | None:
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises only now
    except ValueError:
        return None
    return parts


def _problem_of(parts: SplitResult) -> str:
    """Say what is wrong with a URL whose port can be read; `""` if nothing is."""
    if parts.scheme not in _PORTS:
        return "base_url must begin with http:// or https://"
    if "@" in parts.netloc:
        return "base_url must not hold a user name or password; give the key as api_key"
    if parts.port == 0 or parts.netloc.endswith(":"):
        return "base_url has a bad port"
    if parts.fragment:
        return "base_url must not have a fragment (#...)"
    if "[" in parts.netloc:
        return "" if _ipv6(parts) else "base_url has a bad IPv6 address"
    return (
        ""
        if _is_host(parts.hostname or "")
        else "base_url has no host, or one that is not a name or an IP address"
    )


def _ipv6(parts: SplitResult) -> ipaddress.IPv6Address | None:
    try:
        return ipaddress.IPv6Address(parts.hostname or "")
    except ValueError:
        return None


def _is_host(host: str) -> bool:
    labels = host.rstrip(".").split(".")
    return bool(_HOST.match(host)) and len(host) <= 253 and all(0 < len(label) < 64 for label in labels)
