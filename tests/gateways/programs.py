"""Programs that people put before a model: nginx, HAProxy, Squid and LiteLLM, each set up in a folder of its own."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["free_port", "haproxy", "litellm", "nginx", "squid", "stalling"]

_TLS = Path(__file__).parent.parent / "faults" / "tls"
_PATIENCE = 90.0

_NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 120s;
  server {{
    listen 127.0.0.1:{buffering}; client_max_body_size 64k;
    location / {{ proxy_pass http://127.0.0.1:{relay}; }}
    location /dead/ {{ proxy_pass http://127.0.0.1:1/; }}
    location /slow/ {{ proxy_pass http://127.0.0.1:{stall}/; proxy_read_timeout 1s; }}
  }}
  server {{
    listen 127.0.0.1:{passing}; proxy_buffering off; keepalive_timeout 1s;
    location / {{ proxy_pass http://127.0.0.1:{relay}; }}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{ proxy_pass http://127.0.0.1:{relay}; }}
  }}
}}
"""
_HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 120s
  timeout server 120s
frontend front
  bind 127.0.0.1:{port}
  use_backend dead if {{ path_beg /dead }}
  use_backend slow if {{ path_beg /slow }}
  default_backend model
backend model
  server a 127.0.0.1:{relay}
backend dead
  server d 127.0.0.1:1
backend slow
  timeout server 1s
  server s 127.0.0.1:{stall}
"""
_SQUID = """
http_port 127.0.0.1:{port}
acl forbidden port 9
http_access deny forbidden
http_access allow all
cache deny all
pid_filename {folder}/pid
access_log none
cache_log {folder}/cache.log
coredump_dir {folder}
shutdown_lifetime 0 seconds
pinger_enable off
"""
_LITELLM = """
model_list:
  - model_name: smol
    litellm_params:
      model: openai/smol
      api_base: http://127.0.0.1:{relay}/v1
      api_key: none
litellm_settings:
  num_retries: 0
  telemetry: false
general_settings:
  master_key: {key}
"""

LITELLM_KEY = f"sk-{secrets.token_hex(32)}"
"""Without a strong key its proxy does not start."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def stalling() -> Generator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(128)
        port: int = server.getsockname()[1]
        yield port


@contextmanager
def nginx(folder: Path, relay: int, stall: int) -> Generator[dict[str, int]]:
    """The ports of its servers: one that buffers, one that passes on at once, one with TLS."""
    ports = {"buffering": free_port(), "passing": free_port(), "tls": free_port()}
    certificate, key = _TLS / "cert.pem", _TLS / "key.pem"
    text = _NGINX.format(folder=folder, relay=relay, stall=stall, certificate=certificate, key=key, **ports)
    (folder / "conf").write_text(text)
    with _running(["nginx", "-p", folder, "-c", folder / "conf"], ports["buffering"]):
        yield ports


@contextmanager
def haproxy(folder: Path, relay: int, stall: int) -> Generator[int]:
    """Its port."""
    port = free_port()
    (folder / "conf").write_text(_HAPROXY.format(port=port, relay=relay, stall=stall))
    with _running(["haproxy", "-db", "-f", folder / "conf"], port):
        yield port


@contextmanager
def squid(folder: Path) -> Generator[int]:
    """Its port."""
    port = free_port()
    (folder / "conf").write_text(_SQUID.format(port=port, folder=folder))
    folder.chmod(0o777)
    with _running(["squid", "-N", "-f", folder / "conf"], port):
        yield port


@contextmanager
def litellm(folder: Path, relay: int) -> Generator[int]:
    """The port of LiteLLM's proxy; `LITELLM` names its command where it is not on the path."""
    port = free_port()
    (folder / "conf.yaml").write_text(_LITELLM.format(relay=relay, key=LITELLM_KEY))
    command = os.environ.get("LITELLM", "litellm")
    with _running(
        [command, "--config", folder / "conf.yaml", "--host", "127.0.0.1", "--port", str(port)], port
    ):
        yield port


def is_installed(program: str) -> bool:
    """Tell whether a program is there."""
    return shutil.which(os.environ.get(program.upper(), program)) is not None


@contextmanager
def _running(command: list[str | Path], port: int) -> Generator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < give_up, f"{command[0]} does not serve"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)
