from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.errors import (
    ImagesMissing,
    JobError,
    OutputExists,
    StorageDenied,
    StorageMisconfigured,
    StorageNotFound,
    StorageUnavailable,
)
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.objects import write_bytes
from dreambooth_job.storage.preflight import Reading, preflight
from dreambooth_job.storage.publish import Output
from dreambooth_job.storage.uris import parse
from tests.unit.job.storage.outputs import REX, CarelessStore, manifest

IMAGES, BASE = parse("s3://photos/rex/"), parse("s3://models/base.safetensors")


class Store(FolderStore):
    """A folder that answers some questions with an error."""

    def fail(self, **errors: JobError) -> Store:
        object.__setattr__(self, "errors", errors)
        return self

    def _check(self, operation: str) -> None:
        if error := getattr(self, "errors", {}).get(operation):
            raise error

    def list(self, prefix: str):
        self._check("list")
        return super().list(prefix)

    def peek(self, info: ObjectInfo) -> None:
        self._check("read")
        super().peek(info)

    def put(self, source: Path, key: str, **condition) -> ObjectInfo:
        self._check("put")
        return super().put(source, key, **condition)

    def delete(self, key: str) -> None:
        self._check("delete")
        super().delete(key)

    def probe_upload(self, key: str) -> float:
        self._check("multipart")
        return getattr(self, "errors", {}).get("skew", 0.0)


@pytest.fixture
def photos(tmp_path: Path) -> Store:
    store = Store(tmp_path / "photos")
    write_bytes(store, b"x", "rex/1.webp")
    return store


@pytest.fixture
def models(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    write_bytes(store, b"x", "base.safetensors")
    return store


@pytest.fixture
def results(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def _run(photos: FolderStore, models: FolderStore, results: FolderStore, output: Output = REX):
    readings = [
        Reading("subjects[0].images.uri", photos, IMAGES, ImagesMissing),
        Reading("baseModel.uri", models, BASE),
    ]
    return preflight(readings, results, output)


def test_all_is_well_and_nothing_is_left_behind(photos: Store, models: Store, results: Store) -> None:
    findings = _run(photos, models, results)
    assert (findings.conditional, findings.published, findings.problems) == (True, None, [])
    assert list(results.list("")) == []


def test_a_store_that_ignores_conditions_is_found_out(photos: Store, models: Store, tmp_path: Path) -> None:
    assert not _run(photos, models, CarelessStore(tmp_path / "careless")).conditional


def test_a_result_of_this_job_is_found(photos: Store, models: Store, results: Store) -> None:
    write_bytes(results, manifest(REX).to_json(), "rex/manifest.json")
    assert _run(photos, models, results).published == manifest(REX)


SINGLE = {
    "no pictures": (
        lambda p, m, r: p.delete("rex/1.webp"),
        ImagesMissing,
        "subjects.0..images.uri: .*s3://photos/rex/",
    ),
    "no base": (lambda p, m, r: m.delete("base.safetensors"), StorageNotFound, "baseModel.uri: .*letter by letter"),
    "list": (lambda p, m, r: p.fail(list=StorageDenied("no s3:ListBucket")), StorageDenied, "no s3:ListBucket"),
    "read": (lambda p, m, r: p.fail(read=StorageDenied("no s3:GetObject")), StorageDenied, "no s3:GetObject"),
    "write": (lambda p, m, r: r.fail(put=StorageDenied("no s3:PutObject")), StorageDenied, "output.uri: no s3:Put"),
    "delete": (lambda p, m, r: r.fail(delete=StorageDenied("no s3:DeleteObject")), StorageDenied, "no s3:Delete"),
    "multipart": (lambda p, m, r: r.fail(multipart=StorageDenied("no abort")), StorageDenied, "no abort"),
    "clock": (lambda p, m, r: r.fail(skew=-400.0), StorageMisconfigured, "400 s behind"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_each_missing_access_is_named(photos: Store, models: Store, results: Store, name: str) -> None:
    spoil, error, words = SINGLE[name]
    spoil(photos, models, results)
    with pytest.raises(error, match=words):
        _run(photos, models, results)


def test_all_problems_are_named_at_once_under_the_worst(photos: Store, models: Store, results: Store) -> None:
    photos.delete("rex/1.webp")
    models.fail(read=StorageDenied("no s3:GetObject"))
    results.fail(delete=StorageDenied("no s3:DeleteObject"))
    write_bytes(results, manifest(replace(REX, job_uid="other")).to_json(), "rex/manifest.json")
    with pytest.raises(StorageDenied) as caught:
        _run(photos, models, results)
    text = str(caught.value)
    assert text.startswith("4 problems with the storage.")
    for words in ("images.uri: there is nothing", "no s3:GetObject", "no s3:DeleteObject", "already holds a result"):
        assert words in text


def test_an_existing_result_alone_is_the_reason(photos: Store, models: Store, results: Store) -> None:
    write_bytes(results, b"not json", "rex/manifest.json")
    with pytest.raises(OutputExists, match="unknown origin"):
        _run(photos, models, results)


def test_a_store_that_does_not_answer_is_asked_once(photos: Store, models: Store, results: Store) -> None:
    photos.fail(list=StorageUnavailable("silence"))
    results.fail(put=StorageUnavailable("silence, too"))
    with pytest.raises(StorageUnavailable) as caught:
        _run(photos, models, results)
    assert "silence, too" not in str(caught.value)
