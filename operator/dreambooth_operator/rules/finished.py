"""A finished TrainingJob: what still runs is stopped, nothing is ever started again, and its lifetime runs out.

A pod that ended by itself stays, for its log, until the TrainingJob goes.
"""

from __future__ import annotations

from datetime import datetime

from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan


def rule(observed: Observed, now: datetime) -> Plan | None:
    if not observed.terminal:
        return None
    child = next((c for c in observed.children if c.active and not c.deleting), None)
    if child:
        return Plan(delete=child)
    remaining = remaining_seconds(observed, now)
    return Plan(delete_self=remaining is not None and remaining <= 0)


def remaining_seconds(observed: Observed, now: datetime) -> float | None:
    spec, ended = observed.job.spec, observed.status.completion_time
    if not observed.terminal or spec is None or spec.run_policy.ttl_seconds_after_finished is None or ended is None:
        return None
    return spec.run_policy.ttl_seconds_after_finished - (now - datetime.fromisoformat(ended)).total_seconds()
