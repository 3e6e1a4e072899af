"""What a run tells the world: its log, its last words and its reports carry nothing of pictures, words or keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dreambooth_api.names import ENV_PROGRESS_TOKEN, ENV_PROGRESS_URL
from dreambooth_job.scratch import working_environment
from tests.faults.servers import FreshBucket
from tests.jobs import JobBucket, job_bucket

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


@pytest.fixture
def reports() -> Iterator[tuple[str, list[str]]]:
    """An operator's endpoint: its address, and all it was told."""
    told: list[str] = []

    class Operator(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Operator)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/progress", told
    server.shutdown()
    thread.join()
    server.server_close()


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
    jobs: JobBucket, reports: tuple[str, list[str]], tmp_path: Path, ending: str
) -> None:
    if ending == "ImagesUnusable":
        damage(jobs, "family-album/her-sister/Grandma_Ada_9.png")
    if ending == "BaseModelUnreadable":
        damage(jobs, "base/unet/config.json")
    url, told = reports
    (tmp_path / "token").write_text(TOKEN)
    environment = {ENV_PROGRESS_URL: url, ENV_PROGRESS_TOKEN: str(tmp_path / "token")}
    attempt = jobs.start(spec_of(jobs), more=environment)
    outcome = attempt.end()
    assert outcome.reason == ending
    said = (attempt.folder / "message").read_text()
    if ending == "ImagesUnusable":  # the one who must remove a picture is told which, by its base name alone
        assert "Grandma_Ada_9.png" in said
        said = said.replace("Grandma_Ada_9.png", "").replace("subject zwx", "")
    assert told
    access = jobs.bucket.server.access
    for private in (*NAMES, *WORDS, TOKEN, access.secret_key, access.access_key):
        for channel, text in {"log": attempt.log, "last words": said, "reports": "".join(told)}.items():
            assert private not in text, channel


def test_every_folder_that_a_library_may_write_to_lies_in_scratch(tmp_path: Path) -> None:
    environment = working_environment(tmp_path)
    folders = {name: value for name, value in environment.items() if value.startswith("/")}
    assert {
        "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
        "HF_HOME", "MPLCONFIGDIR", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH",
    } == folders.keys()  # fmt: skip
    assert all(Path(folder).is_relative_to(tmp_path) for folder in folders.values())
