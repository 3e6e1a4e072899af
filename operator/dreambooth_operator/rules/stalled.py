"""runPolicy.progressTimeoutSeconds: a pod that reported progress and then no more is taken to hang.

A pod that never reported is left alone: its reports may have no way to the operator. Silence counts only while this
process listened, so a restart of the operator never fails a job.
"""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan, Verdict


def rule(observed: Observed, now: datetime) -> Plan | None:
    remaining = remaining_seconds(observed, now)
    if remaining is None or remaining > 0:
        return None
    return Plan(verdict=Verdict(reasons.STALLED, f"{reasons.STALLED.meaning} {reasons.STALLED.advice}"))


def remaining_seconds(observed: Observed, now: datetime) -> float | None:
    spec, pod = observed.job.spec, observed.pod
    if spec is None or observed.terminal or observed.heard is None or pod is None or not pod.running:
        return None
    return spec.run_policy.progress_timeout_seconds - (now - observed.heard).total_seconds()
