"""Random walks through a small model of a cluster: whatever happens in whatever order, the promises hold.

The Job controller, kubelet, garbage collector and user of the model act at random; each watch lags on its own; the
operator dies at random writes. Then the world is left to settle, and must do so in a state that makes sense.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from dreambooth_api import names
from dreambooth_api.status import ConditionType, Outcome, Purge, TrainingJobStatus
from dreambooth_operator.cluster import PODS, TRAINING_JOBS, ClusterError, Json
from dreambooth_operator.observe import is_true
from tests.unit.operator.builders import NOW, SUCCESS, pod, training_job
from tests.unit.operator.memory import MemoryCluster
from tests.unit.operator.test_reconcile import REX, World

WALKS, STEPS = 30, 60
ENDINGS = [0, 70, 75, 75, 143, 143]


class Crash(BaseException):
    """The operator's process is gone."""


class MortalCluster(MemoryCluster):
    """Dies before or after a write when `fuse` has burnt down."""

    fuse: int | None = None

    def _write(self, do: Any, *arguments: Any, **options: Any) -> Json:
        burnt = self.fuse == 0
        self.fuse = None if self.fuse is None or burnt else self.fuse - 1
        if burnt and len(self.writes) % 2:
            raise Crash
        answer: Json = do(*arguments, **options)
        if burnt:
            raise Crash
        return answer

    def create(self, *arguments: Any) -> Json:
        return self._write(super().create, *arguments)

    def delete(self, *arguments: Any, **options: Any) -> Json:
        return self._write(super().delete, *arguments, **options)

    def patch_status(self, *arguments: Any) -> Json:
        return self._write(super().patch_status, *arguments)


class Model(World):
    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        super().__init__((TRAINING_JOBS, training_job(policy={"backoffLimit": 2, "maxPreemptions": 3})))
        self.cluster = MortalCluster((TRAINING_JOBS, training_job(policy={"backoffLimit": 2, "maxPreemptions": 3})))
        self.restart()
        self.pods_made = 0
        self.seen: list[TrainingJobStatus] = []

    def kind(self, plural: str) -> list[Json]:
        return [item for (p, _, _), item in self.cluster.objects.items() if p == plural]

    # The operator.

    def reconcile_once(self, *, watch: bool) -> None:
        try:
            if watch:
                self.watch()
            self.reconciler(REX)
        except ClusterError:
            pass  # the queue tries again
        except Crash:
            self.restart()
        self.check()

    # The cluster.

    def job_controller(self) -> None:
        for job in self.kind("jobs"):
            pods = [
                p for p in self.kind("pods") if p["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
            ]
            done = job["status"].get("conditions") if "status" in job else None
            if done or "deletionTimestamp" in job["metadata"] or any(not _over(p) for p in pods):
                continue
            codes = [_exit_code(p) for p in pods]
            failures = job["metadata"].setdefault("failures", [])
            failures += [p["metadata"]["uid"] for p, c in zip(pods, codes, strict=True)
                         if c not in (0, 143) and p["metadata"]["uid"] not in failures]  # fmt: skip
            if 0 in codes:
                job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
            elif 70 in codes:
                job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}]}
            elif len(failures) > job["spec"]["backoffLimit"]:
                job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
            else:
                self.make_pod(job)
            self.cluster.touch(job)

    def make_pod(self, job: Json) -> None:
        number = self.pods_made = self.pods_made + 1
        made = pod(number, run=int(job["metadata"]["labels"][names.LABEL_RUN]), phase="Pending", created=number)
        made["metadata"] |= {"uid": f"pod-{number}", "labels": job["metadata"]["labels"], "name": f"pod-{number}"}
        made["metadata"]["ownerReferences"][0]["uid"] = job["metadata"]["uid"]
        self.cluster.put(PODS, made)

    def kubelet(self) -> None:
        for living in [p for p in self.kind("pods") if not _over(p)]:
            if living["status"]["phase"] == "Pending" and "deletionTimestamp" not in living["metadata"]:
                living["status"] = pod()["status"]
            else:
                stopped = "deletionTimestamp" in living["metadata"]
                living["status"] = _ended(143 if stopped else self.dice.choice(ENDINGS))
            self.cluster.touch(living)

    def garbage_collector(self) -> None:
        alive = {job["metadata"]["uid"] for job in self.kind("trainingjobs")}
        for job in self.kind("jobs"):
            if job["metadata"]["ownerReferences"][0]["uid"] not in alive:
                job["metadata"]["deletionTimestamp"] = "now"
        leaving = {job["metadata"]["uid"] for job in self.kind("jobs") if "deletionTimestamp" in job["metadata"]}
        staying = {job["metadata"]["uid"] for job in self.kind("jobs")} - leaving
        for item in self.kind("pods"):
            if item["metadata"]["ownerReferences"][0]["uid"] not in staying:
                item["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
                self.cluster.touch(item)
        owners = {p["metadata"]["ownerReferences"][0]["uid"] for p in self.kind("pods")}
        gone = [p for p in self.kind("pods") if _over(p) and "deletionTimestamp" in p["metadata"]]
        gone += [j for j in self.kind("jobs") if j["metadata"]["uid"] in leaving - owners]
        for item in gone:
            self.cluster.version += 1
            self.cluster.objects = {k: v for k, v in self.cluster.objects.items() if v is not item}

    def user(self) -> None:
        for job in self.kind("trainingjobs"):
            policy = job["spec"]["runPolicy"]
            job["spec"] = job["spec"] | {"runPolicy": policy | {"suspend": not policy.get("suspend", False)}}
            job["metadata"]["generation"] += 1
            self.cluster.touch(job)

    def deleted_pod(self) -> None:
        for item in [p for p in self.kind("pods") if not _over(p)][:1]:
            item["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
            self.cluster.touch(item)

    def deleted_job(self) -> None:
        """By somebody, in the background: the Job is gone at once, its pods follow."""
        for item in self.kind("jobs")[:1]:
            self.cluster.version += 1
            self.cluster.objects = {k: v for k, v in self.cluster.objects.items() if v is not item}

    # The promises.

    def check(self) -> None:
        living = [p for p in self.kind("pods") if not _over(p)]
        assert len(living) <= 1, "two pods may write"
        assert len([j for j in self.kind("jobs") if "deletionTimestamp" not in j["metadata"]]) <= 1, "two Jobs"
        status = self.status
        creations = len([write for write in self.cluster.writes if write.startswith("create jobs")])
        if self.seen:
            before = self.seen[-1]
            for type_ in (ConditionType.SUCCEEDED, ConditionType.FINISHED):
                old, new = before.condition(type_), status.condition(type_)
                assert old is None or old.status != "True" or new == old, "a final condition has changed"
            for count in ("started", "failed", "interrupted"):
                assert getattr(status.attempts, count) >= getattr(before.attempts, count), f"{count} has decreased"
            assert status.run_index >= before.run_index
            if is_true(before, ConditionType.FINISHED):
                assert creations == self.creations, "a finished job was started again"
        assert status.attempts.started <= self.pods_made, "a pod was counted twice"
        assert status.attempts.failed + status.attempts.interrupted <= status.attempts.started
        self.seen.append(status)
        self.creations = creations


def _over(item: Json) -> bool:
    return item["status"]["phase"] in ("Succeeded", "Failed")


def _exit_code(item: Json) -> int:
    return int(item["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"])


def _ended(code: int) -> Json:
    words = SUCCESS if code == 0 else Outcome(reason="Interrupted", purge=Purge(files=1, size_bytes=1, complete=True))
    phase = "Failed" if code else "Succeeded"
    said = words if code in (0, 143) else None
    return dict(pod(phase=phase, exit_code=code, outcome=said)["status"])


@pytest.mark.parametrize("seed", range(WALKS))
def test_the_promises_hold_on_every_walk_and_every_walk_ends(seed: int) -> None:
    dice = random.Random(seed)
    model = Model(dice)
    world = [model.job_controller, model.kubelet, model.garbage_collector]
    for _ in range(STEPS):
        if dice.random() < 0.15:
            model.cluster.fuse = dice.randrange(4)  # type: ignore[attr-defined]
        if dice.random() < 0.5:
            dice.choice([*world, *world, *world, model.user, model.deleted_pod, model.deleted_job])()
            model.check()
        else:
            model.reconcile_once(watch=dice.random() < 0.7)
    model.cluster.fuse = None  # type: ignore[attr-defined]
    for item in model.kind("trainingjobs"):  # resumed, if it was suspended
        if item["spec"]["runPolicy"].get("suspend"):
            model.user()
    for _ in range(30):
        for act in world:
            act()
            model.reconcile_once(watch=True)
    finished = model.status.condition(ConditionType.FINISHED)
    assert finished is not None
    assert finished.status == "True", f"it does not end: {model.status.state}"
    writes = len(model.cluster.writes)
    for _ in range(5):
        model.restart()
        model.reconcile_once(watch=True)
    assert len(model.cluster.writes) == writes, "it does not come to rest"
    assert model.now == NOW
