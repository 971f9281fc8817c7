"""Certificates for 127.0.0.1 that nobody trusts but who is told to; one of them has expired."""

import ssl
from pathlib import Path

__all__ = ["CERTIFICATE", "EXPIRED", "serving", "trusting"]

_HERE = Path(__file__).parent / "tls"
CERTIFICATE = _HERE / "cert.pem"


EXPIRED = _HERE / "expired.pem"
_KEYS = {CERTIFICATE: _HERE / "key.pem", EXPIRED: _HERE / "expired-key.pem"}


def serving(certificate: Path = CERTIFICATE) -> ssl.SSLContext:
    """Return what a server speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, _KEYS[certificate])
    return context


def trusting(certificate: Path = CERTIFICATE) -> ssl.SSLContext:
    """Return what a client speaks TLS with that trusts it."""
    return ssl.create_default_context(cafile=certificate)
