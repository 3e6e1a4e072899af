"""Observed and Plan -> the TrainingJob's status: conditions for programs, state, message and columns for people. Pure.

Succeeded and Finished never change once they are True or False; everything else follows what is observed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dreambooth_api import reasons
from dreambooth_api.reasons import Retry
from dreambooth_api.status import (
    CheckpointStatus,
    Condition,
    ConditionType,
    Display,
    Outcome,
    Result,
    Stage,
    TrainingJobStatus,
)
from dreambooth_operator.attempts import stamp, tally
from dreambooth_operator.observe import Observed, is_true
from dreambooth_operator.plan import Plan, Trouble, Verdict
from dreambooth_operator.rules.startup import IMAGE
from dreambooth_operator.rules.suspended import wished

Fact = tuple[str, str, str]  # condition status, reason, message
YES, NO, UNKNOWN = "True", "False", "Unknown"
MESSAGE_LIMIT = 1024

STATES = {
    Stage.FETCH: "Fetching",
    Stage.PREPARE: "Preparing",
    Stage.LOAD: "Loading",
    Stage.TRAIN: "Training",
    Stage.SAMPLE: "Sampling",
    Stage.EXPORT: "Exporting",
    Stage.PUBLISH: "Publishing",
    Stage.CLEANUP: "CleaningUp",
}

_RETRYING = {Retry.NEVER: "Failing", Retry.COUNTED: "Retrying", Retry.FREE: "Retrying"}


def build(observed: Observed, plan: Plan, trouble: Trouble | None, now: datetime) -> TrainingJobStatus:
    old = observed.status
    ledger = tally(observed, now)
    outcome = _last_outcome(observed)
    result = old.result or (outcome.result if outcome else None)
    checkpoint = _checkpoint(observed, outcome, now)
    facts: dict[ConditionType, Fact] = {
        ConditionType.ACCEPTED: _accepted(trouble),
        ConditionType.SCHEDULED: _scheduled(observed, trouble),
        ConditionType.TRAINING: _training(observed),
        ConditionType.CHECKPOINTED: _checkpointed(observed, plan.verdict, checkpoint),
        ConditionType.SUSPENDED: _suspended(observed),
        ConditionType.RESULT_UPLOADED: _result_uploaded(observed, plan.verdict, result),
        ConditionType.DATA_PURGED: _data_purged(observed),
        ConditionType.SUCCEEDED: _succeeded(plan.verdict),
        ConditionType.FINISHED: _finished(plan.verdict),
    }
    conditions = tuple(_condition(type_, fact, observed, now) for type_, fact in facts.items())
    indexes = [old.run_index, *(child.run_index for child in observed.children)]
    finished = observed.terminal or plan.verdict is not None
    status = old.model_copy(
        update={
            "observed_generation": observed.job.generation,
            "run_index": max(indexes) if plan.create is None or trouble else plan.create,
            "start_time": old.start_time or (stamp(observed.child.created) if observed.child else None),
            "completion_time": old.completion_time or (stamp(now) if plan.verdict else None),
            "active_seconds": ledger.active_seconds,
            "attempts": ledger.attempts,
            "last_attempts": ledger.last_attempts,
            "progress": observed.progress or old.progress,
            "checkpoint": checkpoint,
            "result": result,
            "purge": (outcome.purge if outcome else None) or old.purge,
            "conditions": conditions,
            "display": _display(observed, outcome, finished),
        }
    )
    return status.model_copy(update={"state": _state(observed, status), "message": _message(status)})


def _condition(type_: ConditionType, fact: Fact, observed: Observed, now: datetime) -> Condition:
    """As metav1.Condition: the transition time moves with the status alone; a final condition does not move at all."""
    old = observed.status.condition(type_)
    if old and observed.terminal and type_ in (ConditionType.SUCCEEDED, ConditionType.FINISHED):
        return old
    status, reason, message = fact
    since = old.last_transition_time if old and old.status == status else stamp(now)
    return Condition(
        type=type_,
        status=status,
        observed_generation=observed.job.generation,
        last_transition_time=since,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
    )


def _accepted(trouble: Trouble | None) -> Fact:
    if trouble and trouble.reason == reasons.INVALID_SPEC.name:
        return NO, trouble.reason, f"{trouble.message}. {reasons.INVALID_SPEC.advice}"
    return YES, "SpecValid", "The spec can be read."


def _scheduled(observed: Observed, trouble: Trouble | None) -> Fact:
    pod = observed.standing_pod
    if trouble and trouble.reason != reasons.INVALID_SPEC.name:
        return NO, trouble.reason, trouble.message
    if pod is None:
        return UNKNOWN, "NoPod", "There is no pod."
    if pod.over:
        return UNKNOWN, "PodEnded", "The newest pod has ended."
    if pod.unschedulable is not None:
        return NO, "Unschedulable", pod.unschedulable
    if pod.waiting and pod.waiting[0] in IMAGE:
        return NO, pod.waiting[0], pod.waiting[1]
    return (YES, "Bound", f"On node {pod.node}.") if pod.node else (UNKNOWN, "Pending", "The pod waits for a node.")


def _training(observed: Observed) -> Fact:
    pod, progress = observed.standing_pod, observed.progress
    if pod is None:
        return UNKNOWN, "NoPod", "There is no pod."
    if not pod.running:
        ended = (NO, "PodEnded", "The newest pod has ended.")
        return ended if pod.over else (UNKNOWN, "PodStarting", "The pod starts.")
    if progress is None or progress.pod_uid != pod.uid:
        return UNKNOWN, "NoReportYet", "The pod has not reported yet."
    state = STATES.get(Stage(progress.stage), "Running") if progress.stage in list(Stage) else "Running"
    return (YES if progress.stage == Stage.TRAIN else NO), state, f"The pod is at stage {progress.stage}."


def _checkpoint(observed: Observed, outcome: Outcome | None, now: datetime) -> CheckpointStatus | None:
    steps = [observed.checkpoint_step, outcome.checkpoint_step if outcome else None]
    newest = max((step for step in steps if step is not None), default=None)
    old = observed.status.checkpoint
    if newest is None or (old and old.step >= newest):
        return old
    return CheckpointStatus(step=newest, observed_time=stamp(now))


def _checkpointed(observed: Observed, verdict: Verdict | None, checkpoint: CheckpointStatus | None) -> Fact:
    if is_true(observed.status, ConditionType.SUCCEEDED) or (verdict and verdict.succeeded):
        return NO, "ResultStands", "Resume checkpoints are removed once the result stands."
    if checkpoint is None:
        return UNKNOWN, "NoneReported", "No checkpoint was reported yet."
    return YES, "CheckpointSaved", f"The newest was saved at step {checkpoint.step}."


def _suspended(observed: Observed) -> Fact:
    if not wished(observed) or observed.terminal:
        return NO, "NotSuspended", "runPolicy.suspend is false."
    if observed.children or not all(pod.over for pod in observed.pods):
        return NO, "Suspending", "The pod saves a checkpoint and stops."
    return YES, "Suspended", "No pod runs. Set runPolicy.suspend: false to go on."


def _result_uploaded(observed: Observed, verdict: Verdict | None, result: Result | None) -> Fact:
    if result:
        return YES, "ManifestStands", f"{result.uri} lists every file with its SHA-256."
    if is_true(observed.status, ConditionType.SUCCEEDED) or (verdict and verdict.succeeded):
        return YES, "TerminationMessageLost", "The Job completed, so the manifest stands below output.uri."
    if observed.terminal or verdict:
        return NO, "NothingPublished", "The job ended without a result."
    return UNKNOWN, "NotYet", "No result was published yet."


def _data_purged(observed: Observed) -> Fact:
    """True only when every scratch volume was seen empty, or went with its pod."""
    if not observed.pods and not observed.status.attempts.started:
        return UNKNOWN, "NoPod", "There was no pod yet."
    kept = [pod for pod in observed.pods if not pod.gone]
    if any(not pod.over for pod in kept):
        return NO, "InUse", "A pod uses its scratch volume."
    left = [pod for pod in kept if not (pod.outcome and pod.outcome.purge and pod.outcome.purge.complete)]
    if left:
        pods = ", ".join(pod.key[1] for pod in left[:3])
        return NO, "NotConfirmed", f"Not seen empty: the scratch volume of {pods}. It goes with the pod: delete it."
    if kept:
        return YES, "ScratchEmpty", "Every scratch volume was seen empty."
    return YES, "PodsGone", "No pod, and so no scratch volume, is left."


def _succeeded(verdict: Verdict | None) -> Fact:
    if verdict is None:
        return UNKNOWN, "NotFinished", "The job has not finished."
    return (YES if verdict.succeeded else NO), verdict.reason.name, verdict.message


def _finished(verdict: Verdict | None) -> Fact:
    if verdict is None:
        return NO, "NotFinished", "The job has not finished."
    return YES, verdict.reason.name, verdict.message


def _last_outcome(observed: Observed) -> Outcome | None:
    ended = [pod for pod in observed.pods if pod.over and pod.outcome]
    return ended[-1].outcome if ended else None


def _state(observed: Observed, status: TrainingJobStatus) -> str:
    """The first of the summaries that holds."""
    accepted, scheduled, suspended, training, succeeded = (
        _require(status, type_)
        for type_ in (
            ConditionType.ACCEPTED,
            ConditionType.SCHEDULED,
            ConditionType.SUSPENDED,
            ConditionType.TRAINING,
            ConditionType.SUCCEEDED,
        )
    )
    if succeeded.status != UNKNOWN:
        return "Succeeded" if succeeded.status == YES else f"Failed: {succeeded.reason}"
    if accepted.status == NO:
        return accepted.reason
    if suspended.status == YES or suspended.reason == "Suspending":
        return suspended.reason
    if scheduled.status == NO:
        return _waiting(observed, scheduled)
    pod = observed.standing_pod
    if pod is None or not observed.children:
        return "Pending"
    if pod.over:
        return "Completing" if pod.reason is reasons.COMPLETED else _RETRYING[pod.reason.retry]
    if not pod.running:
        return "Starting"
    return training.reason if training.status != UNKNOWN else "Running"


def _waiting(observed: Observed, scheduled: Condition) -> str:
    gpu = observed.job.spec.runtime.gpu if observed.job.spec else None
    if gpu and scheduled.reason == "Unschedulable" and f"Insufficient {gpu.resource}" in scheduled.message:
        return "WaitingForGPU"
    return scheduled.reason


def _message(status: TrainingJobStatus) -> str:
    """The sentence that belongs to the state."""
    order = (ConditionType.SUCCEEDED, ConditionType.ACCEPTED, ConditionType.SUSPENDED, ConditionType.SCHEDULED)
    conditions = [_require(status, type_) for type_ in order]
    if conditions[0].status != UNKNOWN:
        return conditions[0].message
    for condition in conditions[1:]:
        bad = YES if condition.type == ConditionType.SUSPENDED else NO
        if condition.status == bad or condition.reason == "Suspending":
            return condition.message
    return _require(status, ConditionType.TRAINING).message


def _require(status: TrainingJobStatus, type_: ConditionType) -> Condition:
    condition = status.condition(type_)
    assert condition is not None, type_
    return condition


def _display(observed: Observed, outcome: Outcome | None, finished: bool) -> Display:
    """Columns; a pod that ended says its last step itself, one that is gone leaves what stood there."""
    pod, old, progress = observed.pod, observed.status.display, observed.progress
    if pod and pod.over and outcome:
        return Display(step=_of(outcome.step, outcome.total_steps) or old.step, loss=old.loss)
    if pod is None or progress is None or progress.pod_uid != pod.uid:
        return old.model_copy(update={"eta": ""})
    eta = "" if finished or pod.over or progress.eta_seconds is None else duration(progress.eta_seconds)
    return Display(step=_of(progress.step, progress.total_steps), loss=progress.loss or "", eta=eta)


def _of(step: int, total_steps: int) -> str:
    return f"{step}/{total_steps}" if total_steps else ""


def duration(seconds: int) -> str:
    """12s, 14m, 3h5m."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h{seconds % 3600 // 60}m"


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The merge patch that turns `old` into `new` (RFC 7396); empty when they mean the same."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if nested := changes(before, value):
                patch[key] = nested
        elif value != before or key not in old:
            patch[key] = value
    return patch
