"""runPolicy.maxPreemptions: interruptions do not count as failures, but not without end."""

from __future__ import annotations

from datetime import datetime

from dreambooth_api import reasons
from dreambooth_operator.attempts import tally
from dreambooth_operator.observe import Observed
from dreambooth_operator.plan import Plan, Verdict


def rule(observed: Observed, now: datetime) -> Plan | None:
    spec = observed.job.spec
    if spec is None or tally(observed, now).attempts.interrupted <= spec.run_policy.max_preemptions:
        return None
    reason = reasons.PREEMPTION_LIMIT
    return Plan(verdict=Verdict(reason, f"{reason.meaning} {reason.advice}"))
