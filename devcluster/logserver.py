"""The part of a kubelet's HTTPS API that `kubectl logs` needs: /containerLogs/<namespace>/<pod>/<container>.

Only the API server may ask: a client certificate of the cluster's authority is demanded.
"""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from devcluster.environment import NODE_ADDRESS, Object
from devcluster.node import NodeSettings
from devcluster.pods import log_folder

FOLLOW_SECONDS = 0.2  # how often a followed file is looked at
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Log:
    path: Path
    growing: Callable[[], bool]


class LogServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, settings: NodeSettings, runs: Callable[[str, str, int], bool]) -> None:
        """`runs(pod UID, container, restarts)` tells whether that start of the container has not ended."""
        super().__init__((NODE_ADDRESS, 0), _Handler)
        self._settings, self._runs = settings, runs
        self._known: dict[tuple[str, str], Object] = {}  # by namespace and name, the newest
        self._lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.serving_certificate, settings.serving_key)
        context.load_verify_locations(settings.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        # The handshake is left to the connection's own thread: a silent client must not stop the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def port(self) -> int:
        return self.server_port

    def know(self, pod: Object) -> None:
        with self._lock:
            self._known[pod["metadata"]["namespace"], pod["metadata"]["name"]] = pod

    def forget(self, pod: Object) -> None:
        """Its logs stay on disk, but the API server has nobody left to ask for."""
        name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        with self._lock:
            if self._known.get(name, pod)["metadata"]["uid"] == pod["metadata"]["uid"]:
                self._known.pop(name, None)

    def find(self, namespace: str, name: str, container: str, *, previous: bool) -> Log | None:
        """The log of the container's newest start, or of the one before it."""
        with self._lock:
            pod = self._known.get((namespace, name))
        if pod is None:
            return None
        folder = log_folder(self._settings, pod) / container
        starts = sorted(int(path.stem) for path in folder.glob("*.log"))
        if len(starts) <= previous:
            return None
        start, uid = starts[-1 - previous], pod["metadata"]["uid"]
        return Log(folder / f"{start}.log", lambda: self._runs(uid, container, start))


class _Handler(BaseHTTPRequestHandler):
    server: LogServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        words = [unquote(word) for word in url.path.split("/")[1:]]
        if len(words) != 4 or words[0] != "containerLogs":
            return self._refuse(404, "the process node serves /containerLogs only")
        found = self.server.find(words[1], words[2], words[3], previous=query.get("previous") == "true")
        if found is None:
            return self._refuse(404, f"container {words[3]} of pod {words[1]}/{words[2]} has no such log")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in _chunks(found, query):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _refuse(self, code: int, text: str) -> None:
        body = text.encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line."""


def _chunks(log: Log, query: dict[str, str]) -> Iterator[bytes]:
    """`tailLines`, `limitBytes` and `follow`; what is left of a line that is still being written comes as it is."""
    left = int(query.get("limitBytes", sys.maxsize))
    with log.path.open("rb") as file:
        if "tailLines" in query:
            yield from _cut(b"".join(deque(file, maxlen=int(query["tailLines"]))), left)
        while True:
            growing = query.get("follow") == "true" and log.growing()  # asked first: what it wrote last is read below
            while chunk := file.read(CHUNK_BYTES):
                yield from _cut(chunk, left)
                left -= len(chunk)
            if not growing:
                return
            time.sleep(FOLLOW_SECONDS)


def _cut(chunk: bytes, limit: int) -> Iterator[bytes]:
    if kept := chunk[: max(0, limit)]:
        yield kept
