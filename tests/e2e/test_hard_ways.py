"""What goes wrong on clusters, done on purpose to a pod that trains; each with the end that its user must see."""

from __future__ import annotations

import time

import pytest

from devcluster.realnode import RealNode
from dreambooth_api.names import LABEL_JOB
from tests.e2e.report import Report
from tests.e2e.site import Object, Site, eventually
from tests.e2e.trainings import CHECKPOINT_EVERY, ON_CPU, Clock, Training, condition, reason, short_job

CHECKPOINTS = 3  # saved before the disturbance; most of the way is left then
STORAGE_AWAY_SECONDS = 60


def test_pod_deleted(site: Site, namespace: str, report: Report) -> None:
    clock, training = Clock(), Training.apply(site, namespace, short_job("deleted"))
    training.wait_for_checkpoints(CHECKPOINTS)
    training.kubectl("delete", "pod", training.pod()["metadata"]["name"], "--wait=false")
    status = training.succeed()
    assert _resumed(training, status) >= CHECKPOINTS * CHECKPOINT_EVERY
    report.ending("`kubectl delete pod`", _story(training, status), clock())


def test_node_drained(site: Site, namespace: str, report: Report) -> None:
    clock, training = Clock(), Training.apply(site, namespace, short_job("drained"))
    training.wait_for_checkpoints(CHECKPOINTS)
    node = training.pod()["spec"]["nodeName"]
    only_ours = ["--pod-selector", f"{LABEL_JOB}={training.name}", "--delete-emptydir-data"]
    try:
        site.kubectl("drain", node, *only_ours, "--ignore-daemonsets", "--timeout=150s")
        if site.node:  # the only one
            eventually(lambda: training.status()["state"] == "Unschedulable", "a pod that waits for a node")
    finally:
        site.kubectl("uncordon", node)
    status = training.succeed()
    assert _resumed(training, status) >= CHECKPOINTS * CHECKPOINT_EVERY
    assert status["attempts"] == {"started": 2, "failed": 0, "interrupted": 1}
    report.ending("`kubectl drain`, node back later", _story(training, status), clock())


def test_container_killed(site: Site, namespace: str, report: Report) -> None:
    node = _node(site)
    clock, training = Clock(), Training.apply(site, namespace, short_job("killed"))
    training.wait_for_checkpoints(CHECKPOINTS)
    node.kill_container(training.pod()["metadata"]["uid"], "trainer")
    status = training.succeed()
    assert _resumed(training, status) >= CHECKPOINT_EVERY
    assert status["attempts"] == {"started": 2, "failed": 1, "interrupted": 0}
    report.ending("SIGKILL of the container", _story(training, status), clock())


def test_leader_killed(site: Site, namespace: str, report: Report) -> None:
    node = _node(site)
    clock, training = Clock(), Training.apply(site, namespace, short_job("leaderless"))
    training.wait_for_checkpoints(CHECKPOINTS)
    leader = _leader(site)
    pod = site.kubectl.get("-n", site.release, "pod", leader.partition("_")[0])
    node.kill_container(pod["metadata"]["uid"], "operator")
    killed_at = Clock()
    eventually(lambda: _leader(site) not in ("", leader), "another leader")
    takeover = killed_at()
    status = training.succeed()
    assert status["attempts"]["started"] == 1
    outcome = f"{_story(training, status)}; led again after {takeover:.0f} s"
    report.ending("SIGKILL of the leading operator", outcome, clock())


def test_kubelet_restarted(site: Site, namespace: str, report: Report) -> None:
    node = _node(site)
    clock, training = Clock(), Training.apply(site, namespace, short_job("restarted"))
    training.wait_for_checkpoints(CHECKPOINTS)
    node.restart_kubelet()
    status = training.succeed()
    assert status["attempts"]["started"] == 1
    report.ending("kubelet killed and started again", _story(training, status), clock())


def test_storage_away(site: Site, namespace: str, report: Report) -> None:
    clock, training = Clock(), Training.apply(site, namespace, short_job("offline"))
    before = training.wait_for_checkpoints(CHECKPOINTS)
    with site.s3_server.away():
        time.sleep(STORAGE_AWAY_SECONDS)
        assert training.status()["progress"]["step"] > before + CHECKPOINT_EVERY  # the training itself did not wait
        assert condition(training.status(), "Finished") != "True"
    status = training.succeed()
    assert status["attempts"]["started"] == 1
    report.ending(f"S3 server away for {STORAGE_AWAY_SECONDS} s", _story(training, status), clock())


def test_memory_limit_hit(site: Site, namespace: str, report: Report) -> None:
    small = ON_CPU | {"resources": {"cpu": "500m", "memory": "500Mi"}}
    clock, training = Clock(), Training.apply(site, namespace, short_job("oom", runtime=small))
    status = training.wait()
    assert reason(status) == "MemoryLimitExceeded", status
    assert "runtime.resources.memory" in status["message"]
    assert training.objects() == []
    report.ending("memory limit of 500Mi", _story(training, status), clock())


def test_scratch_full(site: Site, namespace: str, report: Report) -> None:
    small = ON_CPU | {"scratch": {"medium": "Memory", "sizeLimit": "12Mi"}}
    clock, training = Clock(), Training.apply(site, namespace, short_job("full", runtime=small))
    status = training.wait()
    assert reason(status) == "ScratchFull", status
    assert "runtime.scratch.sizeLimit" in status["message"]
    assert training.objects() == []
    report.ending("scratch of 12Mi", _story(training, status), clock())


def test_namespace_deleted(site: Site, namespace: str, report: Report) -> None:
    clock, training = Clock(), Training.apply(site, namespace, short_job("homeless"))
    training.wait_for_checkpoints(CHECKPOINTS)
    site.kubectl("delete", "namespace", namespace, "--timeout=150s")
    assert training.published() is None
    assert [key for key in training.objects() if "/.checkpoints/" not in key] == []
    report.ending("namespace deleted", "gone, pod and all; no result, checkpoints kept", clock())


def _resumed(training: Training, status: Object) -> int:
    """The step at which the last attempt took over."""
    assert status["attempts"]["started"] == 2
    (resumed,) = [line for line in training.log(training.pods()[-1]) if line["event"] == "resumed"]
    return int(resumed["step"])


def _story(training: Training, status: Object) -> str:
    started = status["attempts"]["started"]
    words = f"{status['state']} in {started} attempt{'s' if started > 1 else ''}"
    return f"{words}, resumed at step {_resumed(training, status)}" if started > 1 else words


def _leader(site: Site) -> str:
    """Pod and process that hold the Lease."""
    (lease,) = site.kubectl.items("-n", site.release, "leases")
    return str(lease["spec"].get("holderIdentity", ""))


def _node(site: Site) -> RealNode:
    if site.node is None:
        pytest.skip("needs a hand on the node, which a given cluster does not offer")
    return site.node
