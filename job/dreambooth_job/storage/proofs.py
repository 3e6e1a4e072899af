"""What goes with an upload so that the store can tell a damaged byte: its own checksums, or Content-MD5 elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from awscrt import checksums

from dreambooth_job.storage.digests import BLOCK_BYTES, file_digest
from dreambooth_job.storage.slices import Slice


@dataclass(frozen=True)
class PartProof:
    """`sent` goes with the part, `listed` with its line in the commit."""

    sent: dict[str, str]
    listed: dict[str, str]
    size_bytes: int
    crc: int = 0


class Proof(Protocol):
    creation: dict[str, str]  # goes with CreateMultipartUpload

    def single(self, path: Path) -> dict[str, str]: ...
    def part(self, body: Slice) -> PartProof: ...
    def whole(self, parts: Sequence[PartProof]) -> dict[str, str]: ...


class Checksums:
    """SHA-256 of a single object, CRC64NVME of a multipart one: the store keeps them, so that readers can verify."""

    creation = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}

    def single(self, path: Path) -> dict[str, str]:
        return {"ChecksumSHA256": _base64(file_digest(path))}

    def part(self, body: Slice) -> PartProof:
        crc = 0
        while block := body.read(BLOCK_BYTES):
            crc = checksums.crc64nvme(block, crc)
        sent = {"ChecksumCRC64NVME": _crc_text(crc)}
        return PartProof(sent, sent, len(body), crc)

    def whole(self, parts: Sequence[PartProof]) -> dict[str, str]:
        crc = 0
        for part in parts:
            crc = checksums.combine_crc64nvme(crc, part.crc, part.size_bytes)
        return {"ChecksumCRC64NVME": _crc_text(crc), "ChecksumType": "FULL_OBJECT"}


class Md5s:
    """For stores that refuse S3's checksum headers; Content-MD5 is older than all of them."""

    creation: dict[str, str] = {}

    def single(self, path: Path) -> dict[str, str]:
        return {"ContentMD5": _base64(file_digest(path, lambda: hashlib.md5(usedforsecurity=False)))}

    def part(self, body: Slice) -> PartProof:
        digest = hashlib.md5(body.read(), usedforsecurity=False).digest()
        return PartProof({"ContentMD5": _base64(digest)}, {}, len(body))

    def whole(self, parts: Sequence[PartProof]) -> dict[str, str]:
        return {}


def _crc_text(crc: int) -> str:
    return _base64(crc.to_bytes(8, "big"))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
