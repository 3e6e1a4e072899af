"""The operator's HTTP servers: one for health and metrics, one for progress. Routes are functions of a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dreambooth_api import names
from dreambooth_operator import metrics
from dreambooth_operator.settings import Address

REQUEST_SECONDS = 10.0  # a client that sends more slowly is cut off


@dataclass(frozen=True, slots=True)
class Request:
    headers: Message
    read: Callable[[int], bytes]  # at most so many bytes of the body


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    text: str = ""
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[tuple[str, str], Callable[[Request], Answer]]  # (method, path) ->


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    @property
    def port(self) -> int:
        return int(self.server_address[1])


def serve(address: Address, routes: Routes) -> Server:
    """Listens from now on, on threads of its own; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def _answer(self) -> None:
            route = routes.get((self.command, self.path.partition("?")[0]))
            answer = route(Request(self.headers, self.rfile.read)) if route else Answer(404, "no such page\n")
            body = answer.text.encode()
            self.send_response(answer.code)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Metrics count requests; a line for each would drown the log."""

    server = Server(address, Handler)
    threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True).start()
    return server


def body_length(request: Request, limit_bytes: int) -> int | Answer:
    """In bytes; a refusal, with nothing read, where it is not said or above the limit."""
    length = request.headers.get("Content-Length", "")
    if not length.isdigit():
        return Answer(411, "Content-Length is missing\n")
    if int(length) > limit_bytes:
        return Answer(413, f"the body is larger than {limit_bytes} bytes\n")
    return int(length)


def progress_routes(take: Callable[[Request], Answer]) -> Routes:
    return {("POST", names.PROGRESS_PATH): take}


def health_routes(healthy: Callable[[], bool], ready: Callable[[], bool]) -> Routes:
    def check(name: str, ask: Callable[[], bool]) -> Callable[[Request], Answer]:
        return lambda _: Answer(200, "ok\n") if ask() else Answer(503, f"not {name}\n")

    return {
        ("GET", "/healthz"): check("healthy: a watch has heard nothing for too long", healthy),
        ("GET", "/readyz"): check("ready: the first lists are still on their way", ready),
        ("GET", "/metrics"): lambda _: Answer(200, generate_latest(metrics.REGISTRY).decode(), CONTENT_TYPE_LATEST),
    }
