"""The operator against a real API server, Job controller, scheduler and garbage collector; pods are real processes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from devcluster.cluster import Cluster
from devcluster.kube import ApiError
from dreambooth_api import names
from dreambooth_operator.manifests import child_job
from dreambooth_operator.observe import project_training_job
from tests.integration.operator_kit import JOBS, PODS, Kit, eventually


@pytest.fixture
def kit(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Kit]:
    kit = Kit(cluster, namespace, tmp_path)
    yield kit
    kit.stop()


def training(kit: Kit, name: str = "rex") -> bool:
    return kit.state(name) == "Training"


def test_a_training_job_becomes_a_job_trains_and_succeeds(kit: Kit) -> None:
    kit.start()
    kit.apply()
    eventually("trains", lambda: training(kit))
    status = kit.status()
    assert status["progress"]["totalSteps"] == 800
    assert status["display"]["step"].endswith("/800")
    assert kit.condition("Checkpointed") == "True CheckpointSaved"
    kit.end_with(0)
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    status = kit.status()
    assert status["result"] == {
        "uri": "s3://results/rex/manifest.json", "manifestSha256": "a" * 64, "artifacts": [],
    }  # fmt: skip
    assert status["purge"] == {"files": 1, "sizeBytes": 8, "complete": True}
    assert status["attempts"] == {"started": 1, "failed": 0, "interrupted": 0}
    assert status["display"]["step"] == "800/800"
    expected = {
        "Accepted": "True SpecValid",
        "Succeeded": "True Completed",
        "Finished": "True Completed",
        "ResultUploaded": "True ManifestStands",
        "DataPurged": "True ScratchEmpty",
        "Suspended": "False NotSuspended",
        "Checkpointed": "False ResultStands",
    }
    assert {type_: kit.condition(type_) for type_ in expected} == expected
    assert sorted(kit.events()) == ["Completed", "Started"]


def test_the_child_passes_strict_validation(kit: Kit) -> None:
    kit.apply()
    job = project_training_job(kit.get() or {})
    full = replace(kit.settings, storage_endpoint="http://s3", storage_credentials_secret="s3", job_image="job:1")
    kit.kube.create(kit.path(JOBS, "jobs"), child_job(job, 0, full), dryRun="All", fieldValidation="Strict")


def test_the_pod_is_allowed_in_a_restricted_namespace(kit: Kit) -> None:
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    kit.kube.patch(f"/api/v1/namespaces/{kit.namespace}", {"metadata": {"labels": restricted}})
    kit.start()
    kit.apply()
    eventually("has a pod", kit.pods)


def test_a_permanent_failure_fails_at_once_and_says_why(kit: Kit) -> None:
    kit.end_with(70)
    kit.start()
    kit.apply(policy={"backoffLimit": 5})
    eventually("fails", lambda: kit.state() == "Failed: StorageDenied")
    assert kit.status()["message"].startswith("Said by the stand-in.")
    assert kit.condition("Finished") == "True StorageDenied"
    assert kit.condition("DataPurged") == "True ScratchEmpty"
    assert kit.status()["attempts"] == {"started": 1, "failed": 1, "interrupted": 0}
    assert len(kit.pods()) == 1


def test_a_passing_failure_is_tried_again_and_counted(kit: Kit) -> None:
    kit.end_with(75)
    kit.start()
    kit.apply(policy={"backoffLimit": 1})
    eventually("has failed once", lambda: kit.status().get("attempts", {}).get("failed") == 1)
    kit.end_with(0)
    eventually("succeeds", lambda: kit.state() == "Succeeded", 90)
    assert kit.status()["attempts"] == {"started": 2, "failed": 1, "interrupted": 0}


def test_suspend_saves_and_frees_and_resume_is_a_new_run(kit: Kit) -> None:
    kit.start()
    kit.apply()
    eventually("trains", lambda: training(kit))
    kit.change_policy(suspend=True)
    eventually("is suspended", lambda: kit.state() == "Suspended")
    assert kit.jobs() == {}
    assert kit.pods() == []
    assert kit.condition("DataPurged") == "True PodsGone"
    assert kit.status()["lastAttempts"][0]["exitCode"] == 143
    assert kit.status()["checkpoint"]["step"] == 150  # from the last words of a pod that is gone
    kit.change_policy(suspend=False)
    eventually("trains again", lambda: training(kit))
    assert list(kit.jobs()) == ["rex-r1"]
    kit.end_with(0)
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    assert kit.status()["runIndex"] == 1
    assert kit.status()["attempts"] == {"started": 2, "failed": 0, "interrupted": 0}
    assert sorted(kit.events()) == ["Completed", "Resumed", "Started", "Suspended"]


def test_a_job_born_suspended_starts_nothing(kit: Kit) -> None:
    kit.start()
    kit.apply(policy={"suspend": True})
    eventually("is suspended", lambda: kit.state() == "Suspended")
    assert kit.jobs() == {}


def test_a_deleted_pod_is_an_interruption_and_goes_on(kit: Kit) -> None:
    kit.start()
    kit.apply(policy={"backoffLimit": 0})
    eventually("trains", lambda: training(kit))
    first = kit.pods()[0]["metadata"]["name"]
    kit.kube.delete(kit.path(PODS, "pods", first))
    eventually("has a second pod", lambda: [p for p in kit.pods() if p["metadata"]["name"] != first])
    kit.end_with(0)
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    assert kit.status()["attempts"] == {"started": 2, "failed": 0, "interrupted": 1}
    assert "Interrupted" in kit.events()


def _evict(kit: Kit, message: str, *conditions: Any) -> None:
    """What the kubelet writes when it evicts a pod; this one waits for a node, so nobody else writes its status."""
    eventually("has a pod", kit.pods)
    status = {"phase": "Failed", "reason": "Evicted", "message": message, "conditions": list(conditions)}
    kit.kube.patch(kit.path(PODS, "pods", kit.pods()[0]["metadata"]["name"]) + "/status", {"status": status})


def test_a_pod_evicted_for_its_own_storage_fails_at_once_and_says_the_limit(kit: Kit) -> None:
    kit.start()
    kit.apply(runtime={"gpu": {"count": 1}})
    _evict(kit, 'Usage of EmptyDir volume "scratch" exceeds the limit "40Gi". ')
    eventually("fails", lambda: kit.state() == "Failed: ScratchFull")
    assert 'exceeds the limit "40Gi"' in kit.status()["message"]
    assert kit.status()["attempts"] == {"started": 1, "failed": 1, "interrupted": 0}
    eventually("its Job is stopped", lambda: kit.jobs() == {})


def test_a_pod_evicted_for_the_nodes_shortage_goes_on_free_of_charge(kit: Kit) -> None:
    kit.start()
    kit.apply(policy={"backoffLimit": 0}, runtime={"gpu": {"count": 1}})
    shortage = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    _evict(kit, "The node was low on resource: ephemeral-storage. ", shortage)
    eventually("has a second pod", lambda: len(kit.pods()) == 2)
    counted = {"started": 2, "failed": 0, "interrupted": 1}
    eventually("is counted", lambda: kit.status()["attempts"] == counted)
    eventually("waits again", lambda: kit.state() == "WaitingForGPU")


def test_too_many_interruptions_end_it(kit: Kit) -> None:
    kit.start()
    kit.apply(policy={"maxPreemptions": 0})
    eventually("trains", lambda: training(kit))
    kit.kube.delete(kit.path(PODS, "pods", kit.pods()[0]["metadata"]["name"]))
    eventually("fails", lambda: kit.state() == "Failed: PreemptionLimitExceeded")
    eventually("its Job is stopped", lambda: kit.jobs() == {})


def test_a_deadline_stores_the_verdict_and_stops_the_pod(kit: Kit) -> None:
    kit.start()
    kit.apply(policy={"activeDeadlineSeconds": 2})
    eventually("fails", lambda: kit.state() == "Failed: DeadlineExceeded")
    eventually("its Job is stopped", lambda: kit.jobs() == {})
    eventually("nothing is left", lambda: kit.condition("DataPurged") == "True PodsGone")
    assert kit.status()["attempts"] == {"started": 1, "failed": 0, "interrupted": 0}


def test_a_pod_that_finds_no_node_says_so_and_fails_in_time(kit: Kit) -> None:
    kit.start()
    kit.apply(policy={"startupDeadlineSeconds": 4}, runtime={"gpu": {"count": 1}})
    eventually("waits for a GPU", lambda: kit.state() == "WaitingForGPU")
    assert "Insufficient nvidia.com/gpu" in kit.status()["message"]
    eventually("fails", lambda: kit.state() == "Failed: StartupDeadlineExceeded")


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
@pytest.mark.parametrize("phase", ["new", "pending", "training", "suspended", "finished"])
def test_deletion_at_every_phase_leaves_nothing(kit: Kit, phase: str, propagation: str) -> None:
    kit.start()
    if phase == "finished":
        kit.end_with(0)
    kit.apply(
        policy={"suspend": phase == "suspended"},
        **({"runtime": {"gpu": {"count": 1}}} if phase == "pending" else {}),
    )
    reached = {
        "new": lambda: True,
        "pending": lambda: kit.state() == "WaitingForGPU",
        "training": lambda: training(kit),
        "suspended": lambda: kit.state() == "Suspended",
        "finished": lambda: kit.state() == "Succeeded",
    }
    eventually(phase, reached[phase])
    kit.delete(propagation=propagation)
    eventually("all is gone", lambda: kit.get() is None and not kit.jobs() and not kit.pods())


def test_lifetime_ends_after_the_finish(kit: Kit) -> None:
    kit.end_with(0)
    kit.start()
    kit.apply(policy={"ttlSecondsAfterFinished": 2})
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    eventually("all is gone", lambda: kit.get() is None and not kit.jobs() and not kit.pods())


def test_a_foreign_job_of_our_name_is_never_touched(kit: Kit) -> None:
    template = {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x", "command": ["sleep", "9"]}]}
    }
    foreign = {"metadata": {"name": "rex-r0"}, "spec": {"suspend": True, "template": template}}
    created = kit.kube.create(kit.path(JOBS, "jobs"), foreign)
    kit.start()
    kit.apply()
    eventually("is told", lambda: kit.state() == "NameTaken")
    kit.delete()
    eventually("is gone", lambda: kit.get() is None)
    assert kit.jobs()["rex-r0"]["metadata"]["uid"] == created["metadata"]["uid"]


def test_a_job_that_quota_refuses_is_told_and_created_once_there_is_room(kit: Kit) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    kit.kube.create(kit.path(PODS, "resourcequotas"), quota)
    eventually(
        "the quota counts",
        lambda: kit.kube.get(kit.path(PODS, "resourcequotas", "none")).get("status", {}).get("hard"),
    )
    kit.start()
    kit.apply()
    eventually("is told", lambda: kit.state() == "JobRejected")
    assert "exceeded quota: none" in kit.status()["message"]
    kit.kube.delete(kit.path(PODS, "resourcequotas", "none"))
    eventually("has a Job", lambda: "rex-r0" in kit.jobs())


def test_nothing_is_written_when_nothing_happens(kit: Kit) -> None:
    kit.end_with(0, "done")
    kit.start(resync_seconds=0.2)
    kit.apply("done")
    kit.apply("waits", policy={"suspend": True})
    eventually("done", lambda: kit.state("done") == "Succeeded")
    eventually("waits", lambda: kit.state("waits") == "Suspended")

    def versions() -> list[str]:
        return [str((kit.get(name) or {})["metadata"]["resourceVersion"]) for name in ("done", "waits")]

    before = versions()
    time.sleep(2)  # ten resyncs
    assert versions() == before


# Progress: who may report.


def _token(kit: Kit, audience: str, pod: Any = None) -> str:
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
    if pod:
        reference = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        spec["boundObjectRef"] = reference
    path = kit.path(PODS, "serviceaccounts", "default") + "/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str(kit.kube.create(path, body)["status"]["token"])


def _post(kit: Kit, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", kit.progress_port, timeout=10)
    body = json.dumps({"sequence": 10**6, "stage": "train", "step": 799, "totalSteps": 800})
    connection.request("POST", names.PROGRESS_PATH, body, {"Authorization": f"Bearer {token}"})
    code = connection.getresponse().status
    connection.close()
    return code


def _ask_api_server(kit: Kit, token: str) -> int:
    """For something that everybody who is known may read."""
    access = kit.cluster.control_plane.access("nobody")
    with urllib3.PoolManager(ca_certs=str(access.authority), retries=False) as pool:
        path = f"{access.server}/apis"
        return int(pool.request("GET", path, headers={"Authorization": f"Bearer {token}"}).status)


def test_progress_is_taken_from_the_running_pod_alone(kit: Kit) -> None:
    stranger = {
        "metadata": {"name": "stranger", "labels": {}},
        "spec": {"containers": [{"name": "c", "image": "x", "command": ["sleep", "60"]}]},
    }
    kit.start()
    kit.apply()
    eventually("trains", lambda: training(kit))
    (pod,) = kit.pods()
    other = kit.kube.create(kit.path(PODS, "pods"), stranger)
    impostor = stranger | {"metadata": {"name": "impostor", "labels": pod["metadata"]["labels"]}}
    time.sleep(1.1)  # so that it is younger than the real one
    impostor = kit.kube.create(kit.path(PODS, "pods"), impostor)
    audience = names.PROGRESS_AUDIENCE
    assert _post(kit, "nonsense") == 401
    assert _post(kit, _token(kit, "https://kubernetes.default.svc", pod)) == 401
    assert _post(kit, _token(kit, audience)) == 401  # of no pod
    assert _post(kit, _token(kit, audience, other)) == 403
    assert _post(kit, _token(kit, audience, impostor)) == 403  # our labels, but not of our Job
    assert kit.status()["progress"]["step"] < 799
    assert _post(kit, _token(kit, audience, pod)) == 204
    assert _ask_api_server(kit, _token(kit, audience, pod)) == 401  # good for nothing else
    assert _ask_api_server(kit, _token(kit, "https://kubernetes.default.svc", pod)) == 200


# The process.


def test_the_process_serves_health_and_metrics_and_stops_gracefully(kit: Kit) -> None:
    process = kit.start_process()
    eventually("is ready", kit.ready)
    kit.apply()
    eventually("trains", lambda: training(kit))
    base = f"http://127.0.0.1:{kit.health_port}"
    assert urllib.request.urlopen(f"{base}/healthz", timeout=5).status == 200

    def metrics() -> str:
        return str(urllib.request.urlopen(f"{base}/metrics", timeout=5).read().decode())

    eventually("counts it", lambda: 'dreambooth_jobs{state="Training"} 1.0' in metrics())
    text = metrics()
    assert 'dreambooth_api_calls_total{code="201",resource="jobs",verb="create"} 1.0' in text
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not kit.ready()


def test_the_operator_goes_on_after_a_restart(kit: Kit) -> None:
    kit.start()
    kit.apply()
    eventually("trains", lambda: training(kit))
    kit.stop()
    kit.end_with(0)  # while nobody looks
    eventually("the Job is complete", lambda: kit.jobs()["rex-r0"]["status"].get("succeeded"))
    assert kit.state() == "Training"
    kit.start()
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    assert kit.status()["attempts"] == {"started": 1, "failed": 0, "interrupted": 0}


def test_a_process_that_cannot_start_says_what_to_set(kit: Kit) -> None:
    env = {"PATH": os.defpath, "HOME": str(kit.folder), "PYTHONPATH": ":".join(("api", "operator"))}
    ended = subprocess.run(
        [sys.executable, "-m", "dreambooth_operator"], env=env, cwd=Path(__file__).parents[2], capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "KUBECONFIG" in ended.stderr


# kubectl, as people see it.


def test_kubectl_shows_the_columns_and_refuses_a_typo(kit: Kit) -> None:
    kubectl = [str(kit.cluster.tools.kubectl), f"--kubeconfig={kit.cluster.kubeconfig}", "-n", kit.namespace]
    kit.start()
    kit.apply()
    eventually("trains", lambda: training(kit))
    text = subprocess.run([*kubectl, "get", "dbj"], capture_output=True, text=True, check=True).stdout
    head, row = text.splitlines()
    assert head.split() == ["NAME", "STATE", "STEP", "LOSS", "ETA", "AGE"]
    assert row.split()[:5] == ["rex", "Training", kit.status()["display"]["step"], "0.1250", "1m"]
    with pytest.raises(ApiError, match="learningrate"):
        kit.apply("typo", training={"learningrate": 1e-4})
