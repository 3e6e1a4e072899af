from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3

from devcluster.registry import REF_NAME, handler

LAYER, MANIFEST = b"layer", b'{"layers": []}'
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in (LAYER, MANIFEST):
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
    entry = {"digest": digest(MANIFEST), "mediaType": MEDIA_TYPE, "annotations": {REF_NAME: "job:dev"}}
    (tmp_path / "layout" / "index.json").write_text(json.dumps({"manifests": [entry]}))
    (tmp_path / "private").write_text("outside")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(tmp_path / "layout"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("reference", ["dev", digest(MANIFEST)])
def test_a_manifest_is_found_by_tag_and_by_digest(registry: str, reference: str) -> None:
    answer = urllib3.request("GET", f"{registry}/v2/job/manifests/{reference}")
    assert answer.data == MANIFEST
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert answer.headers["Docker-Content-Digest"] == digest(MANIFEST)


def test_head_says_the_size_and_sends_nothing(registry: str) -> None:
    answer = urllib3.request("HEAD", f"{registry}/v2/job/blobs/{digest(LAYER)}")
    assert (answer.status, answer.headers["Content-Length"], answer.data) == (200, str(len(LAYER)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "job/manifests/other", f"other/manifests/{'0' * 64}", f"job/blobs/sha256:{'0' * 64}",
        "job/blobs/../../../private", "job/blobs/%2e%2e%2f%2e%2e%2fprivate", "job/blobs/sha256:../../private",
    ],
)  # fmt: skip
def test_nothing_else_is_found(registry: str, path: str) -> None:
    with urllib3.PoolManager() as pool:
        assert pool.urlopen("GET", f"{registry}/v2/{path}").status == 404
