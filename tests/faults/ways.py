"""The ways to a server that the suite plays every fault on: the transports of a provider, and those handed in."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, Final

import msgspec
import pytest

__all__ = ["HANDED_IN", "OURS", "WAYS", "Way", "on_each_loop"]


class Way(msgspec.Struct, frozen=True):
    """A transport or a client, and what it makes of faults that it cannot keep apart.

    Args:
        name: What it is called in a test's name.
        setting: The setting of a provider that takes it.
        module: The package that it is from.
        make: Makes what is handed in; None for the names that a provider knows.
    """

    name: str
    setting: str
    module: str
    make: Callable[[Any], Any] | None = None

    @asynccontextmanager
    async def settings(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield the settings of a provider that goes this way; what was made for it is closed."""
        async with AsyncExitStack() as stack:
            if self.make is None:
                yield {self.setting: self.name}
                return
            made = self.make(import_module(self.module))
            stack.push_async_callback(made.aclose)
            yield {self.setting: made}


def _transport(package: Any) -> Any:
    return package.AsyncHTTPTransport(verify=False)


def _client(package: Any) -> Any:
    return package.AsyncClient(verify=False)


def _aiohttp_transport(package: Any) -> Any:
    return package.AiohttpTransport(verify=False)


HTTPX: Final = Way("httpx", "transport", "httpx")
AIOHTTP: Final = Way("aiohttp", "transport", "aiohttp")
OURS: Final = (HTTPX, AIOHTTP)
HANDED_IN: Final = (
    Way("httpx-transport", "transport", "httpx", _transport),
    Way("httpx-client", "client", "httpx", _client),
    Way("httpx2-transport", "transport", "httpx2", _transport),
    Way("httpx2-client", "client", "httpx2", _client),
    Way("aiohttp-transport", "transport", "httpx_aiohttp", _aiohttp_transport),
)
WAYS: Final = (*OURS, *HANDED_IN)


def on_each_loop(*ways: Way) -> pytest.MarkDecorator:
    """Run an async test on each of these ways (`way`), on each event loop that it knows (`anyio_backend`)."""
    return pytest.mark.parametrize(
        ("way", "anyio_backend"),
        [
            pytest.param(way, loop, id=f"{way.name}-{loop}", marks=_marks(way.module, loop))
            for way in ways
            for loop in (("asyncio",) if "aiohttp" in way.module else ("asyncio", "trio"))
        ],
    )


def _marks(module: str, loop: str) -> list[pytest.MarkDecorator]:
    from tests.conftest import needs

    return [needs(name) for name in (module, "trio") if name == module or loop == "trio"]
