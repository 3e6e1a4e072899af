"""API objects as the API server would give them, and the records made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dreambooth_api import names
from dreambooth_api.status import Outcome, Purge, Result
from dreambooth_operator.observe import (
    Child,
    Observed,
    Pod,
    TrainingJob,
    project_child,
    project_pod,
    project_training_job,
)

Json = dict[str, Any]

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
SPEC: Json = {
    "baseModel": {"uri": "s3://models/toy/"},
    "subjects": [{"token": "sks", "className": "dog", "images": {"uri": "s3://photos/rex/"}}],
    "output": {"uri": "s3://results/rex/"},
}
SUCCESS = Outcome(
    reason="Completed",
    step=800,
    total_steps=800,
    result=Result(uri="s3://results/rex/manifest.json", manifest_sha256="a" * 64),
    purge=Purge(files=12, size_bytes=3456, complete=True),
)


def at(seconds: float) -> str:
    """Kubernetes time so many seconds from NOW."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def training_job(
    *,
    name: str = "rex",
    uid: str = "job-uid",
    policy: Json | None = None,
    more: Json | None = None,
    status: Json | None = None,
    **metadata: Any,
) -> Json:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": "10",
            "generation": 1,
            "creationTimestamp": at(-100),
            **metadata,
        },
        "spec": SPEC | ({"runPolicy": policy} if policy else {}) | (more or {}),
        "status": status or {},
    }


def labels(name: str, uid: str, run: int) -> dict[str, str]:
    return {names.LABEL_JOB: name, names.LABEL_JOB_UID: uid, names.LABEL_RUN: str(run)}


def child(
    *,
    run: int = 0,
    owner_uid: str = "job-uid",
    condition: tuple[str, str] | None = None,
    created: float = -90,
    **metadata: Any,
) -> Json:
    conditions = [{"type": condition[0], "status": "True", "reason": condition[1]}] if condition else []
    return {
        "metadata": {
            "name": names.child_name("rex", run),
            "namespace": "team",
            "uid": f"child-{run}",
            "resourceVersion": "20",
            "creationTimestamp": at(created),
            "labels": labels("rex", owner_uid, run),
            "ownerReferences": [{"kind": names.KIND, "name": "rex", "uid": owner_uid, "controller": True}],
            **metadata,
        },
        "status": {"conditions": conditions},
    }


def pod(
    number: int = 0,
    *,
    run: int = 0,
    phase: str = "Running",
    exit_code: int | None = None,
    outcome: Outcome | None = None,
    message: str = "",
    why: str = "",
    created: float = -80,
    ran: tuple[float, float] = (-60, -10),
    waiting: tuple[str, str] | None = None,
    unschedulable: str | None = None,
    disrupted: bool = False,
    evicted: str | None = None,
    node: str = "node-1",
) -> Json:
    """`ran`: seconds from NOW when the container started and, when it has, ended."""
    state: Json = {}
    if exit_code is not None:
        text = outcome.to_termination_message() if outcome else message
        state = {"terminated": {"exitCode": exit_code, "startedAt": at(ran[0]), "finishedAt": at(ran[1]),
                                "message": text, "reason": why}}  # fmt: skip
    elif waiting:
        state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    elif phase == "Running":
        state = {"running": {"startedAt": at(ran[0])}}
    conditions = (
        [] if unschedulable is None else [{"type": "PodScheduled", "status": "False", "message": unschedulable}]
    )
    conditions += [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
    return {
        "metadata": {
            "name": f"rex-r{run}-p{number}",
            "namespace": "team",
            "uid": f"pod-{run}-{number}",
            "resourceVersion": "30",
            "creationTimestamp": at(created),
            "labels": labels("rex", "job-uid", run),
            "ownerReferences": [{"kind": "Job", "uid": f"child-{run}", "controller": True}],
        },
        "spec": {"nodeName": "" if unschedulable is not None else node},
        "status": {
            "phase": phase,
            **({"reason": "Evicted", "message": evicted} if evicted is not None else {}),
            "conditions": conditions,
            "containerStatuses": [{"name": names.CONTAINER, "state": state}],
        },
    }


def record(**arguments: Any) -> TrainingJob:
    return project_training_job(training_job(**arguments))


def child_record(**arguments: Any) -> Child:
    return project_child(child(**arguments))


def pod_record(*arguments: Any, **named: Any) -> Pod:
    return project_pod(pod(*arguments, **named))


def seen(job: TrainingJob | None = None, *things: Child | Pod, **more: Any) -> Observed:
    return Observed(
        job or record(),
        tuple(thing for thing in things if isinstance(thing, Child)),
        tuple(thing for thing in things if isinstance(thing, Pod)),
        **more,
    )
