"""Nothing is ever half-published: faults at every request of a publication, two writers, replacements, leftovers."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dreambooth_job.contracts import ObjectStore
from dreambooth_job.errors import OutputExists, StorageDenied, StorageFull, StorageUnavailable
from dreambooth_job.storage.checkpoints import Checkpoints
from dreambooth_job.storage.manifest import File, Manifest
from dreambooth_job.storage.publish import Output, Published, publish
from dreambooth_job.storage.s3 import MIB
from tests.faults.proxy import Action, flip_request, hang_up, lose_reply, status
from tests.faults.readers import reading
from tests.faults.servers import Faulty

EVER = float("inf")
REX = Output("results/rex/", "11111111-aaaa", "rex-11111111-r0-aaaaaaaa")
AGAIN = replace(REX, attempt="rex-11111111-r1-bbbbbbbb")
OTHER = Output("results/rex/", "22222222-bbbb", "max-22222222-r0-cccccccc")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two small files and one large enough for a multipart upload."""
    sizes = {"model.safetensors": 5 * MIB + 9, "samples/0.png": 700, "metrics.jsonl": 0}
    for number, size in enumerate(sizes.values()):
        (tmp_path / str(number)).write_bytes(os.urandom(size))
    return {path: tmp_path / str(number) for number, path in enumerate(sizes)}


def _publish(store: ObjectStore, output: Output, files: dict[str, Path]) -> Published:
    def build(listed: tuple[File, ...]) -> Manifest:
        return Manifest(
            job_uid=output.job_uid, name="rex", attempt=output.attempt, files=listed, base_model_digest="0" * 64,
            inputs={}, config={}, spec_digest="0" * 64, metrics={}, created_at=datetime.now(UTC),
        )  # fmt: skip

    return publish(store, output, files, build)


def _keys(faulty: Faulty) -> list[str]:
    listing = faulty.bucket.client.list_objects_v2(Bucket=faulty.bucket.name)
    return [item["Key"].removeprefix("results/rex/") for item in listing.get("Contents", [])]


def _expected_keys(output: Output, files: dict[str, Path]) -> list[str]:
    return sorted([f"{output.attempt}/{path}" for path in files] + ["manifest.json"])


def _requests_of_a_publication(faulty: Faulty, files: dict[str, Path]) -> int:
    """How many requests one undisturbed publication takes, below a prefix of its own."""
    _publish(faulty.store(), replace(REX, prefix="rehearsal/"), files)
    count = len(faulty.proxy.requests)
    for item in faulty.bucket.client.list_objects_v2(Bucket=faulty.bucket.name)["Contents"]:
        faulty.bucket.client.delete_object(Bucket=faulty.bucket.name, Key=item["Key"])
    return count


STORM: list[Action] = [status(503, "SlowDown"), hang_up, lose_reply, status(400, "ExpiredToken"), lose_reply]


def test_a_storm_at_any_request_of_a_publication_changes_nothing(faulty: Faulty, files: dict[str, Path]) -> None:
    """From request i on: throttled, reset, a lost reply, an expired token, a lost reply again."""
    for moment in range(1, _requests_of_a_publication(faulty, files) + 1):
        output = replace(REX, prefix=f"results/{moment}/")
        faulty.proxy.calm()
        rules = [faulty.proxy.add(action, first=moment + number) for number, action in enumerate(STORM)]
        with reading(faulty.bucket, output.prefix) as reader:
            published = _publish(faulty.store(), output, files)
        assert [rule.hits for rule in rules] == [1] * len(STORM)
        assert not published.already
        assert reader.complete >= 1
    assert faulty.unfinished_uploads() == []


def test_a_publisher_that_dies_at_any_request_is_followed_by_one_that_completes(
    faulty: Faulty, files: dict[str, Path]
) -> None:
    """From request i on the first attempt reaches nothing any more, as after a power cut."""
    for moment in range(1, _requests_of_a_publication(faulty, files) + 1):
        first, second = (replace(output, prefix=f"results/{moment}/") for output in (REX, AGAIN))
        with reading(faulty.bucket, first.prefix) as reader:
            faulty.proxy.calm()
            faulty.proxy.add(hang_up, first=moment, count=EVER)
            try:
                winner = _publish(faulty.store(budget_seconds=0.05), first, files).manifest.attempt
            except StorageUnavailable:
                winner = None
            faulty.proxy.calm()
            published = _publish(faulty.store(), second, files)
        assert reader.complete >= 1
        assert published.manifest.attempt == (winner or published.manifest.attempt)
        keys = [item["Key"] for item in faulty.store().bucket.connection.client.list_objects_v2(
            Bucket=faulty.bucket.name, Prefix=first.prefix)["Contents"]]  # fmt: skip
        assert sorted(key.removeprefix(first.prefix) for key in keys) == _expected_keys(
            replace(first, attempt=published.manifest.attempt), files
        )
    assert faulty.unfinished_uploads() == []


ENDS = {
    "denied": (status(403, "AccessDenied"), StorageDenied),
    "full": (status(507, "InsufficientStorage"), StorageFull),
    "away": (status(503, "SlowDown"), StorageUnavailable),
    "damaged for ever": (flip_request(-1), StorageUnavailable),
}


@pytest.mark.parametrize("key", ["*/model.safetensors", "*/manifest.json"])
@pytest.mark.parametrize("name", ENDS)
def test_a_publication_that_fails_shows_nothing(faulty: Faulty, files: dict[str, Path], name: str, key: str) -> None:
    action, error = ENDS[name]
    faulty.proxy.add(action, method="PUT", key=key, count=EVER)
    with reading(faulty.bucket, REX.prefix) as reader, pytest.raises(error):
        _publish(faulty.store(budget_seconds=0.5), REX, files)
    assert reader.complete == 0
    assert "manifest.json" not in _keys(faulty)
    assert faulty.unfinished_uploads() == []


def test_publishing_twice_is_a_success_that_says_who_was_first(faulty: Faulty, files: dict[str, Path]) -> None:
    first = _publish(faulty.store(), REX, files)
    second = _publish(faulty.store(), AGAIN, files)
    assert (first.already, second.already) == (False, True)
    assert second.manifest == first.manifest
    assert _keys(faulty) == _expected_keys(REX, files)


def test_the_result_of_another_job_is_left_alone(faulty: Faulty, files: dict[str, Path]) -> None:
    _publish(faulty.store(), REX, files)
    with reading(faulty.bucket, REX.prefix), pytest.raises(OutputExists, match="job rex"):
        _publish(faulty.store(), OTHER, files)
    assert _keys(faulty) == _expected_keys(REX, files)


def test_a_manifest_of_unknown_origin_is_left_alone(faulty: Faulty, files: dict[str, Path]) -> None:
    faulty.bucket.client.put_object(Bucket=faulty.bucket.name, Key="results/rex/manifest.json", Body=b"{}")
    with pytest.raises(OutputExists, match="unknown origin"):
        _publish(faulty.store(), REX, files)


def test_a_replacement_swaps_the_manifest_first_and_then_deletes_the_old_files(
    faulty: Faulty, files: dict[str, Path]
) -> None:
    _publish(faulty.store(), REX, files)
    with reading(faulty.bucket, REX.prefix) as reader:
        published = _publish(faulty.store(), replace(OTHER, replace=True), files)
    assert reader.complete >= 1
    assert published.removed == len(files)
    assert _keys(faulty) == _expected_keys(OTHER, files)


def _race(faulty: Faulty, outputs: Sequence[Output], files: dict[str, Path]) -> list[Published | Exception]:
    results: list[Published | Exception] = []

    def run(output: Output) -> None:
        try:
            results.append(_publish(faulty.store(budget_seconds=30), output, files))
        except OutputExists as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(output,)) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_racing_attempts_of_one_job_one_commits_and_all_succeed(faulty: Faulty, files: dict[str, Path]) -> None:
    outputs = [replace(REX, attempt=f"rex-11111111-r{number}-{number:08x}") for number in range(4)]
    with reading(faulty.bucket, REX.prefix) as reader:
        results = _race(faulty, outputs, files)
    assert reader.complete >= 1
    assert all(isinstance(result, Published) for result in results)
    assert len({result.manifest.attempt for result in results}) == 1
    assert sum(not result.already for result in results) == 1


def test_of_racing_jobs_one_publishes_and_the_others_leave_nothing(faulty: Faulty, files: dict[str, Path]) -> None:
    outputs = [
        replace(REX, job_uid=f"{number:08d}-x", attempt=f"rex-{number:08d}-r0-{number:08x}") for number in range(4)
    ]
    with reading(faulty.bucket, REX.prefix) as reader:
        results = _race(faulty, outputs, files)
    assert reader.complete >= 1
    (winner,) = [result for result in results if isinstance(result, Published)]
    assert _keys(faulty) == _expected_keys(replace(REX, attempt=winner.manifest.attempt), files)


def test_what_earlier_attempts_left_goes_after_the_commit(faulty: Faulty, files: dict[str, Path]) -> None:
    client, name = faulty.bucket.client, faulty.bucket.name
    Checkpoints(faulty.store(), REX.checkpoints, REX.attempt).save(5, files)
    client.put_object(Bucket=name, Key=f"results/rex/{REX.attempt}/half", Body=b"x")
    client.put_object(Bucket=name, Key="results/rex/rex-99999999-r0-x/of-another-job", Body=b"x")
    client.create_multipart_upload(Bucket=name, Key=f"results/rex/{REX.attempt}/model")
    published = _publish(faulty.store(), AGAIN, files)
    assert published.removed == len(files) + 1 + 1 + 1  # the checkpoint, its manifest, the half file, the upload
    assert _keys(faulty) == sorted([*_expected_keys(AGAIN, files), "rex-99999999-r0-x/of-another-job"])
    assert faulty.unfinished_uploads() == []


def test_a_result_stands_even_if_nothing_can_be_deleted(faulty: Faulty, files: dict[str, Path]) -> None:
    Checkpoints(faulty.store(), REX.checkpoints, REX.attempt).save(5, files)
    faulty.proxy.add(status(403, "AccessDenied"), method="DELETE", count=EVER)
    with reading(faulty.bucket, REX.prefix) as reader:
        published = _publish(faulty.store(), AGAIN, files)
    assert (published.already, published.removed, reader.complete >= 1) == (False, 0, True)
