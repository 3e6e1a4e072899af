"""runPolicy.startupDeadlineSeconds: a pod that does not come to run; an image name that cannot be one fails at once."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan, Verdict

HOPELESS = ("InvalidImageName",)
IMAGE = (*HOPELESS, "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "ImageInspectError")


def rule(observed: Observed, now: datetime) -> Plan | None:
    remaining = remaining_seconds(observed, now)
    if remaining is None:
        return None
    waiting, message = (observed.pod and observed.pod.waiting) or ("", "")
    if remaining > 0 and waiting not in HOPELESS:
        return None
    reason = reasons.IMAGE_PULL_FAILED if waiting in IMAGE else reasons.STARTUP_DEADLINE
    return Plan(verdict=Verdict(reason, f"{reason.meaning} {message} {reason.advice}".replace("  ", " ")))


def remaining_seconds(observed: Observed, now: datetime) -> float | None:
    """None while a pod runs, and between two attempts: the Job controller waits there on purpose."""
    spec, child, pod = observed.job.spec, observed.child, observed.pod
    if spec is None or child is None or not child.active or child.deleting or observed.terminal:
        return None
    if pod is None or pod.run_index < child.run_index:
        if any(attempt.run_index == child.run_index for attempt in observed.status.last_attempts):
            return None
        since = child.created
    elif pod.over or pod.started:
        return None
    else:
        since = pod.created
    return spec.run_policy.startup_deadline_seconds - (now - since).total_seconds()
