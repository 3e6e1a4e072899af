"""What a run tells the world: its log, its last words and its reports carry nothing of pictures, words or keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_api.names import ENV_PROGRESS_TOKEN, ENV_PROGRESS_URL
from dreambooth_job.scratch import working_environment
from tests.faults.servers import FreshBucket
from tests.jobs import JobBucket, job_bucket
from tests.progress_endpoint import ProgressEndpoint

TOKEN = "projected-token-of-the-pod"
NAMES = ("Grandma_Ada", "family-album", "her-sister")
WORDS = ("blue cardigan", "moonlit confession", "zwx", "shipwright")


@pytest.fixture
def jobs(fresh_bucket: FreshBucket, tmp_path: Path) -> JobBucket:
    """Pictures and captions whose names and words are found again wherever they go."""
    made = job_bucket(fresh_bucket, tmp_path)
    for number, path in enumerate(sorted((tmp_path / "photos").iterdir())):
        renamed = path.rename(path.with_name(f"Grandma_Ada_{number}.png"))
        renamed.with_suffix(".txt").write_text(f"zwx shipwright in a blue cardigan, {number}")
    made.upload(tmp_path / "photos", "family-album/her-sister/")
    return made


def spec_of(jobs: JobBucket) -> dict[str, object]:
    images = {"uri": f"s3://{jobs.bucket.name}/family-album/her-sister/"}
    return jobs.spec(
        subjects=[{"token": "zwx", "className": "shipwright", "images": images, "classImages": {"generate": 1}}],
        training={"steps": 2},
        samples={"prompts": ["a moonlit confession of zwx shipwright"]},
    )


def damage(jobs: JobBucket, key: str) -> None:
    jobs.bucket.client.put_object(Bucket=jobs.bucket.name, Key=key, Body=b"<html>no picture</html>")


@pytest.mark.parametrize("ending", ["Completed", "ImagesUnusable", "BaseModelUnreadable"])
def test_log_last_words_and_reports_say_nothing_private(
    jobs: JobBucket, progress_endpoint: ProgressEndpoint, tmp_path: Path, ending: str
) -> None:
    if ending == "ImagesUnusable":
        damage(jobs, "family-album/her-sister/Grandma_Ada_9.png")
    if ending == "BaseModelUnreadable":
        damage(jobs, "base/unet/config.json")
    (tmp_path / "token").write_text(TOKEN)
    environment = {ENV_PROGRESS_URL: progress_endpoint.url, ENV_PROGRESS_TOKEN: str(tmp_path / "token")}
    attempt = jobs.start(spec_of(jobs), more=environment)
    outcome = attempt.end()
    assert outcome.reason == ending
    said = (attempt.folder / "message").read_text()
    if ending == "ImagesUnusable":  # the one who must remove a picture is told which, by its base name alone
        assert "Grandma_Ada_9.png" in said
        said = said.replace("Grandma_Ada_9.png", "").replace("subject zwx", "")
    assert progress_endpoint.bodies
    reports = "".join(progress_endpoint.bodies)
    access = jobs.bucket.server.access
    for private in (*NAMES, *WORDS, TOKEN, access.secret_key, access.access_key):
        for channel, text in {"log": attempt.log, "last words": said, "reports": reports}.items():
            assert private not in text, channel


def test_every_folder_that_a_library_may_write_to_lies_in_scratch(tmp_path: Path) -> None:
    environment = working_environment(tmp_path)
    folders = {name: value for name, value in environment.items() if value.startswith("/")}
    assert {
        "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
        "HF_HOME", "MPLCONFIGDIR", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH",
    } == folders.keys()  # fmt: skip
    assert all(Path(folder).is_relative_to(tmp_path) for folder in folders.values())
