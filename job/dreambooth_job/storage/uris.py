"""`s3://bucket/key` URIs, parsed once and strictly: what is odd is refused with the reason, never repaired."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dreambooth_job.errors import InvalidSpec

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1024  # S3's limit


@dataclass(frozen=True)
class S3Uri:
    bucket: str
    key: str  # an object's key or a prefix; empty means the whole bucket

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def prefix(self) -> str:
        """The key as a folder: `photos/rex` does not match `photos/rexford/`."""
        return self.key if not self.key or self.key.endswith("/") else self.key + "/"


def parse(text: str) -> S3Uri:
    """Raises InvalidSpec when `text` is not a plain `s3://bucket/key`."""
    scheme, separator, rest = text.partition("://")
    if scheme != "s3" or not separator:
        raise InvalidSpec(f"{text!r} is not a storage URI; write s3://bucket/prefix/")
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidSpec(
            f"{text!r} names the bucket {bucket!r}; a bucket has 3 to 63 characters of a-z, 0-9, dot and dash"
        )
    _check_key(text, key)
    return S3Uri(bucket, key)


def _check_key(text: str, key: str) -> None:
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise InvalidSpec(f"the key in a URI of bucket {text[5:68]!r}... is longer than {_MAX_KEY_BYTES} bytes")
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise InvalidSpec(f"{text!r} holds a control character; remove it")
    if any(segment in {".", ".."} for segment in key.split("/")) or "//" in "/" + key:
        raise InvalidSpec(f"{text!r} holds an empty, '.' or '..' segment; write the key as the store lists it")
