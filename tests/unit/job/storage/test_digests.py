from __future__ import annotations

import base64
import hashlib

import pytest

from dreambooth_job.contracts import Verification
from dreambooth_job.storage.digests import START, Composite, expected

DATA = b"123456789"
# The check values of the CRC catalogue for "123456789"; S3 sends them big-endian in base64.
CHECK = {"ChecksumCRC64NVME": "ae8b14860a799888", "ChecksumCRC32C": "e3069283", "ChecksumCRC32": "cbf43926"}


def _digest(start, *blocks: bytes) -> bytes:
    digest = start()
    for block in blocks:
        digest.update(block)
    return digest.digest()


@pytest.mark.parametrize("name", CHECK)
def test_crcs_have_their_catalogued_values(name: str) -> None:
    assert _digest(START[name], DATA).hex() == CHECK[name]
    assert _digest(START[name], DATA[:4], DATA[4:]).hex() == CHECK[name]


@pytest.mark.parametrize("blocks", [[DATA], [DATA[:1], DATA[1:8], DATA[8:]]])
def test_a_composite_is_the_digest_of_the_parts_digests(blocks: list[bytes]) -> None:
    parts = b"".join(hashlib.sha256(part).digest() for part in (b"1234", b"5678", b"9"))
    assert _digest(lambda: Composite(hashlib.sha256, 4), *blocks) == hashlib.sha256(parts).digest()


def test_a_last_part_of_full_size_is_counted_once() -> None:
    parts = b"".join(hashlib.sha256(part).digest() for part in (b"123", b"456", b"789"))
    assert _digest(lambda: Composite(hashlib.sha256, 3), DATA) == hashlib.sha256(parts).digest()


MD5 = hashlib.md5(DATA).hexdigest()
SHA256 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
HEADS = {
    "given digest wins": ({"ChecksumSHA256": "AAAA", "ETag": f'"{MD5}"'}, hashlib.sha256(DATA).hexdigest(), "sha256"),
    "stored checksum": ({"ChecksumSHA256": SHA256, "ETag": '"x"'}, None, "checksum"),
    "plain md5": ({"ETag": f'"{MD5}"'}, None, "etag"),
    "md5 of one part": ({"ETag": f'"{hashlib.md5(hashlib.md5(DATA).digest()).hexdigest()}-1"'}, None, "etag"),
}
UNKNOWN = {
    "opaque etag": {"ETag": '"0x8DC"'},
    "encrypted by the store": {"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms"},
    "encrypted by the user": {"ETag": f'"{MD5}"', "SSECustomerAlgorithm": "AES256"},
    "no etag": {},
}


@pytest.mark.parametrize("name", HEADS)
def test_the_strongest_comparison_is_chosen(name: str) -> None:
    head, sha256, verification = HEADS[name]
    known = expected(head, sha256, lambda: 100)
    assert known.verification == Verification(verification)
    assert _digest(known.start, DATA) == known.value


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_etag_that_is_no_md5_proves_nothing(name: str) -> None:
    assert expected(UNKNOWN[name], None, lambda: 100) is None


def test_a_composite_without_a_known_part_size_proves_nothing() -> None:
    assert expected({"ChecksumCRC32": "AAAAAA==-3", "ETag": f'"{MD5}-3"'}, None, lambda: 0) is None
    assert expected({"ETag": f'"{MD5}-3"'}, None, lambda: 0) is None
