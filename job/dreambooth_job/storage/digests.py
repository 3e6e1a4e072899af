"""What a fetched object can be checked against, and the arithmetic for it.

Stores keep CRC64NVME, CRC32C, CRC32, SHA-256 or SHA-1, either of the whole object or composite: the checksum of the
parts' checksums, written `<value>-<parts>`. An ETag is the MD5 of the object, or of the parts' MD5s, unless the store
encrypts with its own keys. Source: Amazon S3 User Guide, "Checking object integrity".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from awscrt import checksums

from dreambooth_job.contracts import Verification

BLOCK_BYTES = 1024 * 1024


class Digest(Protocol):
    def update(self, data: bytes) -> None: ...
    def digest(self) -> bytes: ...


class Crc:
    def __init__(self, compute: Callable[[bytes, int], int], width_bytes: int) -> None:
        self._compute, self._width_bytes, self._value = compute, width_bytes, 0

    def update(self, data: bytes) -> None:
        self._value = self._compute(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width_bytes, "big")


class Composite:
    """The digest of the digests of equal parts."""

    def __init__(self, start: Callable[[], Digest], part_bytes: int) -> None:
        self._start, self._part_bytes = start, part_bytes
        self._whole, self._part, self._room = start(), start(), part_bytes

    def update(self, data: bytes) -> None:
        while data:
            head, data = data[: self._room], data[self._room :]
            self._part.update(head)
            self._room -= len(head)
            if not self._room:
                self._close_part()

    def _close_part(self) -> None:
        self._whole.update(self._part.digest())
        self._part, self._room = self._start(), self._part_bytes

    def digest(self) -> bytes:
        if self._room < self._part_bytes:
            self._close_part()
        return self._whole.digest()


def _md5() -> Digest:
    return hashlib.md5(usedforsecurity=False)


def _sha1() -> Digest:
    return hashlib.sha1(usedforsecurity=False)


# In the order of preference; the names are those of a HEAD answer.
START: dict[str, Callable[[], Digest]] = {
    "ChecksumCRC64NVME": lambda: Crc(checksums.crc64nvme, 8),
    "ChecksumSHA256": hashlib.sha256,
    "ChecksumCRC32C": lambda: Crc(checksums.crc32c, 4),
    "ChecksumCRC32": lambda: Crc(checksums.crc32, 4),
    "ChecksumSHA1": _sha1,
}


@dataclass(frozen=True)
class Expected:
    """`exact` is False where a difference may have another cause than damage: parts of unequal size."""

    verification: Verification
    value: bytes
    start: Callable[[], Digest]
    exact: bool = True


def expected(head: Mapping[str, Any], sha256: str | None, first_part_bytes: Callable[[], int]) -> Expected | None:
    """The strongest comparison that a HEAD answer (with ChecksumMode) allows; None when there is none.

    `first_part_bytes` asks the store for the size of part 1; it is called for composite values alone.
    """
    if sha256 is not None:
        return Expected(Verification.SHA256, bytes.fromhex(sha256), hashlib.sha256)
    for name, start in START.items():
        if name in head:
            return _stored(head[name], start, first_part_bytes)
    if head.get("SSECustomerAlgorithm") or "kms" in head.get("ServerSideEncryption", ""):
        return None  # the ETag is no MD5 then
    return _etag(head.get("ETag", "").strip('"'), first_part_bytes)


def _stored(text: str, start: Callable[[], Digest], first_part_bytes: Callable[[], int]) -> Expected | None:
    value, dash, _ = text.partition("-")
    if not dash:
        return Expected(Verification.CHECKSUM, base64.b64decode(value), start)
    return _composite(Verification.CHECKSUM, base64.b64decode(value), start, first_part_bytes())


def _etag(etag: str, first_part_bytes: Callable[[], int]) -> Expected | None:
    if re.fullmatch(r"[0-9a-f]{32}", etag):
        return Expected(Verification.ETAG, bytes.fromhex(etag), _md5)
    if re.fullmatch(r"[0-9a-f]{32}-[0-9]+", etag):
        return _composite(Verification.ETAG, bytes.fromhex(etag[:32]), _md5, first_part_bytes())
    return None


def _composite(kind: Verification, value: bytes, start: Callable[[], Digest], part_bytes: int) -> Expected | None:
    """None where the store does not tell the size of a part."""
    return Expected(kind, value, lambda: Composite(start, part_bytes), exact=False) if part_bytes else None


def file_digest(path: Path, start: Callable[[], Digest] = hashlib.sha256) -> bytes:
    digest = start()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()


def sha256_of(path: Path) -> str:
    return file_digest(path).hex()
