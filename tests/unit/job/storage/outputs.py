"""Three publishers of one prefix and their manifests, for the tests of publishing and of the preflight."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dreambooth_job.contracts import ObjectInfo, Verification
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.manifest import File, Input, Manifest
from dreambooth_job.storage.publish import Output

REX = Output("rex/", "11111111-aaaa", "my-rex-11111111-r0-aaaaaaaa")
AGAIN = replace(REX, attempt="my-rex-11111111-r1-bbbbbbbb")
OTHER = Output("rex/", "22222222-bbbb", "max-22222222-r0-cccccccc")


class CarelessStore(FolderStore):
    """Takes conditions and ignores them, as `rclone serve s3` does."""

    def put(self, source: Path, key: str, **condition) -> ObjectInfo:
        return super().put(source, key)


def manifest(output: Output, files: tuple[File, ...] = ()) -> Manifest:
    return Manifest(
        job_uid=output.job_uid, name="rex", attempt=output.attempt, files=files, base_model_digest="0" * 64,
        inputs={"subjects[0].images": (Input(index=0, size_bytes=9, etag='"e"', verification=Verification.ETAG),)},
        config={"steps": {"value": 600, "reason": "100 per picture"}}, spec_digest="0" * 64, metrics={"loss": 0.1},
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )  # fmt: skip
