"""A reader that never trusts the publisher: it polls the manifest, and whenever it sees one checks every file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.faults.servers import FreshBucket


@dataclass
class Reader:
    bucket: FreshBucket
    prefix: str
    polls: int = 0
    complete: int = 0  # how often a manifest with all its files was seen
    violations: list[str] = field(default_factory=list)

    def poll(self) -> None:
        self.polls += 1
        if (seen := self._manifest()) is None:
            return
        manifest, etag = seen
        broken = [file["path"] for file in manifest["files"] if not self._holds(file)]
        if broken and (self._manifest() or ({}, ""))[1] == etag:  # replaced meanwhile: the reader begins anew
            self.violations += broken
        self.complete += not broken

    def _manifest(self) -> tuple[dict[str, Any], str] | None:
        found = self._read(self.prefix + "manifest.json")
        return found and (json.loads(found[0]), found[1])

    def _holds(self, file: dict[str, Any]) -> bool:
        found = self._read(self.prefix + file["path"])
        return found is not None and hashlib.sha256(found[0]).hexdigest() == file["sha256"]

    def _read(self, key: str) -> tuple[bytes, str] | None:
        try:
            answer = self.bucket.client.get_object(Bucket=self.bucket.name, Key=key)
        except self.bucket.client.exceptions.NoSuchKey:
            return None
        return answer["Body"].read(), answer["ETag"]


@contextmanager
def reading(bucket: FreshBucket, prefix: str) -> Iterator[Reader]:
    """Polls all through the block and once after it; fails the test when a manifest was ever seen without its files."""
    reader, done = Reader(bucket, prefix), threading.Event()

    def poll_on() -> None:
        while not done.wait(0.03):
            reader.poll()

    thread = threading.Thread(target=poll_on, daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        done.set()
        thread.join()
    reader.poll()
    assert reader.violations == []
