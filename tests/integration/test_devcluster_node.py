"""The process node against the real control plane: what a kubelet promises, it keeps."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster, wait_until
from devcluster.processes import Identity


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


def test_exit_code_and_termination_message_are_reported(pods):
    pods.run(
        "printf broken > $MESSAGE; exit 66", container={"env": [{"name": "MESSAGE", "value": "/dev/termination-log"}]}
    )
    ending = pods.ended()
    assert (ending["exitCode"], ending["reason"], ending["message"]) == (66, "Error", "broken")


def test_log_stands_in_for_a_missing_termination_message(pods):
    pods.run("echo why >&2; kill -SEGV $$$$", container={"terminationMessagePolicy": "FallbackToLogsOnError"})
    ending = pods.ended()
    assert (ending["exitCode"], ending["message"]) == (139, "why")


def test_a_missing_program_is_named(pods):
    pods.run("", container={"command": ["no-such-program"]})
    ending = pods.ended()
    assert (ending["exitCode"], ending["reason"]) == (128, "StartError")
    assert "no-such-program" in ending["message"]


def test_logs_can_be_followed_while_the_pod_runs(pods):
    pods.run("echo first; sleep 1; echo last")
    pods.wait("Running")
    assert pods.log("pod", "--follow") == "first\nlast\n"


def test_deletion_gives_time_to_finish_and_then_removes_everything(cluster, pods):
    pods.run("trap 'sleep 0.5; echo saved; exit 143' TERM; echo $HOME; echo up; while :; do sleep 0.1; done")
    wait_until(lambda: "up" in pods.log() if pods.wait("Running") else False, "start of the script", 30)
    folder = Path(pods.log().splitlines()[0])
    uid, logs = pods.get()["metadata"]["uid"], cluster.folder / "nodes" / "local" / "logs"
    pods.delete()
    wait_until(lambda: pods.get() is None, "deletion", 30)
    (log,) = logs.glob(f"*_{uid}/main/0.log")
    assert log.read_text().endswith("saved\n")
    assert not folder.exists()


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(pods):
    pods.run("trap '' TERM; setsid sleep 1234.5 & echo $!; wait")
    wait_until(lambda: pods.wait("Running") and pods.log() != "", "start of the script", 30)
    child = int(pods.log())
    assert Identity.of(child)
    started = time.monotonic()
    pods.delete(gracePeriodSeconds=1)
    wait_until(lambda: pods.get() is None, "deletion", 30)
    assert time.monotonic() - started >= 1
    assert Identity.of(child) is None


def test_a_pod_is_ended_at_its_deadline(pods):
    pods.run("sleep 1234.6", activeDeadlineSeconds=1, terminationGracePeriodSeconds=1)
    pods.wait("Failed")
    assert pods.get()["status"]["reason"] == "DeadlineExceeded"


def test_init_containers_come_first_and_share_volumes(pods):
    mount = {"volumeMounts": [{"name": "work", "mountPath": "/work"}]}
    first = {"name": "first", "image": "none", "command": ["/bin/sh", "-c", 'echo hello > "$0"', "/work/file"], **mount}
    pods.run(
        'cat "$FILE"; ls "$FILE"',
        container={**mount, "env": [{"name": "FILE", "value": "/work/file"}]},
        initContainers=[first],
        volumes=[{"name": "work", "emptyDir": {}}],
    )
    assert pods.ended()["exitCode"] == 0
    assert pods.log().startswith("hello\n")


def test_a_missing_secret_holds_the_pod_until_it_is_there(cluster, pods):
    variable = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "word"}}}
    pods.run("echo $WORD", container={"env": [variable]})

    def waiting() -> dict[str, Any]:
        statuses = pods.get()["status"].get("containerStatuses") or [{"state": {}}]
        return statuses[0]["state"].get("waiting", {})

    wait_until(lambda: waiting().get("reason") == "CreateContainerConfigError", "the reason", 30)
    assert "words" in waiting()["message"]
    secret = {"metadata": {"name": "words"}, "stringData": {"word": "sesame"}}
    cluster.kube.create(f"/api/v1/namespaces/{pods.namespace}/secrets", secret)
    assert pods.ended()["exitCode"] == 0
    assert pods.log() == "sesame\n"


def test_secret_and_token_volumes_hold_what_the_pod_asked_for(cluster, pods):
    secret = {"metadata": {"name": "keys"}, "stringData": {"ID": "me"}}
    cluster.kube.create(f"/api/v1/namespaces/{pods.namespace}/secrets", secret)
    token = {"path": "token", "audience": "dreambooth.dev/progress", "expirationSeconds": 3600}
    pods.run(
        'cat "$KEYS/ID"; echo; cat "$TOKEN"; sleep 1234.7',
        container={
            "env": [{"name": "KEYS", "value": "/keys"}, {"name": "TOKEN", "value": "/tokens/token"}],
            "volumeMounts": [{"name": "keys", "mountPath": "/keys"}, {"name": "tokens", "mountPath": "/tokens"}],
        },
        volumes=[
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "tokens", "projected": {"sources": [{"serviceAccountToken": token}]}},
        ],
    )
    wait_until(lambda: pods.wait("Running") and len(pods.log()) > 10, "the token", 30)
    identity, token = pods.log().split("\n")
    assert identity == "me"
    review = _review(cluster, token, "dreambooth.dev/progress")
    assert review["authenticated"]
    assert review["user"]["username"] == f"system:serviceaccount:{pods.namespace}:default"
    assert review["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [pods.get()["metadata"]["uid"]]
    assert not _review(cluster, token, "somebody-else").get("authenticated")


def _review(cluster: Cluster, token: str, audience: str) -> dict[str, Any]:
    body = {"spec": {"token": token, "audiences": [audience]}}
    return cluster.kube.create("/apis/authentication.k8s.io/v1/tokenreviews", body)["status"]


def test_a_restarted_node_reports_what_it_lost_and_takes_new_pods(cluster, pods):
    node = cluster.nodes[0]
    pods.run("echo $$$$; sleep 1234.8", name="before")
    wait_until(lambda: pods.wait("Running", "before") and pods.log("before") != "", "start of the script", 30)
    process = int(pods.log("before"))
    node.kill()
    wait_until(lambda: Identity.of(process) is None, "the end of the pod's process", 5)
    node.start()
    assert pods.ended("before")["exitCode"] == 137
    pods.run("exit 0", name="after")
    assert pods.ended("after")["exitCode"] == 0


def test_a_job_of_kubernetes_sees_its_pod_succeed(cluster, pods):
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "none", "command": ["true"]}]}}
    jobs = f"/apis/batch/v1/namespaces/{pods.namespace}/jobs"
    cluster.kube.create(jobs, {"metadata": {"name": "job"}, "spec": {"template": template}})
    wait_until(lambda: cluster.kube.get(f"{jobs}/job")["status"].get("succeeded") == 1, "success of the Job", 30)
