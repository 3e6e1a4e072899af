"""An HTTP proxy in front of a real S3 server that misbehaves on command.

A rule says which requests (method, key pattern, query, from the n-th match on, how many) meet which action. The Host
header is kept, so signatures stay valid. One thread a connection; bodies are held in memory, so tests keep them small.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_OWN_HEADERS = {"connection", "expect", "transfer-encoding", "keep-alive"}


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def with_header(self, name: str, value: str) -> Reply:
        kept = [(known, old) for known, old in self.headers if known.lower() != name.lower()]
        return Reply(self.status, [*kept, (name, value)], self.body)


@dataclass
class Exchange:
    """One request on its way; an action forwards it or not, and answers or not."""

    handler: Handler
    body: bytes

    def forward(self) -> Reply:
        return self.handler.forward(self.body)

    def answer(self, reply: Reply) -> None:
        self.begin(reply)
        self.handler.wfile.write(reply.body)

    def begin(self, reply: Reply) -> None:
        """Status and headers; the body is the action's business."""
        self.handler.send_response_only(reply.status)
        for name, value in reply.headers:
            self.handler.send_header(name, value)
        self.handler.end_headers()

    def hang_up(self, *, reset: bool) -> None:
        """Ends the connection: at once and rudely (RST), or as if all had been said (FIN)."""
        connection = self.handler.connection
        self.handler.wfile.flush()
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        self.handler.close_connection = True


Action = Callable[[Exchange], None]


@dataclass
class Rule:
    action: Action
    method: str = "*"
    key: str = "*"  # a pattern for the path below the bucket
    query: str = ""  # must be part of the query: "uploadId=", "partNumber=2"
    header: str = ""  # must be part of a header's name: "x-amz-checksum"
    first: int = 1
    count: float = 1  # float("inf"): for ever
    seen: int = 0
    hits: int = 0

    def matches(self, method: str, key: str, query: str, headers: str) -> bool:
        named = fnmatchcase(method, self.method) and fnmatchcase(key, self.key)
        if not (named and self.query in query and self.header in headers):
            return False
        self.seen += 1
        hit = self.first <= self.seen < self.first + self.count
        self.hits += hit
        return hit


# Actions.


def status(code: int, error: str, headers: Mapping[str, str] | None = None, message: str = "injected") -> Action:
    """An S3 error without asking the server. `code` 200 is the error that a commit hides in a success."""

    def act(exchange: Exchange) -> None:
        xml = f"<?xml version='1.0'?><Error><Code>{error}</Code><Message>{message}</Message></Error>".encode()
        body = b"" if exchange.handler.command == "HEAD" else xml
        sent = {"Content-Type": "application/xml", "Content-Length": str(len(body)), **(headers or {})}
        exchange.answer(Reply(code, list(sent.items()), body))

    return act


def hang_up(exchange: Exchange) -> None:
    """The server is not there."""
    exchange.hang_up(reset=True)


def say_nothing(exchange: Exchange) -> None:
    """The connection stands, and no answer comes."""
    exchange.handler.server.closing.wait(30)
    exchange.hang_up(reset=True)


def lose_reply(exchange: Exchange) -> None:
    """The server has done it, and nobody hears of it."""
    exchange.forward()
    exchange.hang_up(reset=True)


def cut(at: int, *, reset: bool) -> Action:
    """The body breaks off after `at` bytes, by RST or by FIN; negative counts from the end."""

    def act(exchange: Exchange) -> None:
        reply = exchange.forward()
        exchange.begin(reply)
        exchange.handler.wfile.write(reply.body[:at])
        exchange.hang_up(reset=reset)

    return act


def cut_without_length(at: int) -> Action:
    """The body ends early and no Content-Length says so."""

    def act(exchange: Exchange) -> None:
        reply = exchange.forward()
        headers = [pair for pair in reply.headers if pair[0].lower() != "content-length"]
        exchange.begin(Reply(reply.status, [*headers, ("Connection", "close")], b""))
        exchange.handler.wfile.write(reply.body[:at])
        exchange.hang_up(reset=False)

    return act


def stall(at: int, seconds: float = 30.0) -> Action:
    """After `at` bytes of the body nothing comes any more, and the connection stays open."""

    def act(exchange: Exchange) -> None:
        reply = exchange.forward()
        exchange.begin(reply)
        exchange.handler.wfile.write(reply.body[:at])
        exchange.handler.server.closing.wait(seconds)
        exchange.hang_up(reset=True)

    return act


def drip(bytes_per_second: int) -> Action:
    """Every read timeout is wound up again, and the transfer never ends."""

    def act(exchange: Exchange) -> None:
        reply = exchange.forward()
        exchange.begin(reply)
        step = max(1, bytes_per_second // 20)
        for start in range(0, len(reply.body), step):
            exchange.handler.wfile.write(reply.body[start : start + step])
            if exchange.handler.server.closing.wait(1 / 20):
                break

    return act


def flip(at: int) -> Action:
    """One wrong bit in the reply's body, the length unchanged."""

    def act(exchange: Exchange) -> None:
        reply = exchange.forward()
        exchange.answer(Reply(reply.status, reply.headers, _flipped(reply.body, at)))

    return act


def flip_request(at: int) -> Action:
    """One wrong bit in the request's body."""

    def act(exchange: Exchange) -> None:
        exchange.answer(exchange.handler.forward(_flipped(exchange.body, at)))

    return act


def replace_header(name: str, value: str) -> Action:
    def act(exchange: Exchange) -> None:
        exchange.answer(exchange.forward().with_header(name, value))

    return act


def then(before: Callable[[], Any]) -> Action:
    """Does something at that moment, then forwards as if nothing had happened."""

    def act(exchange: Exchange) -> None:
        before()
        exchange.answer(exchange.forward())

    return act


def _flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1
    return bytes(changed)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    server: Server

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(*self.server.upstream, timeout=30)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ValueError):  # the client left, or an action closed the connection
            self.close_connection = True

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        exchange = Exchange(self, body)
        action = self.server.choose(self.command, self.path, " ".join(self.headers.keys()).lower())
        if action:
            action(exchange)
        else:
            exchange.answer(exchange.forward())

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

    def forward(self, body: bytes) -> Reply:
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in _kept(self.headers):
            self.upstream.putheader(name, value)
        self.upstream.endheaders(body or None)
        answer = self.upstream.getresponse()
        read = answer.read()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN_HEADERS]
        reply = Reply(answer.status, headers, read)
        if self.command != "HEAD" and answer.status not in {204, 304}:
            reply = reply.with_header("Content-Length", str(len(read)))
        return reply

    def log_message(self, *_: object) -> None: ...


def _kept(headers: Message) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in _OWN_HEADERS]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.closing = upstream, threading.Event()
        self.rules: list[Rule] = []
        self.requests: list[str] = []  # "PUT key?query", in order of arrival
        self._lock = threading.Lock()

    def choose(self, method: str, path: str, headers: str) -> Action | None:
        parts = urlsplit(path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        with self._lock:
            self.requests.append(f"{method} {key}?{parts.query}")
            hits = [rule for rule in self.rules if rule.matches(method, key, parts.query, headers)]
        return hits[0].action if hits else None

    def handle_error(self, *_: object) -> None: ...


@dataclass
class Proxy:
    """Handed to tests: add rules, read what was asked."""

    server: Server
    rules: list[Rule] = field(init=False)

    def __post_init__(self) -> None:
        self.rules = self.server.rules

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def requests(self) -> list[str]:
        return self.server.requests

    def add(self, action: Action, **where: Any) -> Rule:
        self.rules.append(Rule(action, **where))
        return self.rules[-1]

    def away_for(self, seconds: float) -> None:
        """From now on nobody answers, until the time is over."""
        rule = self.add(hang_up, count=float("inf"))
        threading.Timer(seconds, lambda: self.rules.remove(rule)).start()

    def calm(self) -> None:
        self.rules.clear()


@contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    parts = urlsplit(endpoint)
    server = Server((parts.hostname or "", parts.port or 80))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Proxy(server)
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
