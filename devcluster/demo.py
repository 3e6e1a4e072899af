"""`make demo`: teaches the toy base a subject on this machine, through the real thing from manifest to bucket.

    python -m devcluster.demo up      start or reuse the cluster, run examples/01-minimal.yaml, follow it, show the end
    python -m devcluster.demo down    end every process and remove what the demo made

Every step looks at what is there, so it may be interrupted anywhere and run again.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import urllib3
import yaml

from devcluster import s3, supervisor
from devcluster.cluster import wait_until
from devcluster.kube import ApiError, Object
from devcluster.operator import CREDENTIALS_SECRET
from devcluster.processes import DidNotStart
from devcluster.progress import Ticker, duration, line
from devcluster.supervisor import Running
from devcluster.toolchain import ToolchainError, cache_dir
from dreambooth_api import names

REPOSITORY = Path(__file__).parents[1]
MANIFEST = REPOSITORY / "examples" / "01-minimal.yaml"
PICTURES = REPOSITORY / "examples" / "pictures" / "robot"
BASE = REPOSITORY / "toyworld" / "base"
BUCKETS = ("models", "photos", "results")
NAMESPACE = "default"
FOLLOW_SECONDS = 0.5
CONFLICT = 409


class DemoFailed(Exception):
    """What went wrong, and where to read more."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demo ends with: local copies of the pictures and the report, and the model's place in the bucket."""

    before: Path
    after: Path
    side_by_side: Path
    report: Path
    model: str


def up(folder: Path) -> None:
    started = time.monotonic()
    running = supervisor.up(folder, print)
    job = _job()
    if _under_way(running, job):
        print(f"TrainingJob {job['metadata']['name']} is under way; following it.")
    else:
        _prepare(running, job)
        running.kube.create(_path(), job)
        print(f"Applied {_short(MANIFEST)} with runtime.gpu.count: 0; nothing else was changed.")
    status = _follow(running, job)
    if _condition(status, "Succeeded") != "True":
        raise DemoFailed(_what_failed(running, status))
    shown = _download(running, job)
    print(_closing_words(running, shown, time.monotonic() - started))


def _job() -> Object:
    """The example, unchanged but for the device. JSON is YAML, so kubectl would take it as well."""
    job: Object = yaml.safe_load(MANIFEST.read_text())
    job["metadata"]["namespace"] = NAMESPACE
    job["spec"].setdefault("runtime", {}).setdefault("gpu", {})["count"] = 0
    return job


def _under_way(running: Running, job: Object) -> bool:
    found = running.kube.find(_path(job))
    return found is not None and _condition(found.get("status", {}), "Finished") != "True"


def _prepare(running: Running, job: Object) -> None:
    """Buckets, base model, pictures and credentials; what an earlier run has left goes first."""
    _delete(running, job)
    client = running.s3.client()
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket in BUCKETS:
        if bucket not in there:
            client.create_bucket(Bucket=bucket)
    spec = job["spec"]
    s3.remove(client, spec["output"]["uri"])
    s3.upload(client, BASE, spec["baseModel"]["uri"])
    pictures = s3.upload(client, PICTURES, spec["subjects"][0]["images"]["uri"])
    print(f"Uploaded the toy base and {pictures} pictures of one robot to {running.s3.endpoint}.")
    _create_secret(running)


def _delete(running: Running, job: Object) -> None:
    running.kube.delete(_path(job), {"propagationPolicy": "Foreground"})
    wait_until(lambda: running.kube.find(_path(job)) is None, "deletion of the earlier TrainingJob")


def _create_secret(running: Running) -> None:
    secret = {"metadata": {"name": CREDENTIALS_SECRET}, "stringData": running.s3.secret_data()}
    try:
        running.kube.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
    except ApiError as error:
        if error.code != CONFLICT:
            raise


def _follow(running: Running, job: Object) -> Object:
    """One live line until the TrainingJob has finished; returns its status."""
    ticker = Ticker(sys.stdout)
    try:
        while True:
            status: Object = running.kube.get(_path(job)).get("status", {})
            ticker.show(line(status))
            if _condition(status, "Finished") == "True":
                return status
            time.sleep(FOLLOW_SECONDS)
    finally:
        ticker.end()


def _condition(status: Object, kind: str) -> str:
    return next((one["status"] for one in status.get("conditions", ()) if one["type"] == kind), "Unknown")


def _what_failed(running: Running, status: Object) -> str:
    return (
        f"{status.get('state')}: {status.get('message')}\n"
        f"The job's log: {running.folder}/nodes/local/logs/\nThe operator's log: {running.folder}/logs/operator.log"
    )


def _download(running: Running, job: Object) -> Shown:
    """The result as its manifest lists it."""
    output, client = job["spec"]["output"]["uri"].rstrip("/"), running.s3.client()
    folder = Path(running.folder) / "result"
    shutil.rmtree(folder, ignore_errors=True)
    s3.download(client, f"{output}/manifest.json", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    attempt = f"{output}/{manifest['attempt']}"
    s3.download(client, attempt, folder)
    samples = sorted((folder / "samples").glob("step-*-0.png"))  # of the first prompt, by step
    return Shown(
        before=samples[0],
        after=samples[-1],
        side_by_side=folder / "before-after.png",
        report=folder / "report.html",
        model=f"{attempt}/{job['metadata']['name']}.safetensors",
    )


def _closing_words(running: Running, shown: Shown, seconds: float) -> str:
    python = shlex.quote(_short(Path(sys.executable)))
    return f"""
Done in {duration(seconds)}. The word "sks" now means the robot of the pictures.

  before         {_short(shown.before)}
  after          {_short(shown.after)}
  side by side   {_short(shown.side_by_side)}
  report         {_short(shown.report)}
  model          {shown.model}

Look around:
  export KUBECONFIG={shlex.quote(str(running.kubeconfig))}
  alias kubectl={shlex.quote(running.kubectl)}
  kubectl get dbj
  kubectl describe dbj robot
  {python} -m devcluster s3 ls s3://results/

Your own pictures (5 to 20 of one thing; the toy base draws at 64 pixels, a real one on a GPU at 512 and more):
  {python} -m devcluster s3 cp FOLDER s3://photos/mine/
  kubectl apply -f {_short(_your_own(running))}    # say in it of which class your thing is
  kubectl get dbj -w

`make demo` runs it again, `make demo-down` ends it.
"""


def _your_own(running: Running) -> Path:
    """The example once more, for the user's pictures."""
    job = _job()
    job["metadata"]["name"] = "mine"
    job["spec"]["subjects"][0]["images"]["uri"] = "s3://photos/mine/"
    job["spec"]["output"]["uri"] = "s3://results/mine/"
    path = Path(running.folder) / "mine.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _path(job: Object | None = None) -> str:
    path = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.PLURAL}"
    return f"{path}/{job['metadata']['name']}" if job else path


def main(arguments: list[str]) -> int:
    folder = cache_dir() / "demo"
    try:
        if arguments == ["up"]:
            up(folder)
        elif arguments == ["down"]:
            supervisor.down(folder)
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        print("\nStopped looking; the cluster runs on. `make demo` goes on, `make demo-down` ends it.", file=sys.stderr)
        return 130
    except (DemoFailed, DidNotStart, ToolchainError, TimeoutError, ApiError, urllib3.exceptions.HTTPError) as error:
        print(f"{error}\n`make demo` tries again, `make demo-down` removes everything.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
