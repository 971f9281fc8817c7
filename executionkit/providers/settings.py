"""What a model behind an API over HTTP is told, and what is refused when it is."""

import re
import ssl
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Final, Literal, cast

import msgspec

from executionkit.core.checks import check_count, is_finite
from executionkit.core.dialect import Dialect, answers_billed
from executionkit.core.rate_limit import RateLimit
from executionkit.prices import Price, Prices
from executionkit.provider import DEFAULT_MAX_TOKENS, Message, ToolSpec
from executionkit.providers.http.address import Address, parse_address
from executionkit.providers.http.exchange import HTTPClient, HTTPTransport
from executionkit.providers.secret import Secret
from executionkit.retry import RetryConfig, checked_retry
from executionkit.runtime.ledger.terms import checked_terms

__all__ = ["RemoteSettings", "has_aiohttp"]

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS: Final = frozenset(
    {"host", "accept", "accept-encoding", "content-type", "content-length", "transfer-encoding", "connection"}
)
_KEY_HEADERS: Final = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})


class _Positional(msgspec.Struct, frozen=True):
    """The settings that may be given without their names."""

    base_url: str
    model: str
    api_key: Secret | str = ""
    default_temperature: float | None = 0.7
    default_max_tokens: int | None = DEFAULT_MAX_TOKENS
    timeout: float = 120.0


class RemoteSettings(_Positional, frozen=True, kw_only=True):
    """The settings that `Provider` and `Anthropic` share; they mean what stands at `Provider`."""

    max_connections: int = 1000
    tls: ssl.SSLContext | None = None
    transport: HTTPTransport | Literal["auto", "httpx", "aiohttp"] = "auto"
    client: HTTPClient | None = None
    trust_env: bool = False
    rate_limit: RateLimit | None = None
    dialect: Dialect | None = None
    retry: RetryConfig | None = None
    headers: Mapping[str, str] = {}
    extra_body: Mapping[str, Any] = {}
    price: Price | Prices | None = None
    count_tokens: Callable[[list[Message], list[ToolSpec] | None], int] | Literal["bytes"] | None = None

    def __post_init__(self) -> None:
        address = _checked_address(self)
        if not isinstance(self.api_key, Secret):
            # No local name for the literal: a traceback may show them.
            msgspec.structs.force_setattr(self, "api_key", Secret(self.api_key))
        _check(self)
        for name in ("headers", "extra_body"):
            msgspec.structs.force_setattr(self, name, dict(getattr(self, name)))
        if self.api_key and not address.tls and not address.is_loopback:
            _warn_of_plain_http(address.authority)


def _checked_address(provider: RemoteSettings) -> Address:
    try:
        return parse_address(provider.base_url)
    except (TypeError, ValueError):
        # Frames show the provider by its repr, and what is refused may hold a password.
        msgspec.structs.force_setattr(provider, "base_url", "")
        raise


def _check(provider: RemoteSettings) -> None:
    _check_name("model", provider.model)
    checked_terms(provider.price, provider.count_tokens)
    _check_number("timeout", provider.timeout, above=0)
    check_count("max_connections", provider.max_connections)
    _check_transport(provider.transport, provider.client)
    _check_tls(provider.tls)
    if provider.default_max_tokens is not None:
        check_count("default_max_tokens", provider.default_max_tokens)
    if provider.default_temperature is not None:
        _check_number("default_temperature", provider.default_temperature, above=-1)
    if provider.dialect is not None and not _is_a(provider.dialect, Dialect):
        raise TypeError(f"dialect must be a Dialect, not {type(provider.dialect).__name__}")
    checked_retry(provider.retry)
    _check_headers(provider.headers, type(provider).__name__)
    _check_body(provider.extra_body)


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")


def _check_number(name: str, value: object, above: int) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (is_finite(value) and value > above):
        raise ValueError(f"{name} must be a finite number above {above}, not {value}")


def _check_headers(headers: object, owner: str) -> None:
    """Refuse headers that could not be sent, or that are ours; what they hold is never quoted."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of str to str, not {type(headers).__name__}")
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("headers must be a mapping of str to str")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"the header {name} is set by {owner} itself")
        if name.lower() in _KEY_HEADERS:
            raise ValueError(f"give the key as api_key, not in the header {name}: there it stays hidden")
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(f"the header {name} must be printable ASCII without spaces at its ends")


def _check_body(extra_body: object) -> None:
    if not isinstance(extra_body, Mapping):
        raise TypeError(f"extra_body must be a mapping, not {type(extra_body).__name__}")
    given = cast("Mapping[object, object]", extra_body)
    for name in ("model", "messages", "stream"):
        if name in given:
            raise ValueError(f"extra_body may not hold {name}, which each request has of its own")
    if answers_billed(cast("Mapping[str, Any]", extra_body)) > 1:
        raise ValueError(
            "extra_body may not have the server generate several answers to each request: all would be "
            "billed, and one be read; ask for several with consensus, or where the request is made"
        )


def _check_transport(transport: object, client: object) -> None:
    if isinstance(transport, str):
        if transport not in {"auto", "httpx", "aiohttp"}:
            raise ValueError(
                'transport must be "auto", "httpx", "aiohttp", or a transport of httpx\'s shape, '
                f"not {transport!r}"
            )
        if transport == "aiohttp" and not has_aiohttp():
            raise ModuleNotFoundError(
                'aiohttp is not installed; in the clone, run: pip install ".[fast]"', name="aiohttp"
            )
    elif client is not None:
        raise ValueError("a client has a transport of its own; give either client or transport")
    elif not hasattr(transport, "handle_async_request"):
        raise TypeError(
            f"transport must have handle_async_request, as an httpx.AsyncBaseTransport has, and "
            f"{type(transport).__name__} has none; a client is given as client"
        )
    if client is not None and not (hasattr(client, "build_request") and hasattr(client, "send")):
        raise TypeError(
            "client must have build_request and send, as an httpx.AsyncClient has, "
            f"and {type(client).__name__} has not"
        )


def _check_tls(tls: object) -> None:
    if tls is None:
        return
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
    if tls.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("tls must be a context for clients: ssl.create_default_context() makes one")


@cache
def has_aiohttp() -> bool:
    """Tell whether the extra `fast` is installed."""
    return find_spec("aiohttp") is not None


@cache
def _warn_of_plain_http(authority: str) -> None:
    """Warn once for each server: the cache remembers."""
    warnings.warn(f"the key goes to {authority} unencrypted; use https", stacklevel=4)
