"""runPolicy.suspend: the child Job goes, and with it the pod, which saves a checkpoint in its grace period."""

from __future__ import annotations

from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan


def rule(observed: Observed, now: datetime) -> Plan | None:
    if not wished(observed):
        return None
    return Plan(delete=next((c for c in observed.children if not c.deleting), None))


def wished(observed: Observed) -> bool:
    return observed.job.spec is not None and observed.job.spec.run_policy.suspend
