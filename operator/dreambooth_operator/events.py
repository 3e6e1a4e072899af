"""What happened, as events.k8s.io/v1 Events, each once.

An Event's name is made of what it tells, so telling it again after a crash is refused by the API server as existing
already. Events are seen by many: they carry the table's words for a reason, never the job's own message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from dreambooth_api import names, reasons
from dreambooth_api.status import ConditionType, TrainingJobStatus
from dreambooth_operator.cluster import Json
from dreambooth_operator.observe import TrainingJob
from dreambooth_operator.rules.startup import IMAGE

CONTROLLER = f"{names.GROUP}/operator"


@dataclass(frozen=True, slots=True)
class Happening:
    reason: str
    note: str
    occasion: str  # tells two happenings of one reason apart
    warning: bool = False


def happenings(old: TrainingJobStatus, new: TrainingJobStatus) -> Iterator[Happening]:
    run = f"run {new.run_index}"
    if new.start_time and not old.start_time:
        yield Happening("Started", "The Job of the first run was created.", run)
    if new.run_index > old.run_index:
        yield Happening("Resumed", "Training goes on from the newest checkpoint.", run)
    if new.attempts.interrupted > old.attempts.interrupted:
        yield Happening("Interrupted", reasons.INTERRUPTED.meaning, f"interruption {new.attempts.interrupted}")
    if new.attempts.failed > old.attempts.failed:
        reason = reasons.REASONS.get(_last_reason(new), reasons.INTERNAL_ERROR)
        yield Happening("AttemptFailed", f"{reason.name}: {reason.meaning}", f"failure {new.attempts.failed}", True)
    for type_, expected in (
        (ConditionType.ACCEPTED, "False"),
        (ConditionType.SCHEDULED, "False"),
        (ConditionType.SUSPENDED, "True"),
        (ConditionType.FINISHED, "True"),
    ):
        before, after = old.condition(type_), new.condition(type_)
        if after and after.status == expected and (before is None or before.reason != after.reason):
            if known := reasons.REASONS.get(after.reason):
                warning = known is not reasons.COMPLETED
                yield Happening(known.name, f"{known.meaning} {known.advice}", run, warning)
            elif after.reason in ("Suspended", "Unschedulable", *IMAGE):
                yield Happening(after.reason, after.message, run, after.reason in IMAGE)


def _last_reason(status: TrainingJobStatus) -> str:
    ended = [attempt.reason for attempt in status.last_attempts if attempt.end_time and attempt.reason]
    return ended[-1] if ended else ""


def event(job: TrainingJob, happening: Happening, now: datetime, instance: str) -> Json:
    namespace, name = job.key
    identity = sha256(f"{job.uid} {happening.reason} {happening.occasion}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{identity}", "namespace": namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "action": happening.reason,
        "reason": happening.reason,
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": namespace,
            "name": name,
            "uid": job.uid,
        },
        "note": happening.note[:1024],
        "type": "Warning" if happening.warning else "Normal",
    }
