"""The process node against the real control plane: what a kubelet promises, it keeps."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from devcluster.cluster import Cluster, wait_until


class Pods:
    """Makes and reads pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self.namespace = cluster, namespace
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    def run(self, script: str, name: str = "pod", container: dict[str, Any] | None = None, **spec: Any) -> None:
        """A pod whose one container runs a shell script."""
        main = {"name": "main", "image": "none", "command": ["/bin/sh", "-c", script], **(container or {})}
        spec = {"restartPolicy": "Never", "containers": [main], **spec}
        self._cluster.kube.create(self._path, {"metadata": {"name": name}, "spec": spec})

    def get(self, name: str = "pod") -> dict[str, Any] | None:
        return self._cluster.kube.find(f"{self._path}/{name}")

    def wait(self, phase: str, name: str = "pod") -> dict[str, Any]:
        wait_until(lambda: self.get(name)["status"]["phase"] == phase, f"pod {name} {phase}", 30)
        return self.get(name)

    def ended(self, name: str = "pod") -> dict[str, Any]:
        """How the container ended."""
        wait_until(lambda: self.get(name)["status"]["phase"] in ("Succeeded", "Failed"), f"end of pod {name}", 30)
        return self.get(name)["status"]["containerStatuses"][0]["state"]["terminated"]

    def log(self, name: str = "pod", *flags: str) -> str:
        command = [self._cluster.tools.kubectl, "--kubeconfig", self._cluster.kubeconfig, "-n", self.namespace]
        done = subprocess.run([*command, "logs", name, *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def delete(self, name: str = "pod", **options: Any) -> None:
        self._cluster.kube.delete(f"{self._path}/{name}", **options)


@pytest.fixture
def pods(cluster: Cluster, namespace: str) -> Pods:
    return Pods(cluster, namespace)


def test_a_pod_runs_to_its_end_and_its_log_can_be_read(pods):
    pods.run("echo one; echo two >&2")
    ending = pods.ended()
    assert (ending["exitCode"], ending["reason"]) == (0, "Completed")
    assert pods.get()["status"]["phase"] == "Succeeded"
    assert pods.log() == "one\ntwo\n"
    assert pods.log("pod", "--tail=1") == "two\n"
