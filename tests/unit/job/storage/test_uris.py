from __future__ import annotations

import pytest

from dreambooth_job.errors import InvalidSpec
from dreambooth_job.storage.uris import S3Uri, parse

GOOD = {
    "s3://photos/rex/": S3Uri("photos", "rex/"),
    "s3://photos/rex": S3Uri("photos", "rex"),
    "s3://photos": S3Uri("photos", ""),
    "s3://photos/": S3Uri("photos", ""),
    "s3://my.bucket-1/a b/ü%20?x#y.zip": S3Uri("my.bucket-1", "a b/ü%20?x#y.zip"),
}
BAD = {
    "": "not a storage URI",
    "photos/rex": "not a storage URI",
    "https://photos.example/rex": "not a storage URI",
    "S3://photos/rex": "not a storage URI",
    "s3:/photos/rex": "not a storage URI",
    "s3:///rex": "names the bucket ''",
    "s3://Photos/rex": "bucket",
    "s3://me:secret@photos/rex": "bucket",
    "s3://ab/rex": "bucket",
    "s3://a..b/rex": "bucket",
    "s3://photos/../other/": "segment",
    "s3://photos/a/./b": "segment",
    "s3://photos//rex": "segment",
    "s3://photos/rex\n": "control character",
    "s3://photos/" + "ä" * 513: "1024 bytes",
}


@pytest.mark.parametrize("text", GOOD)
def test_plain_uris_are_taken_as_the_store_knows_them(text: str) -> None:
    assert parse(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_odd_uris_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(InvalidSpec, match=BAD[text]):
        parse(text)


def test_a_prefix_is_a_folder() -> None:
    assert [parse(text).prefix for text in ("s3://photos/rex", "s3://photos/rex/", "s3://photos")] == ["rex/"] * 2 + [
        ""
    ]
