"""Each fault a store can show x download and upload ends as the table in `storage/failures.py` says."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_job.errors import (
    InputChanged,
    InputCorrupt,
    StorageDenied,
    StorageFull,
    StorageMisconfigured,
    StorageNotFound,
    StorageUnavailable,
)
from dreambooth_job.storage.s3 import MIB
from tests.faults.proxy import (
    Action,
    cut,
    cut_without_length,
    drip,
    flip,
    flip_request,
    hang_up,
    lose_reply,
    replace_header,
    stall,
    status,
    then,
)
from tests.faults.servers import Faulty

EVER = float("inf")
SIZE = 2 * MIB + 700_000  # three parts, and the last is long enough for every fault below
LARGE = 5 * MIB + 77  # two parts

# name: (action, how many requests meet it)
PASSING: dict[str, tuple[Action, float]] = {
    "a storm of 503": (status(503, "SlowDown"), 8),
    "429 with Retry-After": (status(429, "TooManyRequests", {"Retry-After": "1"}), 1),
    "500": (status(500, "InternalError"), 3),
    "502 without a body": (status(502, ""), 3),
    "504": (status(504, "GatewayTimeout"), 3),
    "connection reset": (hang_up, 4),
    "lost reply": (lose_reply, 2),
    "expired token": (status(400, "ExpiredToken"), 1),
    "reply stalls": (stall(0), 1),
}
ENDING: dict[str, tuple[Action, type[Exception], str]] = {
    "503 for ever": (status(503, "SlowDown"), StorageUnavailable, "fewer requests"),
    "500 for ever": (status(500, "InternalError"), StorageUnavailable, "HTTP 500"),
    "store gone": (hang_up, StorageUnavailable, "Check the store and the network"),
    "token stays expired": (status(400, "ExpiredToken"), StorageDenied, "renew the Secret"),
    "denied": (status(403, "AccessDenied"), StorageDenied, "Grant s3:"),
    "wrong secret": (status(403, "SignatureDoesNotMatch"), StorageDenied, "access key"),
    "unknown key id": (status(403, "InvalidAccessKeyId"), StorageDenied, "access key"),
    "no bucket": (status(404, "NoSuchBucket"), StorageNotFound, "create it"),
    "wrong region": (status(301, "PermanentRedirect"), StorageMisconfigured, "storage.region"),
    "clock is off": (
        status(403, "RequestTimeTooSkewed", {"Date": "Sat, 01 Jan 2000 00:00:00 GMT"}), StorageMisconfigured, "s ahead",
    ),
    "unknown request": (status(501, "NotImplemented"), StorageMisconfigured, "does not know this request"),
}  # fmt: skip
FULL: dict[str, tuple[Action, type[Exception], str]] = {
    "507": (status(507, "XMinioStorageFull"), StorageFull, "Free space"),
    "quota of MinIO": (status(400, "XMinioAdminBucketQuotaExceeded"), StorageFull, "quota"),
    "quota of Ceph": (status(403, "QuotaExceeded"), StorageFull, "quota"),
    "object too large": (status(400, "EntityTooLarge"), StorageFull, "size"),
}
BODIES: dict[str, tuple[Action, float]] = {
    **{f"reset at byte {at}": (cut(at, reset=True), 3) for at in (0, 1, MIB // 2, -1)},
    **{f"closed at byte {at}": (cut(at, reset=False), 3) for at in (0, 1, MIB // 2, -1)},
    "truncated without a length": (cut_without_length(1000), 2),
    "stall in the body": (stall(300_000), 1),
    "drip": (drip(10_000), 1),
    "wrong Content-Range": (replace_header("Content-Range", "bytes 0-9/10"), 2),
    **{f"flipped byte {at}": (flip(at), 1) for at in (0, 12345, -1)},
}
BODIES_ENDING: dict[str, tuple[Action, type[Exception], str]] = {
    "flipped for ever": (flip(5), InputCorrupt, "upload it again"),
    "dripping for ever": (drip(10_000), StorageUnavailable, "TransferFault"),
    "stalling for ever": (stall(0), StorageUnavailable, "ReadTimeout"),
    "wrong Content-Range for ever": (
        replace_header("Content-Range", "bytes 0-9/10"), StorageUnavailable, "TransferFault",
    ),
    "another ETag": (replace_header("ETag", '"abc"'), InputChanged, "leave the inputs alone"),
}  # fmt: skip


def _given(faulty: Faulty) -> bytes:
    data = os.urandom(SIZE)
    faulty.bucket.client.put_object(Bucket=faulty.bucket.name, Key="in/photo.webp", Body=data)
    return data


@pytest.mark.parametrize("name", [*PASSING, *BODIES])
def test_a_download_outlives_what_passes(faulty: Faulty, tmp_path: Path, name: str) -> None:
    action, count = (PASSING | BODIES)[name]
    data, store = _given(faulty), faulty.store()
    info = store.head("in/photo.webp")
    rule = faulty.proxy.add(action, method="GET", key="in/*", count=count)
    store.get(info, tmp_path / "out" / "back")
    assert (tmp_path / "out" / "back").read_bytes() == data
    assert rule.hits == count
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("name", [*ENDING, *BODIES_ENDING])
def test_a_download_ends_with_the_right_reason_and_no_file(faulty: Faulty, tmp_path: Path, name: str) -> None:
    action, error, words = (ENDING | BODIES_ENDING)[name]
    _given(faulty)
    info = faulty.store().head("in/photo.webp")
    faulty.proxy.add(action, method="GET", key="in/*", count=EVER)
    with pytest.raises(error, match=words) as caught:
        faulty.store(budget_seconds=1.0).get(info, tmp_path / "out" / "back")
    assert faulty.bucket.name in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    _keeps_secrets(faulty, str(caught.value))


def test_a_part_resumes_at_its_offset(faulty: Faulty, tmp_path: Path) -> None:
    data, store = _given(faulty), faulty.store()
    ranges: list[str] = []
    pins: set[str] = set()

    def note(request, **_) -> None:
        ranges.append(request.headers["Range"].decode())
        pins.add(request.headers["If-Match"].decode())

    store.bucket.connection.client.meta.events.register("before-send.s3.GetObject", note)
    info = store.head("in/photo.webp")
    faulty.proxy.add(cut(50, reset=False), method="GET", key="in/*")  # every part is longer
    store.get(info, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    starts = [int(wanted.removeprefix("bytes=").partition("-")[0]) % MIB for wanted in ranges]
    assert [start for start in starts if start] == [50]
    assert pins == {info.etag}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda client, target: client.put_object(**target, Body=b"x" * SIZE), InputChanged),
        (lambda client, target: client.delete_object(**target), StorageNotFound),
    ],
    ids=["overwritten", "deleted"],
)
def test_an_input_that_changes_between_two_parts_is_never_mixed(
    faulty: Faulty, tmp_path: Path, change: Callable[..., object], error: type[Exception]
) -> None:
    _given(faulty)
    store = faulty.store()
    target = {"Bucket": faulty.bucket.name, "Key": "in/photo.webp"}
    faulty.proxy.add(then(lambda: change(faulty.bucket.client, target)), method="GET", key="in/*", first=2)
    with pytest.raises(error, match=r"photo\.webp"):
        store.get(store.head("in/photo.webp"), tmp_path / "out" / "back")
    assert list((tmp_path / "out").iterdir()) == []


UPLOADS = {"small": (1000, {"key": "out/*"}), "large": (LARGE, {"key": "out/*", "query": "partNumber"})}


@pytest.mark.parametrize("size", UPLOADS)
@pytest.mark.parametrize("name", PASSING)
def test_an_upload_outlives_what_passes(faulty: Faulty, tmp_path: Path, name: str, size: str) -> None:
    action, count = PASSING[name]
    _upload_through(faulty, tmp_path, size, action, count)


@pytest.mark.parametrize("size", UPLOADS)
@pytest.mark.parametrize("at", [0, 500, -1])
def test_a_byte_flipped_on_the_way_to_the_store_is_noticed_and_sent_again(
    faulty: Faulty, tmp_path: Path, at: int, size: str
) -> None:
    _upload_through(faulty, tmp_path, size, flip_request(at), 1)


def _upload_through(faulty: Faulty, folder: Path, size: str, action: Action, count: float) -> None:
    size_bytes, where = UPLOADS[size]
    data = os.urandom(size_bytes)
    (folder / "source").write_bytes(data)
    rule = faulty.proxy.add(action, method="PUT", count=count, **where)
    info = faulty.store().put(folder / "source", "out/model", if_none_match=True)
    assert rule.hits == count
    stored = faulty.bucket.client.get_object(Bucket=faulty.bucket.name, Key="out/model")
    assert (stored["Body"].read(), stored["ETag"]) == (data, info.etag)
    assert faulty.unfinished_uploads() == []


@pytest.mark.parametrize("size", UPLOADS)
@pytest.mark.parametrize("name", [*ENDING, *FULL])
def test_an_upload_ends_with_the_right_reason_and_no_object(
    faulty: Faulty, tmp_path: Path, name: str, size: str
) -> None:
    action, error, words = (ENDING | FULL)[name]
    size_bytes, where = UPLOADS[size]
    (tmp_path / "source").write_bytes(bytes(size_bytes))
    faulty.proxy.add(action, method="PUT", count=EVER, **where)
    with pytest.raises(error, match=words) as caught:
        faulty.store(budget_seconds=0.5).put(tmp_path / "source", "out/model")
    assert faulty.unfinished_uploads() == []
    assert "Contents" not in faulty.bucket.client.list_objects_v2(Bucket=faulty.bucket.name)
    _keeps_secrets(faulty, str(caught.value))


@pytest.mark.parametrize("size", UPLOADS)
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged on the way"])
def test_a_store_that_refuses_checksum_headers_gets_md5s(
    faulty: Faulty, tmp_path: Path, size: str, damaged: bool
) -> None:
    """As several S3-compatible services do."""
    size_bytes, where = UPLOADS[size]
    (tmp_path / "source").write_bytes(os.urandom(size_bytes))
    refusal = faulty.proxy.add(status(501, "NotImplemented"), header="x-amz-checksum-", method="P*", count=EVER)
    flips = faulty.proxy.add(flip_request(-1), method="PUT", count=int(damaged), header="content-md5", **where)
    faulty.store().put(tmp_path / "source", "out/model")
    assert refusal.hits == 1
    assert flips.hits == int(damaged)
    stored = faulty.bucket.client.get_object(Bucket=faulty.bucket.name, Key="out/model")
    assert stored["Body"].read() == (tmp_path / "source").read_bytes()


COMMITS = {
    "an error inside a success": (status(200, "InternalError"), 2),
    "lost reply": (lose_reply, 1),
    "500 after the commit": (None, 1),
    "conflict of conditions": (status(409, "ConditionalRequestConflict"), 1),
    "upload vanished": (status(404, "NoSuchUpload"), 1),
}


@pytest.mark.parametrize("name", COMMITS)
def test_a_multipart_commit_happens_exactly_once(faulty: Faulty, tmp_path: Path, name: str) -> None:
    action, count = COMMITS[name]
    data = os.urandom(LARGE)
    (tmp_path / "source").write_bytes(data)

    def commit_then_500(exchange) -> None:
        exchange.forward()
        status(500, "InternalError")(exchange)

    faulty.proxy.add(action or commit_then_500, method="POST", query="uploadId=", count=count)
    faulty.store().put(tmp_path / "source", "out/model", if_none_match=True)
    stored = faulty.bucket.client.get_object(Bucket=faulty.bucket.name, Key="out/model")
    assert stored["Body"].read() == data
    assert faulty.unfinished_uploads() == []


def test_the_store_may_be_away_for_a_while(faulty: Faulty, tmp_path: Path) -> None:
    """The real server is killed in the middle of a transfer and comes back on its port."""
    data, store = _given(faulty), faulty.store(budget_seconds=60)
    info = store.head("in/photo.webp")

    def be_away() -> None:
        with faulty.bucket.server.away():
            time.sleep(1)

    away = threading.Thread(target=be_away)
    faulty.proxy.add(then(away.start), method="GET", key="in/*", first=2)
    store.get(info, tmp_path / "back")
    away.join()
    assert (tmp_path / "back").read_bytes() == data


def _keeps_secrets(faulty: Faulty, text: str) -> None:
    access = faulty.bucket.server.access
    assert access.secret_key not in text
    assert "X-Amz-Signature" not in text
    assert "in/photo" not in text.replace(".../photo", "")
