"""The certificates that are trusted where a provider is given none."""

import os
import ssl
from functools import cache

from executionkit.errors import PermanentError

__all__ = ["shared_tls_context"]


def shared_tls_context(trust_env: bool = False) -> ssl.SSLContext:
    """Return the TLS context that all connections share: making one takes 20 ms.

    Args:
        trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` may name the certificates to trust.

    Raises:
        PermanentError: They name none that can be read.
    """
    variables = ("SSL_CERT_FILE", "SSL_CERT_DIR") if trust_env else ()
    try:
        return _tls_context(tuple(os.environ.get(name) for name in variables))
    except OSError as error:
        raise PermanentError(
            f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}"
        ) from error


@cache
def _tls_context(named: tuple[str | None, ...]) -> ssl.SSLContext:
    """Return httpx's own context, one for each value that the variables have had."""
    import httpx  # takes long to load

    context = httpx.create_ssl_context(trust_env=bool(named))
    context.set_alpn_protocols(["http/1.1"])
    return context
