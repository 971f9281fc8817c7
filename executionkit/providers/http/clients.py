"""The open client that a provider has in each event loop."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import sniffio
from anyio.lowlevel import RunVar

from executionkit.errors import ProviderClosedError
from executionkit.providers.http.exchange import Transport
from executionkit.runtime.tasks.event_loops import on_loop_exit

__all__ = ["Identity", "LoopClient", "client_of"]


class Identity:
    """What tells one provider from an equal one: each has connections of its own."""

    __slots__ = ("__weakref__",)


class LoopClient:
    """A provider's client in one event loop: opened by the first call, closed by `aclose`."""

    def __init__(self) -> None:
        self._transport: Transport | None = None
        self._users = 0
        self._closed = False

    def transport(self, make: Callable[[], Transport]) -> Transport:
        """Return the open transport, made by the first call.

        Raises:
            ProviderClosedError: The provider was closed in this event loop.
        """
        if self._closed:
            raise ProviderClosedError("the provider is closed; open it again with `async with provider:`")
        if self._transport is None:
            self._transport = make()
            on_loop_exit(self._release)
        return self._transport

    def enter(self) -> None:
        """Open, or join those who have it open."""
        self._closed = False
        self._users += 1

    async def leave(self) -> None:
        """Close once everybody who entered has left."""
        self._users = max(0, self._users - 1)
        if self._users == 0:
            await self.close()

    async def close(self) -> None:
        """Close for everybody: calls raise `ProviderClosedError` until somebody enters again."""
        self._closed = True
        self._users = 0
        await self._release()

    async def _release(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()


_Clients: TypeAlias = WeakKeyDictionary[Identity, LoopClient]
_clients: Final[RunVar[_Clients]] = RunVar("executionkit_clients")


def client_of(identity: Identity) -> LoopClient:
    """Return the client that belongs to `identity` in the running event loop."""
    clients = _clients_of_loop()
    client = clients.get(identity)
    if client is None:
        client = clients[identity] = LoopClient()
    return client


def _clients_of_loop() -> _Clients:
    """Return the clients of the running event loop, which no other object holds.

    The connections of asyncio hold their loop. A `RunVar` would hold them for as long as the loop lives, and
    so for ever where nobody closes the provider; what only the loop holds goes with it.
    """
    if sniffio.current_async_library() == "asyncio":
        loop = asyncio.get_running_loop()
        held: _Clients = vars(loop).setdefault("_executionkit_clients", _Clients())
        return held
    clients = _clients.get(None)
    if clients is None:
        clients = _Clients()
        _clients.set(clients)
    return clients
