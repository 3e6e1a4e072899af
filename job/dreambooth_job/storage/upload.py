"""One file or a few bytes to one object: checked by the store, committed once, and aborted on every failing path.

boto3's `upload_file` knows no conditional writes, so the multipart driver is ours. Each upload carries a random token
as metadata: when the reply to the commit is lost, a HEAD that shows our token and size proves that it succeeded.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.errors import StorageNotFound, StorageUnavailable
from dreambooth_job.storage.client import Bucket
from dreambooth_job.storage.digests import expected, file_digest
from dreambooth_job.storage.failures import Action, ConditionLost, RequestUnknown, UploadLost
from dreambooth_job.storage.proofs import Checksums, Md5s, PartProof, Proof
from dreambooth_job.storage.slices import Slice
from dreambooth_job.storage.workers import in_order

MIB = 1024 * 1024
TOKEN = "dreambooth-upload"
_MAX_PARTS = 9000  # S3 takes 10,000
_UPLOADS = 3
_ABORT_SECONDS, _STOPPED_ABORT_SECONDS = 10.0, 0.7


def part_bytes(size_bytes: int, smallest: int = 16 * MIB) -> int:
    """At least `smallest`, whole MiB, and never more than 9,000 parts."""
    return max(smallest, -(-size_bytes // (_MAX_PARTS * MIB)) * MIB)


@dataclass(frozen=True)
class Sent:
    proof: Mapping[str, str]  # by their names in a HEAD answer
    etag: str | None  # None when the reply was lost, or is not to be trusted: some stores rename a multipart object's


@dataclass(frozen=True)
class Upload:
    bucket: Bucket
    key: str
    path: Path
    condition: Mapping[str, str]  # {}, {"IfNoneMatch": "*"} or {"IfMatch": etag}
    part_bytes: int
    width: int
    window_seconds: float
    proof: Proof = field(default_factory=Checksums)
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @cached_property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def run(self) -> ObjectInfo:
        """Raises ConditionLost when another writer was first."""
        try:
            return self._insist()
        except RequestUnknown:  # not every store takes S3's checksum headers
            return replace(self, proof=Md5s())._insist()

    def _insist(self) -> ObjectInfo:
        for _ in range(_UPLOADS):
            with suppress(UploadLost):
                if self.size_bytes <= self.part_bytes:
                    sent = self._put()
                else:
                    sent = Multipart(self).run()
                return self._confirm(sent)
        where = Action("s3:PutObject", self.bucket.name, self.key)
        raise StorageUnavailable(f"{where}: the store lost or damaged the object {_UPLOADS} times; check the store")

    @property
    def target(self) -> dict[str, str]:
        return {"Bucket": self.bucket.name, "Key": self.key}

    def _put(self) -> Sent:
        proof = self.proof.single(self.path)

        def put(cancelled: threading.Event) -> str:
            return self.bucket.send_here("write", self.key, lambda client: self._put_once(client, proof, cancelled))

        return self.settled(proof, lambda: next(in_order([put], 1, self.bucket.retrying.stop)))

    def _put_once(self, client: Any, proof: Mapping[str, str], cancelled: threading.Event) -> str:
        request = {**self.target, "Metadata": {TOKEN: self.token}, **proof, **self.condition}
        with Slice(self.path, 0, self.size_bytes, self.window_seconds, cancelled) as body:
            return client.put_object(**request, Body=body)["ETag"]

    def settled(self, proof: Mapping[str, str], commit: Callable[[], str | None]) -> Sent:
        """What `commit` has written; a refusal may mean that an earlier try succeeded and its reply was lost."""
        try:
            return Sent(proof, commit())
        except (UploadLost, ConditionLost):
            if not self._stands():
                raise
            return Sent(proof, None)

    def _stands(self) -> bool:
        """Whether the object under our key is the one this upload wrote: its commit succeeded, the reply was lost."""
        try:
            return self._is_ours(self._head())
        except StorageNotFound:
            return False

    def _head(self) -> dict[str, Any]:
        return self.bucket.send(
            "read", self.key, lambda client: client.head_object(**self.target, ChecksumMode="ENABLED")
        )

    def _is_ours(self, head: Mapping[str, Any]) -> bool:
        return head["Metadata"].get(TOKEN) == self.token and head["ContentLength"] == self.size_bytes

    def _confirm(self, sent: Sent) -> ObjectInfo:
        """What the store now holds is what was sent, as far as the store can tell; some keep no metadata."""
        head = self._head()
        if head["Metadata"].get(TOKEN, self.token) != self.token or head["ETag"] != (sent.etag or head["ETag"]):
            raise ConditionLost(f"{self.key.rpartition('/')[2]} was overwritten by another writer")
        if head["ContentLength"] != self.size_bytes or not self._same_bytes(head, sent.proof):
            raise UploadLost
        return ObjectInfo(self.key, self.size_bytes, head["ETag"])

    def _same_bytes(self, head: Mapping[str, Any], proof: Mapping[str, str]) -> bool:
        """Where the store keeps no checksum its ETag may still be an MD5."""
        if kept := proof.keys() & head.keys():
            return all(head[name] == proof[name] for name in kept)
        known = expected(head, None, lambda: self.part_bytes)
        return known is None or not known.exact or file_digest(self.path, known.start) == known.value


_UploadedPart = tuple[dict[str, Any], PartProof]  # its line in the commit, and what proves it


@dataclass(frozen=True)
class Multipart:
    upload: Upload

    def run(self) -> Sent:
        upload_id = self._create()
        try:
            parts = list(in_order(self._tasks(upload_id), self.upload.width, self.upload.bucket.retrying.stop))
            whole = self.upload.proof.whole([proof for _, proof in parts])
            lines = [listed | proof.listed for listed, proof in parts]
            return self.upload.settled(whole, lambda: self._complete(upload_id, lines, whole))
        except BaseException:
            self._abort(upload_id)
            raise

    def _create(self) -> str:
        request = {**self.upload.target, "Metadata": {TOKEN: self.upload.token}, **self.upload.proof.creation}
        created = self.upload.bucket.send(
            "write", self.upload.key, lambda client: client.create_multipart_upload(**request)
        )
        return created["UploadId"]

    def _tasks(self, upload_id: str) -> list[Callable[[threading.Event], _UploadedPart]]:
        size, step = self.upload.size_bytes, self.upload.part_bytes
        return [
            lambda cancelled, number=number, start=start: self._upload_part(upload_id, number, start, cancelled)
            for number, start in enumerate(range(0, size, step), 1)
        ]

    def _upload_part(self, upload_id: str, number: int, start: int, cancelled: threading.Event) -> _UploadedPart:
        size = min(self.upload.part_bytes, self.upload.size_bytes - start)
        with Slice(self.upload.path, start, size, self.upload.window_seconds, cancelled) as body:
            proof = self.upload.proof.part(body)
            request = {**self.upload.target, "UploadId": upload_id, "PartNumber": number, "Body": body, **proof.sent}

            def send(client: Any) -> dict[str, Any]:
                body.seek(0)
                with _lost_uploads_named(client):
                    return client.upload_part(**request)

            answer = self.upload.bucket.send_here("write", self.upload.key, send)
        return {"PartNumber": number, "ETag": answer["ETag"]}, proof

    def _complete(self, upload_id: str, lines: list[dict[str, Any]], whole: Mapping[str, str]) -> None:
        request = {**self.upload.target, "UploadId": upload_id, "MultipartUpload": {"Parts": lines}}

        def send(client: Any) -> None:
            with _lost_uploads_named(client):
                client.complete_multipart_upload(**request, **whole, **self.upload.condition)

        self.upload.bucket.send("write", self.upload.key, send)

    def _abort(self, upload_id: str) -> None:
        """Best effort, and less than a second when told to stop; `abort_uploads` finds what is left."""
        retrying = self.upload.bucket.retrying
        stopped = retrying.stop.is_set()
        budget_seconds = 0.0 if stopped else min(_ABORT_SECONDS, retrying.budget_seconds)
        bucket = self.upload.bucket.within(budget_seconds, threading.Event())

        def abort() -> None:
            with suppress(Exception):
                bucket.send_here(
                    "abort",
                    self.upload.key,
                    lambda client: client.abort_multipart_upload(**self.upload.target, UploadId=upload_id),
                )

        thread = threading.Thread(target=abort, name="abort", daemon=True)
        thread.start()
        thread.join(_STOPPED_ABORT_SECONDS if stopped else None)


@contextmanager
def _lost_uploads_named(client: Any) -> Iterator[None]:
    try:
        yield
    except client.exceptions.NoSuchUpload as error:
        raise UploadLost from error
