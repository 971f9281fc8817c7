"""The way to a server: a connection, and TLS on it."""

import ssl

import sniffio

from executionkit.providers.http.address import Address
from executionkit.providers.http.asyncio_sockets import connect_asyncio
from executionkit.providers.http.sockets import ByteSocket
from executionkit.providers.http.tls import secured

__all__ = ["connect"]


async def connect(address: Address, tls: ssl.SSLContext | None) -> ByteSocket:
    """Open a connection.

    Raises:
        OSError: The host is unknown, refuses, or speaks no acceptable TLS (`ssl.SSLError`).
    """
    opened = await _opened(address.host, address.port)
    return opened if tls is None else await secured(opened, tls, address.host)


async def _opened(host: str, port: int) -> ByteSocket:
    if sniffio.current_async_library() == "asyncio":
        return await connect_asyncio(host, port)
    from executionkit.providers.http.trio_sockets import connect_trio  # an extra

    return await connect_trio(host, port)
