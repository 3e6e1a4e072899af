"""Where a pod reports its progress to, in tests of the job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class ProgressEndpoint:
    """Takes everything: its address, and what it was told."""

    url: str = ""
    authorizations: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)


@pytest.fixture
def progress_endpoint() -> Iterator[ProgressEndpoint]:
    told = ProgressEndpoint()

    class Operator(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.authorizations.append(self.headers["Authorization"])
            told.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Operator)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/v1/progress"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()
