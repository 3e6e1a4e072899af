"""An attempt failed in a way that another would repeat, or the Job controller has given up."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_api.reasons import Reason
from dreambooth_operator.observe import Observed, Pod
from dreambooth_operator.plan import Plan, Verdict


def rule(observed: Observed, now: datetime) -> Plan | None:
    for pod in observed.pods:  # a podFailurePolicy sees exit code 137 alone, and would have it tried again
        if pod.out_of_memory or pod.over_own_storage:
            agrees = pod.outcome is not None and pod.outcome.reason == pod.reason.name
            return Plan(verdict=_verdict(pod.reason, pod.evicted or (_said(pod) if agrees else "")))
    failure = next((child.failed for child in observed.children if child.failed), None)
    if failure is None:
        return None
    if not all(pod.over for pod in observed.pods):
        return Plan(again_seconds=1)  # the watch of pods is behind that of Jobs
    cause = _cause(observed)
    if failure[0] == "BackoffLimitExceeded":
        return Plan(verdict=_verdict(reasons.BACKOFF_LIMIT, f"The last attempt: {cause.message}"))
    if failure[0] == "PodFailurePolicy":
        return Plan(verdict=cause)
    return Plan(verdict=_verdict(reasons.INTERNAL_ERROR, f"The Job failed: {failure[0]}: {failure[1]}"))


def _cause(observed: Observed) -> Verdict:
    ended = [pod for pod in observed.pods if pod.over]
    if ended:
        return _verdict(ended[-1].reason, _said(ended[-1]))
    recorded = observed.status.last_attempts
    return _verdict(reasons.REASONS.get(recorded[-1].reason or "" if recorded else "", reasons.INTERNAL_ERROR))


def _said(pod: Pod) -> str:
    return pod.outcome.message if pod.outcome else ""


def _verdict(reason: Reason, message: str = "") -> Verdict:
    return Verdict(reason, f"{message or reason.meaning} {reason.advice}")
