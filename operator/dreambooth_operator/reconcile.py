"""The main path: observe, decide, apply, one status write. Read this first.

It looks at what is, not at what happened, so it may run at any time and any number of times, and stop at any line:
names are deterministic, deletions name the very object that was read, and a verdict is written before its
consequences are carried out.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from dreambooth_api import reasons
from dreambooth_operator import events, manifests, metrics, status
from dreambooth_operator.cluster import (
    EVENTS,
    JOBS,
    TRAINING_JOBS,
    AlreadyExists,
    Cluster,
    ClusterError,
    Conflict,
    NotFound,
    Rejected,
    Resource,
)
from dreambooth_operator.decide import decide
from dreambooth_operator.observe import Observed, Stores, controller_of, observe, project_child, project_training_job
from dreambooth_operator.plan import Plan, Trouble
from dreambooth_operator.progress import ProgressBoard, to_status
from dreambooth_operator.queue import Key
from dreambooth_operator.settings import Settings

log = structlog.get_logger()

FIRST_REFUSAL_SECONDS = 1.0
LAST_REFUSAL_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server would not have our Job: the next try waits, however often the key comes round."""

    trouble: Trouble
    version: tuple[str, int]  # UID and generation of the TrainingJob it was about
    wait_seconds: float
    until: float


class Reconciler:
    """Called with a key by one worker at a time; returns in how many seconds to look again."""

    def __init__(
        self,
        cluster: Cluster,
        stores: Stores,
        board: ProgressBoard,
        settings: Settings,
        now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._stores, self._board, self._settings, self._now = cluster, stores, board, settings, now
        self._listening_since = now()
        self._refusals: dict[Key, Refusal] = {}

    def __call__(self, key: Key) -> float | None:
        if self._stores.stale(key):
            return 1.0  # the watch brings the key back as soon as it has caught up
        observed = observe(key, self._stores)
        if observed is None:
            self._refusals.pop(key, None)
            return None
        observed = self._with_progress(observed)
        now = self._now()
        plan = decide(observed, now)
        trouble = self._apply(observed, plan, now)
        self._write_status(observed, plan, trouble, now)
        if refusal := self._refusals.get(key):
            return max(0.0, refusal.until - time.monotonic())
        return plan.again_seconds

    def _with_progress(self, observed: Observed) -> Observed:
        pod, stored = observed.pod, observed.status.progress
        if pod is None:
            return replace(observed, progress=stored)
        due = self._board.due(pod.uid)
        stored_time = datetime.fromisoformat(stored.observed_time) if stored and stored.pod_uid == pod.uid else None
        heard = self._board.heard(pod.uid) or stored_time
        return replace(
            observed,
            progress=to_status(pod.uid, *due) if due else stored,
            checkpoint_step=due[0].checkpoint_step if due else None,
            heard=max(heard, self._listening_since) if heard else None,
        )

    def _apply(self, observed: Observed, plan: Plan, now: datetime) -> Trouble | None:
        if plan.create is not None:
            return self._create_child(observed, plan.create, now)
        self._refusals.pop(observed.job.key, None)
        if plan.delete is not None:
            self._delete(JOBS, plan.delete.key, plan.delete.uid, "Foreground", observed)
        elif plan.delete_self:
            self._delete(TRAINING_JOBS, observed.job.key, observed.job.uid, "Background", observed)
        return plan.trouble

    def _create_child(self, observed: Observed, run_index: int, now: datetime) -> Trouble | None:
        job = observed.job
        refusal = self._refusals.get(job.key)
        if refusal and refusal.version == (job.uid, job.generation) and time.monotonic() < refusal.until:
            return refusal.trouble
        self._check_is_current(observed)
        body = manifests.child_job(job, run_index, self._settings)
        child_key = (job.key[0], body["metadata"]["name"])
        try:
            created = self._cluster.create(JOBS, job.key[0], body)
        except AlreadyExists:
            created = self._cluster.get(JOBS, *child_key)
            if controller_of(created).get("uid") != job.uid:
                return self._refuse(observed, Trouble(reasons.NAME_TAKEN.name, _taken(child_key[1])))
        except ClusterError as error:
            if not isinstance(error, Rejected) and error.code != 500:  # 500 is a webhook that does not answer
                raise
            return self._refuse(observed, Trouble(reasons.JOB_REJECTED.name, str(error)))
        self._refusals.pop(job.key, None)
        child = project_child(created)
        self._stores.children.expect(job.key, child.key, child.version)
        if run_index == 0:
            metrics.APPLY_TO_JOB.observe(max(0.0, (now - job.created).total_seconds()))
        log.info("job_created", namespace=job.key[0], job=job.key[1], run=run_index)
        return None

    def _check_is_current(self, observed: Observed) -> None:
        """A Job costs a GPU: it is created for what the TrainingJob is now, not for what a late watch shows."""
        live = project_training_job(self._cluster.get(TRAINING_JOBS, *observed.job.key))
        if (live.uid, live.version, live.deleting) != (observed.job.uid, observed.job.version, False):
            raise Conflict("the TrainingJob has changed since it was read")

    def _refuse(self, observed: Observed, trouble: Trouble) -> Trouble:
        job = observed.job
        before = self._refusals.get(job.key)
        wait = min(before.wait_seconds * 2, LAST_REFUSAL_SECONDS) if before else FIRST_REFUSAL_SECONDS
        self._refusals[job.key] = Refusal(trouble, (job.uid, job.generation), wait, time.monotonic() + wait)
        log.warning("job_refused", namespace=job.key[0], job=job.key[1], reason=trouble.reason, retry_seconds=wait)
        return trouble

    def _delete(self, resource: Resource, key: Key, uid: str, propagation: str, observed: Observed) -> None:
        """Deletes exactly the object that was decided about, as it is now; harmless when it is gone already."""
        try:
            live = self._cluster.get(resource, *key)
            if live["metadata"]["uid"] != uid or "deletionTimestamp" in live["metadata"]:
                return
            version = live["metadata"]["resourceVersion"]
            if resource is TRAINING_JOBS and int(version) != observed.job.version:
                raise Conflict("the TrainingJob has changed since it was read")
            self._cluster.delete(resource, *key, uid=uid, version=version, propagation=propagation)
        except NotFound:
            return
        log.info("deleted", namespace=key[0], kind=resource.kind, name=key[1])

    def _write_status(self, observed: Observed, plan: Plan, trouble: Trouble | None, now: datetime) -> None:
        job = observed.job
        if job.status is None or job.deleting or plan.delete_self:
            return
        new = status.build(observed, plan, trouble, now)
        stored = job.status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
        patch = status.changes(stored, new.to_dict())
        if not patch:
            return
        for happening in events.happenings(job.status, new):
            try:
                self._cluster.create(EVENTS, job.key[0], events.event(job, happening, now, socket.gethostname()))
            except AlreadyExists:
                pass  # told before a crash
            except ClusterError as error:
                log.warning("event_lost", namespace=job.key[0], job=job.key[1], error=str(error))
        written = self._cluster.patch_status(TRAINING_JOBS, *job.key, str(job.version), patch)
        if new.progress and new.progress != job.status.progress:
            self._board.written(new.progress.pod_uid)
        self._stores.jobs.expect(job.key, job.key, int(written["metadata"]["resourceVersion"]))
        if new.state != job.status.state:
            log.info("state", namespace=job.key[0], job=job.key[1], state=new.state, run=new.run_index)


def _taken(name: str) -> str:
    return f"Job {name}: {reasons.NAME_TAKEN.meaning} {reasons.NAME_TAKEN.advice}"
