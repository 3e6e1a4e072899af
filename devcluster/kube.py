"""A Kubernetes client in a page: plain dicts over HTTPS. The node, the demo and the tests use it.

The official client parses every object into generated classes and takes a second to import; neither helps here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server refused; `code` is HTTP's, `reason` Kubernetes' own word for it, such as AlreadyExists."""

    def __init__(self, method: str, path: str, code: int, body: bytes) -> None:
        try:
            status = json.loads(body)
        except ValueError:
            status = {}
        self.code, self.reason = code, status.get("reason", "")
        super().__init__(f"{method} {path}: {code} {status.get('message') or body[:300].decode(errors='replace')}")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and who we are to it."""

    server: str  # https://host:port
    authority: Path
    certificate: Path
    key: Path

    def write_kubeconfig(self, path: Path) -> None:
        """JSON is YAML too, and needs no quoting rules for odd paths. Certificates are inlined, so it can be moved."""
        cluster = {"server": self.server, "certificate-authority-data": _base64(self.authority)}
        user = {"client-certificate-data": _base64(self.certificate), "client-key-data": _base64(self.key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "devcluster", "cluster": cluster}],
            "users": [{"name": "devcluster", "user": user}],
            "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "devcluster"}}],
            "current-context": "devcluster",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


class Kube:
    """Requests to one API server; safe to use from several threads."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._pool = urllib3.PoolManager(
            maxsize=20,
            ca_certs=str(access.authority),
            cert_file=str(access.certificate),
            key_file=str(access.key),
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=30),
        )

    def request(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json", **query: Any
    ) -> Object:
        """The answer's object. Raises ApiError when refused, urllib3's HTTPError when nobody answers."""
        response = self._pool.request(method, self._url(path, query), headers=_headers(content_type), body=_json(body))
        if response.status >= 400:
            raise ApiError(method, path, response.status, response.data)
        return _parse(response.data)

    def get(self, path: str, **query: Any) -> Object:
        return self.request("GET", path, **query)

    def find(self, path: str, **query: Any) -> Object | None:
        """`get`, but None when there is no such object."""
        try:
            return self.get(path, **query)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def create(self, path: str, body: Object, **query: Any) -> Object:
        return self.request("POST", path, body, **query)

    def patch(self, path: str, body: Object, content_type: str = MERGE, **query: Any) -> Object:
        return self.request("PATCH", path, body, content_type, **query)

    def delete(self, path: str, body: Object | None = None, **query: Any) -> None:
        """Deletes; harmless when the object is gone already."""
        try:
            self.request("DELETE", path, body, **query)
        except ApiError as error:
            if error.code != 404:
                raise

    def watch(self, path: str, timeout_seconds: int = 300, **query: Any) -> Iterator[Object]:
        """Watch events until the server ends the stream. Raises ApiError, with code 410 when the version is too old."""
        query |= {"watch": True, "allowWatchBookmarks": True, "timeoutSeconds": timeout_seconds}
        timeout = urllib3.Timeout(connect=5, read=timeout_seconds + 10)
        response = self._pool.request(
            "GET", self._url(path, query), headers=_headers(None), preload_content=False, timeout=timeout
        )
        try:
            if response.status >= 400:
                raise ApiError("WATCH", path, response.status, response.read())
            yield from _events(response, path)
        finally:
            response.close()

    def _url(self, path: str, query: dict[str, Any]) -> str:
        values = {key: _json_word(value) for key, value in query.items() if value is not None}
        return f"{self.access.server}{path}" + (f"?{urlencode(values)}" if values else "")


def _events(response: urllib3.BaseHTTPResponse, path: str) -> Iterator[Object]:
    rest = b""
    for chunk in response.stream(amt=None):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ApiError("WATCH", path, event["object"].get("code", 500), json.dumps(event["object"]).encode())
            yield event


def _headers(content_type: str | None) -> dict[str, str]:
    return {"Accept": "application/json"} | ({"Content-Type": content_type} if content_type else {})


def _json(body: Object | None) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def _json_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(data: bytes) -> Object:
    try:
        return json.loads(data)  # type: ignore[no-any-return]
    except ValueError:
        return {"text": data.decode(errors="replace")}  # /readyz and /version answer in plain text
