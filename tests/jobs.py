"""Runs the real job as the operator would: its two processes, a bucket with pictures and a base, and one attempt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth_api.names import (
    ENV_CREDENTIALS,
    ENV_LOG_FORMAT,
    ENV_POD_UID,
    ENV_RUN,
    ENV_SCRATCH,
    ENV_TERMINATION_MESSAGE,
)
from dreambooth_api.reasons import REASONS
from dreambooth_api.status import Outcome
from tests.faults.servers import FreshBucket
from tests.tiny import tiny_sd1

JOB_UID = "0f5b3f1e-0000-4000-8000-00000000000a"


@dataclass
class JobBucket:
    """A bucket with a tiny base below base/ and pictures below photos/."""

    bucket: FreshBucket
    folder: Path
    attempts: int = field(default=0)

    def upload(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = prefix + path.relative_to(folder).as_posix()
                self.bucket.client.upload_file(str(path), self.bucket.name, key)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        return self.bucket.client.get_object(Bucket=self.bucket.name, Key=key)["Body"].read()

    def manifest(self, output: str = "out/") -> dict[str, Any]:
        return json.loads(self.read(f"{output}manifest.json"))

    def spec(self, **sections: Any) -> dict[str, Any]:
        uri = f"s3://{self.bucket.name}"
        spec = {
            "baseModel": {"uri": f"{uri}/base/"},
            "subjects": [{"token": "sks", "className": "dog", "images": {"uri": f"{uri}/photos/"}}],
            "output": {"uri": f"{uri}/out/"},
            "training": {"steps": 6},
            "runtime": {"gpu": {"count": 0}},
            "storage": {"endpoint": self.bucket.settings.endpoint},
        }
        return spec | sections

    def start(
        self,
        spec: Mapping[str, Any],
        *,
        uid: str = JOB_UID,
        run_index: int = 0,
        around: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> Attempt:
        """`around` is a command that runs the job's own as its last arguments; `{scratch}` in it is the folder.

        `more` joins the job's environment.
        """
        self.attempts += 1
        folder = self.folder / f"attempt-{self.attempts}"
        (folder / "scratch").mkdir(parents=True)
        run = {"name": "rex", "namespace": "tests", "uid": uid, "runIndex": run_index, "generation": 1, "spec": spec}
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            ENV_RUN: json.dumps(run),
            ENV_POD_UID: str(uuid.uuid4()),
            ENV_SCRATCH: str(folder / "scratch"),
            ENV_CREDENTIALS: str(self.bucket.settings.credentials_dir),
            ENV_TERMINATION_MESSAGE: str(folder / "message"),
            ENV_LOG_FORMAT: "json",
        }
        with (folder / "log").open("wb") as log:
            command = [*(a.format(scratch=folder / "scratch") for a in around), sys.executable, "-m", "dreambooth_job"]
            process = subprocess.Popen(
                command, env=environment | (more or {}), stdout=log, stderr=log, start_new_session=True
            )
        return Attempt(folder, process)


@dataclass
class Attempt:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """kill -9 of both processes at once, as when the node goes: nobody cleans up, the volume goes with the pod."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> Outcome:
        """Waits; the exit code must be that of the reason in the termination message, and scratch must be empty."""
        exit_code = self.process.wait(timeout=180)
        outcome = Outcome.model_validate_json((self.folder / "message").read_text())
        assert exit_code == REASONS[outcome.reason].exit_code, self.log
        assert list((self.folder / "scratch").iterdir()) == []
        assert outcome.purge is not None
        assert outcome.purge.complete
        return outcome


def job_bucket(bucket: FreshBucket, folder: Path, pictures: int = 3) -> JobBucket:
    made = JobBucket(bucket, folder)
    made.upload(tiny_sd1(folder / "base"), "base/")
    (folder / "photos").mkdir()
    for number in range(pictures):
        picture = Image.effect_mandelbrot((48, 40), (-2 + number, -1, 1, 1), 20 + number).convert("RGB")
        picture.save(folder / "photos" / f"IMG_{number}.png")
    made.upload(folder / "photos", "photos/")
    return made
