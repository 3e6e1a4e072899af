"""What the operator's integration tests share: an operator of one namespace, and a user's view of its TrainingJobs."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from devcluster.cluster import Cluster
from dreambooth_api import names
from dreambooth_operator import metrics
from dreambooth_operator.__main__ import Operator
from dreambooth_operator.cluster import KubeCluster, connect
from dreambooth_operator.election import Election
from dreambooth_operator.settings import Settings

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in_job.py")
JOBS, PODS, EVENTS = "/apis/batch/v1", "/api/v1", "/apis/events.k8s.io/v1"
TRAINING_JOBS = f"/apis/{names.API_VERSION}"
SPEC: Json = {
    "baseModel": {"uri": "s3://models/toy/"},
    "subjects": [{"token": "sks", "className": "dog", "images": {"uri": "s3://photos/rex/"}}],
    "output": {"uri": "s3://results/rex/"},
    "runtime": {
        "gpu": {"count": 0},
        "resources": {"cpu": "10m", "memory": "16Mi"},
        "scratch": {"sizeLimit": "1Mi"},
    },
}


class Kit:
    """One namespace with one operator, in this process or as a process of its own."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.cluster, self.kube, self.namespace, self.folder = cluster, cluster.kube, namespace, folder
        (folder / namespace).mkdir(parents=True, exist_ok=True)
        self.progress_port, self.health_port = free_port(), free_port()
        self.settings = Settings(
            job_command=(sys.executable, str(STAND_IN), str(folder)),
            namespaces=(namespace,),
            progress_listen=("127.0.0.1", self.progress_port),
            progress_url=f"http://127.0.0.1:{self.progress_port}",
            health_listen=("127.0.0.1", self.health_port),
            workers=2,
        )
        self.kubeconfig = cluster.kubeconfig  # whose rights an operator in this process has
        self.observe: Callable[[str, str, str], None] = metrics.count_call
        self.operator: Operator | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def connect(self) -> KubeCluster:
        return connect(16, self.observe, str(self.kubeconfig))

    def start(self, election: Election | None = None, **settings: Any) -> Operator:
        """The operator's objects in this process."""
        self.operator = Operator(self.connect(), replace(self.settings, **settings), election, watch_seconds=(20, 40))
        self.operator.start()
        return self.operator

    def start_process(self, **more: str) -> subprocess.Popen[bytes]:
        """`python -m dreambooth_operator`, as a user starts it, with `more` environment variables."""
        env = (
            os.environ
            | {
                "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "operator")),
                "KUBECONFIG": str(self.cluster.kubeconfig),
                "DREAMBOOTH_JOB_COMMAND": str(list(self.settings.job_command)).replace("'", '"'),
                "DREAMBOOTH_NAMESPACES": self.namespace,
                "DREAMBOOTH_PROGRESS_LISTEN": f"127.0.0.1:{self.progress_port}",
                "DREAMBOOTH_PROGRESS_ADVERTISED_URL": self.settings.progress_url or "",
                "DREAMBOOTH_HEALTH_LISTEN": f"127.0.0.1:{self.health_port}",
            }
            | more
        )
        with (self.folder / f"operator-{self.health_port}.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "dreambooth_operator"], env=env, stderr=log)
        return self.process

    def ready(self) -> bool:
        """Whether the process answers that its lists are in."""
        try:
            url = f"http://127.0.0.1:{self.health_port}/readyz"
            return bool(urllib.request.urlopen(url, timeout=2).status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.operator:
            self.operator.stop()
            self.operator = None
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    # A user's view.

    def apply(self, name: str = "rex", *, policy: Json | None = None, **spec: Any) -> Json:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name},
            "spec": SPEC | ({"runPolicy": policy} if policy else {}) | spec,
        }
        return self.kube.create(self.path(TRAINING_JOBS, names.PLURAL), body, fieldValidation="Strict")

    def change_policy(self, name: str = "rex", **policy: Any) -> None:
        self.kube.patch(self.path(TRAINING_JOBS, names.PLURAL, name), {"spec": {"runPolicy": policy}})

    def delete(self, name: str = "rex", propagation: str = "Background") -> None:
        self.kube.delete(self.path(TRAINING_JOBS, names.PLURAL, name), {"propagationPolicy": propagation})

    def get(self, name: str = "rex") -> Json | None:
        return self.kube.find(self.path(TRAINING_JOBS, names.PLURAL, name))

    def status(self, name: str = "rex") -> Json:
        found = self.get(name)
        return found.get("status", {}) if found else {}

    def state(self, name: str = "rex") -> str:
        return str(self.status(name).get("state", ""))

    def condition(self, type_: str, name: str = "rex") -> str:
        """ "True Completed", or empty."""
        found = next((c for c in self.status(name).get("conditions", ()) if c["type"] == type_), None)
        return f"{found['status']} {found['reason']}" if found else ""

    def jobs(self) -> dict[str, Json]:
        return {item["metadata"]["name"]: item for item in self.kube.get(self.path(JOBS, "jobs"))["items"]}

    def pods(self) -> list[Json]:
        pods: list[Json] = self.kube.get(self.path(PODS, "pods"))["items"]
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def events(self) -> list[str]:
        """Reasons of the operator's own Events."""
        items = self.kube.get(self.path(EVENTS, "events"))["items"]
        return [e["reason"] for e in items if e.get("reportingController", "").startswith(names.GROUP)]

    def events_with_job(self) -> list[tuple[str, str, str]]:
        """(TrainingJob, reason, note) of the operator's own Events."""
        items = self.kube.get(self.path(EVENTS, "events"))["items"]
        own = [e for e in items if e.get("reportingController", "").startswith(names.GROUP)]
        return [(e["regarding"]["name"], e["reason"], e["note"]) for e in own]

    def end_with(self, exit_code: int, name: str = "rex") -> None:
        """Tells the stand-in, now or when it starts, how to end."""
        temporary = self.folder / self.namespace / f".{name}"
        temporary.write_text(str(exit_code))
        temporary.rename(self.folder / self.namespace / f"{name}.end")

    def path(self, root: str, plural: str, name: str = "") -> str:
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")


def free_port() -> int:
    """Below the range of outgoing connections, so that it is still free when a restarted operator wants it again."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def eventually(what: str, ready: Callable[[], Any], seconds: float = 60, pause: float = 0.05) -> Any:
    """The first true answer of `ready`; AssertionError that names `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
    return answer
