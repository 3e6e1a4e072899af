"""The main path against an in-memory API server: R11-R16, refusals, and that nothing is written without need."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dreambooth_api import names
from dreambooth_api.status import Progress, Stage, TrainingJobStatus
from dreambooth_operator import reconcile as reconcile_module
from dreambooth_operator.cluster import JOBS, PODS, TRAINING_JOBS, Conflict, Rejected, Unavailable
from dreambooth_operator.observe import Stores, project_child, project_pod, project_training_job
from dreambooth_operator.progress import ProgressBoard
from dreambooth_operator.queue import Key
from dreambooth_operator.reconcile import Reconciler
from dreambooth_operator.settings import Settings
from tests.unit.operator.builders import NOW, SUCCESS, at, child, pod, training_job
from tests.unit.operator.memory import MemoryCluster

REX: Key = ("team", "rex")


class World:
    """A cluster, and an operator whose watches have seen all of it when `watch` was called."""

    def __init__(self, *objects: Any) -> None:
        self.cluster = MemoryCluster(*objects)
        self.now = NOW
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is left of the old one's memory."""
        self.stores, self.board = Stores(), ProgressBoard()
        self.reconciler = Reconciler(self.cluster, self.stores, self.board, Settings(), lambda: self.now)  # type: ignore[arg-type]
        self.watch()

    def watch(self) -> None:
        for resource, store, project in (
            (TRAINING_JOBS, self.stores.jobs, project_training_job),
            (JOBS, self.stores.children, project_child),
            (PODS, self.stores.pods, project_pod),
        ):
            label = "" if resource is TRAINING_JOBS else names.LABEL_JOB
            listing = self.cluster.list(resource, None, label)
            store.replace([project(item) for item in listing.items], int(listing.version), None)  # type: ignore[attr-defined,operator]

    def reconcile(self, times: int = 1) -> float | None:
        after = None
        for _ in range(times):
            self.watch()
            after = self.reconciler(REX)
        return after

    @property
    def status(self) -> TrainingJobStatus:
        job = self.cluster.objects["trainingjobs", "team", "rex"]
        return TrainingJobStatus.model_validate(job["status"])

    @property
    def writes(self) -> list[str]:
        """Without Events."""
        return [write for write in self.cluster.writes if "events" not in write]


def test_a_new_job_gets_its_child_and_one_status_write() -> None:
    world = World((TRAINING_JOBS, training_job()))
    world.reconcile()
    assert world.writes == ["create jobs/rex-r0", "status trainingjobs/rex"]


def test_r16_steady_state_is_no_write_and_no_read() -> None:
    world = World((TRAINING_JOBS, training_job()), (JOBS, child()), (PODS, pod()))
    world.reconcile(2)
    world.cluster.writes.clear()
    world.cluster.reads.clear()
    world.now += timedelta(hours=1)
    world.reconcile(5)
    world.restart()
    world.reconcile(5)
    assert world.cluster.writes == []
    assert world.cluster.reads == []


def test_r11_a_child_that_exists_and_is_ours_is_no_error() -> None:
    world = World((TRAINING_JOBS, training_job()), (JOBS, child()))
    world.stores.children.replace([], 1, None)  # the watch has not shown it
    world.reconciler(REX)
    assert [c for c in world.writes if c.startswith("create")] == []
    world.reconcile()
    assert "NameTaken" not in world.status.state


@pytest.mark.parametrize(
    "foreign",
    [
        child(owner_uid="of-an-earlier-rex"),
        child() | {"metadata": {**child()["metadata"], "ownerReferences": [], "labels": {}}},
    ],
)
def test_r11_r12_a_foreign_job_of_our_name_is_told_and_never_touched(foreign: Any) -> None:
    before = str(foreign)
    world = World((TRAINING_JOBS, training_job()), (JOBS, foreign))
    world.reconcile(3)
    assert world.status.state == "NameTaken"
    assert str(world.cluster.objects["jobs", "team", "rex-r0"]) == before
    assert world.writes == ["status trainingjobs/rex"]


def test_r12_a_stray_pod_with_our_labels_is_no_attempt() -> None:
    stray = pod()
    stray["metadata"]["ownerReferences"] = []
    world = World((TRAINING_JOBS, training_job()), (PODS, stray))
    world.reconcile(2)
    assert "create jobs/rex-r0" in world.writes
    assert world.status.attempts.started == 0


def test_r12_nothing_is_created_for_a_job_that_was_replaced_under_a_frozen_watch() -> None:
    world = World((TRAINING_JOBS, training_job()))
    world.cluster.put(TRAINING_JOBS, training_job(uid="a-new-rex"))
    with pytest.raises(Conflict):
        world.reconciler(REX)
    assert world.writes == []


def test_r12_nothing_is_created_for_a_job_that_is_being_deleted_or_suspended_meanwhile() -> None:
    for change in ({"deletionTimestamp": at(0)}, {"policy": {"suspend": True}}):
        world = World((TRAINING_JOBS, training_job()))
        world.cluster.put(TRAINING_JOBS, training_job(**change))  # type: ignore[arg-type]
        with pytest.raises(Conflict):
            world.reconciler(REX)
        assert world.writes == []


def test_r13_a_key_waits_until_the_watch_shows_the_own_write() -> None:
    world = World((TRAINING_JOBS, training_job()))
    world.reconciler(REX)
    before = list(world.cluster.writes)
    assert world.reconciler(REX) is not None  # the watch has shown nothing of it
    assert world.cluster.writes == before
    assert world.cluster.reads == ["get trainingjobs/rex"]


def test_r14_a_deletion_is_of_the_very_object_that_was_decided_about() -> None:
    world = World((TRAINING_JOBS, training_job(policy={"suspend": True})), (JOBS, child()))
    world.cluster.put(JOBS, child(uid="another"))
    world.reconciler(REX)
    assert not [w for w in world.writes if w.startswith("delete")]


def test_r15_a_status_that_moved_on_is_not_overwritten() -> None:
    world = World((TRAINING_JOBS, training_job()), (JOBS, child()))
    job = world.cluster.objects["trainingjobs", "team", "rex"]
    job["status"] = {"state": "by somebody else"}
    world.cluster.touch(job)
    with pytest.raises(Conflict):
        world.reconciler(REX)
    assert job["status"] == {"state": "by somebody else"}


def test_r16_a_verdict_is_stored_before_the_child_is_stopped() -> None:
    world = World(
        (TRAINING_JOBS, training_job(policy={"activeDeadlineSeconds": 5})), (JOBS, child()), (PODS, pod())
    )  # fmt: skip
    assert world.reconcile() == 0
    assert world.writes == ["status trainingjobs/rex"]
    assert world.status.state == "Failed: DeadlineExceeded"
    world.reconcile()
    assert world.writes[1] == "delete jobs/rex-r0 Foreground"


def test_suspend_and_resume() -> None:
    world = World((TRAINING_JOBS, training_job(policy={"suspend": True})), (JOBS, child()), (PODS, pod()))
    world.reconcile(2)
    assert world.status.state == "Suspending"
    world.cluster.put(PODS, pod(phase="Failed", exit_code=143))
    world.watch()
    del world.cluster.objects["pods", "team", "rex-r0-p0"], world.cluster.objects["jobs", "team", "rex-r0"]
    world.reconcile(2)
    assert world.status.state == "Suspended"
    job = world.cluster.objects["trainingjobs", "team", "rex"]
    job["spec"] = job["spec"] | {"runPolicy": {"suspend": False}}
    world.cluster.touch(job)
    world.reconcile(2)
    assert "create jobs/rex-r1" in world.writes
    assert (world.status.run_index, world.status.attempts.interrupted) == (1, 0)


def test_a_deleted_child_of_a_finished_job_is_not_made_again() -> None:
    done = (JOBS, child(condition=("Complete", "")))
    world = World((TRAINING_JOBS, training_job()), done, (PODS, pod(phase="Succeeded", exit_code=0, outcome=SUCCESS)))
    world.reconcile(2)
    world.cluster.objects = {k: v for k, v in world.cluster.objects.items() if k[0] == "trainingjobs"}
    world.restart()
    world.reconcile(3)
    assert not [w for w in world.writes if w.startswith("create")]
    assert world.status.state == "Succeeded"


def test_lifetime_deletes_the_training_job_and_only_that() -> None:
    world = World(
        (TRAINING_JOBS, training_job(policy={"ttlSecondsAfterFinished": 60})),
        (JOBS, child(condition=("Complete", ""))),
        (PODS, pod(phase="Succeeded", exit_code=0, outcome=SUCCESS)),
    )
    world.reconcile()
    after = world.reconcile()
    assert after is not None
    assert 0 < after <= 60
    world.now += timedelta(seconds=61)
    world.reconcile(2)
    assert [w for w in world.writes if "delete" in w] == ["delete trainingjobs/rex Background"]


def test_a_refused_job_is_told_at_once_and_tried_again_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(reconcile_module.time, "monotonic", lambda: clock[0])
    world = World((TRAINING_JOBS, training_job()))
    tries = 0

    def refuse(*_: Any, **__: Any) -> None:
        nonlocal tries
        tries += 1
        raise Rejected(f"create jobs: 403 Forbidden: exceeded quota: gpus (try {tries})")

    create = world.cluster.create
    monkeypatch.setattr(world.cluster, "create", lambda r, n, b: refuse() if r is JOBS else create(r, n, b))
    world.reconcile()
    condition = world.status.condition  # type: ignore[assignment]
    assert world.status.state == "JobRejected"
    assert "exceeded quota: gpus" in condition("Scheduled").message  # type: ignore[arg-type,union-attr]
    world.reconcile(20)  # its own status write, resyncs, whatever
    assert tries == 1
    for _ in range(2000):
        clock[0] += 1
        world.reconcile()
    assert tries <= 16
    assert len([w for w in world.writes if w.startswith("status")]) == tries


def test_a_webhook_that_does_not_answer_is_told_too() -> None:
    world = World((TRAINING_JOBS, training_job()))
    error = Unavailable("create jobs: 500 InternalError: failed calling webhook")
    error.code = 500
    world.cluster.refuse_create = error
    world.reconcile()
    assert world.status.state == "JobRejected"
    assert "failed calling webhook" in world.status.message


def test_an_api_server_that_does_not_answer_is_no_refusal() -> None:
    world = World((TRAINING_JOBS, training_job()))
    world.cluster.refuse_create = Unavailable("create jobs: connection refused")
    with pytest.raises(Unavailable):
        world.reconcile()
    assert world.writes == []


def test_a_changed_spec_ends_the_waiting_after_a_refusal() -> None:
    world = World((TRAINING_JOBS, training_job()))
    world.cluster.refuse_create = Rejected("no")
    world.reconcile()
    world.cluster.refuse_create = None
    job = world.cluster.objects["trainingjobs", "team", "rex"]
    job["metadata"]["generation"] = 2
    world.cluster.touch(job)
    world.reconcile()
    assert "create jobs/rex-r0" in world.writes


def test_r22_a_job_of_a_newer_version_is_told_and_left_alone() -> None:
    world = World((TRAINING_JOBS, training_job(more={"subjects": "secret words"})), (JOBS, child()))
    world.reconcile(2)
    assert world.writes == ["status trainingjobs/rex"]
    assert world.status.state == "InvalidSpec"
    assert "spec.subjects" in world.status.message
    assert "secret words" not in str(world.cluster.objects["trainingjobs", "team", "rex"]["status"])


def test_r22_an_unreadable_status_is_never_overwritten() -> None:
    world = World((TRAINING_JOBS, training_job(status={"conditions": "of another age"})))
    world.reconcile(2)
    assert world.writes == []


def test_an_event_that_was_told_before_a_crash_is_not_told_twice() -> None:
    world = World((TRAINING_JOBS, training_job()))
    before = dict(world.cluster.objects["trainingjobs", "team", "rex"])
    world.reconcile(2)
    events = {key for key in world.cluster.objects if key[0] == "events"}
    assert events
    world.cluster.objects["trainingjobs", "team", "rex"] = before | {"status": {}}
    world.restart()
    world.reconcile(2)
    assert {key for key in world.cluster.objects if key[0] == "events"} == events


def test_progress_is_written_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    world = World((TRAINING_JOBS, training_job()), (JOBS, child()), (PODS, pod()))
    world.board._clock = lambda: clock[0]
    for second in range(100):
        clock[0] = float(second)
        world.now = NOW + timedelta(seconds=second)
        world.board.post(
            "pod-0-0", Progress(sequence=second, stage=Stage.TRAIN, step=second, total_steps=800), world.now
        )
        world.reconcile(2)
    writes = [w for w in world.writes if w.startswith("status")]
    assert 10 <= len(writes) <= 12
    assert world.status.progress is not None
    assert world.status.progress.step >= 90


def test_r17_a_restart_does_not_take_its_own_absence_for_a_stall() -> None:
    world = World(
        (TRAINING_JOBS, training_job(policy={"progressTimeoutSeconds": 30})), (JOBS, child()), (PODS, pod())
    )  # fmt: skip
    world.board.post("pod-0-0", Progress(sequence=1, stage=Stage.TRAIN, step=1, total_steps=9), world.now)
    world.reconcile(2)
    world.now += timedelta(hours=1)
    world.restart()
    world.reconcile(2)
    assert world.status.state == "Training"
    world.now += timedelta(seconds=31)
    world.reconcile(2)
    assert world.status.state == "Failed: Stalled"


def test_r17_a_clock_that_leaps_back_does_no_harm() -> None:
    world = World(
        (TRAINING_JOBS, training_job(policy={"activeDeadlineSeconds": 100, "ttlSecondsAfterFinished": 5})),
        (JOBS, child()),
        (PODS, pod()),
    )
    world.now -= timedelta(days=2)
    after = world.reconcile(2)
    assert world.status.state == "Running"
    assert after is not None
    assert after > 0
