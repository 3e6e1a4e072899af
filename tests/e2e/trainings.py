"""TrainingJobs of the end-to-end tests, and what a user can see of one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from devcluster.s3 import list_objects, upload
from dreambooth_api.names import LABEL_JOB, MANIFEST_FILE
from tests.e2e.site import Object, Site, eventually

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "01-minimal.yaml"
PICTURES = REPOSITORY / "examples" / "pictures" / "robot"
BASE = REPOSITORY / "toyworld" / "base"
BASE_URI, PICTURES_URI = "s3://models/toy-sd1/", "s3://photos/robot/"
STEPS = 300  # long enough to be disturbed in the middle, about half a minute
CHECKPOINT_EVERY = 20


def fill_buckets(site: Site) -> None:
    client = site.s3.client()
    for bucket in ("models", "photos", "results"):
        client.create_bucket(Bucket=bucket)
    upload(client, BASE, BASE_URI)
    upload(client, PICTURES, PICTURES_URI)


ON_CPU = {
    "gpu": {"count": 0},
    "resources": {"cpu": "500m", "memory": "4Gi"},
    "scratch": {"medium": "Memory", "sizeLimit": "1Gi"},
}


def example() -> Object:
    """The first example, unchanged but for the machine: no GPU, two cores, and working data in memory."""
    job: Object = yaml.safe_load(EXAMPLE.read_text())
    job["spec"]["runtime"] = ON_CPU
    return job


def short_job(name: str, **sections: Any) -> Object:
    """A training whose result nobody looks at: few steps, small batch, checkpoints often."""
    spec = {
        "baseModel": {"uri": BASE_URI},
        "subjects": [{"token": "sks", "className": "robot", "images": {"uri": PICTURES_URI}}],
        "output": {"uri": f"s3://results/{name}/"},
        "method": {"lora": {"rank": 4, "trainTextEncoder": False}},
        "training": {"steps": STEPS, "batchSize": 2, "learningRate": 1.0e-3},
        "checkpoints": {"everySteps": CHECKPOINT_EVERY},
        "runtime": ON_CPU,
    }
    merged = {key: {**value, **sections.pop(key)} if key in sections else value for key, value in spec.items()}
    head = {"apiVersion": "dreambooth.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}}
    return head | {"spec": merged | sections}


@dataclass
class Training:
    """One applied TrainingJob."""

    site: Site
    namespace: str
    manifest: Object

    @classmethod
    def apply(cls, site: Site, namespace: str, manifest: Object) -> Training:
        training = cls(site, namespace, manifest)
        training.kubectl("apply", "-f", "-", given=json.dumps(manifest))
        return training

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def kubectl(self, *arguments: str, given: str | None = None, timeout: float = 180) -> str:
        return self.site.kubectl("-n", self.namespace, *arguments, given=given, timeout=timeout)

    def status(self) -> Object:
        return dict(self.site.kubectl.get("-n", self.namespace, "dbj", self.name).get("status", {}))

    def pods(self) -> list[Object]:
        """Oldest first."""
        found = self.site.kubectl.items("-n", self.namespace, "pods", "-l", f"{LABEL_JOB}={self.name}")
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def pod(self) -> Object:
        """The one that runs now."""
        alive = [pod for pod in self.pods() if pod["status"].get("phase") in ("Pending", "Running")]
        return alive[-1]

    def wait_for_step(self, step: int) -> None:
        """Until the status tells of at least `step` steps; it is up to ten seconds behind."""

        def reached() -> bool:
            status = self.status()
            assert condition(status, "Finished") != "True", f"{self.name} ended early: {status.get('message')}"
            return bool(status.get("progress", {}).get("step", 0) >= step)

        eventually(reached, f"step {step} of {self.name}")

    def wait_for_checkpoints(self, count: int) -> int:
        """Until the pod has said in its log, at once, that it has saved so many; the step of the last."""

        def saved() -> list[int]:
            pods = [pod for pod in self.pods() if pod["status"].get("phase") in ("Running", "Succeeded")]
            steps = [line["step"] for line in self.log(pods[-1]) if line["event"] == "checkpoint_saved"] if pods else []
            return steps if len(steps) >= count else []

        return int(eventually(saved, f"{count} checkpoints of {self.name}", every=0.2)[-1])

    def wait(self, seconds: float = 900) -> Object:
        """Its last status, by the command that the docs give."""
        patience = f"--timeout={seconds:.0f}s"
        self.kubectl("wait", f"dbj/{self.name}", "--for=condition=Finished", patience, timeout=seconds + 30)
        return self.status()

    def succeed(self, seconds: float = 900) -> Object:
        status = self.wait(seconds)
        assert condition(status, "Succeeded") == "True", f"{self.name}: {status.get('message')}\n{self.logs()}"
        self.check_published()
        return status

    def log(self, pod: Object) -> list[Object]:
        """Of one pod, line by line."""
        return [json.loads(line) for line in self.kubectl("logs", pod["metadata"]["name"], "--tail=-1").splitlines()]

    def logs(self) -> str:
        return "\n".join(self.kubectl("logs", pod["metadata"]["name"], "--tail=-1") for pod in self.pods())

    def events(self) -> list[Object]:
        found = self.site.kubectl.items("-n", self.namespace, "events.events.k8s.io")
        return [one for one in found if one["regarding"]["name"] == self.name]

    def objects(self) -> list[str]:
        lines = list_objects(self.site.s3.client(), self.manifest["spec"]["output"]["uri"])
        return [line.partition("s3://")[2] for line in lines]

    def published(self) -> Object | None:
        """The manifest in the bucket."""
        bucket, _, prefix = self.manifest["spec"]["output"]["uri"].removeprefix("s3://").partition("/")
        client = self.site.s3.client()
        try:
            return json.loads(client.get_object(Bucket=bucket, Key=prefix + MANIFEST_FILE)["Body"].read())
        except client.exceptions.NoSuchKey:
            return None

    def check_published(self) -> None:
        """One result, of one attempt, complete: every file of the manifest and no other."""
        manifest = self.published()
        assert manifest, f"{self.name} has published no manifest"
        prefix = self.manifest["spec"]["output"]["uri"].removeprefix("s3://")
        listed = {prefix + one["path"] for one in manifest["files"]}
        assert sorted(self.objects()) == sorted(listed | {prefix + MANIFEST_FILE})
        assert f"{prefix}{manifest['attempt']}/{self.name}.safetensors" in listed


def condition(status: Object, kind: str) -> str:
    return next((one["status"] for one in status.get("conditions", ()) if one["type"] == kind), "Unknown")


def reason(status: Object, kind: str = "Succeeded") -> str:
    return next((one["reason"] for one in status.get("conditions", ()) if one["type"] == kind), "")


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._started
