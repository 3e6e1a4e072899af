"""The real transport against a small HTTP server: paging, watches, time limits, and the tree of errors."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from kubernetes import client

from devcluster.pki import Authority
from dreambooth_operator import cluster as cluster_module
from dreambooth_operator.cluster import (
    JOBS,
    PODS,
    TRAINING_JOBS,
    AlreadyExists,
    ClusterError,
    Conflict,
    Gone,
    KubeCluster,
    NotFound,
    Rejected,
    Unavailable,
)

Asked = tuple[str, str, dict[str, str], Any]  # method, path, query, body
Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@contextmanager
def server(answer: Callable[[Asked], Answer], calls: list[tuple[str, str, str]] | None = None) -> Iterator[KubeCluster]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            code, result, *more = answer((self.command, parts.path, query, body))
            text = result if isinstance(result, bytes) else json.dumps(result).encode()
            self.send_response(code)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = do_PATCH = _answer

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{http.server_address[1]}"
    configuration.retries = False
    api = client.ApiClient(configuration)
    try:
        yield KubeCluster(api, (lambda *call: calls.append(call)) if calls is not None else (lambda *_: None))
    finally:
        api.rest_client.pool_manager.clear()
        http.shutdown()
        http.server_close()


def test_r1_a_list_is_read_page_by_page() -> None:
    def answer(asked: Asked) -> Answer:
        _, path, query, _ = asked
        assert path == "/apis/dreambooth.dev/v1alpha1/namespaces/team/trainingjobs"
        assert query["limit"] == "500"
        page = int(query.get("continue", "0"))
        metadata = {"resourceVersion": "7"} | ({"continue": str(page + 1)} if page < 2 else {})
        return 200, {"metadata": metadata, "items": [{"page": page}]}

    with server(answer) as cluster:
        listing = cluster.list(TRAINING_JOBS, "team", "")
    assert [item["page"] for item in listing.items] == [0, 1, 2]
    assert listing.version == "7"


def test_r2_a_watch_asks_for_bookmarks_and_gives_whole_events_of_split_lines() -> None:
    events = [{"type": "ADDED", "object": {"metadata": {"resourceVersion": str(n)}, "x": "y" * 5000}} for n in range(9)]

    def answer(asked: Asked) -> Answer:
        assert asked[2]["allowWatchBookmarks"] == "true"
        assert asked[2]["resourceVersion"] == "5"
        assert asked[2]["labelSelector"] == "a/b"
        return 200, b"\n".join(json.dumps(e).encode() for e in events) + b"\n"

    with server(answer) as cluster:
        assert list(cluster.watch(JOBS, None, "a/b", "5", 300)) == events


@pytest.mark.parametrize("as_event", [False, True])
def test_r3_gone_is_told_by_status_and_by_error_event(as_event: bool) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}

    def answer(_: Asked) -> Answer:
        return (200, {"type": "ERROR", "object": status}) if as_event else (410, status)

    def body(asked: Asked) -> Answer:
        code, result = answer(asked)[:2]
        return code, json.dumps(result).encode() + b"\n"

    with server(body) as cluster, pytest.raises(Gone):
        list(cluster.watch(JOBS, None, "", "5", 300))


def test_r4_a_silent_watch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "SILENCE_SECONDS", 0.2)
    release = threading.Event()

    def answer(_: Asked) -> Answer:
        release.wait(5)
        return 200, b""

    with server(answer) as cluster:
        with pytest.raises(Unavailable, match="watch jobs"):
            list(cluster.watch(JOBS, None, "", "5", 300))
        release.set()


@pytest.mark.parametrize(
    ("code", "reason", "leaf"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (403, "Forbidden", Rejected),
        (422, "Invalid", Rejected),
        (400, "BadRequest", Rejected),
        (401, "Unauthorized", Rejected),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "", Unavailable),
    ],
)
def test_every_answer_has_its_leaf_and_says_what_was_called(code: int, reason: str, leaf: type[ClusterError]) -> None:
    with server(lambda _: (code, {"reason": reason, "message": "because"}, {"Retry-After": "7"})) as cluster:
        with pytest.raises(ClusterError, match=f"create jobs: {code}.*because") as raised:
            cluster.create(JOBS, "team", {"metadata": {"name": "x"}})
        assert type(raised.value) is leaf
        assert raised.value.retry_after_seconds == 7


def test_an_unreachable_server_is_unavailable_and_counted() -> None:
    calls: list[tuple[str, str, str]] = []
    with server(lambda _: (200, {}), calls) as cluster:
        cluster.get(PODS, "team", "a")
        cluster._api.configuration.host = "http://127.0.0.1:1"
        with pytest.raises(Unavailable, match="get pods"):
            cluster.get(PODS, "team", "a")
    assert calls == [("get", "pods", "200"), ("get", "pods", "network")]


def test_r14_a_deletion_names_the_object_by_uid_and_version() -> None:
    asked: list[Asked] = []
    with server(lambda a: (asked.append(a), (200, {}))[1]) as cluster:
        cluster.delete(JOBS, "team", "rex-r0", uid="u", version="9", propagation="Foreground")
    method, path, _, body = asked[0]
    assert (method, path) == ("DELETE", "/apis/batch/v1/namespaces/team/jobs/rex-r0")
    assert body["preconditions"] == {"uid": "u", "resourceVersion": "9"}
    assert body["propagationPolicy"] == "Foreground"


def test_r15_a_status_write_carries_the_version_that_was_read() -> None:
    asked: list[Asked] = []
    with server(lambda a: (asked.append(a), (200, {}))[1]) as cluster:
        cluster.patch_status(TRAINING_JOBS, "team", "rex", "9", {"state": "Training"})
    method, path, _, body = asked[0]
    assert (method, path) == ("PATCH", "/apis/dreambooth.dev/v1alpha1/namespaces/team/trainingjobs/rex/status")
    assert body == {"metadata": {"resourceVersion": "9"}, "status": {"state": "Training"}}


def kubeconfig(path: Path, url: str, authority: Path | None = None) -> Path:
    server = {"server": url} | ({"certificate-authority": str(authority)} if authority else {})
    context = {"name": "c", "context": {"cluster": "c", "user": ""}}
    path.write_text(
        json.dumps({"clusters": [{"name": "c", "cluster": server}], "contexts": [context], "current-context": "c"})
    )
    return path


def test_every_connection_has_a_tls_context_of_its_own_that_older_authorities_pass(tmp_path: Path) -> None:
    """A shared one crashes the process: each connection loads its files into it while others shake hands."""
    url = "https://127.0.0.1:1"
    cluster = cluster_module.connect(1, kubeconfig=str(kubeconfig(tmp_path / "config", url)))
    pool = cluster._api.rest_client.pool_manager.connection_from_url(url)
    connections = [pool._new_conn() for _ in range(2)]
    for connection in connections:
        with suppress(urllib3.exceptions.HTTPError):
            connection.connect()  # nobody listens there
    one, two = (connection.ssl_context for connection in connections)
    assert one is not two
    assert not (one.verify_flags | two.verify_flags) & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize(
    ("authority", "host", "refusal"),
    [
        ("ours", "127.0.0.1", ""),
        ("another", "127.0.0.1", "CERTIFICATE_VERIFY_FAILED"),
        ("ours", "another.example", "doesn't match|IP address mismatch"),
    ],
)
def test_an_api_server_is_trusted_by_its_authority_and_name_alone(
    tmp_path: Path, authority: str, host: str, refusal: str
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None: ...

    authorities = {name: Authority(tmp_path / name) for name in ("ours", "another")}
    pair = authorities["ours"].issue("server", hosts=(host,))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.handle_error = lambda *_: None  # type: ignore[method-assign]
    served.socket = context.wrap_socket(served.socket, server_side=True)
    threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
    url = f"https://127.0.0.1:{served.server_address[1]}"
    config = kubeconfig(tmp_path / "config", url, authorities[authority].certificate)
    try:
        cluster = cluster_module.connect(1, kubeconfig=str(config))
        if refusal:
            with pytest.raises(Unavailable, match=refusal):
                cluster.get(JOBS, "team", "rex")
        else:
            assert cluster.get(JOBS, "team", "rex") == {}
    finally:
        served.shutdown()
        served.server_close()
