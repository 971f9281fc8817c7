"""llama.cpp's server in this process: started, asked what it can do, stopped after its last call."""

import atexit
import os
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from weakref import WeakSet

import msgspec

from executionkit.errors import PermanentError, ProviderClosedError

if TYPE_CHECKING:
    from xllamacpp import CommonParams, Server

__all__ = ["Engine", "EngineSettings"]

_HTTP_THREADS: Final = 64
"""Each open connection holds one of the server's threads; they cost next to nothing while they wait."""


class EngineSettings(msgspec.Struct, frozen=True):
    """How to start a server; see `LocalProvider`."""

    model: Path
    context_size: int
    slots: int
    threads: int
    chat_template: str
    deterministic: bool


class Engine:
    """A running server. It stops once it is closed and the last call is over.

    Stopping it under a connected client would wait for that client for ever, so calls are counted.

    Raises:
        PermanentError: The model cannot be loaded.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._closed = False
        self._server: Server | None = None
        self.address: str = ""
        self.supports_tools: bool = False
        # In a thread of its own: an interrupt would drop, and so stop, a server that has not quite begun.
        started: Future[None] = Future()
        start = partial(self._start, settings, started)
        threading.Thread(target=start, name="executionkit local model", daemon=True).start()
        started.result()

    def _start(self, settings: EngineSettings, started: "Future[None]") -> None:
        try:
            with _starting:
                self._server = _server(settings)
                self.address = self._server.listening_address
                self.supports_tools = _template_takes_tools(self.address)
                _wait_for_its_queue(self.address)
                _running.add(self)
        except BaseException as failure:  # noqa: BLE001 - it is for whoever waits
            started.set_exception(failure)
        else:
            started.set_result(None)

    @property
    def is_gone(self) -> bool:
        """Whether it was stopped, or belongs to the process that this one was forked from."""
        return self._server is None

    @contextmanager
    def call(self) -> Generator[None, None, None]:
        """Keep the server alive meanwhile.

        Raises:
            ProviderClosedError: It was closed before.
        """
        with self._lock:
            if self._closed:
                raise ProviderClosedError("the local model is stopped")
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._stop_if_idle()

    def close(self) -> None:
        """Take no more calls, and stop: at once where none is in flight, else after the last."""
        with self._lock:
            self._closed = True
            self._stop_if_idle()

    def forget(self) -> None:
        """Take no more calls, and never stop: the threads of the server are not ours to wait for."""
        self._lock = threading.Lock()  # in a forked child, nobody may be left who gives the old one back
        self._closed = True
        server, self._server = self._server, None
        if server is not None:
            _never_destroy(server)

    def forget_if_busy(self) -> None:
        """Do as `forget` where a call is in flight."""
        if self._calls:
            self.forget()

    def _stop_if_idle(self) -> None:
        if self._closed and self._calls == 0:
            if os.getpid() != _FIRST_PROCESS and self._server is not None:
                _never_destroy(self._server)  # llama.cpp keeps things from before the fork
            self._server = None


_running: Final[WeakSet[Engine]] = WeakSet()
_starting: Final = threading.RLock()
"""Held while a server starts. A fork waits for it: a child with half a server could not even end."""
_FIRST_PROCESS: Final = os.getpid()


def _never_destroy(server: object) -> None:
    """Keep a server to the end of the process, and have that end without llama.cpp's own farewell.

    It would wait for threads that are not there, or take away what those that are still use.
    """
    import ctypes  # takes long to import, and is needed once if ever

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc's; it is called with the exit code, before the destructors of C++
        libc.on_exit(libc._exit, None)


def _forget_all() -> None:
    """Forget the servers of the parent: their threads did not come along, and to stop them never ends."""
    for engine in tuple(_running):
        engine.forget()
    _running.clear()


@atexit.register
def _forget_busy() -> None:
    """Leave servers that are at work to the end of the process: they would wait for their clients."""
    for engine in tuple(_running):
        engine.forget_if_busy()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(
        before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release
    )
    os.register_at_fork(after_in_child=_forget_all)


def _server(settings: EngineSettings) -> "Server":
    from xllamacpp import Server

    try:
        return Server(_params(settings))
    except RuntimeError as error:
        hint = ", and its chat template Jinja" if settings.chat_template else ""
        raise PermanentError(
            f"llama.cpp cannot load {settings.model.name}; is it a complete GGUF file{hint}?"
        ) from error


def _params(settings: EngineSettings) -> "CommonParams":
    from xllamacpp import CommonParams

    params = CommonParams()
    params.model.path = str(settings.model)
    params.n_ctx = settings.context_size * settings.slots
    params.n_parallel = settings.slots
    params.n_threads_http = _HTTP_THREADS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.chat_template = settings.chat_template
    # What earlier calls left in the cache changes how sums are rounded, and with that the answer.
    params.cache_prompt = not settings.deterministic
    params.cache_ram_mib = 0
    params.fit_params = False  # would load the model twice
    params.verbosity = 0
    params.ui = False
    params.warmup = False
    return params


class _Capabilities(msgspec.Struct):
    supports_tools: bool = False


class _Properties(msgspec.Struct):
    chat_template_caps: _Capabilities = msgspec.field(default_factory=_Capabilities)


def _template_takes_tools(address: str) -> bool:
    properties = msgspec.json.decode(_get(address, "/props"), type=_Properties)
    return properties.chat_template_caps.supports_tools


def _wait_for_its_queue(address: str) -> None:
    """Wait until the thread that computes has begun: a server stopped before that would never end."""
    _get(address, "/slots")  # answered by that thread, where /props and /health are not


def _get(address: str, path: str) -> bytes:
    location = urlsplit(address)
    connection = HTTPConnection(location.hostname or "127.0.0.1", location.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read()
    finally:
        connection.close()
