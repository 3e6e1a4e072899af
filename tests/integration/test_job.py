"""The real job against the real S3 server, as the operator starts it: results, refusals, interruptions."""

from __future__ import annotations

import hashlib
import json
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_job.storage.manifest import Manifest
from tests.faults.servers import FreshBucket, fresh_bucket, plain_client, s3_server  # noqa: F401
from tests.jobs import Attempt, JobBucket, job_bucket

LONG = {"steps": 60, "seed": 3}


@pytest.fixture
def jobs(fresh_bucket: FreshBucket, tmp_path: Path) -> JobBucket:  # noqa: F811
    return job_bucket(fresh_bucket, tmp_path)


def wait_for(ready: Callable[[], bool], attempt: Attempt) -> None:
    while not ready():
        assert attempt.process.poll() is None, attempt.log
        time.sleep(0.1)


def checkpoint_stands(jobs: JobBucket) -> bool:
    return any(key.endswith("manifest.json") for key in jobs.keys("out/.checkpoints/"))


def weights_digest(jobs: JobBucket) -> str:
    """SHA-256 of all tensors in the published model; the header also holds the time of the run."""
    (path,) = [f["path"] for f in jobs.manifest()["files"] if f["path"].endswith("/rex.safetensors")]
    data = jobs.read(f"out/{path}")
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def test_result_is_complete_when_its_manifest_is_seen(jobs: JobBucket) -> None:
    outcome = jobs.start(jobs.spec()).end()
    assert outcome.reason == "Completed"
    manifest = Manifest.model_validate_json(jobs.read("out/manifest.json"))
    assert outcome.result is not None
    assert outcome.result.manifest_sha256 == hashlib.sha256(jobs.read("out/manifest.json")).hexdigest()
    assert sorted(jobs.keys("out/")) == sorted(["out/manifest.json", *(f"out/{file.path}" for file in manifest.files)])
    for file in manifest.files:
        content = jobs.read(f"out/{file.path}")
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size_bytes, file.sha256)
    names = {file.path.split("/", 1)[1] for file in manifest.files}
    model = {"rex.safetensors", "rex.json", "rex.png", "config.json", "report.html"}
    pictures = {"before-after.png", "samples.png", "samples/step-000000-0.png", "samples/step-000006-1.png"}
    assert model | pictures | {"loss.svg", "metrics.jsonl"} <= names
    settings = manifest.config
    assert settings["training.steps"] == {"value": 6, "reason": "as asked"}


def test_full_result_has_the_folder_and_the_single_file(jobs: JobBucket) -> None:
    jobs.start(jobs.spec(method={"full": {}}, training={"steps": 2})).end()
    names = {file["path"].split("/", 1)[1] for file in jobs.manifest()["files"]}
    assert {"rex.safetensors", "diffusers/model_index.json", "diffusers/unet/config.json"} <= names


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_interrupted_job_resumes_and_ends_like_an_uninterrupted_one(jobs: JobBucket, signal_number: int) -> None:
    spec = jobs.spec(training=LONG, checkpoints={"everySteps": 4})
    first = jobs.start(spec)
    wait_for(lambda: checkpoint_stands(jobs), first)
    if signal_number == signal.SIGTERM:
        first.process.send_signal(signal.SIGTERM)
        ended = first.end()
        assert ended.reason == "Interrupted"
        assert ended.checkpoint_step == ended.step
    else:
        first.kill()
    assert "out/manifest.json" not in jobs.keys("out/")
    second = jobs.start(spec).end()
    assert second.resumed_from_step is not None
    assert 0 < second.resumed_from_step < 60
    interrupted = weights_digest(jobs)
    steps = [json.loads(line)["step"] for line in metrics(jobs)]
    assert steps == sorted(set(steps))
    assert jobs.keys("out/.checkpoints/") == []
    straight = jobs.spec(training=LONG, output={"uri": jobs.spec()["output"]["uri"], "overwritePolicy": "Replace"})
    jobs.start(straight, uid="11111111-0000-4000-8000-00000000000b").end()
    assert weights_digest(jobs) == interrupted


def metrics(jobs: JobBucket) -> list[str]:
    (path,) = [f["path"] for f in jobs.manifest()["files"] if f["path"].endswith("/metrics.jsonl")]
    return jobs.read(f"out/{path}").decode().splitlines()


def test_job_whose_result_stands_completes_without_training_again(jobs: JobBucket) -> None:
    jobs.start(jobs.spec()).end()
    before = jobs.read("out/manifest.json")
    again = jobs.start(jobs.spec())
    outcome = again.end()
    assert outcome.reason == "Completed"
    assert outcome.result is not None
    assert jobs.read("out/manifest.json") == before
    assert '"stage": "train"' not in again.log


def test_another_jobs_result_is_never_overwritten(jobs: JobBucket) -> None:
    jobs.bucket.client.put_object(Bucket=jobs.bucket.name, Key="out/manifest.json", Body=b"{}")
    outcome = jobs.start(jobs.spec()).end()
    assert outcome.reason == "OutputExists"
    assert "overwritePolicy" in outcome.message
    assert jobs.read("out/manifest.json") == b"{}"


def test_all_problems_with_the_storage_are_told_at_once(jobs: JobBucket) -> None:
    spec = jobs.spec(baseModel={"uri": f"s3://{jobs.bucket.name}/nowhere/"})
    spec["subjects"][0]["images"]["uri"] = f"s3://{jobs.bucket.name}/Photos/"
    outcome = jobs.start(spec).end()
    assert "nowhere" in outcome.message
    assert "Photos" in outcome.message
    assert outcome.result is None


def test_bad_picture_is_named_and_nothing_is_published(jobs: JobBucket) -> None:
    jobs.bucket.client.put_object(Bucket=jobs.bucket.name, Key="photos/page.jpg", Body=b"<html>not found</html>")
    attempt = jobs.start(jobs.spec())
    outcome = attempt.end()
    assert outcome.reason == "ImagesUnusable"
    assert "image 4 of 4 (page.jpg)" in outcome.message
    assert not [key for key in jobs.keys("out/") if not key.startswith("out/.probe")]


def test_log_holds_no_key_caption_or_secret(jobs: JobBucket) -> None:
    attempt = jobs.start(jobs.spec(samples={"prompts": ["a secret prompt of sks"]}, training={"steps": 1}))
    attempt.end()
    access = jobs.bucket.server.access
    for private in ("IMG_", "photos/", "secret prompt", access.secret_key, access.access_key):
        assert private not in attempt.log


def test_gpu_that_is_not_there_is_told(jobs: JobBucket) -> None:
    outcome = jobs.start(jobs.spec(runtime={})).end()
    assert outcome.reason == "DeviceUnavailable"


def test_two_subjects_from_a_zip_and_a_prefix_with_given_and_drawn_class_pictures(jobs: JobBucket) -> None:
    uri = f"s3://{jobs.bucket.name}"
    archive = jobs.folder / "mug.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for number, path in enumerate(sorted((jobs.folder / "photos").iterdir())):
            made.write(path, f"10_mug/{number}.png")
            made.writestr(f"10_mug/{number}.txt", "zwx mug on a table")
        made.writestr("__MACOSX/._0.png", b"not a picture")
    jobs.bucket.client.upload_file(str(archive), jobs.bucket.name, "mug.zip")
    jobs.upload(jobs.folder / "photos", "dogs/")
    spec = jobs.spec(method={"full": {"trainTextEncoder": True}}, training={"steps": 3, "batchSize": 2})
    spec["subjects"] = [
        {**spec["subjects"][0], "classImages": {"uri": f"{uri}/dogs/"}},
        {"token": "zwx", "className": "mug", "images": {"uri": f"{uri}/mug.zip", "captions": "sidecar"},
         "classImages": {"generate": 2}},
    ]  # fmt: skip
    assert jobs.start(spec).end().reason == "Completed"
    manifest = Manifest.model_validate_json(jobs.read("out/manifest.json"))
    assert set(manifest.inputs) == {"baseModel.uri", "subjects[0].images", "subjects[0].classImages",
                                    "subjects[1].images"}  # fmt: skip
    samples = {file.path.rsplit("/", 1)[1] for file in manifest.files if "/samples/" in file.path}
    assert {f"step-000003-{prompt}.png" for prompt in range(4)} <= samples
