"""R18 on a real API server: two operator processes and one Lease. Whatever happens to the leader, the other one takes
over, and nothing is done twice."""

from __future__ import annotations

import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.cluster import Cluster
from dreambooth_api import names
from tests.integration.operator_kit import EVENTS, JOBS, PODS, TRAINING_JOBS, Json, Kit, eventually

LEASES = "/apis/coordination.k8s.io/v1"
SHORT_SECONDS = "8"  # a leader that is gone is replaced after about as many seconds
LONG_SECONDS = "60"  # longer than these tests wait: only a Lease that was freed is taken over
ONCE = {"started": 1, "failed": 0, "interrupted": 0}
WROTE = re.compile(
    r'^apiserver_request_total\{.*group="([^"]*)".*,resource="(\w+)".*,verb="(\w+)".*\} (\S+)$', re.MULTILINE
)


class Replicas:
    """Two replicas of one operator. All pods report to the second one, whether it leads or not."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.kits = {name: Kit(cluster, namespace, folder) for name in ("one", "two")}
        self.kit, self.kube = self.kits["one"], cluster.kube
        self.path = self.kit.path(LEASES, "leases", "operator")

    def start(self, name: str, lease_seconds: str) -> None:
        kit = self.kits[name]
        kit.start_process(
            DREAMBOOTH_LEASE=f"{kit.namespace}/operator",
            DREAMBOOTH_LEASE_SECONDS=lease_seconds,
            DREAMBOOTH_IDENTITY=name,
            DREAMBOOTH_POD_IP="127.0.0.1",
            DREAMBOOTH_PROGRESS_ADVERTISED_URL=f"http://127.0.0.1:{self.kits['two'].progress_port}",
        )
        eventually(f"replica {name} is ready", kit.ready)

    def start_both(self, lease_seconds: str) -> None:
        self.start("one", lease_seconds)
        eventually("one leads", lambda: self.leader() == "one")
        self.start("two", lease_seconds)

    def leader(self) -> str:
        lease = self.kube.find(self.path)
        return str(lease["spec"]["holderIdentity"]).rpartition("_")[0] if lease else ""

    def transitions(self) -> int:
        return int(self.kube.get(self.path)["spec"]["leaseTransitions"])

    def signal(self, name: str, number: int) -> None:
        process = self.kits[name].process
        assert process is not None
        process.send_signal(number)

    def exit_code(self, name: str) -> int:
        process = self.kits[name].process
        assert process is not None
        return process.wait(60)

    def metric(self, name: str, metric: str) -> float:
        url = f"http://127.0.0.1:{self.kits[name].health_port}/metrics"
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        return float(next(line for line in text.splitlines() if line.startswith(f"{metric} ")).split()[1])

    def stop(self) -> None:
        for kit in self.kits.values():
            kit.stop()


@pytest.fixture
def replicas(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Replicas]:
    replicas = Replicas(cluster, namespace, tmp_path)
    yield replicas
    replicas.stop()


def test_a_standby_is_ready_does_nothing_and_passes_progress_on(replicas: Replicas) -> None:
    kit = replicas.kit
    replicas.start_both(LONG_SECONDS)
    kit.apply()
    eventually("its progress arrives", lambda: kit.status().get("progress", {}).get("step"))
    assert replicas.leader() == "one"
    assert [replicas.metric(name, "dreambooth_leader") for name in ("one", "two")] == [1, 0]
    assert replicas.metric("two", 'dreambooth_progress_posts_total{code="204"}') >= 1
    assert kit.events() == ["Started"]


def test_the_standby_takes_over_at_once_when_the_leader_is_asked_to_stop(replicas: Replicas) -> None:
    kit = replicas.kit
    replicas.start_both(LONG_SECONDS)
    kit.apply()
    eventually("trains", lambda: kit.state() == "Training")
    replicas.signal("one", signal.SIGTERM)
    assert replicas.exit_code("one") == 0
    eventually("two leads", lambda: replicas.leader() == "two", 40)
    assert replicas.transitions() == 1
    kit.end_with(0)
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    assert kit.status()["attempts"] == ONCE
    assert sorted(kit.events()) == ["Completed", "Started"]


def test_the_standby_takes_over_from_a_leader_that_was_killed(replicas: Replicas) -> None:
    kit = replicas.kit
    replicas.start_both(SHORT_SECONDS)
    kit.apply()
    eventually("has a Job", kit.jobs)
    replicas.signal("one", signal.SIGKILL)
    kit.end_with(0)
    eventually("succeeds", lambda: kit.state() == "Succeeded")
    assert (replicas.leader(), replicas.transitions()) == ("two", 1)
    assert kit.status()["attempts"] == ONCE
    assert list(kit.jobs()) == ["rex-r0"]
    assert sorted(kit.events()) == ["Completed", "Started"]


def test_a_leader_that_was_paused_past_its_lease_writes_nothing_and_ends(replicas: Replicas) -> None:
    kit = replicas.kit
    replicas.start_both(SHORT_SECONDS)
    kit.apply("due", policy={"activeDeadlineSeconds": 5})
    kit.apply("paused")
    eventually("paused trains", lambda: kit.state("paused") == "Training")
    eventually("due trains", lambda: kit.state("due") in ("Training", "Failed: DeadlineExceeded"))
    replicas.signal("one", signal.SIGSTOP)
    kit.apply("new")  # in the paused process's socket, to be read when it wakes up
    kit.change_policy("paused", suspend=True)
    kit.end_with(0, "new")
    for name, state in (("due", "Failed: DeadlineExceeded"), ("new", "Succeeded"), ("paused", "Suspended")):
        eventually(f"{name} is {state}", lambda name=name, state=state: kit.state(name) == state)
    eventually("what is not needed is gone", lambda: list(kit.jobs()) == ["new-r0"] and len(kit.pods()) == 1)
    eventually("all is said", lambda: len(kit.events()) == 6)
    assert (replicas.leader(), replicas.transitions()) == ("two", 1)
    before = _everything(kit), _writes(kit)
    assert before[1]

    replicas.signal("one", signal.SIGCONT)
    assert replicas.exit_code("one") == 1
    assert (_everything(kit), _writes(kit)) == before
    assert (replicas.leader(), replicas.transitions()) == ("two", 1)
    assert len(set(kit.events_with_job())) == len(kit.events()) == 6

    replicas.start("one", SHORT_SECONDS)  # as its Deployment does
    kit.change_policy("paused", suspend=False)
    eventually("paused trains again", lambda: kit.state("paused") == "Training")
    assert sorted(kit.jobs()) == ["new-r0", "paused-r1"]
    assert replicas.leader() == "two"


def _everything(kit: Kit) -> dict[str, str]:
    """Each object's version, as far as an operator could write it."""

    def items(root: str, plural: str) -> list[Json]:
        found: list[Json] = kit.kube.get(kit.path(root, plural))["items"]
        return found

    kinds = ((TRAINING_JOBS, names.PLURAL), (JOBS, "jobs"), (PODS, "pods"), (EVENTS, "events"))
    return {
        f"{plural}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for root, plural in kinds
        for item in items(root, plural)
    }


def _writes(kit: Kit) -> dict[tuple[str, str, str], float]:
    """Writes of TrainingJobs and Events that reached the API server, refused ones too, by its own count."""
    text = str(kit.kube.get("/metrics")["text"])
    counts: dict[tuple[str, str, str], float] = {}
    for group, resource, verb, count in WROTE.findall(text):
        if resource in ("trainingjobs", "events") and verb in ("POST", "PUT", "PATCH", "DELETE"):
            counts[group, resource, verb] = counts.get((group, resource, verb), 0) + float(count)
    return counts
