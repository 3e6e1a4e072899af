"""runPolicy.activeDeadlineSeconds: running time summed over all attempts; waiting and suspension do not count."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan, Verdict


def rule(observed: Observed, now: datetime) -> Plan | None:
    remaining = remaining_seconds(observed, now)
    if remaining is None or remaining > 0:
        return None
    return Plan(verdict=Verdict(reasons.DEADLINE, f"{reasons.DEADLINE.meaning} {reasons.DEADLINE.advice}"))


def remaining_seconds(observed: Observed, now: datetime) -> float | None:
    spec, pod = observed.job.spec, observed.pod
    if spec is None or spec.run_policy.active_deadline_seconds is None or observed.terminal:
        return None
    if pod is None or pod.started is None or not pod.running:
        return None
    running = (now - pod.started).total_seconds()
    return spec.run_policy.active_deadline_seconds - observed.status.active_seconds - running
