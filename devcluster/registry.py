"""A read-only image registry over one OCI image layout folder, for a real node: `python -m devcluster.registry`.

It knows GET and HEAD of a manifest, by tag or by digest, and of a blob; that is all that a pull needs (OCI distribution
specification 1.1, "pull" category). Pulling instead of importing an archive lets the node keep the layers that it has.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REF_NAME = "org.opencontainers.image.ref.name"
_PULL = re.compile(r"/v2/(?P<repository>[\w./-]+)/(?P<kind>manifests|blobs)/(?P<reference>[\w.:-]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def manifest_of(layout: Path, repository: str, reference: str) -> dict[str, Any] | None:
    """The descriptor of `repository:reference` in the layout's index; None when it is not there."""
    names = (reference, f"{repository}:{reference}")
    for one in json.loads((layout / "index.json").read_text())["manifests"]:
        if one["digest"] == reference or one.get("annotations", {}).get(REF_NAME) in names:
            return dict(one)
    return None


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


class _Pull(BaseHTTPRequestHandler):
    layout: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.path.rstrip("/") == "/v2":
            return self._headers(200, "application/json", 0)
        found = self._find()
        if found is None:
            return self._headers(404, "application/json", 0)
        digest, media_type = found
        path = blob(self.layout, digest)
        self._headers(200, media_type, path.stat().st_size, digest)
        if with_body:
            with path.open("rb") as source:
                shutil.copyfileobj(source, self.wfile, 1 << 20)
        return None

    def _find(self) -> tuple[str, str] | None:
        """Digest and media type of what the path names."""
        asked = _PULL.fullmatch(self.path.partition("?")[0])
        if asked is None:
            return None
        if asked["kind"] == "manifests":
            one = manifest_of(self.layout, asked["repository"], asked["reference"])
            return (one["digest"], one["mediaType"]) if one else None
        digest = asked["reference"]
        known = _DIGEST.fullmatch(digest) and blob(self.layout, digest).exists()
        return (digest, "application/octet-stream") if known else None

    def _headers(self, status: int, media_type: str, length: int, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(length))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)


def handler(layout: Path) -> type[BaseHTTPRequestHandler]:
    return type("Pull", (_Pull,), {"layout": layout})


def main(layout: str, address: str, port: str) -> None:
    ThreadingHTTPServer((address, int(port)), handler(Path(layout))).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
