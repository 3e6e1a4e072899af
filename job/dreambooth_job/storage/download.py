"""One object to one file: ranged reads pinned to an ETag, resumed where they broke, verified, then renamed.

The digest trails behind the parts in the main thread, reading back what was written: it costs no time of its own as
long as the network is slower than a core hashes (1.2 GB/s for SHA-256).
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_job.contracts import ObjectInfo, Verification
from dreambooth_job.errors import InputChanged, InputCorrupt, ScratchFull
from dreambooth_job.explain import no_room
from dreambooth_job.storage.client import Bucket
from dreambooth_job.storage.digests import BLOCK_BYTES, Digest, Expected, expected
from dreambooth_job.storage.failures import Action, ConditionLost, TransferFault
from dreambooth_job.storage.workers import Watchdog, in_order

_FETCHES = 3  # the first and two more after a mismatch


@dataclass(frozen=True)
class Download:
    bucket: Bucket
    info: ObjectInfo
    part_bytes: int
    width: int
    window_seconds: float

    def to(self, path: Path, sha256: str | None = None) -> Verification:
        """Raises InputChanged, InputCorrupt, ScratchFull and what `failures.py` translates."""
        with self._changes_named():
            known = expected(self._head(), sha256, self._first_part_bytes)
            found: set[bytes] = set()
            for attempt in range(1, _FETCHES + 1):
                with _temporary(path, self.info.size_bytes) as part_file:
                    digest = known.start() if known else None
                    self._fetch(part_file, digest)
                    found.add(digest.digest() if digest else b"")
                    if verification := _judge(known, found, last=attempt == _FETCHES):
                        os.replace(part_file, path)
                        return verification
        raise InputCorrupt(
            f"{self._action}: its bytes differ from its {known.verification if known else ''} checksum in {_FETCHES} "
            "downloads; upload it again"
        )

    @property
    def _action(self) -> Action:
        return Action("s3:GetObject", self.bucket.name, self.info.key)

    @contextmanager
    def _changes_named(self) -> Iterator[None]:
        try:
            yield
        except ConditionLost as error:
            raise self._changed() from error

    def _changed(self) -> InputChanged:
        return InputChanged(
            f"{self._action}: the object changed while it was being read; leave the inputs alone meanwhile"
        )

    def _pinned(self) -> dict[str, str]:
        return {"Bucket": self.bucket.name, "Key": self.info.key, "IfMatch": self.info.etag}

    def _head(self) -> dict[str, Any]:
        head = self.bucket.send(
            "read", self.info.key, lambda client: client.head_object(**self._pinned(), ChecksumMode="ENABLED")
        )
        if head["ContentLength"] != self.info.size_bytes or head["ETag"] != self.info.etag:
            raise self._changed()
        return head

    def _first_part_bytes(self) -> int:
        """Size of part 1; 0 where the store ignores the question and answers with the whole object."""
        head = self.bucket.send(
            "read", self.info.key, lambda client: client.head_object(**self._pinned(), PartNumber=1)
        )
        return head["ContentLength"] if head.get("PartsCount") else 0

    def _fetch(self, part_file: Path, digest: Digest | None) -> None:
        ranges = [
            (start, min(start + self.part_bytes, self.info.size_bytes))
            for start in range(0, self.info.size_bytes, self.part_bytes)
        ]
        tasks = [lambda cancelled, r=r: Part(self, part_file, *r, cancelled).fetch() for r in ranges]
        with part_file.open("rb") as written:
            for start, end in in_order(tasks, self.width, self.bucket.retrying.stop):
                for size in _blocks(end - start) if digest else ():
                    digest.update(written.read(size))


def _judge(known: Expected | None, found: set[bytes], *, last: bool) -> Verification | None:
    """What the downloads so far prove; None: fetch again."""
    if known is None:
        return Verification.UNVERIFIED
    if known.value in found:
        return known.verification
    # The same bytes each time and a checksum that assumes equal parts: the parts are unequal, nothing is damaged.
    return Verification.UNVERIFIED if last and not known.exact and len(found) == 1 else None


def _blocks(size_bytes: int) -> Iterator[int]:
    for offset in range(0, size_bytes, BLOCK_BYTES):
        yield min(BLOCK_BYTES, size_bytes - offset)


@contextmanager
def _temporary(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file of the full size beside `path`, gone at the end unless it was renamed."""
    part_file = path.with_name(f".{secrets.token_hex(8)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part_file.open("wb") as file:
            if size_bytes:
                os.posix_fallocate(file.fileno(), 0, size_bytes)
        yield part_file
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise ScratchFull(no_room(path.parent, size_bytes)) from error
    finally:
        part_file.unlink(missing_ok=True)


@dataclass
class Part:
    """Bytes [offset, end) of the object; `offset` moves on as they are written, so a repeat asks for the rest only."""

    download: Download
    part_file: Path
    offset: int
    end: int
    cancelled: threading.Event

    def fetch(self) -> tuple[int, int]:
        start, bucket = self.offset, self.download.bucket
        bucket.send_here("read", self.download.info.key, self._read_rest, progress=lambda: self.offset)
        return start, self.end

    def _read_rest(self, client: Any) -> None:
        wanted = f"bytes={self.offset}-{self.end - 1}"
        answer = client.get_object(**self.download._pinned(), Range=wanted)
        with answer["Body"] as body, self.part_file.open("r+b", buffering=0) as file:
            self._check(answer)
            file.seek(self.offset)
            watchdog = Watchdog(self.download.window_seconds)
            while self.offset < self.end and not self.cancelled.is_set():
                # read1: one read of the socket at a time, so that a drip is seen while it drips
                block = body.read1(min(BLOCK_BYTES, self.end - self.offset))
                if not block:
                    raise TransferFault(f"the body ended {self.end - self.offset} bytes early")
                file.write(block)
                self.offset += len(block)
                watchdog.count(len(block))

    def _check(self, answer: dict[str, Any]) -> None:
        if answer["ETag"] != self.download.info.etag:  # some stores ignore If-Match
            raise self.download._changed()
        wanted = f"bytes {self.offset}-{self.end - 1}/{self.download.info.size_bytes}"
        if answer.get("ContentRange") != wanted:
            raise TransferFault(f"Content-Range {answer.get('ContentRange')!r} instead of {wanted!r}")
