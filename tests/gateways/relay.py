"""A relay before the embedded model that adds up what passes: what the server counted, whoever stands between.

    python tests/gateways/relay.py http://127.0.0.1:8080 9000

`GET /counted` tells the sums since the last `GET /reset`.
"""

import json
import sys
import threading
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

FIELDS = ("prompt_tokens", "completion_tokens")


class Relay(ThreadingHTTPServer):
    """Passes requests on to a server of llama.cpp's."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), Passing)
        self.model = urlsplit(address)
        self.counted = [0, 0, 0]
        self.lock = threading.Lock()

    def count(self, usage: dict[str, int]) -> None:
        with self.lock:
            for at, more in enumerate((1, *(usage[name] for name in FIELDS))):
                self.counted[at] += more


class Passing(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    @property
    def relay(self) -> Relay:
        return cast("Relay", self.server)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/reset":
            self.relay.counted = [0, 0, 0]
        if self.path in ("/reset", "/counted"):
            self._send(200, "application/json", json.dumps(self.relay.counted).encode())
        else:
            self._pass_on(b"")

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _pass_on(self, body: bytes) -> None:
        connection = HTTPConnection(self.relay.model.hostname or "", self.relay.model.port, timeout=120)
        try:
            connection.request(self.command, self.path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            kind = answer.headers.get("content-type") or ""
            if "event-stream" in kind:
                self._stream(answer)
                return
            whole = answer.read()
            if answer.status == 200 and self.command == "POST":
                self.relay.count(json.loads(whole)["usage"])
            self._send(answer.status, kind, whole)
        finally:
            connection.close()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: HTTPResponse) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for line in answer:
            chunk: dict[str, Any] = json.loads(line[6:]) if line.startswith(b"data: {") else {}
            if chunk.get("usage"):
                self.relay.count(chunk["usage"])
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


if __name__ == "__main__":
    Relay(sys.argv[1], int(sys.argv[2])).serve_forever()
