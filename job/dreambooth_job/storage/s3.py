"""S3 behind the job's store protocol: verified downloads, conditional uploads, deletes only below a given prefix."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreambooth_job.contracts import ObjectInfo, Verification
from dreambooth_job.errors import StorageNotFound
from dreambooth_job.storage.client import Bucket, Connection, StorageSettings
from dreambooth_job.storage.download import Download
from dreambooth_job.storage.failures import skew_seconds
from dreambooth_job.storage.retrying import Concurrency, Retrying
from dreambooth_job.storage.upload import MIB, Upload, part_bytes

_WIDTH = min(16, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class Tuning:
    """Sizes of a transfer; the defaults are those of docs/storage.md."""

    download_part_bytes: int = 32 * MIB
    upload_part_bytes: int = 16 * MIB
    download_width: int = _WIDTH
    upload_width: int = min(8, _WIDTH)
    window_seconds: float = 20.0  # of the throughput watchdog


@dataclass(frozen=True)
class S3Store:
    bucket: Bucket
    tuning: Tuning = Tuning()

    def within(self, budget_seconds: float, *, deaf: bool = False) -> S3Store:
        """The same bucket with another budget; `deaf` to the stop, for the last checkpoint, which comes after it."""
        stop = threading.Event() if deaf else self.bucket.retrying.stop
        return replace(self, bucket=self.bucket.within(budget_seconds, stop))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Page by page, in the store's order; keys that end with "/" are folder markers of some tools, not objects."""
        request: dict[str, Any] = {"Bucket": self.bucket.name, "Prefix": prefix}
        while True:
            page = self.bucket.send("list", prefix, lambda client: client.list_objects_v2(**request))
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield ObjectInfo(item["Key"], item["Size"], item["ETag"])
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def head(self, key: str) -> ObjectInfo | None:
        """None only when the store says that there is none; a refusal is an error, never an absence."""
        try:
            head = self.bucket.send("read", key, lambda client: client.head_object(Bucket=self.bucket.name, Key=key))
        except StorageNotFound:
            return None
        return ObjectInfo(key, head["ContentLength"], head["ETag"])

    def get(self, info: ObjectInfo, to: Path, sha256: str | None = None) -> Verification:
        """A whole verified file or none. Raises InputChanged when the object is no longer the listed one."""
        tuning = self.tuning
        download = Download(self.bucket, info, tuning.download_part_bytes, tuning.download_width, tuning.window_seconds)
        return download.to(to, sha256)

    def peek(self, info: ObjectInfo) -> None:
        """Reads one byte, which proves the right to read."""
        wanted = {"Range": "bytes=0-0"} if info.size_bytes else {}
        request = {"Bucket": self.bucket.name, "Key": info.key, "IfMatch": info.etag, **wanted}
        self.bucket.send("read", info.key, lambda client: client.get_object(**request)["Body"].close())

    def put(self, source: Path, key: str, *, if_none_match: bool = False, if_match: str | None = None) -> ObjectInfo:
        """Committed and compared with what the store then holds. Raises ConditionLost when another was first."""
        condition = {"IfNoneMatch": "*"} if if_none_match else {"IfMatch": if_match} if if_match else {}
        tuning = self.tuning
        size = part_bytes(source.stat().st_size, tuning.upload_part_bytes)
        return Upload(self.bucket, key, source, condition, size, tuning.upload_width, tuning.window_seconds).run()

    def probe_upload(self, key: str) -> float:
        """Creates and aborts a multipart upload; returns how many seconds this clock is ahead of the store's."""
        target = {"Bucket": self.bucket.name, "Key": key}
        created = self.bucket.send("write", key, lambda client: client.create_multipart_upload(**target))
        self._abort(key, created["UploadId"])
        return skew_seconds(created["ResponseMetadata"]["HTTPHeaders"].get("date", ""))

    def delete(self, key: str) -> None:
        """Nothing there is fine."""
        self.bucket.send("delete", key, lambda client: client.delete_object(Bucket=self.bucket.name, Key=key))

    def abort_uploads(self, prefix: str) -> int:
        """Aborts the multipart uploads whose key starts with a prefix of the job's own, and says how many.

        Some servers filter `Prefix` by the exact key alone, so all are listed and filtered here.
        """
        if not prefix.strip("/"):
            raise ValueError("an empty prefix would abort the uploads of others")
        uploads = [upload for upload in self._uploads() if upload["Key"].startswith(prefix)]
        for upload in uploads:
            self._abort(upload["Key"], upload["UploadId"])
        return len(uploads)

    def _abort(self, key: str, upload_id: str) -> None:
        target = {"Bucket": self.bucket.name, "Key": key, "UploadId": upload_id}
        self.bucket.send("abort", key, lambda client: client.abort_multipart_upload(**target))

    def _uploads(self) -> Iterator[dict[str, Any]]:
        markers: dict[str, str] = {}
        while True:
            page = self._page_of_uploads(markers)
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def _page_of_uploads(self, markers: dict[str, str]) -> dict[str, Any]:
        request = {"Bucket": self.bucket.name, **markers}
        return self.bucket.send("list-uploads", "", lambda client: client.list_multipart_uploads(**request))


def connect_bucket(
    name: str, settings: StorageSettings, stop: threading.Event | None = None, retrying: Retrying | None = None
) -> Bucket:
    """One connection and one concurrency limit for everything that goes through the returned bucket."""
    policy = retrying or Retrying(concurrency=Concurrency(_WIDTH))
    return Bucket(name, Connection(settings), replace(policy, stop=stop or policy.stop))


def open_store(name: str, settings: StorageSettings, stop: threading.Event | None = None) -> S3Store:
    """The bucket `name`. When `stop` is set, every transfer ends within a second with Interrupted."""
    return S3Store(connect_bucket(name, settings, stop))
