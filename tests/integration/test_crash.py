"""The operator dies before and after every one of its API calls; the end is always the same.

Each story below is first told without a crash, which counts its calls and gives the golden end. Then it is told again
for every call: the operator's objects are dropped just before the call is sent, or, for writes, just after it was
answered, and new ones begin with nothing but the cluster. API server, Job controller and garbage collector are real;
the pods are puppets, whose status the story writes as a kubelet would, so that a story takes seconds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster
from dreambooth_operator.__main__ import Operator
from dreambooth_operator.cluster import Json, KubeCluster, Listing, Resource
from dreambooth_operator.settings import Settings
from tests.integration.operator_kit import PODS, Kit, eventually

TELLERS = 12  # stories told at a time; most of one is waiting for the Job controller
PATIENCE = (120, 0.25)  # seconds to wait, and between two looks: looking costs more than all the rest
NODE = "puppet"
SUCCESS = {
    "reason": "Completed", "step": 800, "totalSteps": 800, "purge": {"files": 1, "sizeBytes": 1, "complete": True},
    "result": {"uri": "s3://results/rex/manifest.json", "manifestSha256": "a" * 64, "artifacts": []},
}  # fmt: skip
DENIED = {"reason": "StorageDenied", "message": "No.", "purge": SUCCESS["purge"]}
INTERRUPTED = {"reason": "Interrupted", "step": 300, "totalSteps": 800, "checkpointStep": 300}


class Crash(BaseException):
    """The process is gone: nothing in it may catch this."""


class MortalCluster:
    """The real cluster until call number `at`; then the process that uses it is dead, before or after that call."""

    def __init__(self, cluster: KubeCluster, at: int | None, after: bool) -> None:
        self._cluster, self._at, self._after = cluster, at, after
        self._lock = threading.Lock()
        self.calls: list[str] = []
        self.dead = threading.Event()

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        return self._call(f"get {resource.plural}", lambda: self._cluster.get(resource, namespace, name))

    def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing:
        return self._call(f"list {resource.plural}", lambda: self._cluster.list(resource, namespace, selector))

    def watch(self, resource: Resource, *arguments: Any) -> Iterator[Json]:
        for event in self._cluster.watch(resource, *arguments):
            if self.dead.is_set():
                return
            yield event

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        return self._call(f"create {resource.plural}", lambda: self._cluster.create(resource, namespace, body))

    def delete(self, resource: Resource, namespace: str, name: str, **options: str) -> Json:
        return self._call(
            f"delete {resource.plural}", lambda: self._cluster.delete(resource, namespace, name, **options)
        )

    def patch_status(self, resource: Resource, *arguments: Any) -> Json:
        return self._call(f"patch {resource.plural}", lambda: self._cluster.patch_status(resource, *arguments))

    def _call(self, name: str, send: Callable[[], Any]) -> Any:
        self._check()
        with self._lock:
            self.calls.append(name)
            last = len(self.calls) - 1 == self._at
        if last and not self._after:
            self._die()
        answer = send()
        if last:
            self._die()
        self._check()
        return answer

    def _check(self) -> None:
        if self.dead.is_set():
            raise Crash

    def _die(self) -> None:
        self.dead.set()
        raise Crash


class Puppets:
    """Plays the kubelet for one TrainingJob's pods."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.kube = kit, kit.kube

    def pod(self, name: str) -> Json:
        """The TrainingJob's newest living pod, once there is one."""

        def living() -> Json | None:
            selector = {"labelSelector": f"dreambooth.dev/job={name}"}
            pods = self.kube.get(self.kit.path(PODS, "pods"), **selector)["items"]
            alive = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
            return alive[-1] if alive else None

        return eventually(f"{name} has a pod", living, *PATIENCE)  # type: ignore[no-any-return]

    def run(self, name: str) -> Json:
        pod = self.pod(name)
        path = self.kit.path(PODS, "pods", pod["metadata"]["name"])
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]},
                   "target": {"kind": "Node", "name": NODE}}  # fmt: skip
        self.kube.create(f"{path}/binding", binding)
        self._state(path, "Running", {"running": {"startedAt": _now()}})
        return pod

    def end(self, pod: Json, exit_code: int, words: Json) -> None:
        path = self.kit.path(PODS, "pods", pod["metadata"]["name"])
        times = {"startedAt": _now(), "finishedAt": _now()}
        ended = {"terminated": {"exitCode": exit_code, "message": json.dumps(words), **times}}
        self._state(path, "Failed" if exit_code else "Succeeded", ended)

    def obey_deletion(self, pod: Json) -> None:
        """Waits until the pod is asked to stop, then saves a checkpoint and goes."""
        path = self.kit.path(PODS, "pods", pod["metadata"]["name"])
        asked = eventually("pod is asked to stop", lambda: _deleting(self.kube.find(path)), *PATIENCE)
        if asked != "gone":
            self.end(pod, 143, INTERRUPTED)
            self.kube.delete(path, {"gracePeriodSeconds": 0})

    def _state(self, path: str, phase: str, state: Json) -> None:
        container = {"name": "trainer", "state": state, "ready": False, "restartCount": 0, "image": "", "imageID": ""}
        self.kube.patch(f"{path}/status", {"status": {"phase": phase, "containerStatuses": [container]}})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _deleting(pod: Json | None) -> str:
    return "gone" if pod is None else pod["metadata"].get("deletionTimestamp", "")


# The stories. Each waits for what a user would see, so that its steps come in one order.


@dataclass
class Teller:
    kit: Kit
    name: str
    seen: list[Any] = field(default_factory=list)  # what must be the same with and without a crash

    @property
    def puppets(self) -> Puppets:
        return Puppets(self.kit)

    def apply(self, **policy: Any) -> None:
        self.kit.apply(self.name, policy=policy, runtime=RUNTIME)

    def until(self, state: str) -> None:
        eventually(f"{self.name} is {state}", lambda: self.kit.state(self.name) == state, *PATIENCE)

    def note(self, *, last_words: bool = True) -> None:
        """Everything that may not depend on a crash. `last_words`: a deleted pod's are lost when nobody was there."""
        status = self.kit.status(self.name)
        jobs = {
            name.removeprefix(self.name): [c["type"] for c in job["status"].get("conditions", ())]
            for name, job in self.kit.jobs().items()
            if name.startswith(f"{self.name}-r")
        }
        conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
        kept = {key: status.get(key) for key in ("state", "runIndex", "attempts", "result", "display", "message")}
        if not last_words:
            del kept["display"], conditions["Checkpointed"]
        self.seen.append((kept, conditions, jobs))

    def gone(self) -> None:
        def nothing_left() -> bool:
            items = [*self.kit.jobs().values(), *self.kit.pods()]
            ours = [i for i in items if i["metadata"].get("labels", {}).get("dreambooth.dev/job") == self.name]
            return self.kit.get(self.name) is None and not ours

        eventually(f"nothing of {self.name} is left", nothing_left, *PATIENCE)

    def settle(self, condition: str, value: str) -> None:
        what = f"{self.name}: {condition} is {value}"
        eventually(what, lambda: self.kit.condition(condition, self.name) == value, *PATIENCE)


# Matches no node: the scheduler leaves these pods to the puppets.
RUNTIME = {
    "gpu": {"count": 0},
    "resources": {"cpu": "10m", "memory": "16Mi"},
    "scratch": {"sizeLimit": "1Mi"},
    "nodeSelector": {"dreambooth.dev/puppets": "only"},
}


def success_and_lifetime(teller: Teller) -> None:
    teller.apply()
    pod = teller.puppets.run(teller.name)
    teller.until("Running")
    teller.puppets.end(pod, 0, SUCCESS)
    teller.until("Succeeded")
    teller.settle("DataPurged", "True ScratchEmpty")
    teller.note()
    teller.kit.change_policy(teller.name, ttlSecondsAfterFinished=0)
    teller.gone()


def suspend_and_resume(teller: Teller) -> None:
    teller.apply()
    pod = teller.puppets.run(teller.name)
    teller.until("Running")
    teller.kit.change_policy(teller.name, suspend=True)
    teller.puppets.obey_deletion(pod)
    teller.until("Suspended")
    teller.settle("DataPurged", "True PodsGone")
    teller.note(last_words=False)
    teller.kit.change_policy(teller.name, suspend=False)
    pod = teller.puppets.run(teller.name)
    teller.until("Running")
    teller.puppets.end(pod, 0, SUCCESS)
    teller.until("Succeeded")
    teller.settle("DataPurged", "True ScratchEmpty")
    teller.note()


def permanent_failure(teller: Teller) -> None:
    teller.apply()
    pod = teller.puppets.run(teller.name)
    teller.until("Running")
    teller.puppets.end(pod, 70, DENIED)
    teller.until("Failed: StorageDenied")
    teller.settle("DataPurged", "True ScratchEmpty")
    teller.note()


def deadline(teller: Teller) -> None:
    teller.apply(activeDeadlineSeconds=1)
    pod = teller.puppets.run(teller.name)
    teller.until("Failed: DeadlineExceeded")
    teller.puppets.obey_deletion(pod)
    teller.settle("DataPurged", "True PodsGone")
    eventually("its Job is gone", lambda: not teller.kit.jobs(), *PATIENCE)
    teller.note(last_words=False)


def deletion(teller: Teller) -> None:
    teller.apply()
    pod = teller.puppets.run(teller.name)
    teller.until("Running")
    teller.note()
    teller.kit.delete(teller.name)
    teller.puppets.obey_deletion(pod)
    teller.gone()


STORIES = (success_and_lifetime, suspend_and_resume, permanent_failure, deadline, deletion)


@dataclass(frozen=True)
class Telling:
    calls: list[str]
    seen: list[Any]
    crashed: bool


def tell(kit: Kit, story: Callable[[Teller], None], at: int | None = None, after: bool = False) -> Telling:
    """Tells the story once, in a namespace of its own, with an operator that dies at call `at` and is started again."""
    namespace = f"{kit.namespace}-{'golden' if at is None else at}{'a' if after else 'b'}-{story.__name__[:4]}"
    kit.cluster.add_namespace(namespace)
    own = Kit(kit.cluster, namespace, kit.folder)
    own.settings = replace(own.settings, progress_listen=("127.0.0.1", 0), health_listen=("127.0.0.1", 0), workers=1)
    mortal = MortalCluster(own.connect(), at, after)
    over = threading.Event()
    keeper = threading.Thread(target=_keep_running, args=(own, mortal, over))
    keeper.start()
    teller = Teller(own, "rex")
    try:
        story(teller)
        crashed = mortal.dead.is_set()
    finally:
        over.set()
        keeper.join()
        mortal.dead.set()
        own.kube.delete(f"/api/v1/namespaces/{namespace}")
    return Telling(mortal.calls, teller.seen, crashed)


def _keep_running(kit: Kit, mortal: MortalCluster, over: threading.Event) -> None:
    """What a Deployment does: starts the operator again when it has died."""
    first = _operator(mortal, kit.settings)
    while not over.wait(0.05):
        if mortal.dead.is_set():
            first.stop()
            second = _operator(kit.connect(), kit.settings)
            over.wait()
            second.stop()
            return
    first.stop()


def _operator(cluster: Any, settings: Settings) -> Operator:
    operator = Operator(cluster, settings, watch_seconds=(5, 8))
    operator.start()
    return operator


@pytest.fixture(autouse=True)
def quiet_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that ends by a crash is no failure of the test."""
    hook = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda args: None if args.exc_type is Crash else hook(args))


@pytest.fixture
def kit(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Kit]:
    """Its node takes no pod by itself, but pods bound to it are not collected as those of a node that never was."""
    cluster.kube.create("/api/v1/nodes", {"metadata": {"name": NODE}, "spec": {"unschedulable": True}})
    yield Kit(cluster, namespace, tmp_path)
    cluster.kube.delete(f"/api/v1/nodes/{NODE}")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_end_is_the_same_wherever_the_operator_dies(
    kit: Kit, story: Callable[[Teller], None], capsys: pytest.CaptureFixture[str]
) -> None:
    golden = tell(kit, story)
    # To die after a read is to die before the next call; after a write, its effect stands and nobody knows.
    points = [(at, False) for at in range(len(golden.calls))]
    points += [(at, True) for at, call in enumerate(golden.calls) if call.split()[0] in ("create", "patch", "delete")]
    with ThreadPoolExecutor(TELLERS) as tellers:
        tellings = list(tellers.map(lambda point: tell(kit, story, *point), points))
    different = {
        f"{'after' if after else 'before'} call {at}, {telling.calls[at]}": _differences(golden.seen, telling.seen)
        for (at, after), telling in zip(points, tellings, strict=True)
        if telling.crashed and telling.seen != golden.seen
    }
    tried = sum(telling.crashed for telling in tellings)
    with capsys.disabled():
        print(f"\n{story.__name__}: {tried} crash points ({', '.join(golden.calls)})")
    assert different == {}
    assert tried >= 0.75 * len(points)  # a telling needs fewer calls when two changes were seen as one


def _differences(golden: list[Any], seen: list[Any]) -> list[Any]:
    """Pairs of what was expected and what was seen, for the message of a failure."""
    flat = [[part.items() for note in notes for part in note] for notes in (golden, seen)]
    if len(golden) != len(seen):
        return [(len(golden), "notes", len(seen))]
    return [(set(map(str, a)) ^ set(map(str, b))) for a, b in zip(*flat, strict=True) if a != b]
