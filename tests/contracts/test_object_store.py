"""One suite over every ObjectStore: a real S3 server and a local folder."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from dreambooth_job.contracts import ObjectInfo, ObjectStore, Verification
from dreambooth_job.errors import InputChanged, InputCorrupt, StorageNotFound
from dreambooth_job.storage.client import StorageSettings
from dreambooth_job.storage.failures import ConditionLost
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.objects import delete_below, read_bytes, write_bytes
from dreambooth_job.storage.s3 import MIB, S3Store, connect_bucket
from tests.faults.servers import SMALL, FreshBucket

SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5, 5 * MIB, 5 * MIB + 1, 11 * MIB]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return FolderStore(tmp_path / "store")
    bucket: FreshBucket = request.getfixturevalue("fresh_bucket")
    return S3Store(connect_bucket(bucket.name, bucket.settings), SMALL)


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_comes_back_whole(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    info = store.put(_file(tmp_path, data), "a/b.bin")
    assert (info.key, info.size_bytes) == ("a/b.bin", size)
    assert store.head("a/b.bin") == info
    assert store.get(info, tmp_path / "back", hashlib.sha256(data).hexdigest()) is Verification.SHA256
    assert (tmp_path / "back").read_bytes() == data


def test_a_listing_gives_the_keys_below_a_prefix_alone(store: ObjectStore) -> None:
    for key in ("photos/rex/1.webp", "photos/rex/2.webp", "photos/rexford/1.webp", "other"):
        write_bytes(store, b"x", key)
    assert [info.key for info in store.list("photos/rex/")] == ["photos/rex/1.webp", "photos/rex/2.webp"]
    assert len(list(store.list(""))) == 4


def test_listed_objects_can_be_read(store: ObjectStore, tmp_path: Path) -> None:
    write_bytes(store, b"words", "a/words")
    (info,) = store.list("a/")
    store.peek(info)
    store.get(info, tmp_path / "deep" / "er" / "back")
    assert (tmp_path / "deep" / "er" / "back").read_bytes() == b"words"


def test_a_missing_object_is_none_or_an_error_that_says_so(store: ObjectStore, tmp_path: Path) -> None:
    assert store.head("no/such") is None
    assert read_bytes(store, "no/such") is None
    with pytest.raises(StorageNotFound, match="such"):
        store.get(ObjectInfo("no/such", 3, '"0"'), tmp_path / "back")
    assert list(tmp_path.glob("**/*back*")) == []


def test_wrong_bytes_leave_no_file(store: ObjectStore, tmp_path: Path) -> None:
    info = write_bytes(store, b"right", "key")
    with pytest.raises(InputCorrupt, match="key"):
        store.get(info, tmp_path / "out" / "back", "0" * 64)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_object_that_changed_since_it_was_listed_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    info = write_bytes(store, b"first", "key")
    write_bytes(store, b"other", "key")
    with pytest.raises(InputChanged, match="key"):
        store.get(info, tmp_path / "out" / "back")
    assert list((tmp_path / "out").glob("*")) == []


def test_a_write_for_the_first_time_only_is_refused_the_second_time(store: ObjectStore, tmp_path: Path) -> None:
    write_bytes(store, b"winner", "key", if_none_match=True)
    with pytest.raises(ConditionLost):
        write_bytes(store, b"loser", "key", if_none_match=True)
    with pytest.raises(ConditionLost):
        store.put(_file(tmp_path, os.urandom(6 * MIB)), "key", if_none_match=True)
    assert read_bytes(store, "key")[0] == b"winner"


def test_a_replacement_needs_the_current_etag(store: ObjectStore) -> None:
    first = write_bytes(store, b"1", "key")
    write_bytes(store, b"2", "key", if_match=first.etag)
    with pytest.raises(ConditionLost):
        write_bytes(store, b"3", "key", if_match=first.etag)
    assert read_bytes(store, "key")[0] == b"2"


@pytest.mark.parametrize("size", [100, 6 * MIB])
def test_of_many_racing_writers_exactly_one_wins(store: ObjectStore, tmp_path: Path, size: int) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        source = tmp_path / str(number)
        source.write_bytes(bytes([number]) * size)
        try:
            store.put(source, "key", if_none_match=True)
            won.append(number)
        except ConditionLost:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_bytes(store, "key")[0] == bytes(won) * size


def test_deleting_twice_is_harmless(store: ObjectStore) -> None:
    write_bytes(store, b"x", "a/b/c")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert list(store.list("")) == []


@pytest.mark.parametrize("prefix", ["", "/", "a", "a/b"])
def test_a_folder_is_deleted_but_never_what_is_no_folder(store: ObjectStore, prefix: str) -> None:
    write_bytes(store, b"x", "a/b/c")
    with pytest.raises(ValueError, match="is not a folder"):
        delete_below(store, prefix)
    assert delete_below(store, "a/b/") == 1
    assert list(store.list("")) == []


def test_a_probe_leaves_nothing(store: ObjectStore) -> None:
    assert abs(store.probe_upload("a/.probe")) < 5
    assert store.abort_uploads("a/") == 0
    assert list(store.list("")) == []


def test_uploads_of_others_are_not_aborted(fresh_bucket: FreshBucket) -> None:
    store = S3Store(connect_bucket(fresh_bucket.name, fresh_bucket.settings))
    for key in ("rex-1-r0-aa/model", "rex-1-r1-bb/model", "max-2-r0-cc/model"):
        fresh_bucket.client.create_multipart_upload(Bucket=fresh_bucket.name, Key=key)
    assert store.abort_uploads("rex-1-r") == 2
    left = fresh_bucket.client.list_multipart_uploads(Bucket=fresh_bucket.name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["max-2-r0-cc/model"]
    with pytest.raises(ValueError, match="empty"):
        store.abort_uploads("")


def test_a_listing_goes_on_over_many_pages(fresh_bucket: FreshBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(connect_bucket(fresh_bucket.name, fresh_bucket.settings))
    for number in range(7):
        fresh_bucket.client.put_object(Bucket=fresh_bucket.name, Key=f"k{number}", Body=b"x")
    client = store.bucket.connection.client
    whole = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **request: whole(**request, MaxKeys=3))
    assert [info.key for info in store.list("k")] == [f"k{number}" for number in range(7)]


@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
@pytest.mark.parametrize("size", [MIB, 17 * MIB])
def test_objects_of_other_uploaders_are_verified(
    fresh_bucket: FreshBucket,
    tmp_path: Path,
    calculation: str,
    size: int,
) -> None:
    """boto3 leaves a composite CRC32 or, told to be quiet, what the server computes by itself."""
    source = _file(tmp_path, os.urandom(size))
    client = fresh_bucket.server.access.client(request_checksum_calculation=calculation)
    client.upload_file(str(source), fresh_bucket.name, "model")
    store = S3Store(connect_bucket(fresh_bucket.name, fresh_bucket.settings), SMALL)
    assert store.get(store.head("model"), tmp_path / "back") is Verification.CHECKSUM
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_requests_go_to_the_endpoint_whatever_is_installed(fresh_bucket: FreshBucket, tmp_path: Path) -> None:
    """boto3's CRT mode, on by itself on some machines, ignores the endpoint; this store has no way into it."""
    import awscrt  # noqa: F401

    store = S3Store(connect_bucket(fresh_bucket.name, fresh_bucket.settings), SMALL)
    hosts: list[str] = []
    store.bucket.connection.client.meta.events.register(
        "before-send.s3", lambda request, **_: hosts.append(request.url)
    )
    info = store.put(_file(tmp_path, os.urandom(11 * MIB)), "key")
    store.get(info, tmp_path / "back")
    assert len(hosts) > 15
    assert all(url.startswith(fresh_bucket.settings.endpoint + f"/{fresh_bucket.name}/") for url in hosts)


def test_a_rotated_secret_is_seen_by_the_next_request(fresh_bucket: FreshBucket, tmp_path: Path) -> None:
    """As the kubelet does it: files behind a symlink that is swapped."""
    mount = tmp_path / "mount"
    for version, secret in (("v1", "wrong"), ("v2", fresh_bucket.server.access.secret_key)):
        (mount / version).mkdir(parents=True)
        (mount / version / "AWS_ACCESS_KEY_ID").write_text(fresh_bucket.server.access.access_key + "\n")
        (mount / version / "AWS_SECRET_ACCESS_KEY").write_text(secret)
    (mount / "..data").symlink_to("v1")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (mount / key).symlink_to(f"..data/{key}")
    store = S3Store(connect_bucket(fresh_bucket.name, StorageSettings(fresh_bucket.settings.endpoint, None, mount)))
    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        list(store.list(""))
    (mount / "next").symlink_to("v2")
    (mount / "next").rename(mount / "..data")
    assert list(store.list("")) == []
