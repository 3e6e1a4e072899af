"""What the cluster says about one TrainingJob, as frozen records: the input of every decision.

Projections read what they need of an object and tolerate the rest, unknown values and missing fields included.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from dreambooth_api import names, reasons
from dreambooth_api.reasons import Reason
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_api.status import ConditionType, Outcome, ProgressStatus, TrainingJobStatus
from dreambooth_operator.cluster import Json
from dreambooth_operator.queue import Key
from dreambooth_operator.store import Store

SELECTOR = names.LABEL_JOB  # Jobs and pods that carry it are watched


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """The custom resource. `spec` is None when it cannot be read, and `error` says which field and why."""

    key: Key
    uid: str
    version: int
    generation: int
    created: datetime
    deleting: bool
    spec: TrainingJobSpec | None
    error: str
    status: TrainingJobStatus | None  # None: written by a version that this one cannot read

    @property
    def owner(self) -> Key:
        return self.key


@dataclass(frozen=True, slots=True)
class Child:
    """The batch/v1 Job of one run."""

    key: Key
    uid: str
    version: int
    owner: Key
    owner_uid: str
    run_index: int
    created: datetime
    deleting: bool
    complete: bool
    failed: tuple[str, str] | None  # the Job controller's reason and message

    @property
    def active(self) -> bool:
        return not self.complete and self.failed is None


@dataclass(frozen=True, slots=True)
class Pod:
    """One attempt."""

    key: Key
    uid: str
    version: int
    owner: Key
    training_job_uid: str
    job_uid: str  # of the Job that made it; empty: nobody's pod that wears our labels
    run_index: int
    created: datetime
    node: str
    phase: str
    unschedulable: str | None  # the scheduler's message
    waiting: tuple[str, str] | None  # the kubelet's reason and message
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    out_of_memory: bool
    disrupted: bool  # condition DisruptionTarget: drain, preemption, a node short of something, a lost node
    evicted: str | None  # the kubelet's message when it evicted the pod, for whatever reason
    outcome: Outcome | None
    gone: bool = False  # deleted: the fields are its last known state

    @property
    def over(self) -> bool:
        return self.gone or self.phase in ("Succeeded", "Failed")

    @property
    def running(self) -> bool:
        return not self.over and self.started is not None

    @property
    def over_own_storage(self) -> bool:
        """Evicted for exceeding its own limit of local storage: for a node's shortage it would be disrupted as well."""
        return self.evicted is not None and not self.disrupted

    @property
    def reason(self) -> Reason:
        """Why it ended: what it said, else what its exit code or its conditions say."""
        if self.out_of_memory:
            return reasons.MEMORY_LIMIT
        if self.over_own_storage:
            return reasons.SCRATCH_FULL
        if self.phase == "Succeeded":
            return reasons.COMPLETED
        if self.outcome and self.outcome.reason in reasons.REASONS:
            return reasons.REASONS[self.outcome.reason]
        if self.disrupted or (self.gone and self.exit_code is None):
            return reasons.INTERRUPTED
        return reasons.from_exit_code(self.exit_code) if self.exit_code is not None else reasons.KILLED


@dataclass(frozen=True, slots=True)
class Observed:
    job: TrainingJob
    children: tuple[Child, ...] = ()  # by run index
    pods: tuple[Pod, ...] = ()  # oldest first, deleted ones too as long as they are remembered
    progress: ProgressStatus | None = None  # the newest that may be written now
    checkpoint_step: int | None = None
    heard: datetime | None = None  # when the newest pod last reported; never before this process listened

    @property
    def child(self) -> Child | None:
        return self.children[-1] if self.children else None

    @property
    def pod(self) -> Pod | None:
        return self.pods[-1] if self.pods else None

    @property
    def standing_pod(self) -> Pod | None:
        """The newest pod that is not deleted."""
        return next((pod for pod in reversed(self.pods) if not pod.gone), None)

    @property
    def status(self) -> TrainingJobStatus:
        return self.job.status or TrainingJobStatus()

    @property
    def terminal(self) -> bool:
        return is_true(self.status, ConditionType.FINISHED)


def is_true(status: TrainingJobStatus, type_: ConditionType) -> bool:
    condition = status.condition(type_)
    return condition is not None and condition.status == "True"


@dataclass(frozen=True, slots=True)
class Stores:
    jobs: Store[TrainingJob] = field(default_factory=Store)
    children: Store[Child] = field(default_factory=Store)
    pods: Store[Pod] = field(default_factory=Store)

    def stale(self, key: Key) -> bool:
        """Whether a watch has yet to show what this process itself wrote about `key`."""
        return self.jobs.stale(key) or self.children.stale(key)


def observe(key: Key, stores: Stores) -> Observed | None:
    """None when there is no such TrainingJob. Objects of an earlier TrainingJob of that name are left out."""
    if (job := stores.jobs.get(key)) is None:
        return None
    children = [c for c in stores.children.owned_by(key) if c.owner_uid == job.uid]
    present = stores.pods.owned_by(key)
    gone = [replace(p, gone=True) for p in stores.pods.gone_of(key) if p.uid not in {q.uid for q in present}]
    pods = [p for p in (*present, *gone) if p.training_job_uid == job.uid and p.job_uid]
    return Observed(
        job,
        tuple(sorted(children, key=lambda c: c.run_index)),
        tuple(sorted(pods, key=lambda p: (p.created, p.over is False))),
    )


def project_training_job(item: Json) -> TrainingJob:
    metadata = item["metadata"]
    spec, error = None, ""
    try:
        spec = TrainingJobSpec.model_validate(item.get("spec", {}))
    except ValidationError as invalid:
        error = _first_error(invalid)
    try:
        status: TrainingJobStatus | None = TrainingJobStatus.model_validate(item.get("status") or {})
    except ValidationError as invalid:
        status, error = None, "status." + _first_error(invalid, "")
    return TrainingJob(
        _key(item), metadata["uid"], int(metadata["resourceVersion"]), metadata.get("generation", 0),
        _time(metadata["creationTimestamp"]), "deletionTimestamp" in metadata, spec, error, status,
    )  # fmt: skip


def _first_error(invalid: ValidationError, root: str = "spec.") -> str:
    """Field and complaint; never the value, which may be a person's words."""
    error = invalid.errors(include_input=False, include_url=False, include_context=False)[0]
    return f"{root}{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


def project_child(item: Json) -> Child:
    metadata = item["metadata"]
    conditions = {c["type"]: c for c in item.get("status", {}).get("conditions") or [] if c.get("status") == "True"}
    failed = conditions.get("Failed")
    controller = controller_of(item)
    return Child(
        _key(item), metadata["uid"], int(metadata["resourceVersion"]), _owner(item), controller.get("uid", ""),
        _run_index(metadata), _time(metadata["creationTimestamp"]), "deletionTimestamp" in metadata,
        "Complete" in conditions, (failed.get("reason", ""), failed.get("message", "")) if failed else None,
    )  # fmt: skip


def project_pod(item: Json) -> Pod:
    metadata, status = item["metadata"], item.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled", {})
    node = item.get("spec", {}).get("nodeName", "")
    container: Json = next((c for c in status.get("containerStatuses") or [] if c.get("name") == names.CONTAINER), {})
    state = container.get("state") or {}
    ended, waiting, running = (state.get(k) or {} for k in ("terminated", "waiting", "running"))
    return Pod(
        key=_key(item),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        owner=_owner(item),
        training_job_uid=metadata["labels"].get(names.LABEL_JOB_UID, ""),
        job_uid=controller_of(item).get("uid", ""),
        run_index=_run_index(metadata),
        created=_time(metadata["creationTimestamp"]),
        node=node,
        phase=status.get("phase", "Pending"),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" and not node else None,
        waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
        started=_maybe_time(running.get("startedAt") or ended.get("startedAt")),
        ended=_maybe_time(ended.get("finishedAt") or metadata.get("deletionTimestamp")),
        exit_code=ended.get("exitCode"),
        out_of_memory=ended.get("reason") == "OOMKilled",
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        evicted=status.get("message", "") if status.get("reason") == "Evicted" else None,
        outcome=_outcome(ended.get("message", "")),
    )


def controller_of(item: Json) -> Json:
    references: list[Json] = item["metadata"].get("ownerReferences") or []
    return next((r for r in references if r.get("controller")), {})


def _outcome(text: str) -> Outcome | None:
    """The job's last words; anything else, such as the end of its log, is not repeated anywhere."""
    try:
        return Outcome.model_validate_json(text)
    except ValidationError:
        return None


def _key(item: Json) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _owner(item: Json) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["labels"][names.LABEL_JOB]


def _run_index(metadata: Json) -> int:
    index = metadata["labels"].get(names.LABEL_RUN, "0")
    return int(index) if index.isdigit() else 0


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _maybe_time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
